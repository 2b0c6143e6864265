"""Random histories on each store, compared step by step with one model: see model.py.

A failure prints the shortest history that was found and a line to reproduce it. The long campaign is
``make chaos ARGS='tests/conformance/test_machine.py'``; DATAQUEUE_TEST_SEED repeats a run.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import time
from collections.abc import Callable, Collection, Coroutine, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, Protocol, TypeVar

import psycopg
import pytest
import redis
from conformance.model import MS, Event, Model, ModelJob, Moment
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from dataqueue import Hook, Job, JobNotFound, JobQueue, NewJob
from dataqueue.backends.base import Cancelled, Completed, Failed, Heart, Held, Outcome, Released, WorkerInfo
from dataqueue.backends.redis.layout import KEYS, STATUS_CODES, key_prefix
from dataqueue.jobs import STATUSES, TagMode

R = TypeVar("R")
Data = st.DataObject

DAY = timedelta(days=1)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
HOUR_MS = 3_600_000
LEASE = 3600.0
ENOUGH = 10
"""Jobs after which none is added: what becomes of them tells more."""
UNKNOWN_ID = 4_000_000_000
TYPES = ("mail", "mails", "почта")
TAGS = ("a", "ab", "ж")
WORKERS = ("w", "w2", "ворк")
VALUES = (None, 0, -1.5, 2**63, "é\u2028\n", [], {"b": {"a": [1]}, "a": None})
MESSAGES = ("", "boom", 'a "quoted"\nline\u2028 ж', "x" * 900)

options = st.fixed_dictionaries(
    {},
    optional={
        "priority": st.sampled_from((1, -1, 2**31 - 1, -(2**31))),
        "max_attempts": st.integers(1, 3),
        "delay": st.sampled_from((timedelta(0), timedelta(0), DAY, 2 * DAY)),
        "idempotency_key": st.sampled_from(("k", "kk", "ключ", "k\n", "k5", "k6")),
        "tags": st.lists(st.sampled_from(TAGS), max_size=3),
        "timeout": st.sampled_from((timedelta(minutes=1), None)),
        "retry_delay": st.sampled_from((timedelta(seconds=5), None)),
    },
)
edits = st.builds(
    lambda fields, when: {**fields, **when},
    st.fixed_dictionaries(
        {},
        optional={
            "payload": st.sampled_from(VALUES),
            "priority": st.sampled_from((1, -1, 2**31 - 1, -(2**31))),
            "max_attempts": st.integers(1, 3),
            "tags": st.none() | st.lists(st.sampled_from(TAGS), max_size=3),
            "timeout": st.sampled_from((timedelta(minutes=1), None)),
            "retry_delay": st.sampled_from((timedelta(seconds=5), None)),
        },
    ),
    st.sampled_from(({}, {}, {"run_at": None}, {"delay": timedelta(0)}, {"delay": DAY}, {"delay": 2 * DAY})),
)
bulk_filters = st.fixed_dictionaries(
    {},
    optional={
        "job_type": st.lists(st.sampled_from((*TYPES, "unknown")), min_size=1, unique=True),
        "tags": st.lists(st.sampled_from(TAGS), min_size=1, max_size=2),
        "priority": st.sampled_from((0, 1)),
    },
)
tag_modes = st.sampled_from(("all", "any", "exact", "none"))
new_jobs = st.builds(NewJob, st.sampled_from(TYPES), st.sampled_from(VALUES), options)
texts = st.sampled_from(VALUES).map(json.dumps)
workers = st.sampled_from(WORKERS)
lease_seconds = st.sampled_from((LEASE, LEASE, 0.0))


class Store(Protocol):
    """A store that can be emptied, and looked into behind the queue's back."""

    def fresh(self) -> JobQueue: ...

    def clear(self) -> None: ...

    def wait_for_the_next_moment(self) -> None: ...

    def check(self, model: Model, clock: Clock) -> None: ...


class PostgresStore:
    def __init__(self, url: str) -> None:
        self._url = url
        self._conn = psycopg.connect(url, autocommit=True)

    def fresh(self) -> JobQueue:
        self._conn.execute(
            "TRUNCATE job_queue, job_events, dataqueue_workers, dataqueue_listeners, dataqueue_limits RESTART IDENTITY CASCADE"
        )
        return JobQueue.from_url(self._url, min_connections=1, max_connections=2)

    def clear(self) -> None: ...

    def wait_for_the_next_moment(self) -> None:
        """Transactions have their microsecond each."""

    def check(self, model: Model, clock: Clock) -> None:
        hidden = self._conn.execute("SELECT id FROM job_queue WHERE ready_at <= now() AND NOT due").fetchall()
        assert hidden == [], "a claim would not see them"

    def close(self) -> None:
        self._conn.close()


class RedisStore:
    _numbers = itertools.count(1)

    def __init__(self, url: str) -> None:
        self._url = url.partition("?key_prefix=")[0]
        self._client = redis.Redis.from_url(self._url)
        self._prefix = ""

    def fresh(self) -> JobQueue:
        self._prefix = f"machine-{os.getpid()}-{next(self._numbers)}"
        return JobQueue.from_url(self._url, key_prefix=self._prefix)

    def _key(self, name: str) -> str:
        return f"{key_prefix(self._prefix)}{name}"

    def clear(self) -> None:
        self._client.unlink(*map(self._key, KEYS))

    def wait_for_the_next_moment(self) -> None:
        time.sleep(0.00105)  # its clock has milliseconds; within one, order is by id

    def check(self, model: Model, clock: Clock) -> None:
        """Every index holds exactly what follows from the jobs."""
        wanted: dict[str, set[bytes]] = {name: set() for name in ("rd", "dl", "ix", "ls", "tg")}
        numbers: dict[bytes, bytes] = self._client.hgetall(self._key("ty"))  # type: ignore[assignment]
        for job in model.jobs.values():
            packed = job.id.to_bytes(6)
            number = int(numbers[job.job_type.encode()]).to_bytes(2)
            wanted["ix"].add(number + bytes([STATUS_CODES[job.status]]) + packed)
            wanted["tg"] |= {tag.encode() + b"\x00" + packed for tag in job.tags}
            if job.locked_by is not None:
                wanted["ls"].add(job.locked_by.encode() + b"\x00" + packed)
            if (due := job.due) is not None:
                at = ((clock.at(due) - EPOCH) // MS).to_bytes(6)
                place = number + (2**31 - 1 - job.priority).to_bytes(4)
                ready = due <= model.now
                wanted["rd" if ready else "dl"].add((place + at if ready else at + place) + packed)
        for name, members in wanted.items():
            found: list[bytes] = self._client.zrange(self._key(name), 0, -1)  # type: ignore[assignment]
            assert set(found) == members, name
        outputs: list[bytes] = self._client.hkeys(self._key("o"))  # type: ignore[assignment]
        allowed = [job.id for job in model.jobs.values() if job.status in ("processing", "completed")]
        assert {int.from_bytes(packed) for packed in outputs} <= set(allowed)

    def close(self) -> None:
        self._client.close()


class Clock:
    """What the store's clock said at each step of the model."""

    def __init__(self) -> None:
        self._read: dict[int, datetime] = {}

    def check(self, moment: Moment | None, actual: datetime | None, what: str) -> None:
        if moment is None or actual is None:
            assert moment is None and actual is None, f"{what} is {actual}, not {moment}"
            return
        assert actual.tzinfo is UTC or actual.utcoffset() == timedelta(0)
        actual -= moment.delay_ms * MS
        known = self._read.get(moment.tick)
        if known is None:
            self._read[moment.tick] = actual
            for tick, other in self._read.items():
                assert (other <= actual) if tick <= moment.tick else (other >= actual), f"{what} is out of order"
        else:
            assert known == actual, f"{what} is {actual}, but step {moment.tick} was at {known}"

    def check_rounded(self, moment: Moment, actual: datetime) -> None:
        read = self._read[moment.tick]
        assert actual == read.replace(microsecond=read.microsecond // 1000 * 1000)

    def at(self, moment: Moment) -> datetime:
        return self._read[moment.tick] + moment.delay_ms * MS


class QueueMachine(RuleBasedStateMachine):
    """Producers, people and three workers, one step at a time."""

    store: ClassVar[Store]

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.clock = Clock()
        self.hooks: list[tuple[str, int]] = []
        self.runner = asyncio.Runner()
        self.queue = self.store.fresh()
        self.heart: Heart | None = None

    def run(self, operation: Coroutine[Any, Any, R]) -> R:
        return self.runner.run(operation)

    def step(self) -> None:
        """What follows happens later than all before it."""
        self.store.wait_for_the_next_moment()
        self.model.step()

    @initialize()
    def open(self) -> None:
        self.run(self.queue.open())
        self.heart = self.queue.backend.heart()
        note: Callable[[Hook], None] = lambda hook: self.hooks.append((hook.name, hook.job_id or 0))  # noqa: E731
        for name in ("job:added", "job:cancelled", "job:retried", "job:edited"):
            self.queue.on(name, note)

    def teardown(self) -> None:
        try:
            self.explanations_are_those_of_the_claim()
            if self.heart is not None:
                self.heart.close()
            self.run(self.queue.close())
        finally:
            self.runner.close()
            self.store.clear()

    # -- producers and people ---------------------------------------------------------------------

    @precondition(lambda self: len(self.model.jobs) < ENOUGH)
    @rule(new=new_jobs)
    def add_one(self, new: NewJob) -> None:
        self.step()
        handle = self.run(self.queue.add_job(new.job_type, new.payload, **new.options))
        self.model.add([new], [(handle.id, handle.created)])

    @precondition(lambda self: len(self.model.jobs) < ENOUGH)
    @rule(news=st.lists(new_jobs, min_size=1, max_size=6))
    def add_many(self, news: list[NewJob]) -> None:
        self.step()
        handles = self.run(self.queue.add_jobs(news))
        self.model.add(news, [(handle.id, handle.created) for handle in handles])

    @rule(data=st.data())
    def cancel(self, data: Data) -> None:
        job_id = self.any_job(data)
        self.step()
        expected = self.model.cancel(job_id)
        self.changes(self.queue.cancel_job(job_id), expected, ("changed", "requested"))

    @rule(data=st.data(), force=st.booleans())
    def retry(self, data: Data, force: bool) -> None:
        job_id = self.any_job(data)
        self.step()
        expected = self.model.retry(job_id, force)
        self.changes(self.queue.retry_job(job_id, force=force), expected, ("changed",))

    @rule(data=st.data(), changes=edits)
    def edit(self, data: Data, changes: dict[str, Any]) -> None:
        job_id = self.any_job(data)
        self.step()
        job = self.model.jobs.get(job_id)
        expected = "missing" if job is None else "changed" if self.model.edit(job, changes) else "unchanged"
        self.changes(self.queue.edit_job(job_id, **changes), expected, ("changed",))

    @rule(changes=edits, filters=bulk_filters, mode=tag_modes)
    def edit_many(self, changes: dict[str, Any], filters: dict[str, Any], mode: TagMode) -> None:
        if "payload" in changes:
            filters["job_type"] = "mail"
        meant = self.meant(filters, mode, ["pending"]) if changes else []
        self.step()
        counted = self.run(self.queue.edit_all_pending_jobs(changes, dry_run=True, tag_mode=mode, **filters))
        changed = self.run(self.queue.edit_all_pending_jobs(changes, tag_mode=mode, **filters))
        assert counted == changed == len(meant)
        assert all(self.model.edit(job, changes) for job in meant)

    @rule(
        filters=bulk_filters,
        mode=tag_modes,
        status=st.none() | st.sets(st.sampled_from(("pending", "failed", "processing")), min_size=1),
    )
    def cancel_many(self, filters: dict[str, Any], mode: TagMode, status: set[Any] | None) -> None:
        meant = [
            job
            for job in self.meant(filters, mode, status or {"pending", "waiting", "failed"})
            if job.status != "failed" or job.next_attempt_at is not None
        ]
        self.step()
        assert self.run(self.queue.cancel_all_upcoming_jobs(tag_mode=mode, status=status, **filters)) == len(meant)
        for job in meant:
            self.model.cancel(job.id)

    @rule(
        filters=bulk_filters,
        mode=tag_modes,
        status=st.none() | st.sets(st.sampled_from(("failed", "cancelled")), min_size=1),
    )
    def retry_many(self, filters: dict[str, Any], mode: TagMode, status: set[Any] | None) -> None:
        meant = [job for job in self.meant(filters, mode, status or {"failed"}) if job.next_attempt_at is None]
        self.step()
        assert self.run(self.queue.retry_all_failed_jobs(tag_mode=mode, status=status, **filters)) == len(meant)
        for job in meant:
            self.model.retry(job.id, False)

    def meant(self, filters: dict[str, Any], mode: TagMode, status: Collection[str]) -> list[ModelJob]:
        types = filters.get("job_type")
        wanted = {**filters, "job_type": [types] if isinstance(types, str) else types, "tag_mode": mode}
        return self.model.matching({**wanted, "status": status})[::-1]

    def changes(self, operation: Coroutine[Any, Any, bool], expected: str, yes: Sequence[str]) -> None:
        try:
            assert self.run(operation) == (expected in yes)
        except JobNotFound:
            assert expected == "missing"
        else:
            assert expected != "missing"

    # -- workers ----------------------------------------------------------------------------------

    @rule(worker=workers, lease=lease_seconds)
    def register(self, worker: str, lease: float) -> None:
        self.step()
        registered = self.run(self.queue.backend.register_worker(_worker(worker, lease)))
        assert registered == self.model.register(worker, lease > 0)

    @rule(worker=workers)
    def unregister(self, worker: str) -> None:
        self.step()
        self.run(self.queue.backend.unregister_worker(worker))
        self.model.unregister(worker)

    @rule(data=st.data(), worker=workers, lease=lease_seconds)
    def beat(self, data: Data, worker: str, lease: float) -> None:
        held = self.some_leases(data, 6)
        self.step()
        assert self.heart is not None
        pulse = self.heart.beat(_worker(worker, lease), held)
        assert (pulse.lost, pulse.cancelled) == self.model.beat(worker, lease > 0, held)

    @rule(
        worker=workers,
        job_types=st.permutations([*TYPES, "unknown"]),
        kinds=st.integers(1, 4),
        limit=st.integers(1, 8),
        promote=st.booleans(),
    )
    def claim(self, worker: str, job_types: list[str], kinds: int, limit: int, promote: bool) -> None:
        self.cycle(worker, [], job_types[:kinds], limit, promote)

    @precondition(lambda self: self.model.ready(TYPES))
    @rule(data=st.data(), worker=workers)
    def attempt(self, data: Data, worker: str) -> None:
        """One attempt from its claim to its end."""
        self.cycle(worker, [], list(TYPES), 1, True)
        self.cycle(worker, [data.draw(self.outcome(self.model.leases[-1]), "outcome")], [], 0, False)

    @precondition(lambda self: self.model.leases)
    @rule(data=st.data(), worker=workers, job_types=st.lists(st.sampled_from(TYPES), unique=True))
    def record_and_claim(self, data: Data, worker: str, job_types: list[str]) -> None:
        outcomes = [data.draw(self.outcome(held)) for held in self.some_leases(data, 4)]
        limit = data.draw(st.integers(0, 3), "limit")
        self.cycle(worker, outcomes, job_types, limit, limit > 0 and data.draw(st.booleans(), "promote"))

    @precondition(lambda self: self.model.held())
    @rule(data=st.data(), worker=workers)
    def record_one(self, data: Data, worker: str) -> None:
        held = data.draw(st.sampled_from(self.model.held()), "held")
        self.cycle(worker, [data.draw(self.outcome(held), "outcome")], [], 0, False)

    def outcome(self, held: Held) -> st.SearchStrategy[Outcome]:
        """What may become of an attempt. As in retry.py, the last one is not put off."""
        job = self.model.holder(held)
        last = job is not None and job.attempts >= job.max_attempts
        failed = st.builds(
            Failed,
            st.just(held[0]),
            st.just(held[1]),
            st.sampled_from(MESSAGES),
            st.sampled_from(("handler_error", "timeout", "no_handler")),
            st.none() if last else st.sampled_from((0, 0, None, HOUR_MS, 2 * HOUR_MS)),
            st.sampled_from((None, "ValueError")),
            st.sampled_from((None, "file.py:12 function")),
        )
        completed = st.builds(Completed, st.just(held[0]), st.just(held[1]), st.none() | texts)
        return st.one_of(completed, failed, failed, st.just(Released(*held)), st.just(Cancelled(*held)))

    def cycle(self, worker: str, outcomes: list[Outcome], job_types: list[str], limit: int, promote: bool) -> None:
        self.step()
        answer = self.run(self.queue.backend.cycle(worker, outcomes, job_types, limit, promote))
        lost = [(item.id, item.lease_id) for item in outcomes if not self.model.record(item, worker)]
        assert sorted(answer.lost) == sorted(lost)
        self.model.step()  # outcomes and claim are separate changes
        expected = self.model.claim(worker, job_types, limit)
        assert [job.id for job in answer.jobs] == [job.id for job in expected]
        for claimed, job in zip(answer.jobs, expected, strict=True):
            self.model.lease(job, claimed.lease_id)
            assert json.loads(claimed.payload) == job.payload
            assert tuple(claimed.tags or ()) == job.tags
            retry = (claimed.retry_delay, claimed.retry_backoff, claimed.retry_delay_max)
            assert retry == (job.retry.delay, job.retry.backoff, job.retry.delay_max)
            assert claimed.timeout_ms == (None if job.timeout is None else job.timeout // MS)
            for name in ("job_type", "attempts", "max_attempts", "priority"):
                assert getattr(claimed, name) == getattr(job, name), name
            self.clock.check(job.created_at, claimed.created_at, "created_at")
            self.clock.check(job.run_at, claimed.run_at, "run_at")
        due = self.model.next_due()
        if not promote or due is None:
            assert answer.next_due_ms is None
        else:
            assert answer.next_due_ms is not None
            assert due.delay_ms - 600_000 < answer.next_due_ms <= due.delay_ms

    @precondition(lambda self: self.model.leases)
    @rule(data=st.data(), percent=st.integers(0, 100))
    def set_progress(self, data: Data, percent: int) -> None:
        for held in self.some_leases(data, 1):
            self.step()
            told = self.run(self.queue.backend.set_progress(*held, percent))
            assert told == self.model.set_progress(held, percent)

    @precondition(lambda self: self.model.leases)
    @rule(data=st.data(), text=texts)
    def set_output(self, data: Data, text: str) -> None:
        for held in self.some_leases(data, 1):
            self.step()
            told = self.run(self.queue.backend.set_output(*held, text))
            assert told == self.model.set_output(held, text)

    @rule(limit=st.sampled_from((100, 1, 2)))
    def reclaim(self, limit: int) -> None:
        self.step()
        answer = self.run(self.queue.backend.reclaim_expired(limit))
        stuck = {job.id: job for job in self.model.stuck()}
        ids = [item.id for item in answer]
        assert ids == sorted(set(ids) & set(stuck)) and len(ids) == min(limit, len(stuck))
        for item in answer:
            job = stuck[item.id]
            assert (item.job_type, item.worker) == (job.job_type, job.locked_by)
            self.model.reclaim(job)
            assert item.status == job.status

    # -- reading ----------------------------------------------------------------------------------

    @rule(data=st.data())
    def read_one(self, data: Data) -> None:
        job_id = self.any_job(data)
        job = self.run(self.queue.get_job(job_id))
        if job_id in self.model.jobs:
            assert job is not None
            self.same(job, self.model.jobs[job_id])
        else:
            assert job is None
            assert self.run(self.queue.get_job_events(job_id)) == []

    @rule(
        data=st.data(),
        status=st.none() | st.lists(st.sampled_from(STATUSES), min_size=1, unique=True),
        job_type=st.none() | st.lists(st.sampled_from((*TYPES, "unknown")), min_size=1, unique=True),
        tags=st.none() | st.lists(st.sampled_from((*TAGS, "b")), max_size=3),
        tag_mode=st.sampled_from(("all", "any", "exact", "none")),
        limit=st.integers(1, 4),
        by_offset=st.booleans(),
    )
    def list_jobs(
        self,
        data: Data,
        status: Any,
        job_type: Any,
        tags: list[str] | None,
        tag_mode: TagMode,
        limit: int,
        by_offset: bool,
    ) -> None:
        wanted: dict[str, Any] = {"status": status, "job_type": job_type, "tags": tags, "tag_mode": tag_mode}
        moments: dict[str, Moment] = {}
        if self.model.jobs and data.draw(st.booleans(), "more"):
            witness = self.model.jobs[data.draw(st.sampled_from(sorted(self.model.jobs)), "witness")]
            wanted["priority"] = data.draw(st.sampled_from((None, None, witness.priority)), "priority")
            for name in data.draw(
                st.sets(st.sampled_from(("run_after", "run_before", "created_after", "created_before")), max_size=2)
            ):
                moments[name] = witness.run_at if name.startswith("run") else witness.created_at
        expected = [job.id for job in self.model.matching({**wanted, **moments})]
        wanted |= {name: self.clock.at(moment) for name, moment in moments.items()}
        found: list[int] = []
        place: dict[str, Any] = {}
        while True:
            page = self.run(self.queue.get_jobs(**wanted, limit=limit, **place))
            assert len(page) <= limit
            found += [job.id for job in page]
            if page.next_cursor is None:
                break
            assert len(page) == limit and page.next_cursor == page[-1].id
            place = {"offset": len(found)} if by_offset else {"cursor": page.next_cursor}
        assert found == expected

    # -- what always holds ------------------------------------------------------------------------

    @invariant()
    def the_store_is_as_the_model(self) -> None:
        self.the_jobs_are_those_of_the_model()
        self.the_counts_are_those_of_the_model()
        self.store.check(self.model, self.clock)

    def the_jobs_are_those_of_the_model(self) -> None:
        jobs = self.run(self.queue.get_all_jobs(limit=1000))
        assert [job.id for job in jobs] == sorted(self.model.jobs, reverse=True)
        for job in jobs:
            self.same(job, self.model.jobs[job.id])
        for job_id in sorted(self.model.touched):
            self.same_events(job_id, self.model.jobs[job_id].events)
        self.model.touched.clear()
        assert self.hooks == self.model.hooks

    def same(self, job: Job, expected: ModelJob) -> None:
        for name in (
            "id", "job_type", "payload", "status", "priority", "attempts", "max_attempts", "locked_by", "failure_reason",
            "timeout", "tags", "idempotency_key", "retry", "progress", "output",
        ):  # fmt: skip
            assert getattr(job, name) == getattr(expected, name), name
        for name in (
            "created_at", "updated_at", "run_at", "next_attempt_at", "started_at", "completed_at", "last_failed_at",
            "last_retried_at", "last_cancelled_at", "locked_at", "cancel_requested_at",
        ):  # fmt: skip
            self.clock.check(getattr(expected, name), getattr(job, name), name)
        assert (job.pending_reason, job.is_finished) == (None, expected.finished)
        assert len(job.error_history) == len(expected.errors)
        for entry, error in zip(job.error_history, expected.errors, strict=True):
            assert (entry.message, entry.error_type, entry.frame) == (error.message, error.error_type, error.frame)
            self.clock.check_rounded(error.at, entry.timestamp)

    def same_events(self, job_id: int, expected: list[Event]) -> None:
        events = self.run(self.queue.get_job_events(job_id))
        assert [(event.job_id, event.event_type) for event in events] == [(job_id, event.kind) for event in expected]
        assert [event.id for event in events] == sorted({event.id for event in events})
        for event, wanted in zip(events, expected, strict=True):
            self.clock.check(wanted.at, event.created_at, "created_at of an event")
            metadata, at = dict(event.metadata or {}), (wanted.metadata or {}).get("nextAttemptAt")
            if at is not None and "nextAttemptAt" in metadata:
                self.clock.check(at, datetime.fromisoformat(metadata["nextAttemptAt"]), "nextAttemptAt of an event")
                metadata["nextAttemptAt"] = at
            assert (metadata or None) == wanted.metadata, f"metadata of {wanted.kind!r}"

    def the_counts_are_those_of_the_model(self) -> None:
        stats = self.run(self.queue.stats())
        assert stats.by_type == self.model.counts() and stats.estimated_completed is None
        due_types = sorted({job.job_type for job in self.model.ready(TYPES)})
        assert sorted(self.run(self.queue.backend.list_due_types())) == due_types
        assert (stats.oldest_ready_seconds is not None) == bool(due_types)
        ids = sorted(self.model.jobs)
        finished = self.run(self.queue.backend.finished([*ids, UNKNOWN_ID]))
        assert finished == {job_id: self.model.jobs[job_id].finished for job_id in ids}
        self.same_workers(stats.workers)

    def same_workers(self, found: list[Any]) -> None:
        known = self.model.workers
        expected = sorted(known, key=lambda name: (known[name].started_at, name))
        assert [worker.id for worker in found] == expected
        for worker in found:
            assert (worker.alive, worker.running) == (known[worker.id].alive, len(self.model.held(worker.id)))
            self.clock.check(known[worker.id].started_at, worker.started_at, "started_at of a worker")
            self.clock.check(known[worker.id].beat_at, worker.last_heartbeat_at, "last_heartbeat_at")
        for worker in WORKERS:
            assert sorted(self.run(self.queue.backend.list_held(worker))) == sorted(self.model.held(worker))

    def explanations_are_those_of_the_claim(self) -> None:
        """At the end: whoever is called ready would be claimed, in the order that was said, and nobody else."""
        explained = [self.run(self.queue.explain_job(job_id)) for job_id in self.model.jobs]
        for job_type in TYPES:
            claimed = self.run(self.queue.backend.cycle("judge", [], [job_type], 10_000, True)).jobs
            own = [one for one in explained if one.job_type == job_type and one.is_ready]
            assert {job.id for job in claimed} == {one.job_id for one in own}
            ahead = {one.job_id: [r.evidence["ahead"] for r in one.reasons if r.code == "queued_behind"] for one in own}
            assert [ahead[job.id] or [0] for job in claimed] == [[place] for place in range(len(claimed))]
        for one in explained:
            job = self.model.jobs[one.job_id]
            finished = job.finished or (job.due is None and job.status != "processing")
            assert one.will_run == "never" if finished else one.state not in ("completed", "cancelled", "failed")

    # -- choices ----------------------------------------------------------------------------------

    def any_job(self, data: Data) -> int:
        return data.draw(st.sampled_from([*self.model.jobs, UNKNOWN_ID]), "job")

    def some_leases(self, data: Data, most: int) -> list[Held]:
        """Leases that hold, some that are lost, and one that was never given."""
        held = self.model.held()
        lost = [item for item in self.model.leases if item not in held]
        wrong = [(self.model.leases[0][0], self.model.leases[-1][1] + 10_000)] if self.model.leases else []
        known = [*held, *lost[-5:], *wrong]
        if not known:
            return []
        return data.draw(st.lists(st.sampled_from(known), min_size=1, max_size=most, unique=True), "leases")


def _worker(name: str, lease: float) -> WorkerInfo:
    return WorkerInfo(name, "host", 1, TYPES, 10, "0", lease)


SHORT_SEED = 20261124
"""Of the short form, so that a change is judged by what it changed; the long form draws a new one."""


def run_histories(
    machine: type[RuleBasedStateMachine], store_url: str, examples: int, steps: int, default_seed: int | None = None
) -> None:
    """Random histories of a machine on a store; its class gets the store as ``store``."""
    store = RedisStore(store_url) if "key_prefix=" in store_url else PostgresStore(store_url)

    given = os.environ.get("DATAQUEUE_TEST_SEED")
    chosen = int(given) if given else default_seed or random.SystemRandom().randrange(2**32)
    print(f"DATAQUEUE_TEST_SEED={chosen}")
    seeded = seed(chosen)(type("Machine", (machine,), {"store": store}))
    try:
        run_state_machine_as_test(
            seeded,
            settings=settings(
                max_examples=examples,
                stateful_step_count=steps,
                deadline=None,
                derandomize=False,
                database=None,
                print_blob=True,
                report_multiple_bugs=False,
                phases=(Phase.generate, Phase.shrink),
                suppress_health_check=list(HealthCheck),
            ),
        )
    finally:
        store.close()


@pytest.mark.timeout(600)  # finding the shortest history of a failure takes its time
def test_random_histories(store_url: str) -> None:
    run_histories(QueueMachine, store_url, examples=12, steps=30, default_seed=SHORT_SEED)


@pytest.mark.chaos
@pytest.mark.timeout(3600)
def test_many_long_histories(store_url: str) -> None:
    run_histories(QueueMachine, store_url, examples=int(os.environ.get("DATAQUEUE_TEST_EXAMPLES", "500")), steps=60)
