"""What jobs that wait for others do, in plain Python: the model that test_dependencies_machine.py compares with."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, NamedTuple

from dataqueue import BatchRef, DependsOn, NewJob, Unique
from dataqueue.backends.base import Cancelled, ChangeResult, Completed, Failed, Held, Outcome, Released
from dataqueue.options import JobChanges


class Moment(NamedTuple):
    """So many hours after the step of this number. Waits are none, or of hours, so that moments order as time does."""

    hours: int
    tick: int


@dataclass(kw_only=True)
class Known:
    id: int
    job_type: str
    run_at: Moment
    payload: Any = None
    priority: int = 0
    max_attempts: int = 3
    tags: frozenset[str] = frozenset()
    named: tuple[int, ...] = ()
    anyway: bool = False
    unique: str | None = None
    buries: str | None = None
    status: str = "pending"
    attempts: int = 0
    lease: int | None = None
    worker: str = ""
    asked: bool = False
    next_at: Moment | None = None
    blocked: bool = False
    letter: int | None = None
    roots: frozenset[int] = frozenset()
    """Of those that ended badly, who may be called the cause of its cancel; empty for one that was not a cascade's."""

    @property
    def finished(self) -> bool:
        return self.status in ("completed", "cancelled") or (self.status == "failed" and self.next_at is None)

    @property
    def due(self) -> Moment | None:
        if self.attempts >= self.max_attempts or self.blocked:
            return None
        return {"pending": self.run_at, "failed": self.next_at}.get(self.status)


@dataclass
class Model:
    """The queue. Each change happens at the present tick."""

    jobs: dict[int, Known] = field(default_factory=dict[int, Known])
    waits: set[tuple[int, int]] = field(default_factory=set[tuple[int, int]])
    """(prerequisite, dependent), until the prerequisite has ended."""
    leases: list[Held] = field(default_factory=list[Held])
    """Every lease that was ever given."""
    buried: list[int] = field(default_factory=list[int])
    """Failed jobs whose dead letters the test has not read yet."""
    cascaded: list[int] = field(default_factory=list[int])
    freed: list[int] = field(default_factory=list[int])
    """Jobs that the last change has cancelled, or let run, since what they waited for had ended."""
    tick: int = 0
    _keys: dict[str, int] = field(default_factory=dict[str, int])

    # -- what is so -------------------------------------------------------------------------------

    @property
    def now(self) -> Moment:
        return Moment(0, self.tick)

    def step(self) -> None:
        self.tick += 1
        self.cascaded, self.freed = [], []

    def of(self, *statuses: str) -> list[int]:
        return [job_id for job_id, job in self.jobs.items() if job.status in statuses]

    def unfinished(self) -> list[Known]:
        return [job for job in self.jobs.values() if not job.finished]

    def holder(self, held: Held) -> Known | None:
        job = self.jobs.get(held[0])
        return job if job is not None and job.lease == held[1] else None

    def ready(self, job_types: Iterable[str]) -> list[Known]:
        """What may be claimed, in the order of claiming."""
        found = [
            (-job.priority, due, job.id)
            for job in self.jobs.values()
            if job.job_type in job_types and (due := job.due) is not None and due <= self.now
        ]
        return [self.jobs[job_id] for _, _, job_id in sorted(found)]

    # -- producers and people ---------------------------------------------------------------------

    def add(self, news: Sequence[NewJob], added: Sequence[tuple[int, bool]]) -> None:
        """The store chooses new ids, in order. All else is settled."""
        last = {name: new for new in news if (name := _name(new)) and _unique(new).replace}
        of_this_call: dict[str, int] = {}
        waiting: list[Known] = []
        for new, (job_id, created) in zip(news, added, strict=True):
            name, key = _name(new), new.options.get("idempotency_key")
            holder = None if key is None else self._keys.get(key)
            if name is not None:
                new = last.get(name, new)
                holder = of_this_call.get(name) or self._in_the_way(name, new)
            assert created == (holder is None), f"job {job_id}: created is {created}, the holder {holder}"
            if holder is None:
                assert job_id > max(self.jobs, default=0), "ids rise"
                holder = job_id
                job = self.jobs[job_id] = self._made(job_id, new, [number for number, _ in added])
                if key is not None:
                    self._keys[key] = job_id
                if new.options.get("depends_on") is not None:
                    waiting.append(job)
            assert job_id == holder
            if name is not None:
                of_this_call[name] = job_id
        over = [number for job in waiting for number in self._wait(job, job.named)]
        self._ended(over)

    def _in_the_way(self, name: str, new: NewJob) -> int | None:
        own = [job for job in self.jobs.values() if job.unique == name]
        unique = _unique(new)
        if unique.window is not None:
            return max((job.id for job in own), default=None)
        if not unique.replace:
            return max((job.id for job in own if not job.finished), default=None)
        pending = max((job.id for job in own if job.status == "pending"), default=None)
        if pending is not None:
            self.jobs[pending].payload, self.jobs[pending].run_at = new.payload, self._moment(new.options.get("delay"))
        return pending

    def _moment(self, delay: timedelta | None) -> Moment:
        return Moment(int(delay.total_seconds() // 3600) if delay else 0, self.tick)

    def _made(self, job_id: int, new: NewJob, ids: Sequence[int]) -> Known:
        options = new.options
        given = options.get("depends_on")
        depends = given if isinstance(given, DependsOn) else DependsOn(given or ())  # type: ignore[arg-type]
        named = [ids[item.position] if isinstance(item, BatchRef) else item for item in depends.jobs]
        wanted = set(depends.tags)
        job = Known(
            id=job_id,
            job_type=new.job_type,
            payload=new.payload,
            run_at=self._moment(options.get("delay")),
            priority=options.get("priority", 0),
            max_attempts=options.get("max_attempts", 3),
            tags=frozenset(options.get("tags") or ()),
            named=tuple(dict.fromkeys(named)),  # type: ignore[arg-type]
            anyway=depends.on_failure == "run" and bool(named or wanted),
            unique=_name(new),
            buries=options.get("dead_letter"),
        )
        if wanted:
            tagged = [other.id for other in self.unfinished() if wanted <= other.tags]
            self.waits |= {(number, job_id) for number in tagged}
            job.blocked = bool(tagged)
        return job

    def _wait(self, job: Known, named: Iterable[int]) -> list[int]:
        """Let a job wait for these, but for those that have ended well. Returns which of them have ended badly."""
        unmet = [number for number in named if self.jobs[number].status != "completed"]
        self.waits |= {(number, job.id) for number in unmet}
        job.blocked = any(dependent == job.id for _, dependent in self.waits)
        return [number for number in unmet if self.jobs[number].finished]

    def cancel(self, job_ids: Sequence[int]) -> dict[int, ChangeResult]:
        told: dict[int, ChangeResult] = {}
        for job in map(self.jobs.__getitem__, job_ids):
            if job.finished:
                told[job.id] = "unchanged"
            elif job.status == "processing":
                job.asked, told[job.id] = True, "requested"
            else:
                self._cancelled(job)
                told[job.id] = "changed"
        self._ended(job_id for job_id in job_ids if told[job_id] == "changed")
        return told

    def retry(self, job_ids: Sequence[int], force: bool) -> dict[int, ChangeResult]:
        """All are pending again before it is seen who of them waits for another."""
        again = [self.jobs[job_id] for job_id in job_ids]
        again = [job for job in again if job.status in ("failed", "cancelled", *(("completed",) if force else ()))]
        for job in again:
            job.status, job.run_at, job.next_at, job.roots = "pending", self.now, None, frozenset()
            job.max_attempts = max(job.max_attempts, job.attempts + 1)
        for job in again:
            self._wait(job, [number for number in job.named if not self.jobs[number].finished])
        return {job_id: "changed" if self.jobs[job_id] in again else "unchanged" for job_id in job_ids}

    def edit(self, job_id: int, changes: JobChanges) -> bool:
        job = self.jobs[job_id]
        if job.status != "pending":
            return False
        job.payload = changes.get("payload", job.payload)
        job.priority = changes.get("priority") or job.priority
        if "max_attempts" in changes:
            job.max_attempts = max(changes["max_attempts"], job.attempts + 1)
        if "tags" in changes:
            job.tags = frozenset(changes["tags"] or ())
        if "delay" in changes:
            job.run_at = self._moment(changes["delay"])
        return True

    # -- workers ----------------------------------------------------------------------------------

    def claim(self, worker: str, job_types: Iterable[str], limit: int) -> list[Known]:
        jobs = self.ready(job_types)[:limit]
        for job in jobs:
            job.status, job.attempts, job.worker, job.next_at = "processing", job.attempts + 1, worker, None
        return jobs

    def lease(self, job: Known, lease_id: int) -> None:
        assert lease_id not in [lease for _, lease in self.leases], "a lease is never given twice"
        job.lease = lease_id
        self.leases.append((job.id, lease_id))

    def record(self, outcomes: Sequence[Outcome]) -> list[Held]:
        """Returns those whose leases are lost."""
        lost: list[Held] = []
        ended: list[int] = []
        for outcome in outcomes:
            job = self.holder((outcome.id, outcome.lease_id))
            if job is None:
                lost.append((outcome.id, outcome.lease_id))
                continue
            asked = self._let_go(job)
            if isinstance(outcome, Released):
                job.attempts -= 1
            if isinstance(outcome, Completed):
                job.status = "completed"
            elif asked or isinstance(outcome, Cancelled):
                self._cancelled(job)
            elif isinstance(outcome, Failed):
                self._failed(job, outcome.retry_ms)
            else:
                job.status = "pending"
            if job.finished:
                ended.append(job.id)
        self._ended(ended)
        return lost

    def reclaim(self, jobs: Iterable[Known]) -> None:
        ended: list[int] = []
        for job in jobs:
            if self._let_go(job):
                self._cancelled(job)
            elif job.attempts < job.max_attempts:
                job.status = "pending"
            else:
                self._failed(job, None)
            if job.finished:
                ended.append(job.id)
        self._ended(ended)

    def read_letter(self, source: int, letter: int, payload: Any) -> None:
        assert letter > max(self.jobs), "a new one"
        job = self.jobs[source]
        assert job.buries is not None
        assert (payload["originalJob"]["id"], payload["originalPayload"]) == (source, job.payload)
        job.letter = letter
        self.jobs[letter] = Known(id=letter, job_type=job.buries, run_at=self.now, payload=payload, max_attempts=1)

    # -- parts of several of these ----------------------------------------------------------------

    def _let_go(self, job: Known) -> bool:
        """Whether its cancel was asked for."""
        asked, job.asked, job.lease = job.asked, False, None
        return asked

    def _cancelled(self, job: Known) -> None:
        job.status, job.next_at, job.roots = "cancelled", None, frozenset()
        job.blocked = False

    def _failed(self, job: Known, retry_ms: int | None) -> None:
        job.status = "failed"
        job.next_at = None if retry_ms is None else Moment(retry_ms // 3_600_000, self.tick)
        if retry_ms is None and job.buries:
            self.buried.append(job.id)

    def _ended(self, ended: Iterable[int]) -> None:
        """Cancel or free whoever waited for these."""
        left, touched, causes = list(ended), set[int](), list[tuple[int, int]]()
        while left:
            number = left.pop()
            for prerequisite, dependent in sorted(self.waits):
                if prerequisite != number:
                    continue
                self.waits.remove((prerequisite, dependent))
                touched.add(dependent)
                job = self.jobs[dependent]
                badly = self.jobs[number].status != "completed" and not job.anyway
                if badly and (job.blocked or dependent in self.cascaded):
                    causes.append((number, dependent))
                    if job.blocked:
                        self._cancelled(job)
                        self.cascaded.append(dependent)
                        left.append(dependent)
        for _ in causes:  # as often as a cause may have to be handed on
            for number, dependent in causes:
                own = self.jobs[number].roots if number in self.cascaded else frozenset({number})
                self.jobs[dependent].roots |= own
        for dependent in sorted(touched):
            job = self.jobs[dependent]
            if job.blocked and not any(waiting == dependent for _, waiting in self.waits):
                job.blocked = False
                self.freed.append(dependent)


def _unique(new: NewJob) -> Unique:
    unique = new.options.get("unique")
    assert isinstance(unique, Unique)
    return unique


def _name(new: NewJob) -> str | None:
    """Its unique key, as the store names it."""
    return f"{new.job_type}={_unique(new).key}" if "unique" in new.options else None
