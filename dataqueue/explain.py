"""Why a job runs, or does not: pure rules over what a store says of it at one moment.

``ready`` is among the reasons if, and only if, a worker that asked now for jobs of this type, however many,
would get this job. The conformance suite holds the rules against the real claim.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

from dataqueue.backends.base import AHEAD_LIMIT, Situation, Timing, WorkerRecord
from dataqueue.errors import ConfigError
from dataqueue.jobs import Job, JobEvent

JobState = Literal[
    "not_found", "completed", "cancelled", "failed", "running", "lost", "scheduled", "retrying", "waiting", "locked",
    "blocked", "paused", "limited", "ready",
]  # fmt: skip
WillRun = Literal["yes", "later", "never", "unknown"]
ReasonCode = Literal[
    "not_found", "completed", "cancelled", "running", "cancel_requested", "lease_lost", "scheduled", "retry_backoff",
    "attempts_exhausted", "waiting_until", "waiting_for_token", "waits_for_jobs", "row_locked", "queue_paused", "group_full", "type_full", "rate_limited", "no_worker_for_type", "queued_behind", "ready",
]  # fmt: skip

SAMPLE = 500
"""Recently ended jobs from which a rate is taken."""

_RATE_SPAN = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Reason:
    """One thing that decides about a job. ``evidence`` are the values behind it; ``fix`` is what to do, if anything."""

    code: ReasonCode
    message: str
    evidence: Mapping[str, Any] = field(default_factory=dict[str, Any])
    fix: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """What is the matter with a job, as of ``checked_at`` on the store's clock.

    ``will_run`` says whether it will run (again) without anybody's doing: ``yes`` as soon as a slot is free,
    ``later`` at a time that is known or after something else, ``never``, or ``unknown``. ``eta`` is when, by
    the clock or by the recent rate. ``reasons`` stand in the order in which they were found.
    """

    job_id: int
    job_type: str | None
    state: JobState
    will_run: WillRun
    eta: datetime | None
    reasons: tuple[Reason, ...]
    checked_at: datetime
    schedule: str | None = None
    """The schedule that has added it."""

    @property
    def is_ready(self) -> bool:
        return any(reason.code == "ready" for reason in self.reasons)


def not_found(job_id: int, now: datetime) -> Explanation:
    reason = Reason(
        "not_found",
        f"There is no job {job_id} in this store.",
        fix="Check the id, and that this is the right store, schema and key prefix (dataqueue doctor).",
    )
    return Explanation(
        job_id=job_id,
        job_type=None,
        state="not_found",
        will_run="never",
        eta=None,
        reasons=(reason,),
        checked_at=now,
    )


def explain(situation: Situation, recent: Sequence[Timing]) -> Explanation:
    """The explanation of a job that exists. ``recent`` are jobs of its type that ended lately, for an estimate."""
    job, now = situation.job, situation.now

    def answer(state: JobState, will_run: WillRun, *reasons: Reason, eta: datetime | None = None) -> Explanation:
        return Explanation(
            job_id=job.id,
            job_type=job.job_type,
            state=state,
            will_run=will_run,
            eta=eta,
            reasons=reasons,
            checked_at=now,
        )

    match job.status:
        case "completed":
            return answer("completed", "never", _completed(job))
        case "cancelled":
            return answer("cancelled", "never", _cancelled(job))
        case "processing":
            return _explain_running(situation, answer)
        case _:
            pass
    ready_at = situation.ready_at
    if job.blocked:
        state = "waiting" if job.status == "waiting" else "blocked"
        return answer(state, "later", _blocked(situation), *_no_worker(situation))
    if ready_at is None:
        if job.status == "waiting":
            will_run, reason = _waits_for_token(situation)
            return answer("waiting", will_run, reason, *_no_worker(situation))
        return answer("failed", "never", _exhausted(job))
    if ready_at > now:
        if job.status == "failed":
            reasons = (_backoff(job, ready_at, now), *_no_worker(situation))
            return answer("retrying", "later", *reasons, eta=ready_at)
        code = "waiting_until" if job.status == "waiting" else "scheduled"
        message = f"It is not due before {_moment(ready_at)}, in {duration(ready_at - now)}."
        reason = Reason(code, message, {"due_at": ready_at}, _run_it_now(job))
        return answer(
            "waiting" if job.status == "waiting" else "scheduled",
            "later",
            reason,
            *_no_worker(situation),
            eta=ready_at,
        )
    if situation.row_locked:
        reason = Reason(
            "row_locked",
            "Another transaction has locked its row, so workers pass it over until that transaction ends.",
            fix="Look for a long transaction: dataqueue doctor, or pg_stat_activity. It may be a claim under way.",
        )
        return answer("locked", "later", reason)
    if paused := _paused(situation):
        return answer("paused", "later", *paused, *_no_worker(situation))
    if full := _full(situation):
        return answer("limited", "later", *full, *_no_worker(situation), eta=full[0].evidence.get("opens_at"))
    return _explain_ready(situation, recent, answer)


def _blocked(situation: Situation) -> Reason:
    job, shown = situation.job, situation.unmet
    named = ", ".join(f"{job_id} ({status})" for job_id, status in shown[:5])
    more = situation.unmet_count - len(shown[:5])
    jobs = "job" if situation.unmet_count == 1 else "jobs"
    after = "it is cancelled" if not job.runs_anyway else "it runs all the same"
    if job.status == "waiting":
        after = "it goes on all the same, and its handler is told"
    message = f"It waits for {situation.unmet_count:,} {jobs} to end"
    if named:
        message += f": {named}" + (f" and {more:,} more" if more > 0 else "")
    first = shown[0][0] if shown else None
    return Reason(
        "waits_for_jobs",
        f"{message}. If one of them fails for good or is cancelled, {after}.",
        {
            "count": situation.unmet_count,
            "jobs": [{"id": job_id, "status": status} for job_id, status in shown],
            "tags": list(job.depends_on_tags),
            "on_failure": "run" if job.runs_anyway else "cancel",
        },
        f"See why those have not ended: dataqueue explain {first}." if first else None,
    )


def _waits_for_token(situation: Situation) -> tuple[WillRun, Reason]:
    job, token, wait = situation.job, situation.token, situation.wait
    token_id = job.wait_token_id or (wait.token_id if wait else None)
    if token_id is None:
        return "unknown", Reason("waiting_until", "It waits for something that only its own library completes.")
    evidence: dict[str, Any] = {"token": token_id}
    if token is None:
        return "never", Reason(
            "waiting_for_token",
            f"It waits for the token {token_id}, which does not exist (any more).",
            evidence,
            f"Cancel it and run it again: dataqueue jobs cancel {job.id}, dataqueue jobs retry {job.id}.",
        )
    evidence |= {
        "made_at": token.created_at,
        "timeout_at": token.timeout_at,
        "tags": list(token.tags),
        "made_by": token.job_id,
    }
    limit = ""
    if token.timeout_at is not None:
        limit = f" until {_moment(token.timeout_at)}; then it goes on and is told that the token timed out"
    return "later" if token.timeout_at is not None else "unknown", Reason(
        "waiting_for_token",
        f"It waits for an answer to the token {token_id}{limit}.",
        evidence,
        f"Answer it: dataqueue tokens complete {token_id} JSON, or queue.complete_token(…).",
    )


def _paused(situation: Situation) -> list[Reason]:
    reasons: list[Reason] = []
    for state in situation.limits:
        if state.paused_at is not None:
            what = "The whole queue" if state.job_type is None else f"Type {state.job_type}"
            whom = f" by {state.paused_by}" if state.paused_by else ""
            reasons.append(
                Reason(
                    "queue_paused",
                    f"{what} was paused at {_moment(state.paused_at)}{whom}: nothing of it is claimed.",
                    {"job_type": state.job_type, "paused_at": state.paused_at, "paused_by": state.paused_by},
                    f"When the reason for it is gone: dataqueue resume {'TYPE' if state.job_type else '--all'}.",
                )
            )
    return reasons


def _full(situation: Situation) -> list[Reason]:
    """Why a worker that asks now would not get the job although it is due: its group, or its type, is at its limit."""
    job, limit, running = situation.job, situation.group_limit, situation.group_running
    reasons: list[Reason] = []
    if situation.parked or (limit is not None and job.group and running + situation.ahead_in_group >= limit):
        first = f", and {situation.ahead_in_group:,} of its jobs stand before this one" * bool(situation.ahead_in_group)
        message = f"Of its group {job.group}, {running} run now and {limit} may{first}."
        if limit is None or running < limit:
            message = f"It was put aside while its group {job.group} was full, and is about to come back into the line."
        reasons.append(
            Reason(
                "group_full",
                message,
                {"group": job.group, "running": running, "limit": limit, "ahead_in_group": situation.ahead_in_group},
                "It runs when a job of its group ends. More at a time: group_concurrency of the workers.",
            )
        )
    for state in situation.limits:
        if state.max_concurrency is not None and situation.may_go_ahead >= state.max_concurrency - (state.running or 0):
            reasons.append(
                Reason(
                    "type_full",
                    f"Of type {state.job_type}, {state.running} run now and {state.max_concurrency} may, over all workers.",
                    {"running": state.running, "limit": state.max_concurrency, "ahead": situation.may_go_ahead},
                    "It runs when others of its type have ended. More at a time: max_concurrency of its definition.",
                )
            )
        if state.rate is not None and situation.may_go_ahead >= state.rate.count - (state.started or 0):
            soonest = f"; more may start from {_moment(state.opens_at)}" if state.opens_at else ""
            reasons.append(
                Reason(
                    "rate_limited",
                    f"Of type {state.job_type}, {state.started} have started within {duration(state.rate.per)} and "
                    f"{state.rate.count} may{soonest}.",
                    {
                        "started": state.started,
                        "limit": state.rate.count,
                        "per_seconds": state.rate.per.total_seconds(),
                        "opens_at": state.opens_at,
                        "ahead": situation.may_go_ahead,
                    },
                    "It starts when its turn comes. Faster: rate of its definition.",
                )
            )
    return reasons


def _explain_ready(situation: Situation, recent: Sequence[Timing], answer: Any) -> Explanation:
    job, now = situation.job, situation.now
    missing = _no_worker(situation)
    reasons = [*missing]
    eta = None
    if situation.ahead:
        per_second = rate(recent, now)
        if per_second and not missing:
            eta = now + timedelta(seconds=situation.ahead / per_second)
        count = f"{'at least ' if situation.ahead >= AHEAD_LIMIT else ''}{situation.ahead:,}"
        jobs = "job of its type is" if situation.ahead == 1 else "jobs of its type are"
        message = f"{count} due {jobs} claimed before it."
        if eta is not None and per_second:
            message += (
                f" At the recent rate of {per_second * 60:,.3g} a minute its turn comes in {duration(eta - now)}."
            )
        evidence: dict[str, Any] = {"ahead": situation.ahead, "priority": job.priority, "per_minute": None}
        if per_second:
            evidence["per_minute"] = round(per_second * 60, 3)
        reasons.append(
            Reason(
                "queued_behind",
                message,
                evidence,
                f"More workers or concurrency shorten the line. To put it first: dataqueue jobs edit {job.id} --priority N.",
            )
        )
    # Retried or taken back, it could not be claimed while it ran, whenever it was due first.
    waited = now - max(situation.ready_at or now, job.updated_at)
    message = f"It can be claimed now, and has been able to for {duration(waited)}."
    slots = [worker for worker in _takers(situation) if worker.running < worker.concurrency]
    fix = None
    if slots and waited > timedelta(seconds=60):
        message += " Workers for its type have free slots."
        fix = "Look at those workers' logs: they are alive, yet do not take it (dataqueue status)."
    reasons.append(Reason("ready", message, {"ready_at": situation.ready_at}, fix))
    if eta is None and not missing:
        eta = now if not situation.ahead else None
    return answer("ready", "unknown" if missing else "yes", *reasons, eta=eta)


def _explain_running(situation: Situation, answer: Any) -> Explanation:
    job, now = situation.job, situation.now
    holder = next((worker for worker in situation.workers if worker.id == job.locked_by), None)
    since = job.locked_at or now
    ran = now - since
    evidence: dict[str, Any] = {"worker": job.locked_by, "since": since, "attempt": job.attempts}
    if holder is None or not holder.alive:
        silent = "is not known to the store" if holder is None else f"was last heard of {_ago(holder, now)}"
        anybody = any(worker.alive for worker in situation.workers)
        rescue = "A live worker takes it back and runs it again." if anybody else "No worker is alive to take it back."
        if holder is None:
            rescue += " If a worker of the TypeScript library holds it, that one decides."
        last = job.attempts >= job.max_attempts
        if last:
            rescue += f" It was the last of {job.max_attempts} attempts, so it will be failed (worker_lost)."
        reason = Reason(
            "lease_lost",
            f"Its worker {job.locked_by} {silent}: its lease is over. {rescue}",
            evidence | {"last_heartbeat_at": holder and holder.last_heartbeat_at},
            None if anybody else "Start a worker: dataqueue worker MODULE:QUEUE.",
        )
        return answer("lost", ("later" if anybody else "unknown") if not last else "never", reason)
    message = (
        f"It has been running for {duration(ran)} on {job.locked_by}, attempt {job.attempts} of {job.max_attempts}"
    )
    if job.progress is not None:
        message += f", {job.progress} % done"
    fix = None
    ends = situation.prolonged_until or (since + job.timeout if job.timeout is not None else None)
    if ends is not None:
        limit = f"its timeout is {duration(job.timeout)}" if job.timeout is not None else "it had no timeout"
        message += f"; {limit}"
        if situation.prolonged_until is not None:
            message += f", and it has given itself time until {_moment(ends)}"
        evidence["timeout_at"] = ends
        if now > ends:
            message += ", which has passed"
            fix = "Its handler does not end when it is told to; look at the worker's log."
    else:
        message += "; it has no timeout"
        if ran > timedelta(hours=1):
            fix = f"If it hangs, cancel it (dataqueue jobs cancel {job.id}), and give its type a timeout."
    silent = now - holder.last_heartbeat_at
    message += f". Its worker was last heard of {duration(silent)} ago"
    evidence["last_heartbeat_at"] = holder.last_heartbeat_at
    reasons = [Reason("running", message + ".", evidence, fix)]
    if job.cancel_requested_at is not None:
        asked = f"It was asked to stop {duration(now - job.cancel_requested_at)} ago, and has not stopped yet."
        reasons.append(Reason("cancel_requested", asked, {"at": job.cancel_requested_at}))
    return answer("running", "yes", *reasons, eta=now)


def schedule_of(events: Sequence[JobEvent]) -> str | None:
    """The schedule that has added a job, as its first event tells."""
    first = events[0] if events else None
    name = first.metadata.get("schedule") if first and first.event_type == "added" and first.metadata else None
    return name if isinstance(name, str) else None


def prolonged_until(job: Job, events: Sequence[JobEvent]) -> datetime | None:
    """Until when the running attempt of a job has given itself time by ``ctx.prolong``, if it has."""
    for event in reversed(events):
        if event.event_type == "processing":
            return None
        if event.event_type == "prolonged":
            return datetime.fromisoformat(event.metadata["until"])
    return None


def _run_it_now(job: Job) -> str:
    advice = "Nothing needs to be done; it runs when it is due."
    if job.status != "pending":
        return advice
    return (
        f"{advice} To run it now: dataqueue jobs edit {job.id} --run-at now, or queue.edit_job({job.id}, run_at=None)."
    )


def _completed(job: Job) -> Reason:
    took = ""
    if job.completed_at and job.started_at:
        took = f", {duration(job.completed_at - job.started_at)} after it first started"
    tries = "its first attempt" if job.attempts == 1 else f"attempt {job.attempts}"
    return Reason(
        "completed",
        f"It was completed at {_moment(job.completed_at)} by {tries}{took}.",
        {"completed_at": job.completed_at, "attempts": job.attempts},
        f"To run it again: dataqueue jobs retry {job.id} --force, or queue.retry_job({job.id}, force=True).",
    )


def _cancelled(job: Job) -> Reason:
    evidence: dict[str, Any] = {"cancelled_at": job.last_cancelled_at}
    message = f"It was cancelled at {_moment(job.last_cancelled_at)}"
    again = f"dataqueue jobs retry {job.id}, or queue.retry_job({job.id})"
    fix = f"To run it after all: {again}."
    if (root := job.cascade_root) is not None:
        evidence["root_job_id"] = root
        message += f", because job {root} has failed or was cancelled, which it waited for, by itself or through others"
        fix = f"Mend and retry job {root} first (dataqueue explain {root}), then this one, which waits for it again: {again}."
    return Reason("cancelled", message + ".", evidence, fix)


_ADVICE = {
    "timeout": "Give it more time (timeout=), make it do less at once, or find out what it waits for",
    "worker_lost": "Its worker died under it each time: look for crashes, kills for memory, and loops that block",
    "no_handler": "Start a worker whose queue defines this type, or correct the type's name",
}


def _exhausted(job: Job) -> Reason:
    entry = job.error_history[-1] if job.error_history else None
    advice = _ADVICE.get(job.failure_reason or "", "Mend what the error names")
    tries = f"all {job.attempts} attempts" if job.attempts > 1 else "its only attempt"
    if job.attempts < job.max_attempts:
        tries = f"{job.attempts} of {job.max_attempts} attempts"
    what = job.status if job.status != "failed" else "failed for good"
    return Reason(
        "attempts_exhausted",
        f"It is {what}: {tries} failed" + (f", the last one at {_moment(entry.timestamp)}." if entry else "."),
        {
            "attempts": job.attempts,
            "max_attempts": job.max_attempts,
            "failure_reason": job.failure_reason,
            "error": entry and entry.message,
            "error_type": entry and entry.error_type,
            "frame": entry and entry.frame,
            "same_error_each_time": len({e.message for e in job.error_history}) == 1,
            "dead_letter_job_id": job.dead_letter_job_id,
        },
        f"{advice}, then run it again: dataqueue jobs retry {job.id}, or queue.retry_job({job.id})."
        if job.status == "failed"
        else f"Give it one more: dataqueue jobs edit {job.id} --max-attempts {job.attempts + 1}.",
    )


def _backoff(job: Job, ready_at: datetime, now: datetime) -> Reason:
    entry = job.error_history[-1] if job.error_history else None
    return Reason(
        "retry_backoff",
        f"Attempt {job.attempts} of {job.max_attempts} failed; the next one is at {_moment(ready_at)}, "
        f"in {duration(ready_at - now)}.",
        {
            "next_attempt_at": ready_at,
            "failure_reason": job.failure_reason,
            "error": entry and entry.message,
            "error_type": entry and entry.error_type,
            "frame": entry and entry.frame,
        },
        f"It is tried again by itself. To try now: dataqueue jobs retry {job.id}, or queue.retry_job({job.id}).",
    )


def _takers(situation: Situation) -> list[WorkerRecord]:
    return [worker for worker in situation.workers if worker.alive and situation.job.job_type in worker.job_types]


def _no_worker(situation: Situation) -> Iterator[Reason] | tuple[Reason, ...]:
    if _takers(situation):
        return ()
    alive = [worker for worker in situation.workers if worker.alive]
    if alive:
        message = f"None of the {len(alive)} live workers takes jobs of type {situation.job.job_type}."
    else:
        message = "No worker is alive."
    return (
        Reason(
            "no_worker_for_type",
            message,
            {"alive_workers": len(alive), "their_types": sorted({name for w in alive for name in w.job_types})[:50]},
            "Start a worker whose queue defines this type (dataqueue worker MODULE:QUEUE), or check --job-types.",
        ),
    )


def rate(recent: Sequence[Timing], now: datetime) -> float | None:
    """Ended jobs a second, from a sample that need not be complete: its own span counts, at most an hour."""
    ended = [timing.ended_at for timing in recent if now - timing.ended_at <= _RATE_SPAN]
    if len(ended) < 2:
        return None
    span = (now - min(ended)).total_seconds()
    return len(ended) / span if span > 0 else None


_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def parse_window(text: str) -> timedelta:
    """``15m`` or ``24h`` as a time.

    Raises:
        ConfigError: nothing of the kind.
    """
    match = re.fullmatch(r"(\d{1,6})([smhdw])", text.strip())
    if match is None or int(match[1]) == 0:
        raise ConfigError(f"{text!r:.40} is not a time: write a number and s, m, h, d or w, such as 15m or 24h.")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def duration(time: timedelta) -> str:
    """For people: two units at most."""
    seconds = max(0.0, time.total_seconds())
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.3g} s"
    whole = int(seconds)
    for name, size, smaller, part in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size:
            rest = whole % size // part
            return f"{whole // size} {name}" + (f" {rest} {smaller}" if rest else "")
    return f"{whole} s"


def _ago(worker: WorkerRecord, now: datetime) -> str:
    return f"{duration(now - worker.last_heartbeat_at)} ago"


def _moment(when: datetime | None) -> str:
    return "an unknown time" if when is None else f"{when:%Y-%m-%d %H:%M:%S} UTC"
