"""Jobs that wait for others, unique jobs and dead letters in random order, compared step by step with a model.

See dependencies_model.py. DATAQUEUE_TEST_SEED repeats a run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from datetime import timedelta
from typing import Any, ClassVar, TypeVar

import pytest
from conformance.dependencies_model import Known, Model
from conformance.test_machine import PostgresStore, Store, run_histories
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from dataqueue import BatchRef, DependsOn, Job, JobOptions, JobQueue, NewJob, Unique
from dataqueue.backends.base import Cancelled, Completed, Failed, Heart, Held, Outcome, Released, WorkerInfo

R = TypeVar("R")
Data = st.DataObject
TYPES = ("a", "b")
TAGS = ("x", "y")
WORKERS = ("w", "w2")
LEASE = 3600.0
ENOUGH = 18
"""Jobs after which none is added: what becomes of them tells more."""
HOUR_MS = 3_600_000

uniques = st.sampled_from(
    (Unique("k"), Unique("k"), Unique("kk"), Unique("k", window=timedelta(days=1)), Unique("k", replace=True))
)
rare_options = st.fixed_dictionaries(
    {},
    optional={
        "priority": st.sampled_from((1, -1)),
        "max_attempts": st.integers(1, 2),
        "delay": st.sampled_from((timedelta(0), timedelta(hours=2))),
        "tags": st.lists(st.sampled_from(TAGS), max_size=2),
        "dead_letter": st.sampled_from(TYPES),
        "group": st.just("g"),
    },
)


class DependenciesMachine(RuleBasedStateMachine):
    store: ClassVar[Store]

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.alive: set[str] = set()
        self.runner = asyncio.Runner()
        self.queue: JobQueue = self.store.fresh()
        if isinstance(self.store, PostgresStore):
            self.store._conn.execute("TRUNCATE dataqueue_dependencies")
        self.heart: Heart | None = None

    def run(self, operation: Coroutine[Any, Any, R]) -> R:
        return self.runner.run(operation)

    def step(self) -> None:
        self.store.wait_for_the_next_moment()
        self.model.step()

    @property
    def backend(self) -> Any:
        return self.queue.backend

    @initialize()
    def open(self) -> None:
        self.run(self.queue.open())
        self.heart = self.backend.heart()
        for worker in WORKERS:
            self.start_worker(worker)
        # What others may wait for: one of each kind of job that has ended, one that is tried again, one that runs.
        keys: list[JobOptions] = [{"idempotency_key": "i"}, {"idempotency_key": "ii"}, {}, {"tags": TAGS}, {}]
        self.store_jobs([NewJob("a", n, {"max_attempts": 2, **keys[n]}) for n in range(5)])
        self.cycle("w", [], ["a"], 5)
        a, b, c, d, running = self.model.leases
        ends = [Completed(*a), Failed(*b, "boom", "handler_error", None), Cancelled(*c)]
        self.cycle("w", [*ends, Failed(*d, "boom", "handler_error", HOUR_MS)], [], 0)
        self.store_jobs([NewJob("b", 5, {"depends_on": [running[0]]}), NewJob("a", 6, {"depends_on": [BatchRef(0)]})])

    def teardown(self) -> None:
        try:
            self.explanations_are_those_of_the_model()
            self.everything_ends()
        finally:
            if self.heart is not None:
                self.heart.close()
            self.run(self.queue.close())
            self.runner.close()
            self.store.clear()

    # -- producers and people ---------------------------------------------------------------------

    @precondition(lambda self: len(self.model.jobs) < ENOUGH)
    @rule(data=st.data())
    def add_one(self, data: Data) -> None:
        self.store_jobs([self.new_job(data, 0)])

    @precondition(lambda self: len(self.model.jobs) < ENOUGH)
    @rule(data=st.data(), count=st.integers(2, 6))
    def add_many(self, data: Data, count: int) -> None:
        self.store_jobs([self.new_job(data, place) for place in range(count)])

    def new_job(self, data: Data, place: int) -> NewJob:
        options: dict[str, Any] = data.draw(rare_options, "options")
        extra = data.draw(
            st.sampled_from(("", "", "depends", "depends", "depends", "depends", "unique", "both")), "extra"
        )
        if extra in ("unique", "both"):
            options["unique"] = data.draw(uniques, "unique")
        elif data.draw(st.integers(0, 4), "has a key") == 0:
            options["idempotency_key"] = data.draw(st.sampled_from(("i", "ii")), "key")
            options.setdefault("tags", TAGS)  # which the job that has the key has not
        if extra == "depends" or (extra == "both" and not options["unique"].replace):
            options["depends_on"] = self.dependencies(data, place)
        return NewJob(data.draw(st.sampled_from(TYPES), "type"), data.draw(st.integers(0, 99), "payload"), options)  # type: ignore[arg-type]

    def dependencies(self, data: Data, place: int) -> DependsOn:
        """Rather what may still end, and what stands near."""
        known: list[Any] = sorted(self.model.jobs)
        known += [job.id for job in self.model.unfinished()] * 2 + [BatchRef(n) for n in range(place)] * 3
        return DependsOn(
            data.draw(st.lists(st.sampled_from(known), max_size=3), "jobs"),
            data.draw(st.sampled_from(([], [], [], ["x"], ["y"], ["x", "y"])), "tags"),
            data.draw(st.sampled_from(("cancel", "cancel", "cancel", "run")), "on_failure"),  # type: ignore[arg-type]
        )

    def store_jobs(self, news: list[NewJob]) -> None:
        self.step()
        if len(news) == 1:
            handles = [self.run(self.queue.add_job(news[0].job_type, news[0].payload, **news[0].options))]
        else:
            handles = list(self.run(self.queue.add_jobs(news)))
        self.model.add(news, [(handle.id, handle.created) for handle in handles])

    @precondition(lambda self: len(self.model.jobs) < ENOUGH)
    @rule(count=st.integers(2, 4), middle=st.integers(0, 2))
    def chain(self, count: int, middle: int) -> None:
        """``middle`` more jobs stand beside the second."""
        self.step()
        beside = [NewJob("b", n) for n in range(1 + middle)]
        steps: list[Any] = [NewJob("a"), beside, *(NewJob("a", n) for n in range(count - 2))]
        handles = list(self.run(self.queue.chain(*steps)))
        told = [NewJob("a"), *(NewJob("b", n, {"depends_on": [BatchRef(0)]}) for n in range(1 + middle))]
        for n in range(count - 2):
            before = [BatchRef(place) for place in (range(1, 2 + middle) if n == 0 else [len(told) - 1])]
            told.append(NewJob("a", n, {"depends_on": before}))
        self.model.add(told, [(handle.id, handle.created) for handle in handles])

    @rule(data=st.data(), count=st.sampled_from((1, 1, 2, 4)))
    def cancel(self, data: Data, count: int) -> None:
        chosen = self.some_jobs(data, count)
        self.step()
        if count == 1:
            (told,) = self.model.cancel(chosen).values()
            assert self.run(self.queue.cancel_job(chosen[0])) == (told != "unchanged")
        else:
            assert self.run(self.queue.cancel_jobs(chosen)) == self.model.cancel(chosen)

    @rule(data=st.data(), count=st.sampled_from((1, 1, 2, 4)), force=st.booleans())
    def retry(self, data: Data, count: int, force: bool) -> None:
        ended = self.model.of("failed", "cancelled") + self.model.of("completed") * force
        chosen = self.some_jobs(data, count, ended or list(self.model.jobs))
        self.step()
        if count == 1:
            (told,) = self.model.retry(chosen, force).values()
            assert self.run(self.queue.retry_job(chosen[0], force=force)) == (told == "changed")
        else:
            assert self.run(self.queue.retry_jobs(chosen, force=force)) == self.model.retry(chosen, force)

    @rule(
        data=st.data(),
        changes=st.fixed_dictionaries(
            {},
            optional={
                "payload": st.integers(0, 99),
                "priority": st.sampled_from((1, -1)),
                "delay": st.sampled_from((timedelta(0), timedelta(hours=2))),
                "tags": st.lists(st.sampled_from(TAGS), min_size=1, max_size=2),
                "max_attempts": st.integers(1, 3),
            },
        ).filter(bool),
    )
    def edit(self, data: Data, changes: Any) -> None:
        (chosen,) = self.some_jobs(data, 1)
        self.step()
        assert self.run(self.queue.edit_job(chosen, **changes)) == self.model.edit(chosen, changes)

    # -- workers ----------------------------------------------------------------------------------

    @rule(worker=st.sampled_from(WORKERS))
    def start_worker(self, worker: str) -> None:
        self.beat(worker, LEASE)
        self.alive.add(worker)

    @rule(worker=st.sampled_from(WORKERS), rescue=st.booleans())
    def lose_worker(self, worker: str, rescue: bool) -> None:
        self.beat(worker, 0.0)
        self.alive.discard(worker)
        if rescue:
            self.reclaim(100)

    def beat(self, worker: str, lease: float) -> None:
        assert self.heart is not None
        self.heart.beat(WorkerInfo(worker, "host", 1, TYPES, 10, "0", lease), [])

    @rule(limit=st.sampled_from((100, 1)))
    def reclaim(self, limit: int) -> None:
        self.step()
        stuck = [number for number in self.model.of("processing") if self.model.jobs[number].worker not in self.alive]
        found = self.run(self.backend.reclaim_expired(limit))
        assert len(found) == min(limit, len(stuck)) and {job.id for job in found} <= set(stuck)
        self.model.reclaim(self.model.jobs[job.id] for job in found)
        self.read_letters()
        assert [self.model.jobs[job.id].status for job in found] == [job.status for job in found]

    @rule(worker=st.sampled_from(WORKERS), types=st.sampled_from((TYPES, TYPES, ("a",))), limit=st.integers(1, 6))
    def claim(self, worker: str, types: tuple[str, ...], limit: int) -> None:
        if worker in self.alive:
            self.cycle(worker, [], list(types), limit)

    @precondition(lambda self: self.model.leases)
    @rule(data=st.data(), worker=st.sampled_from(WORKERS), limit=st.sampled_from((0, 0, 2, 10)))
    def record(self, data: Data, worker: str, limit: int) -> None:
        leases = [held for held in self.model.leases if self.model.holder(held)]
        leases = leases * 4 + self.model.leases[-4:]
        chosen = data.draw(st.lists(st.sampled_from(leases), min_size=1, max_size=4, unique=True), "leases")
        outcomes = [self.outcome(data, held) for held in chosen]
        self.cycle(worker, outcomes, list(TYPES), limit if worker in self.alive else 0)

    @precondition(lambda self: self.waited_for())
    @rule(data=st.data(), how=st.sampled_from((Released, Cancelled, None)))
    def cancel_at_work(self, data: Data, how: Any) -> None:
        """Somebody cancels a job that others wait for, and its worker obeys, or is lost."""
        held = data.draw(st.sampled_from(self.waited_for()), "held")
        self.step()
        assert self.run(self.queue.cancel_jobs([held[0]])) == self.model.cancel([held[0]])
        if how is None:
            self.lose_worker(self.model.jobs[held[0]].worker, True)
        else:
            self.cycle(WORKERS[0], [how(*held)], [], 0)

    def waited_for(self) -> list[Held]:
        """What runs while others wait for it."""
        return [held for held in self.model.leases if self.model.holder(held) and held[0] in dict(self.model.waits)]

    def outcome(self, data: Data, held: Held) -> Outcome:
        job = self.model.holder(held)
        last = job is not None and job.attempts >= job.max_attempts
        kinds = (
            "completed",
            "completed",
            "dies",
            "dies",
            "released",
            "cancelled",
            *(() if last else ("again", "later")),
        )
        if job is not None and job.asked:
            kinds = ("completed", "dies", "released", "released", "cancelled")
        kind = data.draw(st.sampled_from(kinds), "outcome")
        match kind:
            case "completed":
                return Completed(*held)
            case "released":
                return Released(*held)
            case "cancelled":
                return Cancelled(*held)
            case _:
                retry_ms = {"dies": None, "again": 0, "later": HOUR_MS}[kind]
                return Failed(*held, "boom", "handler_error", retry_ms)

    def cycle(self, worker: str, outcomes: list[Outcome], types: list[str], limit: int) -> None:
        self.step()
        answer = self.run(self.backend.cycle(worker, outcomes, types, limit, limit > 0))
        assert sorted(answer.lost) == sorted(self.model.record(outcomes))
        self.read_letters()
        assert sorted(answer.cascaded) == sorted(self.model.cascaded)
        expected = self.model.claim(worker, types, limit)
        assert [job.id for job in answer.jobs] == [job.id for job in expected]
        for claimed, job in zip(answer.jobs, expected, strict=True):
            self.model.lease(job, claimed.lease_id)

    def read_letters(self) -> None:
        letters = {self.run(self.queue.require_job(source)).dead_letter_job_id: source for source in self.model.buried}
        for letter, source in sorted(letters.items()):  # type: ignore[type-var]
            assert letter is not None
            self.model.read_letter(source, letter, self.run(self.queue.require_job(letter)).payload)
        self.model.buried.clear()

    # -- what always holds ------------------------------------------------------------------------

    @invariant()
    def the_store_is_as_the_model(self) -> None:
        jobs = {job.id: job for job in self.run(self.queue.get_all_jobs(limit=1000))}
        assert sorted(jobs) == sorted(self.model.jobs)
        for job in jobs.values():
            self.same(job, self.model.jobs[job.id])
        for job_id in (*self.model.cascaded, *self.model.freed):
            self.its_story_says_so(job_id)
        self.model.cascaded, self.model.freed = [], []
        self.who_waits_for_whom_is_as_in_the_model()

    def same(self, job: Job, expected: Known) -> None:
        for name in ("job_type", "status", "payload", "priority", "attempts", "max_attempts", "blocked"):
            assert getattr(job, name) == getattr(expected, name), f"{name} of {job.id}"
        assert (job.depends_on, job.runs_anyway, job.is_finished) == (
            expected.named,
            expected.anyway,
            expected.finished,
        )
        assert (job.dead_letter_job_id, job.unique_key) == (expected.letter, expected.unique)
        if expected.roots:
            assert job.cascade_root in expected.roots
        else:
            assert job.cascade_root is None and job.pending_reason is None

    def its_story_says_so(self, job_id: int) -> None:
        job, events = self.model.jobs[job_id], self.run(self.queue.get_job_events(job_id))
        kinds = [event.event_type for event in events]
        if job.status == "cancelled":
            assert kinds[-1] == "cancelled" and kinds.count("cancelled") <= kinds.count("retried") + 1
            metadata = events[-1].metadata or {}
            assert metadata.pop("rootJobId") in job.roots and metadata == {"dependencyCascade": True}
        else:
            assert kinds[-1] == "unblocked" if job.status == "pending" else kinds[-2:] == ["unblocked", "processing"]

    def who_waits_for_whom_is_as_in_the_model(self) -> None:
        store: Any = self.store
        if isinstance(store, PostgresStore):
            found = store._conn.execute("SELECT prerequisite_id, dependent_id FROM dataqueue_dependencies").fetchall()
            assert set(found) == self.model.waits
            return
        client, key = store._client, store._key
        members = [(int.from_bytes(one[:6]), int.from_bytes(one[6:])) for one in client.zrange(key("dp"), 0, -1)]
        assert set(members) == self.model.waits
        counts: dict[int, int] = {}
        for _, dependent in self.model.waits:
            counts[dependent] = counts.get(dependent, 0) + 1
        assert {int.from_bytes(one): int(count) for one, count in client.hgetall(key("un")).items()} == counts
        held = {f"{job.unique}\0".encode() + job.id.to_bytes(6) for job in self.model.unfinished() if job.unique}
        assert set(client.zrange(key("uq"), 0, -1)) == held
        assert client.zcard(key("cq")) == 0

    # -- at the end -------------------------------------------------------------------------------

    def explanations_are_those_of_the_model(self) -> None:
        for job_id, job in self.model.jobs.items():
            found = self.run(self.queue.explain_job(job_id))
            assert (found.state == "blocked") == job.blocked, found
            assert found.is_ready == (job in self.model.ready(TYPES)), found
            if job.blocked:
                unmet = {number for number, dependent in self.model.waits if dependent == job_id}
                evidence = found.reasons[0].evidence
                shown = {one["id"]: one["status"] for one in evidence["jobs"]}
                assert evidence["count"] == len(unmet)
                assert shown.items() <= {n: self.model.jobs[n].status for n in unmet}.items()
                # Redis finds those that a tag stands for by their tags, which may have been edited since.
                assert len(shown) == len(unmet) or not isinstance(self.store, PostgresStore)
        for finding in self.run(self.queue.doctor(deep=True)):
            assert finding.level != "error", finding

    def everything_ends(self) -> None:
        """Whoever waits for time is cancelled; then nobody waits for anybody."""
        self.start_worker("w")
        while unfinished := self.model.unfinished():
            held = [(job.id, job.lease) for job in unfinished if job.lease is not None]
            self.cycle("w", [Completed(*item) for item in held], list(TYPES), 1000)
            if not held and not self.model.of("processing"):
                late = [job for job in self.model.unfinished() if not job.blocked]
                assert late, "they wait for each other"
                self.step()
                assert self.run(self.queue.cancel_jobs([late[0].id])) == self.model.cancel([late[0].id])
            self.the_store_is_as_the_model()
        assert self.model.waits == set()
        for finding in self.run(self.queue.doctor(deep=True)):
            assert finding.level != "error", finding

    def some_jobs(self, data: Data, count: int, among: list[int] | None = None) -> list[int]:
        """Rather those that have not ended, or that others wait for."""
        if among is None:
            among = [*self.model.jobs, *(job.id for job in self.model.unfinished()), *(p for p, _ in self.model.waits)]
            among += [p for p, _ in self.model.waits if self.model.jobs[p].status == "processing"] * 2
        return data.draw(st.lists(st.sampled_from(sorted(among)), min_size=1, max_size=count, unique=True), "jobs")


@pytest.mark.timeout(600)  # finding the shortest history of a failure takes its time
def test_random_histories_of_dependencies(store_url: str) -> None:
    run_histories(DependenciesMachine, store_url, 12, 30, 20261124)


@pytest.mark.chaos
def test_many_random_histories_of_dependencies(store_url: str) -> None:
    run_histories(DependenciesMachine, store_url, 600, 60, None)
