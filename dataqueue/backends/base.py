"""The port between the queue and worker on one side and a store on the other.

A backend keeps jobs and moves them between states; it decides nothing else. Everything here is
stated once, in ``tests/conformance``, and every backend does the same.

A *lease* is what makes an attempt the owner of its job: a number given at the claim and never again.
Each write of an attempt names job and lease, and changes nothing if the lease is lost.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, Protocol, TypeAlias, get_args

from dataqueue.cron_jobs import CronSchedule, FirePlan, ScheduleChange, ScheduleStatus
from dataqueue.dead_letters import DeadLetter
from dataqueue.jobs import FailureReason, Job, JobEvent, JobStatus, TagMode
from dataqueue.limits import LimitState, TypeLimits
from dataqueue.options import JobEdit, JobSpec
from dataqueue.steps import StepRecord
from dataqueue.tokens import Token, TokenSpec

Added: TypeAlias = tuple[int, bool]
"""Job id, and whether this call created it."""


@dataclass(frozen=True, slots=True)
class JobFilter:
    """Conditions that must all hold. Empty means every job. Ranges are inclusive of their lower end."""

    statuses: tuple[JobStatus, ...] = ()
    job_types: tuple[str, ...] = ()
    priority: int | None = None
    tags: tuple[str, ...] | None = None
    """None for no condition; empty is a set of its own (``exact``: untagged jobs, ``any``: none)."""
    tag_mode: TagMode = "all"
    run_after: datetime | None = None
    run_before: datetime | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    error_contains: str | None = None
    """Part of the message of any of its errors, whatever its case."""
    group: str | None = None
    retry_due: bool | None = None
    """Of failed jobs only those that will be tried again (True) or will not (False)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What decides whether a job runs, read at one moment.

    ``ready_at`` is when it may be claimed, None for not by itself. ``row_locked`` says that another transaction
    has it in its hands. ``ahead`` counts the due jobs of its type that come first, up to ``AHEAD_LIMIT``; of these,
    ``ahead_in_group`` are of its group, and ``may_go_ahead`` find a place in their groups.
    """

    job: Job
    now: datetime
    ready_at: datetime | None
    row_locked: bool
    ahead: int
    workers: list[WorkerRecord]
    prolonged_until: datetime | None = None
    """Until when a running attempt has given itself time."""
    limits: tuple[LimitState, ...] = ()
    """Of its type and of the whole queue, where there are any."""
    group_limit: int | None = None
    """How many of a group may run: the least that a live worker asks for. None for any number."""
    group_running: int = 0
    parked: bool = False
    """Whether it was taken out of the line because its group was full."""
    ahead_in_group: int = 0
    may_go_ahead: int = 0
    unmet: tuple[tuple[int, JobStatus], ...] = ()
    """Some of the jobs that it waits for, up to ``UNMET_SHOWN``, with their states. One that a tag stood for may be missing
    if its tags were edited since; ``unmet_count`` is exact."""
    unmet_count: int = 0
    wait: StepRecord | None = None
    """What a waiting job waits for."""
    token: Token | None = None
    """The token that it waits for, if it is one that exists."""


AHEAD_LIMIT = 10_000
UNMET_SHOWN = 20


def may_go(by_group: Mapping[str | None, tuple[int, int]], limit: int) -> int:
    """How many of these jobs find a place in their groups. ``by_group``: how many stand in line, and how many run."""
    return sum(
        count if group is None else max(0, min(count, limit - running)) for group, (count, running) in by_group.items()
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedJob:
    """A job that has failed, with what tells the causes apart."""

    id: int
    job_type: str
    attempts: int
    max_attempts: int
    failed_at: datetime
    next_attempt_at: datetime | None
    reason: FailureReason | None
    message: str
    error_type: str | None
    frame: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """When a job that ended recently was added, due, started and ended. ``status`` is completed or failed."""

    job_type: str
    status: JobStatus
    created_at: datetime
    run_at: datetime
    started_at: datetime | None
    ended_at: datetime
    attempts: int


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """A worker as the store knows it. ``lease_seconds`` is how long it may be silent."""

    id: str
    host: str
    pid: int
    job_types: tuple[str, ...]
    concurrency: int
    version: str
    lease_seconds: float
    group_concurrency: int | None = None
    """How many jobs of one group may run, over all workers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRecord:
    """A worker's row, read back."""

    id: str
    host: str
    pid: int
    job_types: tuple[str, ...]
    concurrency: int
    version: str
    started_at: datetime
    last_heartbeat_at: datetime
    lease_expires_at: datetime
    alive: bool
    running: int
    group_concurrency: int | None = None


@dataclass(slots=True)
class Claimed:
    """A job that this worker now owns. ``payload`` is JSON text; ``attempts`` counts this attempt."""

    id: int
    lease_id: int
    job_type: str
    payload: str
    attempts: int
    max_attempts: int
    priority: int
    timeout_ms: int | None
    retry_delay: int | None
    retry_backoff: bool | None
    retry_delay_max: int | None
    tags: list[str] | None
    created_at: datetime
    run_at: datetime
    group: str | None = None
    has_steps: bool = False
    """Whether earlier runs have recorded steps or waits."""


Held: TypeAlias = tuple[int, int]
"""Job id and lease id."""


@dataclass(slots=True)
class Completed:
    """The handler is done. ``output`` is JSON text, None to leave the stored output as it is."""

    id: int
    lease_id: int
    output: str | None = None


@dataclass(slots=True)
class Failed:
    """The attempt failed. ``retry_ms`` None means for good."""

    id: int
    lease_id: int
    message: str
    reason: FailureReason
    retry_ms: int | None
    error_type: str | None = None
    frame: str | None = None
    """Where it was raised: ``file.py:12 function``."""


@dataclass(slots=True)
class Cancelled:
    """A cancel that was asked for has reached the handler, and the attempt is over."""

    id: int
    lease_id: int


@dataclass(slots=True)
class Released:
    """Claimed, but not to be finished here: not begun, or interrupted by a shutdown. Costs no attempt."""

    id: int
    lease_id: int


@dataclass(slots=True)
class Waiting:
    """The handler waits for what ``wait`` says; its attempt ends, and is not counted. ``delay_ms`` is the time from now
    by the store's clock, in place of ``wait.until``."""

    id: int
    lease_id: int
    wait: StepRecord
    delay_ms: int | None = None


Outcome: TypeAlias = Completed | Failed | Cancelled | Released | Waiting


class Transaction(Protocol):
    """A transaction on the store's own database, in the hands of a handler."""

    connection: Any
    """The driver's connection."""
    cascaded: list[int]
    """Jobs that were cancelled by what was written in it."""

    async def save_step(self, job_id: int, lease_id: int, step: StepRecord, token: TokenSpec | None) -> bool:
        """As :meth:`Backend.save_step`, true with its commit."""
        ...

    async def complete(self, outcome: Completed) -> bool:
        """Complete an attempt's job, with its commit. False if the lease is lost; nothing was changed then."""
        ...


@dataclass(slots=True)
class Cycle:
    """Answer of :meth:`Backend.cycle`.

    ``lost`` are the outcomes that changed nothing, because their lease was lost; ``cancelled`` the failures and hand-backs
    that cancelled their job instead, because that had been asked for. ``next_due_ms`` is when the earliest delayed job of the claimed types falls due, None for none known. ``opens_in_ms`` is when a rate
    that was used up lets more start. ``again``: jobs were passed over that another look may find free; ``parked`` of them were put
    aside, because their group is full.
    ``limited``: limits or groups decide about these types, so jobs must not be claimed ahead of a free slot.
    ``cascaded`` are the jobs that were cancelled because one that they waited for has ended badly.
    """

    jobs: list[Claimed]
    lost: list[Held]
    next_due_ms: float | None = None
    opens_in_ms: float | None = None
    again: bool = False
    parked: int = 0
    limited: bool = False
    cancelled: list[Held] = field(default_factory=list[Held])
    cascaded: list[int] = field(default_factory=list[int])


@dataclass(slots=True)
class Reclaimed:
    """A job taken from a worker that fell silent.

    ``status`` is what became of it: ``pending`` again, ``failed`` if that was its last attempt,
    ``cancelled`` if that was asked for meanwhile.
    """

    id: int
    job_type: str
    worker: str
    status: JobStatus


@dataclass(slots=True)
class Pulse:
    """Answer to a heartbeat: which of the jobs named in it are no longer ours, or are to be cancelled."""

    lost: list[Held]
    cancelled: list[Held]


ChangeResult = Literal["changed", "requested", "unchanged", "missing", "cascaded"]
"""What became of a job; ``cascaded``: it was cancelled since it waited for one that was."""

CANCELLABLE: tuple[JobStatus, ...] = ("pending", "waiting", "failed", "processing")
RETRYABLE: tuple[JobStatus, ...] = ("failed", "cancelled")
EndStatus = Literal["completed", "failed", "cancelled"]
"""A state in which a job may be finished; a failed one is if no retry is due."""
MOST_CHANGES = 500
"""Jobs that people change with one statement or script."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """Counts of the queue. ``by_type`` maps a job type to its counts by status.

    On a table of millions, completed jobs are not counted by type but estimated in all:
    ``estimated_completed`` is None where every count is exact.
    """

    by_type: dict[str, dict[str, int]] = field(default_factory=dict[str, dict[str, int]])
    estimated_completed: int | None = None
    oldest_ready_by_type: dict[str, float] = field(default_factory=dict[str, float])
    """For how many seconds each type's longest-waiting due job has been due."""
    workers: list[WorkerRecord] = field(default_factory=list[WorkerRecord])

    @property
    def by_status(self) -> dict[str, int]:
        total: dict[str, int] = {}
        if self.estimated_completed is not None:
            total["completed"] = self.estimated_completed
        for counts in self.by_type.values():
            for status, count in counts.items():
                total[status] = total.get(status, 0) + count
        return total

    @property
    def oldest_ready_seconds(self) -> float | None:
        return max(self.oldest_ready_by_type.values(), default=None)

    @property
    def unhandled_types(self) -> list[str]:
        """Types with work that no live worker takes."""
        handled = {name for worker in self.workers if worker.alive for name in worker.job_types}
        return sorted(
            name
            for name, counts in self.by_type.items()
            if (counts.get("pending") or counts.get("waiting")) and name not in handled
        )


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of ``dataqueue doctor``: a check, how it went, and how to mend it."""

    check: str
    level: Literal["ok", "warning", "error"]
    message: str
    fix: str | None = None


class Heart(Protocol):
    """Renews a worker's lease from a thread, over a connection of its own. Blocking; never shared."""

    def beat(self, worker: WorkerInfo, held: Sequence[Held]) -> Pulse:
        """Renew the lease (re-registering a worker that was forgotten), and ask about ``held``.

        Raises:
            StoreUnavailable: the store did not answer; the next beat connects anew.
        """
        ...

    def close(self) -> None: ...


Topic = Literal["work", "finished", "cancel", "schedule"]
TOPICS: tuple[Topic, ...] = get_args(Topic)


@dataclass(frozen=True, slots=True)
class Signal:
    """A wake-up. ``ids`` are the jobs concerned, empty when unknown (look at everything)."""

    topic: Topic
    ids: tuple[int, ...] = ()


def parse_signal(text: str) -> Signal | None:
    """``topic`` or ``topic id id …``, as the stores send it; anything else is not for us."""
    topic, _, rest = text.partition(" ")
    if topic == "work" or topic == "finished" or topic == "cancel" or topic == "schedule":
        return Signal(topic, tuple(int(part) for part in rest.split() if part.isdigit()))
    return None


class Backend(Protocol):
    """A store. Methods may be called concurrently; each is one atomic change unless it says otherwise."""

    name: str
    read_only: bool
    """Whether the store refuses every change that comes from here."""

    async def open(self) -> None:
        """Connect and check that the schema fits this package.

        Raises:
            StoreUnavailable, SchemaError
        """
        ...

    async def close(self) -> None: ...

    async def migrate(self, *, shared: bool = False) -> list[str]:
        """Create or upgrade the tables; the names of the steps that were applied."""
        ...

    def location(self) -> str:
        """Where the store is, for messages: never a password."""
        ...

    async def add(self, specs: Sequence[JobSpec], conn: object | None = None) -> list[Added]:
        """Store jobs and their ``added`` events, all or none, in order. ``conn``: the caller's transaction."""
        ...

    def add_sync(self, specs: Sequence[JobSpec], conn: Any) -> list[Added]:
        """As :meth:`add` on a caller's blocking connection; works on a backend that is not open."""
        ...

    def add_stream(self, specs: Iterable[JobSpec], conn: object | None = None) -> AsyncIterator[list[Added]]:
        """As :meth:`add` for any number, read as it goes; still all or none."""
        ...

    async def get_job(self, job_id: int) -> Job | None: ...

    async def list_jobs(
        self, where: JobFilter, limit: int, before_id: int | None, offset: int, values: bool = True
    ) -> list[Job]:
        """Jobs that meet all conditions, highest id first. Without ``values``, payloads and outputs are None."""
        ...

    async def list_events(self, job_id: int) -> list[JobEvent]: ...

    async def finished(self, job_ids: Sequence[int]) -> dict[int, bool]:
        """For each id that exists, whether the job is finished."""
        ...

    async def cancel(
        self, ids: Sequence[int], by: str | None = None, statuses: Sequence[JobStatus] = CANCELLABLE
    ) -> dict[int, ChangeResult]:
        """Cancel those that are in one of these states; ask the workers of those that run.

        As the two below it takes at most ``MOST_CHANGES`` ids, gives a result for each, and is one change, but for
        jobs that somebody else has in hand at that moment: these are changed one by one afterwards.

        Args:
            ids: each once.
            by: whose wish it is, for the event log.
            statuses: ``failed`` means failed with a retry due.
        """
        ...

    async def retry(
        self, ids: Sequence[int], by: str | None = None, statuses: Sequence[JobStatus] = RETRYABLE, ended: bool = False
    ) -> dict[int, ChangeResult]:
        """Let those that are in one of these states run again, now. ``ended``: only if they would not by themselves."""
        ...

    async def edit(self, ids: Sequence[int], edit: JobEdit, by: str | None = None) -> dict[int, ChangeResult]:
        """Change what is given of those that are pending."""
        ...

    async def redrive(self, letter: DeadLetter, by: str | None = None) -> int | None:
        """Run the job again that a dead letter tells of, or another where it is gone, and settle the letter: the id of
        what runs. None if nothing was changed: the letter is settled or running, or its job is not finished."""
        ...

    async def pause(self, job_type: str | None, by: str | None = None) -> bool:
        """Let no job of this type (None: of any) be claimed from now on. False if that was so already."""
        ...

    async def resume(self, job_type: str | None) -> bool: ...

    async def list_limits(self) -> list[LimitState]:
        """Every type that is limited or paused, by name; the whole queue first, if it is paused."""
        ...

    async def stats(self) -> Stats: ...

    async def doctor(self, deep: bool = False) -> list[Finding]:
        """What is wrong, and how to mend it. ``deep`` compares every record with every index."""
        ...

    async def list_workers(self) -> list[WorkerRecord]: ...

    async def now(self) -> datetime:
        """The store's clock."""
        ...

    async def situation(self, job_id: int) -> Situation | None:
        """A job and what decides about it; None for no such job."""
        ...

    async def list_failures(self, job_type: str | None, seconds: float, limit: int) -> list[FailedJob]:
        """Jobs with status ``failed`` whose last attempt failed within so many seconds, newest id first."""
        ...

    async def sample_finished(self, job_type: str | None, limit: int) -> list[Timing]:
        """About ``limit`` of the jobs that ended last. A sample: some may be missing, none is made up."""
        ...

    # -- schedules ------------------------------------------------------------------------------

    async def add_schedule(self, schedule: CronSchedule) -> int | None:
        """Store a schedule; its id, or None if its name is taken."""
        ...

    async def list_schedules(
        self, *, schedule_id: int | None = None, name: str | None = None, status: ScheduleStatus | None = None
    ) -> list[CronSchedule]:
        """Those that meet all conditions, oldest first."""
        ...

    async def change_schedule(self, schedule_id: int, change: ScheduleChange) -> CronSchedule | None:
        """Store what ``change`` makes of it, in one change with the reading; None for no such schedule.

        ``change`` may be called again if somebody else was faster; what it raises leaves all as it was.
        """
        ...

    async def remove_schedule(self, schedule_id: int) -> bool:
        """The jobs that it has added stay."""
        ...

    async def next_fire(self, without: Sequence[int]) -> tuple[datetime, datetime | None]:
        """The store's clock, and when the next active schedule fires, leaving out some."""
        ...

    async def due_schedules(self, limit: int, without: Sequence[int]) -> tuple[datetime | None, list[CronSchedule]]:
        """The clock, and active schedules whose next run has come, earliest first. No clock if there are none."""
        ...

    async def fire_schedule(self, schedule: CronSchedule, plan: FirePlan) -> list[int] | None:
        """Add the jobs of a plan and advance the schedule, all or nothing.

        While its last job is unfinished and they may not overlap, it is only advanced, and the skip noted.

        Returns:
            The jobs; None if nothing was changed, since somebody else was faster.
        """
        ...

    # -- what a supervisor needs ----------------------------------------------------------------

    def delete_jobs(self, status: EndStatus, before: datetime, limit: int, dry_run: bool = False) -> AsyncIterator[int]:
        """Delete finished jobs of this status that ended by then, with all that belongs to them, lowest id first.

        In bounded steps, each one change of at most ``limit`` jobs; yields how many after each. Jobs that somebody has
        in hand are left. ``dry_run``: only count.
        """
        ...

    def delete_events(self, before: datetime, limit: int) -> AsyncIterator[int]:
        """Delete recorded events from before then of jobs that there are, likewise: about ``limit`` in each step."""
        ...

    def release_keys(self, before: datetime, limit: int) -> AsyncIterator[int]:
        """Free the idempotency keys of finished jobs that ended by then, likewise."""
        ...

    async def elect(self, role: str, holder: str, seconds: float) -> bool:
        """Let ``holder`` have a role for so long, if it is free, or its own, or its holder's time is over.

        Returns whether it has it now. Whoever has it calls this again in time, to keep it.
        """
        ...

    async def resign(self, role: str, holder: str) -> None:
        """Give the role up, if it is the holder's."""
        ...

    # -- what a worker needs --------------------------------------------------------------------

    async def register_worker(self, worker: WorkerInfo) -> bool:
        """Make the worker known. False if a live worker has this id already."""
        ...

    async def unregister_worker(self, worker_id: str) -> None: ...

    async def declare_limits(self, limits: Mapping[str, TypeLimits]) -> None:
        """Let these limits hold for these types, in place of those before; empty ones for none."""
        ...

    def heart(self) -> Heart: ...

    async def cycle(
        self,
        worker_id: str,
        outcomes: Sequence[Outcome],
        job_types: Sequence[str],
        limit: int,
        promote: bool,
    ) -> Cycle:
        """Record outcomes, then claim up to ``limit`` due jobs, best first; one round trip.

        Outcomes and claim are separate changes: a claim that fails leaves the outcomes recorded.
        ``promote`` looks for delayed jobs that have fallen due, too, and fills ``next_due_ms``.
        """
        ...

    async def list_due_types(self) -> list[str]:
        """The types that have a job that is due now, whether or not anybody works them."""
        ...

    async def list_held(self, worker_id: str) -> list[Held]:
        """What the store thinks this worker holds: more than it knows of if a claim's answer was lost."""
        ...

    async def set_progress(self, job_id: int, lease_id: int, percent: int) -> bool: ...

    async def load_steps(self, job_id: int) -> tuple[list[StepRecord], dict[str, Token], datetime]:
        """The records of a job in their order, the tokens that its waits name by their ids, and the store's time."""
        ...

    async def save_step(self, job_id: int, lease_id: int, step: StepRecord, token: TokenSpec | None = None) -> bool:
        """Record a step (in place of one with the same name), and make a token of the job with it. False if the lease
        is lost; nothing was changed then."""
        ...

    def transaction(self) -> AbstractAsyncContextManager[Transaction]:
        """A transaction that commits at the end of the block, or rolls back if that raises.

        Raises:
            ConfigError: this store is no database.
        """
        ...

    # -- tokens -------------------------------------------------------------------------------------

    async def create_token(self, token: TokenSpec) -> Token: ...

    async def get_token(self, token_id: str) -> Token | None: ...

    async def end_token(self, token_id: str, output: str | None, error: str | None) -> tuple[Token | None, bool]:
        """Complete a token with ``output`` (JSON text), or let it fail with ``error``, and wake the jobs that wait for
        it. Returns the token as it is now, and whether this was its end."""
        ...

    async def expire_tokens(self, limit: int) -> int:
        """End tokens whose time is over and wake who waits for them; how many there were."""
        ...

    async def delete_tokens(self, before: datetime, limit: int) -> int:
        """Delete tokens of no job that ended by then; how many there were."""
        ...

    async def prolong(self, job_id: int, lease_id: int, ms: int) -> bool:
        """Log that an attempt may run on until ``ms`` from now. False if the lease is lost."""
        ...

    async def set_output(self, job_id: int, lease_id: int, output: str) -> bool: ...

    async def reclaim_expired(self, limit: int) -> list[Reclaimed]:
        """Take jobs back from workers whose lease is over."""
        ...

    async def listen_for(self, topic: Topic, listener_id: str, seconds: float) -> None:
        """For ``seconds``, whoever adds work (or finishes jobs) shall send a signal of this topic."""
        ...

    async def listen_no_more(self, topic: Topic, listener_id: str) -> None: ...

    def signals(self) -> AsyncGenerator[Signal]:
        """Wake-ups, from one shared connection; reconnects for ever, and after each connection
        yields a signal without ids, since something may have been missed."""
        ...
