"""Deleting what is over and old, one bounded script call after the other."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Any

from dataqueue.backends.base import EndStatus
from dataqueue.backends.redis.call import store_errors
from dataqueue.backends.redis.layout import STATUS_CODES
from dataqueue.backends.redis.records import floor_ms

if TYPE_CHECKING:
    from dataqueue.backends.redis.backend import RedisBackend

_LOOKS = 1000
"""Jobs that a script call looks at: more would keep Redis from serving others for too long."""


async def delete_jobs(
    backend: RedisBackend, status: EndStatus, before: datetime, limit: int, dry_run: bool
) -> AsyncIterator[int]:
    async for count in _sweep(backend, "delete_jobs", [status], before, min(limit, _LOOKS), int(dry_run)):
        yield count


async def delete_events(backend: RedisBackend, before: datetime, limit: int) -> AsyncIterator[int]:
    async for count in _sweep(backend, "delete_events", STATUS_CODES, before, limit):
        yield count


async def _sweep(
    backend: RedisBackend, script: str, statuses: Iterable[str], before: datetime, limit: int, *more: Any
) -> AsyncIterator[int]:
    """Call a script for every page of the jobs of every type in these states, from the lowest id."""
    with store_errors(backend.location()):
        types = await backend.types()
    for number in types.values():
        for status in statuses:
            prefix, after = number + bytes([STATUS_CODES[status]]), bytes(6)
            while after:
                count, after = await backend.call(script, prefix, after, floor_ms(before), _LOOKS, limit, *more)
                yield count


async def release_keys(backend: RedisBackend, before: datetime, limit: int) -> AsyncIterator[int]:
    cursor = 0
    while True:
        with store_errors(backend.location()):
            cursor, found = await backend.client.hscan(backend.key("id"), cursor, count=min(limit, _LOOKS))
        keys = list(found)
        for at in range(0, len(keys), limit):
            yield await backend.call("release_keys", floor_ms(before), *keys[at : at + limit])
        if not cursor:
            return
