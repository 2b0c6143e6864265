"""Steps, waits, tokens and their ends in random order, compared step by step with a model: see durable_model.py.

Some steps are two operations at once, whose outcome is the same whichever the store takes first. DATAQUEUE_TEST_SEED
repeats a run.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime

import pytest
from conformance.durable_compare import compare, nothing_is_left_over
from conformance.durable_hand import HOUR_MS, step, wait
from conformance.durable_model import Record
from conformance.durable_player import HOUR, WORKERS, Data, Player
from conformance.test_machine import run_histories
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from dataqueue.backends.base import (
    Cancelled,
    Completed,
    EndStatus,
    Failed,
    Outcome,
    Waiting,
)
from dataqueue.testing import advance_clock
from dataqueue.tokens import make_token

MOST_JOBS, MOST_TOKENS = 8, 6
FOR_EVER = 1000

hours = st.sampled_from((1, 1, 2, 3))
workers = st.sampled_from(WORKERS)
claims = st.sampled_from((0, 0, 100))
"""How many jobs the worker that records an outcome takes at once."""


class DurableMachine(Player):
    @initialize()
    def open(self) -> None:
        """Jobs run, and there are tokens to wait for."""
        self.run(self.queue.open())
        self.heart = self.backend.heart()
        for worker in WORKERS:
            self.start_worker(worker)
        for most in (1, 1, 3, 3):
            self.add(most, False)
        self.cycle("w", [], 3)
        for timeout in (None, 1):
            self.create_token(timeout)
        self.make_token(self.free()[-1], 2)

    def teardown(self) -> None:
        try:
            self.nothing_contradicts_itself()
            self.everything_ends()
            self.nothing_contradicts_itself()
        finally:
            if self.heart is not None:
                self.heart.close()
            self.run(self.queue.close())
            self.runner.close()
            self.store.clear()

    # -- producers and people ---------------------------------------------------------------------

    @precondition(lambda self: len(self.model.jobs) < MOST_JOBS)
    @rule(most=st.sampled_from((1, 1, 3)), claim=st.booleans())
    def add(self, most: int, claim: bool) -> None:
        self.model.add(self.run(self.queue.add_job("t", max_attempts=most)).id, most)
        if claim:
            self.claim("w", 100)

    @precondition(lambda self: self.model.jobs)
    @rule(data=st.data())
    def cancel(self, data: Data) -> None:
        job = self.some_job(data, "waiting", "processing")
        assert self.run(self.queue.cancel_job(job.id)) == self.model.cancel(job)

    @precondition(lambda self: self.model.of("failed", "cancelled"))
    @rule(data=st.data())
    def retry(self, data: Data) -> None:
        job = self.pick(data, self.model.of("failed", "cancelled"))
        assert self.run(self.queue.retry_job(job.id)) == self.model.retry(job)

    @precondition(lambda self: self.model.of("waiting"))
    @rule(data=st.data(), claim=st.booleans())
    def cancel_and_retry(self, data: Data, claim: bool) -> None:
        """What waits is begun anew."""
        job = self.pick(data, self.model.of("waiting") + self.asleep() * 3)
        assert self.run(self.queue.cancel_job(job.id)) == self.model.cancel(job)
        assert self.run(self.queue.retry_job(job.id)) == self.model.retry(job)
        if claim:
            self.claim("w", 100)

    @precondition(lambda self: any(job.finished for job in self.model.jobs.values()))
    @rule(status=st.sampled_from(("completed", "failed", "cancelled")))
    def clean_up(self, status: EndStatus) -> None:
        assert self.run(self.delete_jobs(status)) == self.model.delete(status)

    # -- tokens -----------------------------------------------------------------------------------

    @precondition(lambda self: len(self.model.tokens) < MOST_TOKENS)
    @rule(timeout=st.none() | hours)
    def create_token(self, timeout: int | None) -> None:
        made = self.run(self.queue.create_token(timeout=None if timeout is None else timeout * HOUR))
        self.model.make_token(made.id, None, timeout)

    @precondition(lambda self: self.model.tokens)
    @rule(data=st.data(), output=st.integers(0, 99), fails=st.booleans())
    def answer(self, data: Data, output: int, fails: bool) -> None:
        token = self.some_token(data)
        self.run(self.end_token(token, output, "no" if fails else None))
        self.told_of(token, output, "no" if fails else None)

    @precondition(lambda self: any(t.status == "waiting" and t.ends for t in self.model.tokens.values()))
    @rule(limit=st.sampled_from((1, 100)))
    def expire(self, limit: int) -> None:
        assert self.run(self.backend.expire_tokens(limit)) == self.model.expire(limit)

    @precondition(lambda self: any(token.status != "waiting" for token in self.model.tokens.values()))
    @rule()
    def delete_tokens(self) -> None:
        deleted = self.run(self.backend.delete_tokens(datetime.now(UTC) + HOUR, 100))
        assert deleted == self.model.delete_tokens()

    @rule(by=hours)
    def time_passes(self, by: int) -> None:
        self.run(advance_clock(self.queue, hours=by))
        self.model.clock += by
        self.model.touched |= self.model.jobs.keys()

    # -- handlers ---------------------------------------------------------------------------------

    @precondition(lambda self: self.free())
    @rule(data=st.data(), result=st.integers(0, 99))
    def save_step(self, data: Data, result: int) -> None:
        job = self.pick(data, self.free())
        record = step(job.next_seq, result=str(result))
        assert self.run(self.backend.save_step(job.id, job.lease, record))
        self.model.save(job, Record(record.seq, "step", str(result)))

    @precondition(lambda self: self.free() and len(self.model.tokens) < MOST_TOKENS)
    @rule(data=st.data(), timeout=st.none() | hours)
    def make_a_token(self, data: Data, timeout: int | None) -> None:
        self.make_token(self.pick(data, self.free()), timeout)

    @precondition(lambda self: self.free())
    @rule(data=st.data(), by=st.sampled_from((0, 1, 1, 2)), claim=claims)
    def wait_for_a_time(self, data: Data, by: int, claim: int) -> None:
        job = self.pick(data, self.free())
        self.wait(job, Record(job.next_seq, "sleep", done=False, until=self.model.clock + by), claim)

    @precondition(lambda self: self.free())
    @rule(data=st.data(), claim=claims)
    def wait_for_a_token(self, data: Data, claim: int) -> None:
        job = self.pick(data, self.free())
        self.wait(job, self.token_wait(job, self.some_token(data, unknown=True).id), claim)

    @precondition(lambda self: len(self.free()) > 1 and self.model.tokens)
    @rule(data=st.data())
    def wait_for_one_token(self, data: Data) -> None:
        """Two of them, in one cycle."""
        token = self.some_token(data)
        jobs = self.free()[:2]
        waits = [self.token_wait(job, token.id) for job in jobs]
        self.cycle("w", [self.outcome(job, record) for job, record in zip(jobs, waits, strict=True)], 0)

    @precondition(lambda self: self.free())
    @rule(data=st.data(), claim=claims)
    def wait_for_jobs(self, data: Data, claim: int) -> None:
        job = self.pick(data, self.free())
        self.wait(job, self.jobs_wait(data, job), claim)

    @precondition(lambda self: self.resumed())
    @rule(data=st.data(), again=st.sampled_from((False, False, True)), claim=claims)
    def go_on(self, data: Data, again: bool, claim: int) -> None:
        """A handler comes to the wait that it was woken from: it takes the answer, or waits again."""
        job = self.pick(data, self.resumed())
        record = job.open
        assert record is not None
        if again or not self.model.is_over(record):
            self.wait(job, record, claim)
        else:
            self.take_answer(job, record)

    @precondition(lambda self: self.model.of("processing"))
    @rule(data=st.data(), output=st.integers(0, 99))
    def set_output(self, data: Data, output: int) -> None:
        job = self.pick(data, self.model.of("processing"))
        assert self.run(self.backend.set_output(job.id, job.lease, str(output)))
        job.output = output

    @precondition(lambda self: self.model.of("processing"))
    @rule(data=st.data(), worker=workers, claim=claims)
    def end(self, data: Data, worker: str, claim: int) -> None:
        job = self.pick(data, self.model.of("processing"))
        self.cycle(worker, [self.some_end(data, job)], claim)

    @precondition(lambda self: self.awaited())
    @rule(data=st.data(), how=st.sampled_from(("end", "end", "cancel", "lose")), clean_up=st.booleans(), claim=claims)
    def end_who_is_waited_for(self, data: Data, how: str, clean_up: bool, claim: int) -> None:
        """Or whose token is waited for."""
        job = self.pick(data, self.awaited())
        if how == "end":
            self.cycle("w", [self.some_end(data, job)], claim)
        elif how == "lose":
            self.lose_worker(job.worker, True)
        else:
            assert self.run(self.queue.cancel_job(job.id)) == self.model.cancel(job)
            assert job.lease is not None
            self.cycle("w", [Cancelled(job.id, job.lease)], claim)
        if clean_up and job.finished:
            self.clean_up(job.status)

    @precondition(lambda self: len(self.free()) > 1)
    @rule(data=st.data(), timeout=st.none() | hours, clean_up=st.booleans())
    def wait_for_the_token_of_one_that_ends(self, data: Data, timeout: int | None, clean_up: bool) -> None:
        """If it is deleted, its token goes with it."""
        job, maker = data.draw(st.permutations([job.id for job in self.free()]), "waits, makes")[:2]
        self.make_token(self.model.jobs[maker], timeout)
        self.wait(self.model.jobs[job], self.token_wait(self.model.jobs[job], list(self.model.tokens)[-1]), 0)
        self.cycle("w", [self.some_end(data, self.model.jobs[maker])], 0)
        if clean_up and self.model.jobs[maker].finished:
            self.clean_up(self.model.jobs[maker].status)

    @precondition(lambda self: len(self.model.of("processing")) > 1 and self.free())
    @rule(data=st.data(), claim=claims)
    def wait_for_what_ends(self, data: Data, claim: int) -> None:
        """In one cycle: the job that is waited for ends."""
        job = self.free()[0]
        others = [other for other in self.model.of("processing") if other.id > job.id and not other.asked]
        if not others:
            return
        other = self.pick(data, others)
        assert other.lease is not None
        record = Record(job.next_seq, "jobs", done=False, job_ids=(other.id,))
        end: Outcome = Completed(other.id, other.lease)
        if data.draw(st.booleans(), "fails"):
            end = Failed(other.id, other.lease, "boom", "handler_error", None)
        self.cycle("w", [self.outcome(job, record), end], claim)

    # -- two at once ------------------------------------------------------------------------------

    @precondition(lambda self: self.free() and self.model.tokens)
    @rule(data=st.data(), output=st.integers(0, 99))
    def answer_while_it_begins_to_wait(self, data: Data, output: int) -> None:
        job, token = self.pick(data, self.free()), self.some_token(data)
        record = self.token_wait(job, token.id)
        outcome = self.outcome(job, record)
        answer = self.at_once(self.backend.cycle("w", [outcome], ["t"], 0, False), self.end_token(token, output, None))
        self.told_of(token, output, None)
        self.recorded([outcome], answer)

    @precondition(lambda self: any(job.wait and job.wait.kind == "token" for job in self.model.of("waiting")))
    @rule(data=st.data(), output=st.integers(0, 99))
    def answer_while_it_is_cancelled(self, data: Data, output: int) -> None:
        waiting = [job for job in self.model.of("waiting") if job.wait and job.wait.token_id in self.model.tokens]
        if not waiting:
            return
        job = self.pick(data, waiting)
        assert job.wait is not None and job.wait.token_id is not None
        token = self.model.tokens[job.wait.token_id]
        assert self.at_once(self.queue.cancel_job(job.id), self.end_token(token, output, None))
        self.told_of(token, output, None)
        assert self.model.cancel(job)

    @precondition(lambda self: self.free() and self.model.tokens and any(j.finished for j in self.model.jobs.values()))
    @rule(data=st.data(), status=st.sampled_from(("completed", "failed", "cancelled")))
    def clean_up_while_it_begins_to_wait(self, data: Data, status: EndStatus) -> None:
        """A token goes with the job that made it."""
        job, token = self.pick(data, self.free()), self.some_token(data)
        outcome = self.outcome(job, self.token_wait(job, token.id))
        if job.asked and status == "cancelled":
            return  # it may go at once, or not
        answer = self.at_once(self.backend.cycle("w", [outcome], ["t"], 0, False), self.delete_jobs(status))
        self.model.delete(status)
        self.recorded([outcome], answer)

    # -- workers ----------------------------------------------------------------------------------

    @rule(worker=workers, limit=st.sampled_from((100, 100, 1)))
    def claim(self, worker: str, limit: int) -> None:
        if worker in self.alive:
            self.cycle(worker, [], limit)

    @precondition(lambda self: self.model.of("processing"))
    @rule(worker=workers, back=st.booleans())
    def lose_worker(self, worker: str, back: bool) -> None:
        self.beat(worker, 0.0)
        self.alive.discard(worker)
        found = self.run(self.backend.reclaim_expired(100))
        expected = self.model.reclaim(set(WORKERS) - self.alive)
        assert {job.id: job.status for job in found} == expected
        if back or not self.alive:
            self.start_worker(worker)

    @precondition(lambda self: self.model.lost)
    @rule(data=st.data(), how=st.sampled_from(("step", "token", "sleep", "wait", "jobs", "completed", "failed")))
    def write_under_a_lost_lease(self, data: Data, how: str) -> None:
        """Nothing is changed, as the invariants see."""
        job_id, lease = data.draw(st.sampled_from(self.model.lost), "lease")
        job = self.model.jobs.get(job_id)
        seq = data.draw(st.integers(1, 3), "seq")
        known = next((one for one in job.journal if one.seq == seq), None) if job is not None else None
        if how in ("step", "token"):
            record = step(seq, result="666") if known is None else self.stored(known, "666")
            token = make_token("1h", None) if how == "token" else None
            assert not self.run(self.backend.save_step(job_id, lease, record, token))
            assert token is None or self.run(self.backend.get_token(token.id)) is None
        else:
            outcomes: dict[str, Outcome] = {
                "sleep": Waiting(job_id, lease, wait(seq, "sleep"), HOUR_MS),
                "wait": Waiting(job_id, lease, wait(seq, "token", token_id=next(iter(self.model.tokens), "wp_none"))),
                "jobs": Waiting(job_id, lease, wait(seq, "jobs", job_ids=tuple(self.model.jobs))),
                "completed": Completed(job_id, lease, "666"),
                "failed": Failed(job_id, lease, "late", "handler_error", 0),
            }
            answer = self.run(self.backend.cycle("w", [outcomes[how]], ["t"], 0, False))
            assert answer.lost == [(job_id, lease)]
        self.model.touched |= {job_id} & self.model.jobs.keys()

    # -- what always holds ------------------------------------------------------------------------

    @invariant()
    def the_store_is_as_the_model(self) -> None:
        self.runner.run(compare(self.model, self.queue))
        nothing_is_left_over(self.model, self.store)

    # -- at the end -------------------------------------------------------------------------------

    def nothing_contradicts_itself(self) -> None:
        for finding in self.runner.run(self.queue.doctor(deep=True)):
            assert finding.level != "error", finding

    def everything_ends(self) -> None:
        """Once all tokens are answered and all times are over, nobody waits for ever."""
        if "w" not in self.alive:
            self.start_worker("w")
        for token in self.model.tokens.values():
            self.run(self.end_token(token, 1, None))
            self.told_of(token, 1, None)
        self.time_passes(FOR_EVER)
        for _ in range(10):
            self.claim("w", 100)
            self.the_store_is_as_the_model()
            for job in self.model.of("processing"):
                record = job.open
                if record is None or self.model.is_over(record):
                    assert job.lease is not None
                    self.cycle("w", [Cancelled(job.id, job.lease) if job.asked else Completed(job.id, job.lease)], 0)
                else:
                    self.wait(job, record, 0)
        assert [job for job in self.model.jobs.values() if not job.finished] == [], "they wait for ever"
        self.the_store_is_as_the_model()


@pytest.mark.timeout(600)  # finding the shortest history of a failure takes its time
def test_random_histories_of_waits(store_url: str) -> None:
    run_histories(DurableMachine, store_url, 14, 30, 20261124)


@pytest.mark.chaos
@pytest.mark.timeout(3600)
def test_many_random_histories_of_waits(store_url: str) -> None:
    run_histories(DurableMachine, store_url, int(os.environ.get("DATAQUEUE_TEST_EXAMPLES", "600")), 60, None)
