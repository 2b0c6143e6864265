"""Groups, limits, pauses, claims, cancels and rescues in random order, against what must hold after each step.

Which job is claimed is for the store to say. The model says which may be, and which must be once a claim has found all
that there is; at the end, without limits, every job is finished. DATAQUEUE_TEST_SEED repeats a run.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, ClassVar, TypeVar

import pytest
from conformance.test_machine import Store, run_histories
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from dataqueue import Rate
from dataqueue.backends.base import Completed, Failed, Outcome, Released, WorkerInfo
from dataqueue.limits import TypeLimits
from dataqueue.options import make_edit

R = TypeVar("R")
TYPES = ("a", "b")
GROUPS = (None, "g", "g1", "ж")
WORKERS = ("w", "w2", "ворк")
LEASE = 3600.0
PER = timedelta(hours=1)
DAY = timedelta(days=1)


@dataclass
class Known:
    job_type: str
    group: str | None
    status: str = "pending"
    lease: int = 0
    worker: str = ""
    later: bool = False


class LimitsMachine(RuleBasedStateMachine):
    store: ClassVar[Store]

    def __init__(self) -> None:
        super().__init__()
        self.jobs: dict[int, Known] = {}
        self.asked: dict[str, int | None] = {}
        """Live workers, and how many of a group each lets run."""
        self.limits: dict[str, TypeLimits] = {}
        self.started: Counter[str] = Counter()
        self.paused: set[str | None] = set()
        self.stale = False
        """Whether the limit of groups may have risen since the store last looked after parked jobs."""
        self.runner = asyncio.Runner()
        self.queue = self.store.fresh()

    def run(self, operation: Coroutine[Any, Any, R]) -> R:
        return self.runner.run(operation)

    @property
    def backend(self) -> Any:
        return self.queue.backend

    @initialize()
    def open(self) -> None:
        self.run(self.queue.open())

    def teardown(self) -> None:
        try:
            self.explanations_are_those_of_the_claim()
            self.everything_ends()
        finally:
            self.run(self.queue.close())
            self.runner.close()
            self.store.clear()

    # -- what the model knows ---------------------------------------------------------------------

    def of(self, status: str) -> list[int]:
        return [job_id for job_id, job in self.jobs.items() if job.status == status]

    def running(self, **what: str) -> int:
        return sum(
            job.status == "processing" and all(getattr(job, name) == value for name, value in what.items())
            for job in self.jobs.values()
        )

    def group_limit(self) -> int | None:
        return min((most for most in self.asked.values() if most is not None), default=None)

    def why_not(self, job: Known) -> str | None:
        """What keeps a pending job from being claimed now."""
        most, limits = self.group_limit(), self.limits.get(job.job_type, TypeLimits())
        if job.later:
            return "scheduled"
        if None in self.paused or job.job_type in self.paused:
            return "queue_paused"
        if most is not None and job.group is not None and self.running(group=job.group) >= most:
            return "group_full"
        if limits.max_concurrency is not None and self.running(job_type=job.job_type) >= limits.max_concurrency:
            return "type_full"
        if limits.rate is not None and self.started[job.job_type] >= limits.rate.count:
            return "rate_limited"
        return None

    # -- producers, people and workers --------------------------------------------------------------

    @rule(
        job_type=st.sampled_from(TYPES),
        group=st.sampled_from(GROUPS),
        priority=st.sampled_from((0, 0, 5)),
        count=st.integers(1, 4),
    )
    def add(self, job_type: str, group: str | None, priority: int, count: int) -> None:
        if len(self.jobs) > 30:
            return
        new = [
            {"job_type": job_type, "payload": n, "group": group, "priority": priority, "max_attempts": 100}
            for n in range(count)
        ]
        for handle in self.run(self.queue.add_jobs(new)):
            self.jobs[handle.id] = Known(job_type, group)

    @rule(worker=st.sampled_from(WORKERS), most=st.sampled_from((None, 1, 1, 2, 3)))
    def start_worker(self, worker: str, most: int | None) -> None:
        if self.run(self.backend.register_worker(_worker(worker, LEASE, most))):
            self.asked[worker], self.stale = most, True

    @rule(worker=st.sampled_from(WORKERS))
    def lose_worker(self, worker: str) -> None:
        """Its lease is over; nobody has noticed yet."""
        if worker in self.asked:
            self.stale = True
            heart = self.backend.heart()
            heart.beat(_worker(worker, 0.0, self.asked.pop(worker)), [])
            heart.close()

    @rule()
    def rescue(self) -> None:
        """Once is enough: whatever a lost worker held, and whoever waits for a place that is free."""
        for job in self.run(self.backend.reclaim_expired(100)):
            assert self.jobs[job.id].worker not in self.asked
            self.jobs[job.id].status = job.status
        self.stale = False
        assert not [job for job in self.jobs.values() if job.status == "processing" and job.worker not in self.asked]

    @rule(job_type=st.sampled_from(TYPES), most=st.none() | st.integers(1, 2), rate=st.none() | st.integers(1, 6))
    def declare(self, job_type: str, most: int | None, rate: int | None) -> None:
        limits = TypeLimits(max_concurrency=most, rate=None if rate is None else Rate(rate, PER))
        self.run(self.backend.declare_limits({job_type: limits}))
        before = self.limits.get(job_type)
        if before is None or before.rate is None or limits.rate is None:
            self.started[job_type] = 0  # starts are counted while there is a rate
        self.limits[job_type] = limits

    @rule(job_type=st.none() | st.sampled_from(TYPES), pause=st.booleans())
    def pause_or_resume(self, job_type: str | None, pause: bool) -> None:
        changed = self.run(self.queue.pause(job_type, by="me") if pause else self.queue.resume(job_type))
        assert changed == ((job_type in self.paused) != pause)
        (self.paused.add if pause else self.paused.discard)(job_type)

    @rule(job=st.randoms(use_true_random=False))
    def cancel(self, job: random.Random) -> None:
        pending = self.of("pending")
        if pending:
            job_id = job.choice(pending)
            assert self.run(self.queue.cancel_job(job_id))
            self.jobs[job_id].status = "cancelled"

    @rule(group=st.sampled_from(GROUPS[1:]), job_type=st.sampled_from(TYPES))
    def cancel_a_group(self, group: str, job_type: str) -> None:
        meant = [
            job for job in self.jobs.values() if (job.group, job.job_type, job.status) == (group, job_type, "pending")
        ]
        assert self.run(self.queue.cancel_all_upcoming_jobs(group=group, job_type=job_type)) == len(meant)
        for job in meant:
            job.status = "cancelled"

    @rule(
        chooser=st.randoms(use_true_random=False),
        count=st.integers(1, 4),
        changes=st.sampled_from(({"delay": DAY}, {"run_at": None}, {"priority": 9}, {"priority": -9, "tags": ["x"]})),
    )
    def edit(self, chooser: random.Random, count: int, changes: dict[str, Any]) -> None:
        pending = self.of("pending")
        chosen = sorted(chooser.sample(pending, min(count, len(pending))))
        if chosen:
            results = self.run(self.backend.edit(chosen, make_edit(None, changes)))
            for job_id, result in results.items():
                if result == "changed":
                    self.jobs[job_id].later = "delay" in changes or (
                        "run_at" not in changes and self.jobs[job_id].later
                    )
                else:  # it has failed, and is tried again at once
                    assert result == "unchanged"

    @rule(
        chooser=st.randoms(use_true_random=False),
        kind=st.sampled_from(("completed", "completed", "failed", "again", "released")),
        count=st.integers(1, 4),
    )
    def end(self, chooser: random.Random, kind: str, count: int) -> None:
        held = self.of("processing")
        chosen = chooser.sample(held, min(count, len(held)))
        outcomes = [self.outcome(job_id, kind) for job_id in chosen]
        if outcomes:
            assert self.run(self.backend.cycle("w", outcomes, [], 0, False)).lost == []
        for job_id in chosen:
            self.jobs[job_id].status = "pending" if kind in ("again", "released") else kind

    def outcome(self, job_id: int, kind: str) -> Outcome:
        lease = self.jobs[job_id].lease
        match kind:
            case "completed":
                return Completed(job_id, lease)
            case "released":
                return Released(job_id, lease)
            case _:
                return Failed(job_id, lease, "boom", "handler_error", 0 if kind == "again" else None)

    @rule(
        worker=st.sampled_from(WORKERS),
        types=st.lists(st.sampled_from(TYPES), min_size=1, unique=True),
        limit=st.integers(1, 6),
    )
    def claim(self, worker: str, types: list[str], limit: int) -> None:
        if worker in self.asked:
            self.take(worker, types, limit)

    @rule(worker=st.sampled_from(WORKERS))
    def claim_all(self, worker: str) -> None:
        """A worker that asks until there is no more finds all that may run."""
        if worker not in self.asked:
            return
        if self.stale:
            self.rescue()
        while self.take(worker, list(TYPES), 10):
            pass
        for job_id in self.of("pending"):
            assert self.why_not(self.jobs[job_id]), f"job {job_id} is left behind"

    def take(self, worker: str, types: list[str], limit: int) -> bool:
        """Claim once; whether there may be more."""
        answer = self.run(self.backend.cycle(worker, [], types, limit, True))
        assert len(answer.jobs) <= limit
        for claimed in answer.jobs:
            job = self.jobs[claimed.id]
            assert (job.status, job.job_type, job.group) == ("pending", claimed.job_type, claimed.group)
            assert claimed.job_type in types and self.why_not(job) is None
            job.status, job.lease, job.worker = "processing", claimed.lease_id, worker
            self.started[job.job_type] += 1
        return answer.again or len(answer.jobs) == limit

    # -- at the end -------------------------------------------------------------------------------

    def explanations_are_those_of_the_claim(self) -> None:
        """Who is called ready is claimed by a worker that asks for its type until there is no more; nobody else is."""
        self.rescue()
        self.run(self.backend.register_worker(_worker("judge", LEASE, None)))
        self.asked["judge"] = None
        for job_type in TYPES:
            pending = [job_id for job_id in self.of("pending") if self.jobs[job_id].job_type == job_type]
            explained = {job_id: self.run(self.queue.explain_job(job_id)) for job_id in pending}
            while self.take("judge", [job_type], 1000):
                pass
            for job_id in pending:
                found, claimed = explained[job_id], self.jobs[job_id].status == "processing"
                assert found.is_ready == claimed, (job_id, found)
                if not claimed:
                    why = self.why_not(self.jobs[job_id])
                    named = {"scheduled": ("scheduled",), "queue_paused": ("paused",)}.get(why or "", ("limited",))
                    assert found.state in named

    def everything_ends(self) -> None:
        self.run(self.queue.edit_all_pending_jobs({"run_at": None}))
        for job in self.jobs.values():
            job.later = False
        for job_type in (None, *TYPES):
            self.run(self.queue.resume(job_type))
        self.paused.clear()
        for job_type in TYPES:
            self.declare(job_type, None, None)
        for _ in range(200):
            held = self.of("processing")
            if held:
                outcomes: list[Outcome] = [self.outcome(job_id, "completed") for job_id in held]
                assert self.run(self.backend.cycle("judge", outcomes, [], 0, False)).lost == []
                for job_id in held:
                    self.jobs[job_id].status = "completed"
            if not self.take("judge", list(TYPES), 10) and not self.of("processing"):
                break
        assert self.of("pending") == self.of("processing") == []
        for job in self.run(self.queue.get_all_jobs(limit=1000)):
            assert job.status == self.jobs[job.id].status and job.group == self.jobs[job.id].group


def _worker(name: str, lease: float, most: int | None) -> WorkerInfo:
    return WorkerInfo(name, "host", 1, TYPES, 10, "0", lease, most)


def test_random_histories_of_limits(store_url: str) -> None:
    run_histories(LimitsMachine, store_url, 30, 40, 20261124)


@pytest.mark.chaos
def test_many_random_histories_of_limits(store_url: str) -> None:
    run_histories(LimitsMachine, store_url, 600, 80, None)
