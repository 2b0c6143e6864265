"""What a store does, in plain Python without time, concurrency or I/O: the model that test_machine.py compares with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, NamedTuple

from dataqueue import NewJob
from dataqueue.backends.base import Cancelled, ChangeResult, Completed, Failed, Held, Outcome, Released
from dataqueue.retry import RetryPolicy

MS = timedelta(milliseconds=1)


class Moment(NamedTuple):
    """So long after the step of this number. Moments order as time does, since delays are none or differ by hours."""

    delay_ms: int
    tick: int


class Event(NamedTuple):
    kind: str
    at: Moment
    metadata: dict[str, Any] | None


class Error(NamedTuple):
    message: str
    at: Moment
    error_type: str | None = None
    frame: str | None = None


@dataclass(kw_only=True)
class ModelJob:
    """A job with the fields of :class:`dataqueue.Job`, moments for times; and who holds it."""

    id: int
    job_type: str
    payload: Any
    priority: int
    max_attempts: int
    tags: tuple[str, ...]
    idempotency_key: str | None
    timeout: timedelta | None
    retry: RetryPolicy
    created_at: Moment
    updated_at: Moment
    run_at: Moment
    status: str = "pending"
    attempts: int = 0
    next_attempt_at: Moment | None = None
    started_at: Moment | None = None
    completed_at: Moment | None = None
    last_failed_at: Moment | None = None
    last_retried_at: Moment | None = None
    last_cancelled_at: Moment | None = None
    locked_at: Moment | None = None
    locked_by: str | None = None
    cancel_requested_at: Moment | None = None
    failure_reason: str | None = None
    progress: int | None = None
    output: Any = None
    lease: int | None = None
    errors: list[Error] = field(default_factory=list[Error])
    events: list[Event] = field(default_factory=list[Event])

    @property
    def due(self) -> Moment | None:
        """When it may be claimed, None if not by itself."""
        if self.attempts >= self.max_attempts:
            return None
        return {"pending": self.run_at, "failed": self.next_attempt_at}.get(self.status)

    @property
    def finished(self) -> bool:
        return self.status in ("completed", "cancelled") or (self.status == "failed" and self.next_attempt_at is None)

    def let_go(self) -> None:
        self.lease = self.locked_at = self.locked_by = self.cancel_requested_at = None


@dataclass
class ModelWorker:
    started_at: Moment
    beat_at: Moment
    alive: bool


class Model:
    """The queue. Each change happens at ``now``; the test calls :meth:`step` between changes."""

    def __init__(self) -> None:
        self.jobs: dict[int, ModelJob] = {}
        self.workers: dict[str, ModelWorker] = {}
        self.hooks: list[tuple[str, int]] = []
        self.leases: list[Held] = []
        """Every lease that was ever given, in that order."""
        self.touched: set[int] = set()
        """Jobs that got an event since the test last looked."""
        self._keys: dict[str, int] = {}
        self._tick = 0

    # -- what is so -------------------------------------------------------------------------------

    @property
    def now(self) -> Moment:
        return Moment(0, self._tick)

    def step(self) -> None:
        self._tick += 1

    def holder(self, held: Held) -> ModelJob | None:
        """The job, if this lease holds on it."""
        job = self.jobs.get(held[0])
        return job if job is not None and job.lease == held[1] else None

    def held(self, worker: str | None = None) -> list[Held]:
        """The leases that hold, in the order of their claims."""
        return [item for item in self.leases if (job := self.holder(item)) and worker in (None, job.locked_by)]

    def ready(self, job_types: Sequence[str]) -> list[ModelJob]:
        """What may be claimed now, in the order of claiming."""
        found = [
            (-job.priority, due, job.id)
            for job in self.jobs.values()
            if job.job_type in job_types and (due := job.due) is not None and due <= self.now
        ]
        return [self.jobs[job_id] for _, _, job_id in sorted(found)]

    def next_due(self) -> Moment | None:
        return min((due for job in self.jobs.values() if (due := job.due) and due > self.now), default=None)

    def counts(self) -> dict[str, dict[str, int]]:
        counts: dict[str, dict[str, int]] = {}
        for job in self.jobs.values():
            own = counts.setdefault(job.job_type, {})
            own[job.status] = own.get(job.status, 0) + 1
        return counts

    def matching(self, wanted: dict[str, Any]) -> list[ModelJob]:
        """The jobs that ``get_jobs(**wanted)`` is to find, with moments in place of its times."""
        return [job for _, job in sorted(self.jobs.items(), reverse=True) if _fits(job, wanted)]

    # -- what producers and people do -------------------------------------------------------------

    def add(self, jobs: Sequence[NewJob], added: Sequence[tuple[int, bool]]) -> None:
        """The store chooses the ids: new ones, in order. All else is settled."""
        assert len(added) == len(jobs)
        for new, (job_id, created) in zip(jobs, added, strict=True):
            options = new.options
            key = options.get("idempotency_key")
            holder = None if key is None else self._keys.get(key)
            assert created == (holder is None), f"job {job_id}: created is {created}"
            if holder is not None:
                assert job_id == holder
                continue
            assert job_id > max(self.jobs, default=0), "ids rise"
            if key is not None:
                self._keys[key] = job_id
            delay = options.get("retry_delay")
            self.jobs[job_id] = ModelJob(
                id=job_id,
                job_type=new.job_type,
                payload=new.payload,
                priority=options.get("priority", 0),
                max_attempts=options.get("max_attempts", 3),
                tags=tuple(dict.fromkeys(options.get("tags") or ())),
                idempotency_key=key,
                timeout=options.get("timeout"),
                retry=RetryPolicy(None if delay is None else int(delay.total_seconds())),
                created_at=self.now,
                updated_at=self.now,
                run_at=Moment((options.get("delay") or timedelta()) // MS, self._tick),
            )
            self._log(self.jobs[job_id], "added", {"jobType": new.job_type})
            self.hooks.append(("job:added", job_id))

    def cancel(self, job_id: int) -> ChangeResult:
        job = self.jobs.get(job_id)
        if job is None:
            return "missing"
        if job.finished:
            return "unchanged"
        job.updated_at = self.now
        if job.status == "processing":
            if job.cancel_requested_at is None:
                job.cancel_requested_at = self.now
                self._log(job, "cancel_requested")
            return "requested"
        self._cancelled(job, None)
        self.hooks.append(("job:cancelled", job_id))
        return "changed"

    def retry(self, job_id: int, force: bool) -> ChangeResult:
        job = self.jobs.get(job_id)
        if job is None:
            return "missing"
        if job.status not in ("failed", "cancelled", *(("completed",) if force else ())):
            return "unchanged"
        job.status = "pending"
        job.run_at = self.now
        job.max_attempts = max(job.max_attempts, job.attempts + 1)
        job.next_attempt_at = job.failure_reason = job.completed_at = job.output = job.progress = None
        job.last_retried_at = job.updated_at = self.now
        self._log(job, "retried")
        self.hooks.append(("job:retried", job_id))
        return "changed"

    def edit(self, job: ModelJob, changes: dict[str, Any]) -> bool:
        """Whether anything changed."""
        if job.status != "pending" or not changes:
            return False
        told: dict[str, Any] = {}
        for name, value in changes.items():
            match name:
                case "max_attempts":
                    job.max_attempts, told["maxAttempts"] = max(value, job.attempts + 1), value
                case "run_at":
                    job.run_at, told["runAt"] = self.now, None
                case "delay":
                    told["delayMs"] = value // MS
                    job.run_at = Moment(told["delayMs"], self._tick)
                case "timeout":
                    job.timeout, told["timeoutMs"] = value, None if value is None else value // MS
                case "tags":
                    job.tags = tuple(dict.fromkeys(value or ()))
                    told["tags"] = list(job.tags) or None
                case "retry_delay":
                    told["retryDelay"] = None if value is None else int(value.total_seconds())
                    job.retry = replace(job.retry, delay=told["retryDelay"])
                case _:
                    setattr(job, name, value)
                    told[name] = value
        job.updated_at = self.now
        self._log(job, "edited", told)
        self.hooks.append(("job:edited", job.id))
        return True

    # -- what workers do --------------------------------------------------------------------------

    def register(self, worker: str, alive: bool) -> bool:
        known = self.workers.get(worker)
        if (known is not None and known.alive) or self.held(worker):
            return False
        self.workers[worker] = ModelWorker(self.now, self.now, alive)
        return True

    def unregister(self, worker: str) -> None:
        self.workers.pop(worker, None)

    def beat(self, worker: str, alive: bool, held: Sequence[Held]) -> tuple[list[Held], list[Held]]:
        """What is lost, and what is to be cancelled."""
        known = self.workers.setdefault(worker, ModelWorker(self.now, self.now, alive))
        known.beat_at, known.alive = self.now, alive
        lost = [item for item in held if not self.holder(item)]
        return lost, [item for item in held if (job := self.holder(item)) and job.cancel_requested_at]

    def claim(self, worker: str, job_types: Sequence[str], limit: int) -> list[ModelJob]:
        """The jobs that are claimed, in order; the test puts in the leases that the store gave."""
        jobs = self.ready(job_types)[:limit]
        for job in jobs:
            if job.attempts:
                job.last_retried_at = self.now
            job.status, job.attempts = "processing", job.attempts + 1
            job.locked_by, job.locked_at, job.updated_at = worker, self.now, self.now
            job.started_at = job.started_at or self.now
            job.progress = job.output = job.next_attempt_at = None
            self._log(job, "processing", {"worker": worker})
        return jobs

    def lease(self, job: ModelJob, lease_id: int) -> None:
        assert lease_id not in [lease for _, lease in self.leases], "a lease is never given twice"
        job.lease = lease_id
        self.leases.append((job.id, lease_id))

    def record(self, outcome: Outcome, worker: str) -> bool:
        """False if the lease is lost."""
        job = self.holder((outcome.id, outcome.lease_id))
        if job is None:
            return False
        asked = job.cancel_requested_at is not None
        job.updated_at = self.now
        job.let_go()
        match outcome:
            case Completed(output=text):
                job.status, job.completed_at, job.failure_reason = "completed", self.now, None
                if text is not None:
                    job.output = json.loads(text)
                self._log(job, "completed")
            case Failed():
                self._failed(job, outcome, asked)
            case Cancelled():
                self._cancelled(job, None)
            case Released():
                job.attempts, job.progress = job.attempts - 1, None
                if asked:
                    self._cancelled(job, {"worker": worker})
                else:
                    job.status, job.output = "pending", None
                    self._log(job, "released", {"worker": worker})
        return True

    def _failed(self, job: ModelJob, outcome: Failed, asked: bool) -> None:
        job.output, job.failure_reason, job.last_failed_at = None, outcome.reason, self.now
        job.errors.append(Error(outcome.message, self.now, outcome.error_type, outcome.frame))
        metadata: dict[str, Any] = {"message": outcome.message, "failureReason": outcome.reason}
        if asked:
            self._cancelled(job, metadata)
            return
        job.status = "failed"
        if outcome.retry_ms is not None:
            job.next_attempt_at = metadata["nextAttemptAt"] = Moment(outcome.retry_ms, self._tick)
        self._log(job, "failed", metadata)

    def set_progress(self, held: Held, percent: int) -> bool:
        job = self.holder(held)
        if job is not None:
            job.progress, job.updated_at = percent, self.now
        return job is not None

    def set_output(self, held: Held, text: str) -> bool:
        job = self.holder(held)
        if job is not None:
            job.output, job.updated_at = json.loads(text), self.now
        return job is not None

    def stuck(self) -> list[ModelJob]:
        """Jobs whose worker is silent or unknown."""
        alive = {name for name, worker in self.workers.items() if worker.alive}
        return [job for _, job in sorted(self.jobs.items()) if job.lease is not None and job.locked_by not in alive]

    def reclaim(self, job: ModelJob) -> None:
        asked, metadata = job.cancel_requested_at is not None, {"worker": job.locked_by}
        job.errors.append(Error(f"Worker {job.locked_by} was lost during attempt {job.attempts}", self.now))
        job.let_go()
        job.output, job.updated_at = None, self.now
        if asked:
            self._cancelled(job, metadata)
        elif job.attempts < job.max_attempts:
            job.status = "pending"
            self._log(job, "reclaimed", metadata)
        else:
            job.status, job.failure_reason, job.last_failed_at = "failed", "worker_lost", self.now
            self._log(job, "failed", {**metadata, "failureReason": "worker_lost"})

    # -- steps of several of these ----------------------------------------------------------------

    def _cancelled(self, job: ModelJob, metadata: dict[str, Any] | None) -> None:
        job.status, job.last_cancelled_at = "cancelled", self.now
        job.next_attempt_at = job.output = None
        self._log(job, "cancelled", metadata)

    def _log(self, job: ModelJob, kind: str, metadata: dict[str, Any] | None = None) -> None:
        job.events.append(Event(kind, self.now, metadata))
        self.touched.add(job.id)


def _fits(job: ModelJob, wanted: dict[str, Any]) -> bool:
    tags = wanted.get("tags")
    return (
        job.status in (wanted.get("status") or [job.status])
        and job.job_type in (wanted.get("job_type") or [job.job_type])
        and wanted.get("priority") in (None, job.priority)
        and (tags is None or _fits_tags(set(job.tags), set(tags), wanted["tag_mode"]))
        and ("run_after" not in wanted or job.run_at >= wanted["run_after"])
        and ("run_before" not in wanted or job.run_at < wanted["run_before"])
        and ("created_after" not in wanted or job.created_at >= wanted["created_after"])
        and ("created_before" not in wanted or job.created_at < wanted["created_before"])
    )


def _fits_tags(own: set[str], wanted: set[str], mode: str) -> bool:
    return {"all": own >= wanted, "any": bool(own & wanted), "exact": own == wanted, "none": not own & wanted}[mode]
