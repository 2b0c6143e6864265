"""Schedules in Redis: of each a definition and a state, both JSON; a counter of its changes is the fence."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from dataqueue.backends.redis.call import store_errors
from dataqueue.backends.redis.records import encode_spec, floor_ms, inverted, moment
from dataqueue.cron_jobs import CronSchedule, FirePlan, ScheduleChange, ScheduleStatus, read_missed
from dataqueue.errors import StoreUnavailable
from dataqueue.jsonvalue import dumps
from dataqueue.retry import RetryPolicy

if TYPE_CHECKING:
    from dataqueue.backends.redis.backend import RedisBackend

_TRIES = 100


async def add(backend: RedisBackend, schedule: CronSchedule) -> int | None:
    return await _store(backend, "", schedule)


async def _store(backend: RedisBackend, schedule_id: int | str, schedule: CronSchedule) -> int | None:
    fire = schedule.next_run_at if schedule.status == "active" else None
    answer = await backend.call(
        "store_schedule", schedule_id, schedule.name, schedule.version, _definition(schedule), _state(schedule),
        "" if fire is None else floor_ms(fire),
    )  # fmt: skip
    return answer or None


async def find(
    backend: RedisBackend, schedule_id: int | None, name: str | None, status: ScheduleStatus | None
) -> list[CronSchedule]:
    key = backend.key("cr")
    with store_errors(backend.location()):
        if name is not None:
            number = await backend.client.hget(key, f"n{name}")
            if number is None or (schedule_id is not None and int(number) != schedule_id):
                return []
            schedule_id = int(number)
        if schedule_id is not None:
            found = await _load(backend, [schedule_id])
        else:
            stored: dict[bytes, bytes] = await backend.client.hgetall(key)
            numbers = sorted(int(field[1:]) for field in stored if field.startswith(b"s"))
            found = [
                _schedule_from(number, stored[b"d%d" % number], stored[b"s%d" % number])
                for number in numbers
                if b"d%d" % number in stored
            ]
    return [schedule for schedule in found if status is None or schedule.status == status]


async def _load(backend: RedisBackend, ids: Sequence[int]) -> list[CronSchedule]:
    if not ids:
        return []
    fields = [f"{kind}{number}" for number in ids for kind in "ds"]
    values: list[bytes | None] = await backend.client.hmget(backend.key("cr"), fields)
    found: list[CronSchedule] = []
    for number, definition, state in zip(ids, values[::2], values[1::2], strict=True):
        if definition is not None and state is not None:
            found.append(_schedule_from(number, definition, state))
    return found


async def change(backend: RedisBackend, schedule_id: int, change: ScheduleChange) -> CronSchedule | None:
    for _ in range(_TRIES):
        found = await find(backend, schedule_id, None, None)
        if not found:
            return None
        before = found[0]
        after = change(before, await backend.now())
        if after is before:
            return after
        if await _store(backend, schedule_id, after):
            return replace(after, version=before.version + 1)
    raise StoreUnavailable(
        f"Schedule {schedule_id} is being changed by others all the time. Nothing was changed; try again."
    )


async def remove(backend: RedisBackend, schedule_id: int) -> bool:
    found = await find(backend, schedule_id, None, None)
    return bool(found) and bool(await backend.call("remove_schedule", schedule_id, found[0].name))


async def next_fire(backend: RedisBackend, without: Sequence[int]) -> tuple[datetime, datetime | None]:
    with store_errors(backend.location()):
        pipe = backend.client.pipeline(transaction=False)
        pipe.time()
        pipe.zrange(backend.key("cd"), 0, len(without), withscores=True)
        (seconds, micros), first = await pipe.execute()
    fires = [score for member, score in first if int(member) not in without]
    return moment(seconds * 1000 + micros // 1000), moment(int(fires[0])) if fires else None


async def due(backend: RedisBackend, limit: int, without: Sequence[int]) -> tuple[datetime | None, list[CronSchedule]]:
    with store_errors(backend.location()):
        now = await backend.now_ms()
        members = await backend.client.zrangebyscore(backend.key("cd"), "-inf", now, 0, limit + len(without))
        loaded = await _load(backend, [int(member) for member in members if int(member) not in without][:limit])
    # Others may have fired them between the two.
    found = [one for one in loaded if one.status == "active" and one.next_run_at and one.next_run_at <= moment(now)]
    return (moment(now) if found else None), found


async def fire(backend: RedisBackend, schedule: CronSchedule, plan: FirePlan) -> list[int] | None:
    spec = schedule.spec()
    told = [json.dumps({"schedule": schedule.name, "scheduledFor": at.isoformat()}) for at in plan.fires]
    answer = await backend.call(
        "fire_schedule",
        schedule.id,
        schedule.version,
        "" if plan.next_run_at is None else floor_ms(plan.next_run_at),
        int(schedule.allow_overlap),
        spec.job_type,
        inverted(spec.priority),
        spec.max_attempts,
        spec.group or "",
        int(spec.dead_letter is not None),
        encode_spec(spec),
        len(schedule.tags),
        *schedule.tags,
        *told,
    )
    return None if answer == 0 else list(answer)


def _definition(schedule: CronSchedule) -> str:
    retry = schedule.retry
    options = {
        "n": schedule.name,
        "e": schedule.expression,
        "z": schedule.timezone,
        "t": schedule.job_type,
        "p": schedule.payload,
        "ov": schedule.allow_overlap,
        "mi": schedule.missed_word,
        "cu": schedule.catch_up_limit,
        "pr": schedule.priority,
        "ma": schedule.max_attempts,
        "ms": schedule.timeout_ms,
        "tg": schedule.tags,
        "re": (retry.delay, retry.backoff, retry.delay_max),
        "dl": schedule.dead_letter,
        "g": schedule.group,
    }
    return dumps(options)


def _state(schedule: CronSchedule) -> str:
    times = {
        "nx": schedule.next_run_at,
        "le": schedule.last_enqueued_at,
        "sk": schedule.last_skipped_at,
        "da": schedule.declared_at,
        "cr": schedule.created_at,
    }
    state: dict[str, Any] = {name: floor_ms(at) for name, at in times.items() if at is not None}
    texts = {
        "st": schedule.status,
        "lj": None if schedule.last_job_id is None else str(schedule.last_job_id),
        "sr": schedule.last_skip_reason,
        "pb": schedule.problem,
    }
    return json.dumps(state | {name: text for name, text in texts.items() if text is not None})


def _schedule_from(schedule_id: int, definition: bytes, stored: bytes) -> CronSchedule:
    d: dict[str, Any] = json.loads(definition)
    state: dict[str, Any] = json.loads(stored)

    def at(name: str) -> datetime | None:
        return moment(int(state[name])) if name in state else None

    return CronSchedule(
        id=schedule_id,
        name=d["n"],
        expression=d["e"],
        timezone=d["z"],
        job_type=d["t"],
        payload=d["p"],
        status="paused" if state["st"] == "paused" else "active",
        allow_overlap=d["ov"],
        missed=read_missed(d["mi"], d["cu"]),
        priority=d["pr"],
        max_attempts=d["ma"],
        timeout=None if d["ms"] is None else timedelta(milliseconds=d["ms"]),
        tags=tuple(d["tg"]),
        retry=RetryPolicy(*d["re"]),
        dead_letter=d["dl"],
        group=d["g"],
        next_run_at=at("nx"),
        last_enqueued_at=at("le"),
        last_job_id=int(state["lj"]) if "lj" in state else None,
        last_skipped_at=at("sk"),
        last_skip_reason=state.get("sr"),
        problem=state.get("pb"),
        declared_at=at("da"),
        created_at=moment(int(state["cr"])),
        updated_at=moment(int(state["up"])),
        version=int(state["v"]),
    )
