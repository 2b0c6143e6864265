"""How a queue is, in one word and with the evidence for it: pure rules, no I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from dataqueue.backends.base import Stats, Timing, WorkerRecord
from dataqueue.explain import duration
from dataqueue.failures import FailureSummary
from dataqueue.limits import LimitState

Verdict = Literal["healthy", "backlog", "failing", "stuck", "no_workers"]

SAMPLE = 2000
BACKLOG = timedelta(minutes=1)
"""A due job that has waited longer than this makes a backlog."""

STILL = timedelta(minutes=2)
"""Due work, free slots, and nothing that ended for this long: stuck."""

FAILING_SHARE = 0.2
FAILING_COUNT = 5


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and 95th percentile, in seconds."""

    p50: float
    p95: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TypeTiming:
    """What a sample of the jobs of one type that ended within the window says. Rates are per minute.

    ``wait``: from when a job was due to its start; ``run``: from start to end. Only of first attempts, None
    without any.
    """

    job_type: str
    ended: int
    failed: int
    per_minute: float
    wait: Spread | None
    run: Spread | None


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueStatus:
    """The state of a queue (or of one type of job) at ``checked_at``, by the store's clock.

    ``evidence`` are sentences that support the verdict, most important first; ``suggestions`` are what to look
    at next. ``timings`` come from a sample of the newest ``sampled`` jobs that ended within ``window``.
    """

    verdict: Verdict
    evidence: tuple[str, ...]
    suggestions: tuple[str, ...]
    by_type: dict[str, dict[str, int]]
    by_status: dict[str, int]
    completed_is_estimated: bool
    oldest_ready_seconds: float | None
    unhandled_types: tuple[str, ...]
    window: timedelta
    timings: tuple[TypeTiming, ...]
    sampled: int
    failures: FailureSummary
    workers: tuple[WorkerRecord, ...]
    limits: tuple[LimitState, ...]
    checked_at: datetime


def judge(
    stats: Stats,
    recent: Sequence[Timing],
    failures: FailureSummary,
    now: datetime,
    window: timedelta,
    job_type: str | None,
    limits: Sequence[LimitState] = (),
) -> QueueStatus:
    """The status. ``stats`` and ``limits`` are of the whole queue; the rest is of ``job_type`` if one is given."""
    by_type = stats.by_type if job_type is None else {job_type: stats.by_type.get(job_type, {})}
    shown = Stats(
        by_type=by_type,
        estimated_completed=stats.estimated_completed if job_type is None else None,
        oldest_ready_by_type={name: age for name, age in stats.oldest_ready_by_type.items() if name in by_type},
        workers=stats.workers,
    )
    within = [timing for timing in recent if now - timing.ended_at <= window]
    timings = tuple(_timing(name, within, now) for name in sorted({timing.job_type for timing in within}))
    of_these = tuple(state for state in limits if job_type is None or state.job_type in (None, job_type))
    verdict, evidence, suggestions = _verdict(shown, within, failures, now, window, job_type, of_these)
    return QueueStatus(
        verdict=verdict,
        evidence=tuple(evidence),
        suggestions=tuple(suggestions[:3]),
        by_type=by_type,
        by_status=shown.by_status,
        completed_is_estimated=stats.estimated_completed is not None,
        oldest_ready_seconds=shown.oldest_ready_seconds,
        unhandled_types=tuple(shown.unhandled_types),
        window=window,
        timings=timings,
        sampled=len(within),
        failures=failures,
        workers=tuple(stats.workers),
        limits=of_these,
        checked_at=now,
    )


def _verdict(
    stats: Stats,
    within: Sequence[Timing],
    failures: FailureSummary,
    now: datetime,
    window: timedelta,
    job_type: str | None,
    limits: Sequence[LimitState],
) -> tuple[Verdict, list[str], list[str]]:
    evidence: list[str] = []
    suggestions: list[str] = []
    found: list[Verdict] = []
    alive = [w for w in stats.workers if w.alive and (job_type is None or job_type in w.job_types)]
    lost = [w for w in stats.workers if not w.alive]
    unfinished = sum(stats.by_status.get(status, 0) for status in ("pending", "processing", "waiting"))
    ages = stats.oldest_ready_by_type
    paused = {state.job_type for state in limits if state.paused_at is not None}
    kept_back = paused | {state.job_type for state in limits if _is_used_up(state)}
    oldest = _oldest(ages, paused)
    for state in limits:
        if state.free == 0:
            evidence.append(_told(state, ages))
    if paused:
        suggestions.append("dataqueue resume (a type, or --all), once the reason for the pause is gone")

    if job_type is not None and not any(stats.by_type.values()) and not alive:
        found.append("no_workers")
        evidence.append(f"Nothing is known of job type {job_type}: no job of it, and no live worker that takes it.")
    elif unfinished and not alive:
        found.append("no_workers")
        whom = f" for {job_type}" if job_type else ""
        evidence.append(f"{unfinished:,} jobs are unfinished, and no live worker is there{whom}.")
    elif stats.unhandled_types:
        found.append("no_workers")
        evidence.append(f"No live worker takes these types, which have work: {', '.join(stats.unhandled_types[:10])}.")
    if found:
        suggestions.append("list_workers: who is alive, and which types each one takes")

    last_end = max((timing.ended_at for timing in within), default=None)
    still = last_end is None or now - last_end > STILL
    free = sum(max(0, worker.concurrency - worker.running) for worker in alive)
    if lost and any(worker.running for worker in lost):
        held = sum(worker.running for worker in lost)
        evidence.append(f"{len(lost)} workers fell silent holding {held:,} jobs; a live worker takes those back.")
        if not alive:
            found.append("stuck")
    waited = _oldest(ages, kept_back)
    if alive and waited > STILL and still:
        found.append("stuck")
        what = f"{free} slots are free" if free else "every slot is taken"
        since = f"{duration(now - last_end)} ago" if last_end else f"longer than {duration(window)} ago"
        evidence.append(f"A due job has waited {duration(waited)}; {what}, yet the last job ended {since}.")
        suggestions.append("list_jobs status=processing: what the workers are busy with")

    ended, failed = len(within), failures.total
    tried = failed + sum(timing.status == "completed" for timing in within)
    if failed >= FAILING_COUNT and failed >= FAILING_SHARE * tried:
        found.append("failing")
    if failed:
        top = failures.groups[0] if failures.groups else None
        cause = f" Most common: {top.error_type or top.reason} in {top.job_type} ({top.count:,})." if top else ""
        more = "at least " if failures.truncated else ""
        evidence.append(f"{more}{failed:,} jobs failed within {duration(window)}.{cause}")
        suggestions.append("summarize_failures: causes, counts and sample jobs")
        if top:
            suggestions.append(f"explain_job {top.sample_ids[0]}: one of the most common failures")

    if oldest > BACKLOG:
        found.append("backlog")
        evidence.append(f"The longest-waiting due job has waited {duration(oldest)}; {free} slots are free.")
        suggestions.append("list_workers: slots and what they hold; more concurrency or workers shorten the line")
    if not found:
        held = sum(worker.running for worker in alive)
        slots = sum(worker.concurrency for worker in alive)
        workers = f"{len(alive)} live workers hold {held} jobs in {slots} slots" if alive else "no worker is alive"
        waiting = f"the longest-waiting due job has waited {duration(oldest)}" if oldest else "no job is due"
        if paused and not oldest:
            waiting += " but of what is paused"
        evidence.insert(0, f"{waiting[0].upper()}{waiting[1:]}; {workers}; {ended:,} jobs of the sample ended lately.")
        return "healthy", evidence, suggestions
    order: tuple[Verdict, ...] = ("no_workers", "stuck", "failing", "backlog")
    return next(verdict for verdict in order if verdict in found), evidence, suggestions


def _oldest(ages: Mapping[str, float], without: Set[str | None]) -> timedelta:
    """How long a due job has waited at most, of types that are not kept back (None: the whole queue is)."""
    seconds = [] if None in without else [age for name, age in ages.items() if name not in without]
    return timedelta(seconds=max(seconds, default=0))


def _is_used_up(state: LimitState) -> bool:
    return state.rate is not None and (state.started or 0) >= state.rate.count


def _told(state: LimitState, ages: Mapping[str, float]) -> str:
    """Why nothing of a type may start now."""
    what = "The whole queue" if state.job_type is None else f"Type {state.job_type}"
    age = max(ages.values(), default=None) if state.job_type is None else ages.get(state.job_type)
    waits = f"; a due job of it has waited {duration(timedelta(seconds=age))}" if age is not None else ""
    if state.paused_at is not None:
        whom = f" by {state.paused_by}" if state.paused_by else ""
        return f"{what} was paused{whom} at {state.paused_at:%Y-%m-%d %H:%M:%S} UTC{waits}."
    if state.max_concurrency is not None and (state.running or 0) >= state.max_concurrency:
        return f"{what} is at its limit: {state.running} of {state.max_concurrency} run{waits}."
    return f"{what} has used up its rate{waits}."


def _timing(job_type: str, within: Sequence[Timing], now: datetime) -> TypeTiming:
    own = [timing for timing in within if timing.job_type == job_type]
    first = [timing for timing in own if timing.attempts == 1 and timing.started_at is not None]
    span = max((now - min(timing.ended_at for timing in own)).total_seconds(), 1.0)
    waits = [_seconds(max(t.run_at, t.created_at), t.started_at) for t in first]
    runs = [_seconds(t.started_at, t.ended_at) for t in first]
    return TypeTiming(
        job_type=job_type,
        ended=len(own),
        failed=sum(timing.status == "failed" for timing in own),
        per_minute=round(len(own) / span * 60, 3),
        wait=_spread(waits),
        run=_spread(runs),
    )


def _seconds(start: datetime | None, end: datetime | None) -> float:
    return max(0.0, (end - start).total_seconds()) if start and end else 0.0


def _spread(values: list[float]) -> Spread | None:
    if not values:
        return None
    ordered = sorted(values)

    def at(share: float) -> float:
        return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 4)

    return Spread(at(0.5), at(0.95))
