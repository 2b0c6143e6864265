"""Lists and counts over the Redis indexes: ranges of members, never a scan of everything."""

from __future__ import annotations

import heapq
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from dataqueue.backends.base import JobFilter
from dataqueue.backends.redis.layout import STATUS_CODES, pack_id, pack_int, unpack_int
from dataqueue.backends.redis.records import id_of
from dataqueue.jobs import Job

if TYPE_CHECKING:
    from dataqueue.backends.redis.backend import RedisBackend

_PAGE = 100
_MAX_PRIORITIES = 16
_LAST_ID = b"\xff" * 6


async def list_jobs(
    backend: RedisBackend, where: JobFilter, limit: int, before_id: int | None, offset: int
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
        for job in await backend.load(page):
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
        and (where.tags is None or _fits_tags(set(job.tags), set(where.tags), where.tag_mode))
    )


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


async def count(backend: RedisBackend) -> tuple[dict[str, dict[str, int]], float | None]:
    """Counts by type and status, and for how many seconds the longest-waiting due job has been due."""
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
    return by_type, await _oldest_ready(backend, list(types.values()))


async def _oldest_ready(backend: RedisBackend, types: list[bytes]) -> float | None:
    oldest: int | None = None
    for number in types:
        low = b"[" + number
        high = b"(" + pack_int(unpack_int(number) + 1, 2)
        for _ in range(_MAX_PRIORITIES):  # within a priority the first is the oldest
            first = await backend.client.zrangebylex(backend.key("rd"), low, high, 0, 1)
            if not first:
                break
            due = unpack_int(first[0][6:12])
            oldest = due if oldest is None else min(oldest, due)
            low = b"(" + first[0][:6] + b"\xff" * 12
    return None if oldest is None else max(0.0, (await backend.now() - oldest) / 1000)
