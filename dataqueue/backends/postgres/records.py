"""Rows to records."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from dataqueue.backends.base import FailedJob, JobFilter, Timing, WorkerInfo, WorkerRecord
from dataqueue.jobs import ErrorEntry, Job, JobEvent
from dataqueue.limits import LimitState, Rate
from dataqueue.retry import RetryPolicy


def job_from(row: tuple[Any, ...]) -> Job:
    """A row of ``list_jobs.sql``, column by column."""
    (
        job_id, job_type, payload, status, priority, created_at, updated_at, run_at, attempts, max_attempts,
        next_attempt_at, started_at, completed_at, last_failed_at, last_retried_at, last_cancelled_at,
        locked_at, locked_by, cancel_requested_at, failure_reason, error_history, pending_reason, timeout_ms,
        tags, idempotency_key, retry_delay, retry_backoff, retry_delay_max, progress, output, group,
        dead_letter, dead_lettered_at, dead_letter_job_id, depends_on, depends_on_tags, runs_anyway, blocked, unique_key,
        wait_until, wait_token_id,
    ) = row  # fmt: skip
    return Job(
        id=job_id,
        job_type=job_type,
        payload=None if payload is None else json.loads(payload),
        status=status,
        priority=priority,
        created_at=created_at.astimezone(UTC),
        updated_at=updated_at.astimezone(UTC),
        run_at=run_at.astimezone(UTC),
        attempts=attempts,
        max_attempts=max_attempts,
        next_attempt_at=next_attempt_at and next_attempt_at.astimezone(UTC),
        started_at=started_at and started_at.astimezone(UTC),
        completed_at=completed_at and completed_at.astimezone(UTC),
        last_failed_at=last_failed_at and last_failed_at.astimezone(UTC),
        last_retried_at=last_retried_at and last_retried_at.astimezone(UTC),
        last_cancelled_at=last_cancelled_at and last_cancelled_at.astimezone(UTC),
        locked_at=locked_at and locked_at.astimezone(UTC),
        locked_by=locked_by,
        cancel_requested_at=cancel_requested_at and cancel_requested_at.astimezone(UTC),
        failure_reason=failure_reason,
        error_history=_errors(error_history),
        pending_reason=pending_reason,
        timeout=None if timeout_ms is None else timedelta(milliseconds=timeout_ms),
        tags=tuple(tags or ()),
        idempotency_key=idempotency_key,
        group=group,
        retry=RetryPolicy(retry_delay, retry_backoff, retry_delay_max),
        progress=progress,
        output=None if output is None else json.loads(output),
        dead_letter=dead_letter or None,
        dead_lettered_at=dead_lettered_at and dead_lettered_at.astimezone(UTC),
        dead_letter_job_id=dead_letter_job_id,
        depends_on=tuple(depends_on or ()),
        depends_on_tags=tuple(depends_on_tags or ()),
        runs_anyway=runs_anyway,
        blocked=blocked,
        unique_key=unique_key,
        wait_until=wait_until and wait_until.astimezone(UTC),
        wait_token_id=wait_token_id,
    )


def _errors(text: str | None) -> tuple[ErrorEntry, ...]:
    entries: list[dict[str, Any]] = json.loads(text) if text else []
    return tuple(
        ErrorEntry(
            str(entry.get("message", "")),
            datetime.fromisoformat(str(entry["timestamp"])),
            entry.get("type"),
            entry.get("frame"),
        )
        for entry in entries
    )


def event_from(row: tuple[Any, ...]) -> JobEvent:
    event_id, job_id, event_type, created_at, metadata = row
    return JobEvent(
        event_id, job_id, event_type, created_at.astimezone(UTC), None if metadata is None else json.loads(metadata)
    )


def worker_from(row: tuple[Any, ...]) -> WorkerRecord:
    worker_id, host, pid, job_types, concurrency, version, started, beat, expires, alive, running, group_concurrency = (
        row
    )
    return WorkerRecord(
        id=worker_id,
        host=host,
        pid=pid,
        job_types=tuple(job_types),
        concurrency=concurrency,
        version=version,
        started_at=started.astimezone(UTC),
        last_heartbeat_at=beat.astimezone(UTC),
        lease_expires_at=expires.astimezone(UTC),
        alive=alive,
        running=running,
        group_concurrency=group_concurrency,
    )


def limit_from(row: tuple[Any, ...]) -> LimitState:
    job_type, paused_at, paused_by, max_concurrency, count, ms, running, started, opens_at = row
    return LimitState(
        job_type=job_type or None,
        paused_at=paused_at and paused_at.astimezone(UTC),
        paused_by=paused_by,
        max_concurrency=max_concurrency,
        running=running,
        rate=None if count is None else Rate(count, timedelta(milliseconds=ms)),
        started=started,
        opens_at=opens_at and opens_at.astimezone(UTC),
    )


def failure_from(row: tuple[Any, ...]) -> FailedJob:
    job_id, job_type, attempts, max_attempts, failed_at, next_attempt_at, reason, message, error_type, frame = row
    return FailedJob(
        id=job_id,
        job_type=job_type,
        attempts=attempts,
        max_attempts=max_attempts,
        failed_at=failed_at.astimezone(UTC),
        next_attempt_at=next_attempt_at and next_attempt_at.astimezone(UTC),
        reason=reason,
        message=message or "",
        error_type=error_type,
        frame=frame,
    )


def timing_from(row: tuple[Any, ...]) -> Timing:
    job_type, status, created_at, run_at, started_at, ended_at, attempts = row
    return Timing(
        job_type=job_type,
        status=status,
        created_at=created_at.astimezone(UTC),
        run_at=run_at.astimezone(UTC),
        started_at=started_at and started_at.astimezone(UTC),
        ended_at=ended_at.astimezone(UTC),
        attempts=attempts,
    )


def filter_parameters(where: JobFilter) -> dict[str, Any]:
    """The parameters of ``list_jobs.sql`` for these conditions."""
    tags, mode = (None if where.tags is None else list(where.tags)), where.tag_mode
    return {
        "id": None,
        "statuses": list(where.statuses) or None,
        "job_types": list(where.job_types) or None,
        "priority": where.priority,
        "all_tags": (tags or None) if mode in ("all", "exact") else None,
        "within_tags": (tags or None) if mode == "exact" else None,
        "untagged": mode == "exact" and tags == [],
        "any_tags": tags if mode == "any" else None,
        "no_tags": (tags or None) if mode == "none" else None,
        "run_after": where.run_after,
        "run_before": where.run_before,
        "created_after": where.created_after,
        "created_before": where.created_before,
        "error_contains": where.error_contains,
        "group": where.group,
        "retry_due": where.retry_due,
    }


def worker_parameters(worker: WorkerInfo) -> dict[str, Any]:
    return {
        "id": worker.id,
        "host": worker.host,
        "pid": worker.pid,
        "job_types": list(worker.job_types),
        "concurrency": worker.concurrency,
        "version": worker.version,
        "lease_seconds": worker.lease_seconds,
        "group_concurrency": worker.group_concurrency,
    }
