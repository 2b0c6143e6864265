"""What the machine of test_durable_machine.py does with a store and its model at once, and how it chooses."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Coroutine
from datetime import timedelta
from typing import Any, ClassVar, TypeVar

from conformance.durable_compare import NEAR, same_token
from conformance.durable_hand import HOUR_MS, step, wait
from conformance.durable_model import Model, ModelJob, ModelToken, Record
from conformance.test_machine import PostgresStore, Store
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine

from dataqueue import JobQueue
from dataqueue.backends.base import (
    Cancelled,
    Completed,
    Cycle,
    EndStatus,
    Failed,
    Heart,
    Outcome,
    Released,
    Waiting,
    WorkerInfo,
)
from dataqueue.steps import StepRecord
from dataqueue.tokens import Token, make_token

R = TypeVar("R")
Data = st.DataObject
WORKERS = ("w", "w2")
LEASE = 3600.0
HOUR = timedelta(hours=1)


class Player(RuleBasedStateMachine):
    """Without rules. Handlers are played: see durable_hand.py."""

    store: ClassVar[Store]

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.begun: dict[tuple[int, int], Record] = {}
        """The waits that outcomes tell of, by job and number."""
        self.ended: tuple[Token | None, bool] = (None, False)
        """What the store said of the last answer."""
        self.alive: set[str] = set()
        self.runner = asyncio.Runner()
        self.queue: JobQueue = self.store.fresh()
        if isinstance(self.store, PostgresStore):
            self.store._conn.execute("TRUNCATE dataqueue_dependencies, dataqueue_steps, waitpoints")
        self.heart: Heart | None = None

    def run(self, operation: Coroutine[Any, Any, R]) -> R:
        self.store.wait_for_the_next_moment()
        return self.runner.run(operation)

    @property
    def backend(self) -> Any:
        return self.queue.backend

    async def delete_jobs(self, status: EndStatus) -> int:
        before = await self.backend.now() + HOUR
        return sum([count async for count in self.backend.delete_jobs(status, before, 100)])

    async def end_token(self, token: ModelToken, output: int, error: str | None) -> None:
        self.ended = await self.backend.end_token(token.id, None if error else json.dumps(output), error)

    def told_of(self, token: ModelToken, output: int, error: str | None) -> None:
        """What the store said of the answer that was just given."""
        first = self.model.answer(token, output, error)
        found, was_first = self.ended
        assert found is not None and was_first == first
        same_token(found, token, self.model.clock)

    def make_token(self, job: ModelJob, timeout: int | None) -> None:
        token = make_token(None if timeout is None else timeout * HOUR, None)
        assert self.run(self.backend.save_step(job.id, job.lease, step(job.next_seq, result="1"), token))
        self.model.save(job, Record(job.next_seq, "step", "1"))
        self.model.make_token(token.id, job.id, timeout)

    def take_answer(self, job: ModelJob, record: Record) -> None:
        assert self.run(self.backend.save_step(job.id, job.lease, self.stored(record, "7")))
        self.model.save(job, Record(record.seq, record.kind, "7", True, None, record.token_id, record.job_ids))

    def some_end(self, data: Data, job: ModelJob) -> Outcome:
        assert job.lease is not None
        last = job.attempts >= job.max_attempts
        kind = data.draw(
            st.sampled_from(("completed", "released", "dies", *(() if last else ("again", "later")))), "end"
        )
        if job.asked:
            kind = data.draw(st.sampled_from(("cancelled", "released", "dies", "completed")), "end")
        match kind:
            case "completed":
                return Completed(job.id, job.lease, data.draw(st.sampled_from((None, "5")), "output"))
            case "released":
                return Released(job.id, job.lease)
            case "cancelled":
                return Cancelled(job.id, job.lease)
            case _:
                retry_ms = {"dies": None, "again": 0, "later": HOUR_MS}[kind]
                return Failed(job.id, job.lease, "boom", "handler_error", retry_ms)

    def at_once(self, one: Coroutine[Any, Any, R], other: Coroutine[Any, Any, Any]) -> R:
        async def both() -> R:
            first, _ = await asyncio.gather(one, other)
            return first

        return self.run(both())

    def start_worker(self, worker: str) -> None:
        self.beat(worker, LEASE)
        self.alive.add(worker)

    def beat(self, worker: str, lease: float) -> None:
        assert self.heart is not None
        self.heart.beat(WorkerInfo(worker, socket.gethostname(), os.getpid(), ("t",), 10, "0", lease), [])

    def wait(self, job: ModelJob, record: Record, claim: int) -> None:
        self.cycle("w", [self.outcome(job, record)], claim)

    def outcome(self, job: ModelJob, record: Record) -> Waiting:
        """A wait for a time is told by its length when it begins, and by its end when it is met again."""
        assert job.lease is not None
        delay_ms = None if record.until is None else (record.until - self.model.clock) * HOUR_MS
        self.begun[job.id, record.seq] = record
        return Waiting(job.id, job.lease, self.stored(record, None), delay_ms)

    def stored(self, record: Record, result: str | None) -> StepRecord:
        if record.kind == "step":
            return step(record.seq, result=result)
        stored = wait(record.seq, record.kind, token_id=record.token_id, job_ids=record.job_ids)
        stored.done, stored.result = result is not None, result
        return stored

    def cycle(self, worker: str, outcomes: list[Outcome], limit: int) -> None:
        if worker not in self.alive:
            limit = 0
        answer = self.run(self.backend.cycle(worker, outcomes, ["t"], limit, limit > 0))
        self.recorded(outcomes, answer)
        ready = {job.id: job for job in self.model.ready()}
        claimed = [job.id for job in answer.jobs]
        assert len(set(claimed)) == min(limit, len(ready)) and set(claimed) <= set(ready), (
            "a wake-up is lost, or too many"
        )
        for job in answer.jobs:
            known = ready[job.id]
            assert job.has_steps or not known.journal
            self.model.start(known, worker, job.lease_id)
            assert (job.attempts, job.max_attempts) == (known.attempts, known.max_attempts)
        if limit:
            due = self.model.next_due()
            assert (answer.next_due_ms is None) == (due is None)
            if due is not None and answer.next_due_ms is not None:
                assert (due - NEAR / HOUR) * HOUR_MS < answer.next_due_ms <= due * HOUR_MS

    def recorded(self, outcomes: list[Outcome], answer: Cycle) -> None:
        """As the stores do: ends first, then waits."""
        assert answer.lost == []
        asked = [outcome for outcome in outcomes if self.model.jobs[outcome.id].asked]
        for outcome in sorted(outcomes, key=lambda outcome: isinstance(outcome, Waiting)):
            job = self.model.jobs[outcome.id]
            match outcome:
                case Completed(output=text):
                    self.model.complete(job, None if text is None else json.loads(text))
                case Failed(retry_ms=ms):
                    self.model.fail(job, None if ms is None else ms // HOUR_MS)
                case Cancelled():
                    self.model.obey(job)
                case Released():
                    self.model.give_back(job)
                case Waiting(wait=stored):
                    self.model.begin(job, self.begun[job.id, stored.seq])
        given_up = [o for o in asked if not isinstance(o, Cancelled | Completed)]
        assert answer.cancelled == [(outcome.id, outcome.lease_id) for outcome in given_up]

    # -- choices ----------------------------------------------------------------------------------

    def free(self) -> list[ModelJob]:
        """Running, and not about to take an answer."""
        return [job for job in self.model.of("processing") if job.open is None]

    def asleep(self) -> list[ModelJob]:
        """Until others do something."""
        return [job for job in self.model.of("waiting") if job.due is None]

    def awaited(self) -> list[ModelJob]:
        """Running, while others wait for it or for a token that it has made."""
        tokens = [self.model.tokens.get(job.wait.token_id or "") for job in self.asleep() if job.wait]
        awaited = {number for job in self.asleep() for number in job.unmet} | {one.owner for one in tokens if one}
        return [job for job in self.model.of("processing") if job.id in awaited]

    def resumed(self) -> list[ModelJob]:
        return [job for job in self.model.of("processing") if job.open is not None]

    def some_job(self, data: Data, *rather: str) -> ModelJob:
        return self.pick(data, [*self.model.jobs.values(), *self.model.of(*rather) * 2])

    def pick(self, data: Data, jobs: list[ModelJob]) -> ModelJob:
        return self.model.jobs[data.draw(st.sampled_from([job.id for job in jobs]), "job")]

    def some_token(self, data: Data, unknown: bool = False) -> ModelToken:
        """Rather one that waits, and that somebody waits for."""
        known = list(self.model.tokens.values())
        known += [token for token in known if token.status == "waiting"] * 2
        known += [token for token in self.model.tokens.values() if self.model.waiting_for(token.id)] * 2
        numbers = [list(self.model.tokens).index(token.id) for token in known]
        number = data.draw(st.sampled_from([*numbers, None] if unknown else numbers), "token")
        return ModelToken("wp_none", None, None, "completed") if number is None else known[numbers.index(number)]

    def token_wait(self, job: ModelJob, token_id: str) -> Record:
        return Record(job.next_seq, "token", done=False, token_id=token_id)

    def jobs_wait(self, data: Data, job: ModelJob) -> Record:
        """For younger ones, so that there is no circle; of those that are gone, and that nobody has added, none is left."""
        younger = [other for other in self.model.jobs if other > job.id]
        known = sorted(self.model.unfinished(younger)) * 3 + younger + [job.id + 1000]
        ids = data.draw(st.lists(st.sampled_from(known), min_size=1, max_size=3, unique=True), "jobs")
        return Record(job.next_seq, "jobs", done=False, job_ids=tuple(ids))
