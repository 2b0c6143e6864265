"""Schedules in Postgres."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from psycopg.rows import tuple_row

from dataqueue.backends.postgres.connect import UNDONE
from dataqueue.cron_jobs import CronSchedule, FirePlan, ScheduleChange, ScheduleStatus, read_missed
from dataqueue.jsonvalue import dumps
from dataqueue.retry import RetryPolicy

if TYPE_CHECKING:
    from psycopg import AsyncConnection

    from dataqueue.backends.postgres.backend import PostgresBackend


async def add(backend: PostgresBackend, schedule: CronSchedule) -> int | None:
    cursor = await backend.write(backend.statements("add_schedule"), _parameters(schedule))
    rows = await cursor.fetchall()
    return rows[0][0] if rows else None


async def find(
    backend: PostgresBackend, schedule_id: int | None, name: str | None, status: ScheduleStatus | None
) -> list[CronSchedule]:
    parameters = {"id": schedule_id, "name": name, "status": status}
    return [_schedule_from(row) for row in await backend.read(backend.statements("list_schedules"), parameters)]


async def change(backend: PostgresBackend, schedule_id: int, change: ScheduleChange) -> CronSchedule | None:
    async def run(conn: AsyncConnection[Any]) -> CronSchedule | None:
        async with conn.transaction():
            cursor = conn.cursor(row_factory=tuple_row)
            await cursor.execute(backend.statements("lock_schedule"), {"id": schedule_id})
            row = await cursor.fetchone()
            if row is None:
                return None
            before = _schedule_from(row[1:])
            after = change(before, row[0].astimezone(UTC))
            if after is not before:
                await cursor.execute(backend.statements("store_schedule"), _parameters(after))
            return after

    return await backend.on_some_connection(run, UNDONE)


async def remove(backend: PostgresBackend, schedule_id: int) -> bool:
    return (await backend.write(backend.statements("remove_schedule"), {"id": schedule_id})).rowcount == 1


async def next_fire(backend: PostgresBackend, without: Sequence[int]) -> tuple[datetime, datetime | None]:
    now, fire = (await backend.read(backend.statements("find_next_fire"), {"without": list(without)}))[0]
    return now.astimezone(UTC), fire and fire.astimezone(UTC)


async def due(
    backend: PostgresBackend, limit: int, without: Sequence[int]
) -> tuple[datetime | None, list[CronSchedule]]:
    parameters = {"limit": limit, "without": list(without)}
    rows = await backend.read(backend.statements("list_due_schedules"), parameters)
    return (rows[0][0].astimezone(UTC) if rows else None), [_schedule_from(row[1:]) for row in rows]


async def fire(backend: PostgresBackend, schedule: CronSchedule, plan: FirePlan) -> list[int] | None:
    parameters = {
        "id": schedule.id,
        "expected": schedule.next_run_at,
        "fires": list(plan.fires),
        "next": plan.next_run_at,
    }
    rows = await (await backend.write(backend.statements("fire_schedule"), parameters)).fetchall()
    return list(rows[0][0]) if rows else None


def _parameters(schedule: CronSchedule) -> dict[str, Any]:
    return {
        "id": schedule.id,
        "name": schedule.name,
        "expression": schedule.expression,
        "timezone": schedule.timezone,
        "job_type": schedule.job_type,
        "payload": dumps(schedule.payload),
        "status": schedule.status,
        "allow_overlap": schedule.allow_overlap,
        "missed": schedule.missed_word,
        "catch_up_limit": schedule.catch_up_limit,
        "priority": schedule.priority,
        "max_attempts": schedule.max_attempts,
        "timeout_ms": schedule.timeout_ms,
        "tags": list(schedule.tags) or None,
        "retry_delay": schedule.retry.delay,
        "retry_backoff": schedule.retry.backoff,
        "retry_delay_max": schedule.retry.delay_max,
        "dead_letter": schedule.dead_letter,
        "group": schedule.group,
        "next_run_at": schedule.next_run_at,
        "problem": schedule.problem,
        "declared_at": schedule.declared_at,
    }


def _schedule_from(row: tuple[Any, ...]) -> CronSchedule:
    (
        schedule_id, name, expression, timezone, job_type, payload, status, allow_overlap, missed, catch_up_limit, priority,
        max_attempts, timeout_ms, tags, delay, backoff, delay_max, dead_letter, group, next_run_at, last_enqueued_at,
        last_job_id, last_skipped_at, last_skip_reason, problem, declared_at, created_at, updated_at,
    ) = row  # fmt: skip
    return CronSchedule(
        id=schedule_id,
        name=name,
        expression=expression,
        timezone=timezone or "UTC",
        job_type=job_type,
        payload=json.loads(payload),
        status="paused" if status == "paused" else "active",
        allow_overlap=bool(allow_overlap),
        missed=read_missed(missed, catch_up_limit),
        priority=priority or 0,
        max_attempts=3 if max_attempts is None else max_attempts,
        timeout=None if timeout_ms is None else timedelta(milliseconds=timeout_ms),
        tags=tuple(tags or ()),
        retry=RetryPolicy(delay, backoff, delay_max),
        dead_letter=dead_letter or None,
        group=group,
        next_run_at=next_run_at and next_run_at.astimezone(UTC),
        last_enqueued_at=last_enqueued_at and last_enqueued_at.astimezone(UTC),
        last_job_id=last_job_id,
        last_skipped_at=last_skipped_at and last_skipped_at.astimezone(UTC),
        last_skip_reason=last_skip_reason,
        problem=problem,
        declared_at=declared_at and declared_at.astimezone(UTC),
        created_at=created_at.astimezone(UTC),
        updated_at=updated_at.astimezone(UTC),
    )
