"""Lists and counts over the Redis indexes: ranges of members, never a scan of everything."""

from __future__ import annotations

import heapq
import json
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from dataqueue.backends.base import AHEAD_LIMIT, UNMET_SHOWN, FailedJob, JobFilter, Timing, WorkerRecord, may_go
from dataqueue.backends.redis.durable import open_waits
from dataqueue.backends.redis.layout import STATUS_CODES, Head, pack_id, pack_int, unpack_int
from dataqueue.backends.redis.records import (
    failure_from,
    id_of,
    moment,
    timing_from,
)
from dataqueue.jobs import Job, JobStatus
from dataqueue.limits import LimitState, Rate

if TYPE_CHECKING:
    from dataqueue.backends.redis.backend import RedisBackend

_PAGE = 100
_MAX_PRIORITIES = 16
_LAST_ID = b"\xff" * 6


async def list_jobs(
    backend: RedisBackend, where: JobFilter, limit: int, before_id: int | None, offset: int, values: bool
) -> list[Job]:
    """Jobs that meet all conditions, highest id first."""
    tags = where.tags
    if tags == () and where.tag_mode == "any":
        return []
    jobs: list[Job] = []
    page: list[int] = []

    async def take() -> bool:
        """Add the page's fitting jobs; whether to go on."""
        nonlocal offset
        for job in await backend.load(page, values):
            if where.created_after is not None and job.created_at < where.created_after:
                return False  # ids follow creation: none below this one fits
            if _fits(job, where):
                if offset:
                    offset -= 1
                else:
                    jobs.append(job)
                    if len(jobs) == limit:
                        return False
        page.clear()
        return True

    size = min(max(limit, 10), _PAGE * 10)
    async for job_id in _descending_ids(backend, where, before_id, min(size, _PAGE)):
        page.append(job_id)
        if len(page) >= size and not await take():
            return jobs
    if page:
        await take()
    return jobs


def _fits(job: Job, where: JobFilter) -> bool:
    return (
        (not where.statuses or job.status in where.statuses)
        and (not where.job_types or job.job_type in where.job_types)
        and (where.priority is None or job.priority == where.priority)
        and (where.run_after is None or job.run_at >= where.run_after)
        and (where.run_before is None or job.run_at < where.run_before)
        and (where.created_after is None or job.created_at >= where.created_after)
        and (where.created_before is None or job.created_at < where.created_before)
        and (where.group is None or job.group == where.group)
        and (where.retry_due is None or job.status != "failed" or (job.next_attempt_at is not None) is where.retry_due)
        and (where.error_contains is None or _has_error(job, where.error_contains))
        and (where.tags is None or _fits_tags(set(job.tags), set(where.tags), where.tag_mode))
    )


def _has_error(job: Job, part: str) -> bool:
    return any(part.lower() in entry.message.lower() for entry in job.error_history)


def _fits_tags(own: set[str], wanted: set[str], mode: str) -> bool:
    if mode == "all":
        return own >= wanted
    if mode == "exact":
        return own == wanted
    if mode == "any":
        return bool(own & wanted)
    return not own & wanted


async def _descending_ids(
    backend: RedisBackend, where: JobFilter, before_id: int | None, page: int
) -> AsyncIterator[int]:
    """Ids that may fit, each once, highest first: a merge of index ranges."""
    if where.tags and where.tag_mode in ("all", "exact", "any"):
        key = backend.key("tg")
        prefixes = [tag.encode() + b"\x00" for tag in where.tags]
        if where.tag_mode != "any":
            pipe = backend.client.pipeline(transaction=False)
            for prefix in prefixes:
                pipe.zlexcount(key, b"[" + prefix, b"[" + prefix + _LAST_ID)
            counts = await pipe.execute()
            prefixes = [min(zip(counts, prefixes, strict=True))[1]]  # the rarest: all fitting jobs have it
    else:
        key = backend.key("ix")
        types = await backend.types()
        wanted = [types[name] for name in where.job_types if name in types] if where.job_types else types.values()
        codes = [STATUS_CODES[status] for status in where.statuses] or list(STATUS_CODES.values())
        prefixes = [number + bytes([code]) for number in wanted for code in codes]
    ranges = await _Range.first_pages(backend, key, prefixes, before_id, page)
    heap = [(-id_of(item.peek()), number) for number, item in enumerate(ranges) if item.members]
    heapq.heapify(heap)
    last = None
    while heap:
        negative, number = heap[0]
        if -negative != last:
            last = -negative
            yield last
        following = await ranges[number].advance(page)
        if following is None:
            heapq.heappop(heap)
        else:
            heapq.heapreplace(heap, (-id_of(following), number))


class _Range:
    """The members with one prefix, highest first, read a page at a time."""

    def __init__(self, backend: RedisBackend, key: str, prefix: bytes) -> None:
        self._backend = backend
        self._key = key
        self._low = b"[" + prefix
        self.members: list[bytes] = []
        self._next = 0
        self._ended = False

    @classmethod
    async def first_pages(
        cls, backend: RedisBackend, key: str, prefixes: list[bytes], before_id: int | None, page: int
    ) -> list[_Range]:
        if not prefixes:
            return []
        ranges = [_Range(backend, key, prefix) for prefix in prefixes]
        pipe = backend.client.pipeline(transaction=False)
        for item, prefix in zip(ranges, prefixes, strict=True):
            high = b"[" + prefix + _LAST_ID if before_id is None else b"(" + prefix + pack_id(min(before_id, 2**48 - 1))
            pipe.zrevrangebylex(key, high, item._low, 0, page)
        for item, members in zip(ranges, await pipe.execute(), strict=True):
            item.members = members
            item._ended = len(members) < page
        return ranges

    def peek(self) -> bytes:
        return self.members[self._next]

    async def advance(self, page: int) -> bytes | None:
        """The next member, None at the end."""
        self._next += 1
        if self._next == len(self.members):
            if self._ended:
                return None
            last = self.members[-1]
            self.members = await self._backend.client.zrevrangebylex(self._key, b"(" + last, self._low, 0, page)
            self._next = 0
            self._ended = len(self.members) < page
            if not self.members:
                return None
        return self.members[self._next]


async def situation(backend: RedisBackend, job: Job, workers: list[WorkerRecord]) -> dict[str, Any]:
    """What :class:`Situation` says of when a job may be claimed, what comes first, and what its group uses."""
    data: bytes | None = await backend.client.hget(backend.key("h"), pack_id(job.id))
    asked = [worker.group_concurrency for worker in workers if worker.alive and worker.group_concurrency]
    limit = min(asked, default=None)
    found: dict[str, Any] = {"ready_at": None, "ahead": 0, "group_limit": limit}
    if data is None:
        return found
    head = Head(data)
    if limit is not None and job.group is not None:
        found["group_running"] = await _running_in(backend, job.group)
    if job.blocked:
        found["unmet_count"] = int(await backend.client.hget(backend.key("un"), pack_id(job.id)) or 0)
        found["unmet"] = await _unmet(backend, job)
        return found
    due = head["next_at"] or (head["run_at"] if job.status == "pending" else 0)
    if (
        (job.attempts >= job.max_attempts and job.status != "waiting")
        or job.status not in ("pending", "failed", "waiting")
        or not due
    ):
        return found
    number = pack_int(head["type"], 2)
    place = pack_int(head["prio"], 4) + pack_int(due, 6) + pack_id(job.id)
    low, high = b"[" + number, b"(" + number + place
    found["ready_at"] = moment(due)
    found["ahead"] = found["may_go_ahead"] = await backend.client.zlexcount(backend.key("rd"), low, high)
    if job.group is not None:
        parked = await backend.client.zscore(backend.key("pk"), job.group.encode() + b"\0" + number + place)
        found["parked"] = parked is not None
    if limit is not None and found["ahead"]:
        members = await backend.client.zrangebylex(backend.key("rd"), low, high, 0, AHEAD_LIMIT)
        heads: list[bytes | None] = await backend.client.hmget(backend.key("h"), [member[-6:] for member in members])
        groups = Counter(Head(other).group for other in heads if other is not None)
        by_group = {
            group: (count, 0 if group is None else await _running_in(backend, group)) for group, count in groups.items()
        }
        found["may_go_ahead"] = may_go(by_group, limit)
        found["ahead_in_group"] = groups[job.group] if job.group is not None else 0
    return found


async def _unmet(backend: RedisBackend, job: Job) -> tuple[tuple[int, JobStatus], ...]:
    """Some of the jobs that it waits for: among those that it names, or that have the tags that it names."""
    candidates = [*job.depends_on]
    if job.status == "waiting":
        waits = await open_waits(backend, [pack_id(job.id)])
        candidates = [number for wait in waits.values() for number in wait.job_ids]
    if job.depends_on_tags:
        where = JobFilter(tags=job.depends_on_tags)
        candidates += [other.id for other in await list_jobs(backend, where, _PAGE * 10, job.id, 0, False)]
    members = [pack_id(candidate) + pack_id(job.id) for candidate in candidates]
    scores: list[float | None] = await backend.client.zmscore(backend.key("dp"), members) if members else []
    waited = [candidate for candidate, score in zip(candidates, scores, strict=True) if score is not None]
    return tuple((other.id, other.status) for other in await backend.load(sorted(set(waited))[:UNMET_SHOWN], False))


async def _running_in(backend: RedisBackend, group: str) -> int:
    name = group.encode()
    return await backend.client.zlexcount(backend.key("gr"), b"[" + name + b"\0", b"(" + name + b"\1")


async def list_limits(backend: RedisBackend) -> list[LimitState]:
    """What ``cf`` says of each type, with what it uses."""
    stored: dict[bytes, bytes] = await backend.client.hgetall(backend.key("cf"))
    types = await backend.types()
    now = await backend.now_ms()
    limits: list[LimitState] = []
    for name in sorted({field[1:].decode() for field in stored if field[:1] != b"s"}):
        paused, most, rate, log = (stored.get(kind + name.encode()) for kind in (b"p", b"m", b"r", b"s"))
        paused_at, _, by = (paused or b"").partition(b" ")
        running = started = opens_at = parsed = None
        if most is not None:
            prefix = types[name] + bytes([STATUS_CODES["processing"]]) if name in types else b""
            low, high = b"[" + prefix, b"[" + prefix + _LAST_ID
            running = await backend.client.zlexcount(backend.key("ix"), low, high) if prefix else 0
        if rate is not None:
            count, ms = map(int, rate.split())
            parsed = Rate(count, timedelta(milliseconds=ms))
            entries = [(log or b"")[at : at + 10] for at in range(0, len(log or b""), 10)]
            starts = [(unpack_int(entry[:6]), unpack_int(entry[6:])) for entry in entries]
            counted = [(at, number) for at, number in starts if at > now - ms]
            started = sum(number for _, number in counted)
            opens_at = moment(counted[0][0] + ms) if counted else None
        limits.append(
            LimitState(
                job_type=name or None,
                paused_at=moment(int(paused_at)) if paused else None,
                paused_by=json.loads(by) if paused else None,
                max_concurrency=None if most is None else int(most),
                running=running,
                rate=parsed,
                started=started,
                opens_at=opens_at,
            )
        )
    return limits


async def newest(backend: RedisBackend, job_type: str | None, statuses: Sequence[str], limit: int) -> list[bytes]:
    """Ids (six bytes each) of the newest jobs in these states, ``limit`` of each type and state at most."""
    types = await backend.types()
    numbers = types.values() if job_type is None else [types[job_type]] if job_type in types else []
    pipe = backend.client.pipeline(transaction=False)
    for number in numbers:
        for status in statuses:
            prefix = number + bytes([STATUS_CODES[status]])
            pipe.zrevrangebylex(backend.key("ix"), b"[" + prefix + _LAST_ID, b"[" + prefix, 0, limit)
    pages: list[list[bytes]] = await pipe.execute() if numbers else []
    return heapq.nlargest(limit, (member[-6:] for page in pages for member in page))


async def list_failures(
    backend: RedisBackend, job_type: str | None, since: datetime, limit: int
) -> AsyncIterator[FailedJob]:
    ids = await newest(backend, job_type, ["failed"], limit)
    for at in range(0, len(ids), _PAGE * 10):
        part = ids[at : at + _PAGE * 10]
        pipe = backend.client.pipeline(transaction=False)
        pipe.hmget(backend.key("h"), part)
        pipe.hmget(backend.key("er"), part)
        heads, errors = await pipe.execute()
        for packed, data, error in zip(part, heads, errors, strict=True):
            if data is None:
                continue
            head = Head(data)
            if head["status"] == STATUS_CODES["failed"] and moment(head["failed"]) >= since:
                yield failure_from(packed, head, await backend.type_name(head["type"]), error)


async def sample_finished(backend: RedisBackend, job_type: str | None, limit: int) -> list[Timing]:
    ids = await newest(backend, job_type, ["completed", "failed"], limit)
    heads: list[bytes | None] = await backend.client.hmget(backend.key("h"), ids) if ids else []
    found = [Head(data) for data in heads if data is not None]
    timings = [timing_from(head, await backend.type_name(head["type"])) for head in found]
    return sorted((t for t in timings if t is not None), key=lambda timing: timing.ended_at, reverse=True)


async def count(backend: RedisBackend) -> tuple[dict[str, dict[str, int]], dict[str, float]]:
    """Counts by type and status, and for how many seconds each type's longest-waiting due job has been due."""
    types = await backend.types()
    pipe = backend.client.pipeline(transaction=False)
    for number in types.values():
        for code in STATUS_CODES.values():
            prefix = number + bytes([code])
            pipe.zlexcount(backend.key("ix"), b"[" + prefix, b"[" + prefix + _LAST_ID)
    counts: list[Any] = await pipe.execute() if types else []
    by_type: dict[str, dict[str, int]] = {}
    answers = iter(counts)
    for name in types:
        own = {status: next(answers) for status in STATUS_CODES}
        own = {status: number for status, number in own.items() if number}
        if own:
            by_type[name] = own
    return by_type, await _oldest_ready(backend, types)


async def _oldest_ready(backend: RedisBackend, types: dict[str, bytes]) -> dict[str, float]:
    now = await backend.now_ms()
    waited: dict[str, float] = {}
    for name, number in types.items():
        low = b"[" + number
        high = b"(" + pack_int(unpack_int(number) + 1, 2)
        for _ in range(_MAX_PRIORITIES):  # within a priority the first is the oldest
            first = await backend.client.zrangebylex(backend.key("rd"), low, high, 0, 1)
            if not first:
                break
            seconds = max(0.0, (now - unpack_int(first[0][6:12])) / 1000)
            waited[name] = max(seconds, waited.get(name, 0.0))
            low = b"(" + first[0][:6] + b"\xff" * 12
    return waited
