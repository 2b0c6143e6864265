"""Answers about jobs and queues as short Markdown: everything that a job says stands inside the fence."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from dataqueue.mcp_server import safety
from dataqueue.mcp_server.options import Values
from dataqueue.mcp_server.safety import Reply, one_line, shown

from dataqueue.backends.base import Finding, WorkerRecord
from dataqueue.explain import Explanation, duration
from dataqueue.failures import FailureGroup, FailureSummary
from dataqueue.jobs import Job, JobEvent
from dataqueue.limits import LimitState
from dataqueue.status import QueueStatus, Spread, TypeTiming
from dataqueue.steps import Step

MAX_ROWS = 50


def show_status(reply: Reply, status: QueueStatus) -> None:
    estimated = " (completed: estimated)" if status.completed_is_estimated else ""
    counts = ", ".join(f"{name} {count:,}" for name, count in status.by_status.items()) or "no jobs"
    reply.say(f"verdict: {status.verdict}")
    reply.say(f"jobs by status{estimated}: {counts}")
    oldest = status.oldest_ready_seconds
    reply.say(f"longest-waiting due job: {'none is due' if oldest is None else f'{oldest:.1f} s'}")
    alive = [worker for worker in status.workers if worker.alive]
    slots = sum(worker.concurrency for worker in alive)
    held = sum(worker.running for worker in alive)
    reply.say(f"workers: {len(alive)} alive, {len(status.workers) - len(alive)} lost; {held} of {slots} slots in use")
    reply.say(f"window: {duration(status.window)}; checked at {moment(status.checked_at)}")
    for line in status.evidence:
        reply.show(f"evidence: {one_line(line, 500)}")
    if status.by_type:
        reply.show("\n| type | " + " | ".join(_STATUS_COLUMNS) + " |")
        reply.show("|---|" + "--:|" * len(_STATUS_COLUMNS))
        busiest = sorted(status.by_type, key=lambda name: -sum(status.by_type[name].values()))
        for name in busiest[:MAX_ROWS]:
            numbers = " | ".join(f"{status.by_type[name].get(column, 0):,}" for column in _STATUS_COLUMNS)
            reply.show(f"| {one_line(name, 80)} | {numbers} |")
        reply.truncated |= len(busiest) > MAX_ROWS
    if status.timings:
        reply.show(f"\nFrom the {status.sampled:,} jobs of a sample that ended lately:")
        reply.show("| type | ended | failed | a minute | wait p50 / p95 | run p50 / p95 |\n|---|--:|--:|--:|--:|--:|")
        for timing in sorted(status.timings, key=lambda timing: -timing.ended)[:MAX_ROWS]:
            reply.show(_timing_row(timing))
    if status.limits:
        _show_limits(reply, status.limits)
    for line in status.suggestions:
        reply.advise(f"next: {line}")


_STATUS_COLUMNS = ("pending", "processing", "waiting", "completed", "failed", "cancelled")


def _timing_row(timing: TypeTiming) -> str:
    return (
        f"| {one_line(timing.job_type, 80)} | {timing.ended:,} | {timing.failed:,} | {timing.per_minute:,.4g} "
        f"| {_spread(timing.wait)} | {_spread(timing.run)} |"
    )


def _show_limits(reply: Reply, limits: Sequence[LimitState]) -> None:
    reply.show("\n| limited type | paused | running | started | more from |\n|---|---|--:|--:|---|")
    for state in limits[:MAX_ROWS]:
        paused, running, started, opens = "–", "–", "–", "–"
        if state.paused_at is not None:
            paused = f"since {moment(state.paused_at)}" + (
                f" by {one_line(state.paused_by)}" if state.paused_by else ""
            )
        if state.max_concurrency is not None:
            running = f"{state.running or 0:,} of {state.max_concurrency:,}"
        if state.rate is not None:
            started = f"{state.started or 0:,} of {state.rate.count:,} in {duration(state.rate.per)}"
            if (state.started or 0) >= state.rate.count:
                opens = moment(state.opens_at) or "–"
        name = "(whole queue)" if state.job_type is None else one_line(state.job_type, 80)
        reply.show(f"| {name} | {paused} | {running} | {started} | {opens} |")
    reply.truncated |= len(limits) > MAX_ROWS


def _spread(spread: Spread | None) -> str:
    if spread is None:
        return "–"
    return f"{duration(timedelta(seconds=spread.p50))} / {duration(timedelta(seconds=spread.p95))}"


def show_jobs(reply: Reply, jobs: Sequence[Job]) -> None:
    if not jobs:
        reply.say("No job meets these conditions.")
        return
    reply.show("| id | type | status | attempts | priority | created | note | tags |")
    reply.show("|--:|---|---|--:|--:|---|---|---|")
    for job in jobs:
        reply.show(
            f"| {job.id} | {one_line(job.job_type, 60)} | {job.status} | {job.attempts}/{job.max_attempts} "
            f"| {job.priority} | {moment(job.created_at)} | {_note(job)} | {one_line(' '.join(job.tags), 80)} |"
        )


def _note(job: Job) -> str:
    match job.status:
        case "failed":
            again = f"again at {moment(job.next_attempt_at)}: " if job.next_attempt_at else ""
            return again + one_line(job.last_error, 120)
        case "processing":
            progress = f", {job.progress} %" if job.progress is not None else ""
            return f"on {one_line(job.locked_by, 60)}{progress}"
        case "cancelled" if job.cascade_root is not None:
            return f"since job {job.cascade_root} ended badly"
        case "pending" if job.blocked:
            return "waits for other jobs"
        case "pending" if job.run_at > job.created_at:
            return f"due {moment(job.run_at)}"
        case _:
            return ""


def show_job(reply: Reply, job: Job, events: Sequence[JobEvent] | None, include: Sequence[str], values: Values) -> None:
    reply.say(f"job {job.id}: {job.status}, attempt {job.attempts} of {job.max_attempts}")
    facts: dict[str, Any] = {
        "type": one_line(job.job_type),
        "priority": job.priority,
        "tags": [one_line(tag, 80) for tag in job.tags] or None,
        "group": one_line(job.group, 80) or None,
        "idempotency_key": one_line(job.idempotency_key, 80) or None,
        "unique_key": one_line(job.unique_key, 80) or None,
        "depends_on": list(job.depends_on[:20]) or None,
        "depends_on_tags": [one_line(tag, 80) for tag in job.depends_on_tags] or None,
        "blocked": job.blocked or None,
        "dead_letter_type": one_line(job.dead_letter, 80) or None,
        "dead_letter_job_id": job.dead_letter_job_id,
        "created_at": moment(job.created_at),
        "run_at": moment(job.run_at),
        "started_at": moment(job.started_at),
        "completed_at": moment(job.completed_at),
        "last_failed_at": moment(job.last_failed_at),
        "next_attempt_at": moment(job.next_attempt_at),
        "last_cancelled_at": moment(job.last_cancelled_at),
        "cancel_requested_at": moment(job.cancel_requested_at),
        "worker": one_line(job.locked_by) or None,
        "failure_reason": job.failure_reason,
        "timeout": duration(job.timeout) if job.timeout else None,
        "progress": job.progress,
        "waits_until": moment(job.wait_until),
        "waits_for_token": one_line(job.wait_token_id, 80) or None,
    }
    reply.show("\n".join(f"{name}: {value}" for name, value in facts.items() if value is not None))
    if "payload" in include:
        reply.show(f"payload ({values}): {_value(job.payload, values)}")
    if "output" in include:
        reply.show(f"output ({values}): {_value(job.output, values)}")
    if "errors" in include and job.error_history:
        reply.show("errors, newest first:")
        for number, entry in enumerate(reversed(job.error_history[-20:])):
            where = " ".join(filter(None, (one_line(entry.error_type, 80), one_line(entry.frame, 120))))
            reply.show(f"- {moment(entry.timestamp)} {where}: {shown(entry.message, 2000 if number < 3 else 300)}")
        reply.truncated |= len(job.error_history) > 20
    if events is not None:
        reply.show("events, newest first:")
        for event in reversed(events[-50:]):
            details = "" if not event.metadata else " " + one_line(_compact(safety.redacted(event.metadata)), 300)
            reply.show(f"- {moment(event.created_at)} {one_line(event.event_type, 40)}{details}")
        reply.truncated |= len(events) > 50


def show_steps(reply: Reply, steps: Sequence[Step], values: Values) -> None:
    reply.show(f"steps ({values}), in their order:" if steps else "steps: none")
    for step in steps[:100]:
        took = "goes on" if step.duration is None else f"took {duration(step.duration)}"
        what = "" if step.kind == "step" else f" (waited for {step.kind})"
        line = f"- {step.seq} {one_line(step.name, 80)}{what}: {moment(step.started_at)}, {took}"
        if step.attempts > 1:
            line += f", {step.attempts} tries"
        if step.done and step.kind != "sleep":
            line += f", result {one_line(_value(step.result, values), 400)}"
        reply.show(line)
    reply.truncated |= len(steps) > 100


def _value(value: Any, values: Values) -> str:
    if values == "shape":
        return safety.as_json(safety.shape(value), 6000)
    return safety.as_json(safety.redacted(value, full=values == "full"), 12_000)


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def show_explanation(reply: Reply, explanation: Explanation) -> None:
    reply.say(f"job {explanation.job_id}: {explanation.state}; will run: {explanation.will_run}")
    if explanation.eta is not None:
        reply.say(f"eta: {moment(explanation.eta)}")
    reply.say(f"reasons: {', '.join(reason.code for reason in explanation.reasons)}")
    reply.say(f"checked at {moment(explanation.checked_at)} (the store's clock)")
    if explanation.job_type is not None:
        reply.show(f"type: {one_line(explanation.job_type)}")
    if explanation.schedule is not None:
        reply.show(f"added by schedule: {one_line(explanation.schedule)}")
    for reason in explanation.reasons:
        reply.show(f"{reason.code}: {one_line(reason.message, 600)}")
        evidence = {name: _plain(value) for name, value in reason.evidence.items() if value is not None}
        if evidence:
            reply.show(f"  evidence: {_compact(evidence)}")
    for reason in explanation.reasons:
        if reason.fix:
            reply.advise(f"fix ({reason.code}): {reason.fix}")


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return moment(value)
    if isinstance(value, str):
        return shown(value, 1000)
    return safety.redacted(value) if isinstance(value, list | dict) else value


def show_failures(reply: Reply, summary: FailureSummary, window: timedelta) -> None:
    reply.say(f"{summary.total:,} failed jobs within {duration(window)}, {summary.group_count} causes")
    if summary.truncated:
        reply.say("There may be more: only the newest 10,000 failed jobs were read.")
    for place, group in enumerate(summary.groups, 1):
        reply.show(_failure_group(place, group))
    if summary.groups:
        reply.advise(f"next: explain_job {summary.groups[0].sample_ids[0]}, or get_job with include=[errors, events]")


def _failure_group(place: int, group: FailureGroup) -> str:
    what = one_line(group.error_type or group.reason or "error", 80)
    return (
        f"{place}. {what} in {one_line(group.job_type, 80)}"
        f"{f' at {one_line(group.frame, 120)}' if group.frame else ''} [{group.fingerprint}]\n"
        f"   count {group.count:,}, of which {group.will_retry:,} will be tried again by themselves; "
        f"first {moment(group.first_at)}, last {moment(group.last_at)}\n"
        f"   newest message: {one_line(group.message, 500)}\n"
        f"   jobs: {', '.join(map(str, group.sample_ids))}{', …' if group.count > len(group.sample_ids) else ''}"
    )


def show_workers(
    reply: Reply, workers: Sequence[WorkerRecord], held: Mapping[str, Sequence[Job]], now: datetime
) -> None:
    alive = sum(worker.alive for worker in workers)
    reply.say(f"{alive} workers alive, {len(workers) - alive} lost; checked at {moment(now)}")
    for worker in workers[:MAX_ROWS]:
        state = "alive" if worker.alive else "LOST"
        reply.show(
            f"- {one_line(worker.id, 80)} ({state}): holds {worker.running} of {worker.concurrency}{_of_a_group(worker)}; host "
            f"{one_line(worker.host, 60)}, pid {worker.pid}; dataqueue {one_line(worker.version, 20)}; since "
            f"{moment(worker.started_at)}; last heartbeat {duration(now - worker.last_heartbeat_at)} ago; types: "
            f"{one_line(', '.join(worker.job_types), 300)}"
        )
        for job in held.get(worker.id, ())[:10]:
            running = duration(now - job.locked_at) if job.locked_at else "?"
            reply.show(f"  - job {job.id} ({one_line(job.job_type, 60)}) for {running}")
    reply.total = len(workers)
    reply.truncated |= len(workers) > MAX_ROWS


def _of_a_group(worker: WorkerRecord) -> str:
    return "" if worker.group_concurrency is None else f", at most {worker.group_concurrency} of one group"


def show_findings(reply: Reply, findings: Iterable[Finding]) -> None:
    for finding in findings:
        fix = f" → {one_line(finding.fix, 300)}" if finding.fix else ""
        reply.show(f"- {finding.level}: {one_line(finding.check, 40)}: {one_line(finding.message, 400)}{fix}")


def moment(when: datetime | None) -> str | None:
    return None if when is None else when.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
