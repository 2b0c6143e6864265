"""The Redis store: one script call a transition."""

from __future__ import annotations

import itertools
import json
from array import array
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any

from redis.exceptions import NoPermissionError, ReadOnlyError

from dataqueue.backends.base import (
    AHEAD_LIMIT,
    CANCELLABLE,
    RETRYABLE,
    Added,
    Cancelled,
    ChangeResult,
    Claimed,
    Completed,
    Cycle,
    EndStatus,
    Failed,
    FailedJob,
    Finding,
    Heart,
    Held,
    JobFilter,
    Outcome,
    Reclaimed,
    Signal,
    Situation,
    Stats,
    Timing,
    Topic,
    Transaction,
    Waiting,
    WorkerInfo,
    WorkerRecord,
)
from dataqueue.backends.redis import adding, changing, cleaning, doctor, durable, reading, readonly, schedules
from dataqueue.backends.redis.call import AnyClient, Scripts, store_errors
from dataqueue.backends.redis.connect import Endpoint, endpoint_of_client, endpoint_of_url
from dataqueue.backends.redis.heart import RedisHeart
from dataqueue.backends.redis.layout import (
    LAYOUT,
    REASON_CODES,
    STATUS_CODES,
    Head,
    key_prefix,
    pack_held,
    pack_id,
    pack_int,
    unpack_int,
)
from dataqueue.backends.redis.listen import listen
from dataqueue.backends.redis.records import (
    STATUS_NAMES,
    claimed_from,
    encode_spec,
    events_from,
    id_of,
    job_from,
    moment,
    worker_arguments,
    worker_from,
)
from dataqueue.cron_jobs import CronSchedule, FirePlan, ScheduleChange, ScheduleStatus
from dataqueue.dead_letters import DeadLetter
from dataqueue.errors import ConfigError, ReadOnlyQueue, SchemaError, StoreUnavailable
from dataqueue.jobs import Job, JobEvent, JobStatus
from dataqueue.limits import LimitState, TypeLimits
from dataqueue.options import JobEdit, JobSpec
from dataqueue.steps import StepRecord
from dataqueue.tls import TLS
from dataqueue.tokens import Token, TokenSpec

OUTCOMES = 500
"""Outcomes a script call, likewise."""

DEFAULT_PREFIX = "dq"
_REFUSED, _CANCELLED_INSTEAD = b"02"


class RedisBackend:
    name = "redis"

    def __init__(self, endpoint: Endpoint, prefix: str, read_only: bool = False) -> None:
        if not prefix or len(prefix) > 200 or any(character in prefix for character in "\x00\r\n "):
            raise ConfigError(f"key_prefix must be 1 to 200 characters without white space, not {prefix!r:.80}.")
        self._endpoint = endpoint
        self.read_only = read_only
        self.prefix = key_prefix(prefix)
        self.scripts = Scripts(self.prefix)
        self.client: AnyClient = None
        self._type_names: dict[int, str] = {}

    @classmethod
    def from_url(
        cls, url: str, *, key_prefix: str | None, tls: TLS | None, max_connections: int, read_only: bool
    ) -> RedisBackend:
        endpoint, named = endpoint_of_url(url, tls, max_connections)
        return cls(endpoint, named or DEFAULT_PREFIX if key_prefix is None else key_prefix, read_only)

    @classmethod
    def from_client(cls, client: AnyClient, *, key_prefix: str | None) -> RedisBackend:
        return cls(endpoint_of_client(client), DEFAULT_PREFIX if key_prefix is None else key_prefix)

    def key(self, name: str) -> str:
        return f"{self.prefix}{name}"

    # -- opening ----------------------------------------------------------------------------------

    def location(self) -> str:
        return f"{self._endpoint.where}, keys {self.prefix}*"

    async def open(self) -> None:
        self.client = self._endpoint.make_async()
        try:
            with store_errors(self.location()):
                if self.read_only:
                    await readonly.check(readonly.read_only(self.client), self.key("m"), self.location())
                layout = int(await self.client.hget(self.key("m"), "layout") or await self._mark_layout())
            if layout != LAYOUT:
                raise SchemaError(
                    f"The keys at {self.location()} have layout {layout}; this package needs {LAYOUT}. "
                    + ("Upgrade dataqueue on this machine." if layout > LAYOUT else "Use another key prefix.")
                )
        except BaseException:
            await self.close()
            raise

    async def _mark_layout(self) -> int:
        try:
            if self.read_only:
                return LAYOUT  # there is nothing yet
            await self.client.hsetnx(self.key("m"), "layout", LAYOUT)
            return int(await self.client.hget(self.key("m"), "layout"))
        except (NoPermissionError, ReadOnlyError):  # this user, or this replica, only reads
            return LAYOUT

    async def close(self) -> None:
        client, self.client = self.client, None
        if client is not None and self._endpoint.owned:
            await client.aclose()

    async def migrate(self, *, shared: bool = False) -> list[str]:
        if shared:
            raise ConfigError("Only Postgres tables can be shared with the TypeScript library.")
        return []

    async def call(self, name: str, *arguments: Any) -> Any:
        if self.client is None:
            raise StoreUnavailable(f"The queue at {self.location()} is closed.")
        if self.read_only:
            raise ReadOnlyQueue(self.location())
        with store_errors(self.location()):
            return await self.scripts.call(self.client, name, *arguments)

    # -- jobs -------------------------------------------------------------------------------------

    async def add(self, specs: Sequence[JobSpec], conn: object | None = None) -> list[Added]:
        self._refuse_conn(conn)
        added: list[Added] = []
        for start in range(0, len(specs), adding.CHUNK):
            added += await adding.add_chunk(self, specs[start : start + adding.CHUNK], [job_id for job_id, _ in added])
        return added

    def add_sync(self, specs: Sequence[JobSpec], conn: Any) -> list[Added]:
        self._refuse_conn(conn)
        return []

    async def add_stream(self, specs: Iterable[JobSpec], conn: object | None = None) -> AsyncIterator[list[Added]]:
        self._refuse_conn(conn)
        # All are checked before the first is stored: a thousand are one change, more are not.
        before = array("q")
        for chunk in list(_batches(specs)):
            added = await adding.add_chunk(self, chunk, before)
            before.extend(job_id for job_id, _ in added)
            yield added

    def _refuse_conn(self, conn: object | None) -> None:
        if conn is not None:
            raise ConfigError(
                "conn= needs a Postgres queue: a job in Redis cannot commit together with a database's rows. "
                "Nothing was added. Add it after the commit, with an idempotency_key."
            )

    async def get_job(self, job_id: int) -> Job | None:
        jobs = await self.load([job_id])
        return jobs[0] if jobs else None

    async def load(self, job_ids: Sequence[int], values: bool = True) -> list[Job]:
        """The jobs that exist, in the order given. Without ``values``, payloads and outputs are None."""
        if not job_ids:
            return []
        ids = [pack_id(job_id) for job_id in job_ids if 0 < job_id < 2**48]
        if not ids:
            return []
        with store_errors(self.location()):
            pipe = self.client.pipeline(transaction=False)
            for name in ("h", "s", "er", "o")[: 4 if values else 3]:
                pipe.hmget(self.key(name), ids)
            heads, specs, errors, *more = await pipe.execute()
        outputs = more[0] if values else [None] * len(ids)
        waiting = [id_ for id_, data in zip(ids, heads, strict=True) if data and data[0] == STATUS_CODES["waiting"]]
        waits: Mapping[bytes, StepRecord] = await durable.open_waits(self, waiting) if waiting else {}
        jobs: list[Job] = []
        for packed, data, spec, output, error in zip(ids, heads, specs, outputs, errors, strict=True):
            if data is not None and spec is not None:
                head = Head(data)
                job_type = await self.type_name(head["type"])
                jobs.append(
                    job_from(unpack_int(packed), head, spec, job_type, output, error, values, waits.get(packed))
                )
        return jobs

    async def type_name(self, number: int) -> str:
        name = self._type_names.get(number)
        if name is None:
            with store_errors(self.location()):
                stored = await self.client.hget(self.key("tn"), number)
            name = self._type_names[number] = stored.decode() if stored else f"(type {number})"
        return name

    async def list_jobs(
        self, where: JobFilter, limit: int, before_id: int | None, offset: int, values: bool = True
    ) -> list[Job]:
        with store_errors(self.location()):
            return await reading.list_jobs(self, where, limit, before_id, offset, values)

    async def situation(self, job_id: int) -> Situation | None:
        job = await self.get_job(job_id)
        if job is None:
            return None
        workers = await self.list_workers()
        with store_errors(self.location()):
            found = await reading.situation(self, job, workers)
        found["ahead"] = min(found["ahead"], AHEAD_LIMIT)
        return Situation(
            job=job,
            now=await self.now(),
            row_locked=False,  # a script is never half-way for anybody else
            workers=workers,
            limits=tuple(item for item in await self.list_limits() if item.job_type in (None, job.job_type)),
            **found,
        )

    async def list_failures(self, job_type: str | None, seconds: float, limit: int) -> list[FailedJob]:
        since = await self.now() - timedelta(seconds=seconds)
        with store_errors(self.location()):
            return [item async for item in reading.list_failures(self, job_type, since, limit)]

    async def sample_finished(self, job_type: str | None, limit: int) -> list[Timing]:
        with store_errors(self.location()):
            return await reading.sample_finished(self, job_type, limit)

    async def list_events(self, job_id: int) -> list[JobEvent]:
        if not 0 < job_id < 2**48:
            return []
        packed = pack_id(job_id)
        with store_errors(self.location()):
            pipe = self.client.pipeline(transaction=False)
            pipe.hget(self.key("ev"), packed)
            pipe.hget(self.key("h"), packed)
            older, data = await pipe.execute()
        if data is None:
            return []
        head = Head(data)
        return events_from(job_id, await self.type_name(head["type"]), (older or b"") + head.events)

    async def finished(self, job_ids: Sequence[int]) -> dict[int, bool]:
        ids = [job_id for job_id in job_ids if 0 < job_id < 2**48]
        if not ids:
            return {}
        with store_errors(self.location()):
            heads = await self.client.hmget(self.key("h"), [pack_id(job_id) for job_id in ids])
        known: dict[int, bool] = {}
        for job_id, data in zip(ids, heads, strict=True):
            if data is not None:
                head = Head(data)
                status = STATUS_NAMES[head["status"]]
                known[job_id] = status in ("completed", "cancelled") or (status == "failed" and not head["next_at"])
        return known

    async def cancel(
        self, ids: Sequence[int], by: str | None = None, statuses: Sequence[JobStatus] = CANCELLABLE
    ) -> dict[int, ChangeResult]:
        return await changing.cancel(self, ids, by, statuses)

    async def retry(
        self, ids: Sequence[int], by: str | None = None, statuses: Sequence[JobStatus] = RETRYABLE, ended: bool = False
    ) -> dict[int, ChangeResult]:
        return await changing.retry(self, ids, by, statuses, ended)

    async def edit(self, ids: Sequence[int], edit: JobEdit, by: str | None = None) -> dict[int, ChangeResult]:
        return await changing.edit(self, ids, edit, by)

    async def redrive(self, letter: DeadLetter, by: str | None = None) -> int | None:
        if letter.source_id >= 2**48:
            return None
        spec, ids = letter.spec, (pack_id(letter.id), pack_id(letter.source_id))
        whose = "" if by is None else f', "by": {json.dumps(by)}'
        answer = await self.call(
            "redrive", *ids, spec.job_type, changing.by_metadata(by), whose, spec.max_attempts, encode_spec(spec)
        )
        return answer or None

    async def pause(self, job_type: str | None, by: str | None = None) -> bool:
        return bool(await self.call("pause", job_type or "", json.dumps(by)))

    async def resume(self, job_type: str | None) -> bool:
        return bool(await self.call("resume", job_type or ""))

    async def list_limits(self) -> list[LimitState]:
        with store_errors(self.location()):
            return await reading.list_limits(self)

    async def stats(self) -> Stats:
        with store_errors(self.location()):
            by_type, oldest = await reading.count(self)
        return Stats(by_type=by_type, oldest_ready_by_type=oldest, workers=await self.list_workers())

    async def doctor(self, deep: bool = False) -> list[Finding]:
        with store_errors(self.location()):
            return await doctor.examine(self, deep)

    async def now(self) -> datetime:
        with store_errors(self.location()):
            return moment(await self.now_ms())

    async def now_ms(self) -> int:
        """The store's clock, in milliseconds."""
        seconds, micros = await self.client.time()
        return seconds * 1000 + micros // 1000

    async def list_workers(self) -> list[WorkerRecord]:
        with store_errors(self.location()):
            now = await self.now_ms()
            ends = await self.client.zrange(self.key("wl"), 0, -1, withscores=True)
            pipe = self.client.pipeline(transaction=False)
            for worker, _ in ends:
                pipe.hget(self.key("wk"), worker)
                pipe.zlexcount(self.key("ls"), b"[" + worker + b"\x00", b"(" + worker + b"\x01")
            answers: list[Any] = await pipe.execute() if ends else []
        records = [
            worker_from(worker, answers[2 * n], end, now, answers[2 * n + 1])
            for n, (worker, end) in enumerate(ends)
            if answers[2 * n] is not None
        ]
        return sorted(records, key=lambda record: (record.started_at, record.id))

    # -- schedules --------------------------------------------------------------------------------

    async def add_schedule(self, schedule: CronSchedule) -> int | None:
        return await schedules.add(self, schedule)

    async def list_schedules(
        self, *, schedule_id: int | None = None, name: str | None = None, status: ScheduleStatus | None = None
    ) -> list[CronSchedule]:
        return await schedules.find(self, schedule_id, name, status)

    async def change_schedule(self, schedule_id: int, change: ScheduleChange) -> CronSchedule | None:
        return await schedules.change(self, schedule_id, change)

    async def remove_schedule(self, schedule_id: int) -> bool:
        return await schedules.remove(self, schedule_id)

    async def next_fire(self, without: Sequence[int]) -> tuple[datetime, datetime | None]:
        return await schedules.next_fire(self, without)

    async def due_schedules(self, limit: int, without: Sequence[int]) -> tuple[datetime | None, list[CronSchedule]]:
        return await schedules.due(self, limit, without)

    async def fire_schedule(self, schedule: CronSchedule, plan: FirePlan) -> list[int] | None:
        return await schedules.fire(self, schedule, plan)

    # -- cleaning up ------------------------------------------------------------------------------

    def delete_jobs(self, status: EndStatus, before: datetime, limit: int, dry_run: bool = False) -> AsyncIterator[int]:
        return cleaning.delete_jobs(self, status, before, limit, dry_run)

    def delete_events(self, before: datetime, limit: int) -> AsyncIterator[int]:
        return cleaning.delete_events(self, before, limit)

    def release_keys(self, before: datetime, limit: int) -> AsyncIterator[int]:
        return cleaning.release_keys(self, before, limit)

    async def elect(self, role: str, holder: str, seconds: float) -> bool:
        return bool(await self.call("elect", role, holder, round(seconds * 1000)))

    async def resign(self, role: str, holder: str) -> None:
        await self.call("resign", role, holder)

    # -- workers ----------------------------------------------------------------------------------

    async def register_worker(self, worker: WorkerInfo) -> bool:
        return bool(await self.call("register", *worker_arguments(worker)))

    async def unregister_worker(self, worker_id: str) -> None:
        await self.call("unregister", worker_id)

    def heart(self) -> Heart:
        return RedisHeart(self._endpoint.make_sync, self.scripts, self.location())

    async def cycle(
        self,
        worker_id: str,
        outcomes: Sequence[Outcome],
        job_types: Sequence[str],
        limit: int,
        promote: bool,
    ) -> Cycle:
        metadata = json.dumps({"worker": worker_id})
        accepted = b""
        gone: list[int] = []
        for start in range(0, len(outcomes) - OUTCOMES, OUTCOMES):
            part = await self._cycle(worker_id, outcomes[start : start + OUTCOMES], [], 0, False, metadata)
            accepted += part[0]
            gone += part[5]
        last = outcomes[len(accepted) :]
        marks, next_due, opens, limited, parked, cascaded, *rest = await self._cycle(
            worker_id, last, job_types, limit, promote, metadata
        )
        accepted += marks
        marked = [((item.id, item.lease_id), mark) for item, mark in zip(outcomes, accepted, strict=True)]
        jobs: list[Claimed] = []
        for n in range(0, len(rest), 3):
            head = Head(rest[n + 1])
            number = head["type"]
            job_type = self._type_names.get(number) or await self.type_name(number)
            jobs.append(claimed_from(unpack_int(rest[n]), head, rest[n + 2], job_type))
        return Cycle(
            jobs,
            [held for held, mark in marked if mark == _REFUSED],
            None if next_due < 0 else float(next_due),
            None if opens < 0 else float(opens),
            again=parked > 0,
            parked=parked,
            limited=bool(limited),
            cancelled=[held for held, mark in marked if mark == _CANCELLED_INSTEAD],
            cascaded=[*gone, *cascaded],
        )

    async def declare_limits(self, limits: Mapping[str, TypeLimits]) -> None:
        arguments: list[Any] = []
        for name, own in sorted(limits.items()):
            rate = "" if own.rate is None else f"{own.rate.count} {own.rate.ms}"
            arguments += [name, own.max_concurrency or "", rate]
        if arguments:
            await self.call("declare_limits", *arguments)

    async def _cycle(
        self,
        worker_id: str,
        outcomes: Sequence[Outcome],
        job_types: Sequence[str],
        limit: int,
        promote: bool,
        metadata: str,
    ) -> list[Any]:
        described = [_described(outcome, metadata) for outcome in outcomes]
        kinds = "".join(kind for kind, *_ in described)
        held = b"".join(map(pack_held, outcomes))
        details = [detail for _, *more in described for detail in more]
        types = job_types if limit else ()
        return await self.call(
            "cycle", worker_id, limit, int(promote), metadata, kinds, held, len(types), *types, *details
        )

    async def list_due_types(self) -> list[str]:
        with store_errors(self.location()):
            names = {unpack_int(number): name for name, number in (await self.types()).items()}
            pipe = self.client.pipeline(transaction=False)
            for number in names:
                pipe.zlexcount(self.key("rd"), b"[" + pack_int(number, 2), b"(" + pack_int(number + 1, 2))
            counts: list[int] = await pipe.execute() if names else []
        return sorted(name for name, count in zip(names.values(), counts, strict=True) if count)

    async def types(self) -> dict[str, bytes]:
        """Each type's name and packed number."""
        stored: dict[bytes, bytes] = await self.client.hgetall(self.key("ty"))
        return {name.decode(): pack_int(int(number), 2) for name, number in stored.items()}

    async def list_held(self, worker_id: str) -> list[Held]:
        worker = worker_id.encode()
        with store_errors(self.location()):
            members = await self.client.zrangebylex(self.key("ls"), b"[" + worker + b"\x00", b"(" + worker + b"\x01")
            packed = [item[-6:] for item in members]
            heads: list[bytes | None] = await self.client.hmget(self.key("h"), packed) if packed else []
        return [
            (id_of(member), Head(data)["lease"])
            for member, data in zip(members, heads, strict=True)
            if data is not None
        ]

    async def set_progress(self, job_id: int, lease_id: int, percent: int) -> bool:
        return bool(await self.call("set_progress", pack_id(job_id), lease_id, percent))

    async def load_steps(self, job_id: int) -> tuple[list[StepRecord], dict[str, Token], datetime]:
        return await durable.load_steps(self, job_id)

    async def save_step(self, job_id: int, lease_id: int, step: StepRecord, token: TokenSpec | None = None) -> bool:
        return await durable.save_step(self, job_id, lease_id, step, token)

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[Transaction]:
        raise ConfigError(
            "ctx.transaction() needs a Postgres queue: this one is in Redis, which cannot commit together with a "
            "database. Record the step after your commit, and make it safe to be done twice."
        )
        yield

    async def create_token(self, token: TokenSpec) -> Token:
        return await durable.create_token(self, token)

    async def get_token(self, token_id: str) -> Token | None:
        return await durable.get_token(self, token_id)

    async def end_token(self, token_id: str, output: str | None, error: str | None) -> tuple[Token | None, bool]:
        return await durable.end_token(self, token_id, output, error)

    async def expire_tokens(self, limit: int) -> int:
        return int(await self.call("expire_tokens", limit))

    async def delete_tokens(self, before: datetime, limit: int) -> int:
        return await durable.delete_tokens(self, before, limit)

    async def prolong(self, job_id: int, lease_id: int, ms: int) -> bool:
        return bool(await self.call("prolong", pack_id(job_id), lease_id, ms))

    async def set_output(self, job_id: int, lease_id: int, output: str) -> bool:
        return bool(await self.call("set_output", pack_id(job_id), lease_id, output))

    async def reclaim_expired(self, limit: int) -> list[Reclaimed]:
        answer = await self.call("reclaim", limit)
        return sorted(
            (
                Reclaimed(unpack_int(job_id), job_type.decode(), worker.decode(), STATUS_NAMES[status])
                for job_id, job_type, worker, status in zip(*[iter(answer)] * 4, strict=True)
            ),
            key=lambda item: item.id,
        )

    async def listen_for(self, topic: Topic, listener_id: str, seconds: float) -> None:
        await self.call("listen_for", topic, listener_id, seconds)

    async def listen_no_more(self, topic: Topic, listener_id: str) -> None:
        with store_errors(self.location()):
            await self.client.zrem(self.key("lw" if topic == "work" else "lf"), listener_id)

    def signals(self) -> AsyncGenerator[Signal]:
        return listen(self.client, self.scripts.channel, self.location())


def _batches(specs: Iterable[JobSpec]) -> Iterable[list[JobSpec]]:
    iterator = iter(specs)
    while chunk := list(itertools.islice(iterator, adding.CHUNK)):
        yield chunk


def _described(outcome: Outcome, metadata: str) -> tuple[Any, ...]:
    """The script's letter for an outcome, and three details; a plain completion, as most are, has none."""
    if isinstance(outcome, Completed):
        return ("P",) if outcome.output is None else ("C", outcome.output, "", "")
    if isinstance(outcome, Failed):
        entry = {"message": outcome.message, "failureReason": outcome.reason}
        if outcome.error_type is not None:
            entry["type"] = outcome.error_type
        if outcome.frame is not None:
            entry["frame"] = outcome.frame
        retry = "" if outcome.retry_ms is None else outcome.retry_ms
        return ("F", retry, json.dumps(entry, ensure_ascii=False), REASON_CODES[outcome.reason])
    if isinstance(outcome, Cancelled):
        return ("X", "", "", "")
    if isinstance(outcome, Waiting):
        return durable.describe_wait(outcome)
    return ("R", metadata, "", "")
