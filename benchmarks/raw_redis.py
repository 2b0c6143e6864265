"""The reference on Redis: the fewest commands that leave a record and its three events, by redis-py alone.

No validation, leases, heartbeats, types, wake-ups (but in the latency), retries or timeouts; one connection.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

import redis
import redis.asyncio

from benchmarks.processes import Child
from benchmarks.report import Limit
from dataqueue import JobQueue, NewJob
from dataqueue.backends.base import Completed
from dataqueue.backends.redis.layout import CHANNEL, KEYS, key_prefix

CLAIM = 100
BULK = 500

# A record is a hash field; what is ready is a zset by id; events are one log entry a transition.
_ADD = """
local id = redis.call('INCR', KEYS[1])
redis.call('HSET', KEYS[2], id, ARGV[1])
redis.call('ZADD', KEYS[3], id, id)
redis.call('HSET', KEYS[5], id, 'added')
return id"""
_ADD_MANY = """
local last = redis.call('INCRBY', KEYS[1], #ARGV) - #ARGV
local records, ready, events = {}, {}, {}
for n, payload in ipairs(ARGV) do
  local id = last + n
  records[2 * n - 1], records[2 * n] = id, payload
  ready[2 * n - 1], ready[2 * n] = id, id
  events[2 * n - 1], events[2 * n] = id, 'added'
end
redis.call('HSET', KEYS[2], unpack(records))
redis.call('ZADD', KEYS[3], unpack(ready))
redis.call('HSET', KEYS[5], unpack(events))
return last"""
_CYCLE = """
for n = 2, #ARGV do
  if redis.call('ZREM', KEYS[4], ARGV[n]) == 1 then redis.call('HSET', KEYS[5], ARGV[n], 'added processing completed') end
end
local answer = {}
local picked = redis.call('ZRANGE', KEYS[3], 0, ARGV[1] - 1)
if #picked == 0 then return answer end
redis.call('ZREM', KEYS[3], unpack(picked))
for n, payload in ipairs(redis.call('HMGET', KEYS[2], unpack(picked))) do
  redis.call('ZADD', KEYS[4], 0, picked[n])
  redis.call('HSET', KEYS[5], picked[n], 'added processing')
  answer[2 * n - 1], answer[2 * n] = picked[n], payload
end
return answer"""

_SETTINGS = ("appendonly", "appendfsync", "maxmemory-policy")


class RedisStore:
    """Key prefixes of our own on one server."""

    limits = {  # noqa: RUF012
        "drain": (Limit(at_least=0.25), Limit(at_least=0.5)),
        "sleep": (Limit(), Limit()),
        "single": (Limit(at_least=0.6), Limit(at_least=0.85)),
        "bulk": (Limit(), Limit()),
        "latency": (Limit(at_most=3), Limit(at_most=2)),
    }

    def __init__(self, url: str) -> None:
        self._url = url
        self._name = f"bench-{uuid.uuid4().hex[:8]}"
        self._count = 0
        self._before: dict[str, int] = {}

    def close(self) -> None:
        pass

    def _client(self) -> Any:
        return redis.Redis.from_url(self._url)

    def describe(self) -> dict[str, str]:
        with self._client() as client:
            info = client.info("server")
            version = info.get("valkey_version") or info["redis_version"]
            settings = {name: client.config_get(name).get(name, "?") for name in _SETTINGS}
        return {"valkey" if "valkey_version" in info else "redis": version, **settings, "redis-py": redis.__version__}

    @contextmanager
    def fresh(self) -> Iterator[str]:
        self._count += 1
        prefix = f"{self._name}-{self._count}"
        joint = "&" if "?" in self._url else "?"
        try:
            yield f"{self._url}{joint}key_prefix={prefix}"
        finally:
            with self._client() as client:
                client.unlink(*(f"{key_prefix(prefix)}{name}" for name in (*KEYS, CHANNEL)), *_raw_keys(prefix))

    def settle(self, place: str) -> None:
        """Nothing waits to be done."""

    def add_history(self, place: str, jobs: int) -> None:
        asyncio.run(_finish(place, jobs))
        self._before[place] = jobs

    def check_added(self, place: str, jobs: int) -> None:
        self._check(place, "pending", jobs)

    def check_drained(self, place: str, jobs: int) -> None:
        self._check(place, "completed", jobs + self._before.get(place, 0))
        if place in self._before:
            self._before[place] += jobs

    def _check(self, place: str, status: str, jobs: int) -> None:
        async def count() -> int:
            async with JobQueue.from_url(place) as queue:
                return (await queue.stats()).by_status.get(status, 0)

        with self._client() as client:
            _, records, ready, _, events = _raw_keys(_prefix(place))
            if client.exists(records):
                log = client.hvals(events)
                wanted = b"added" if status == "pending" else b"added processing completed"
                found = sum(entry == wanted for entry in log)
                found = found if status == "completed" or client.zcard(ready) == found else -1
            else:
                found = asyncio.run(count())
        if found != jobs:
            raise RuntimeError(f"{jobs} jobs should be {status}, but {found} are")

    # -- the reference ------------------------------------------------------------------------------

    def raw_single(self, place: str, jobs: int) -> float:
        async def add() -> float:
            client: Any = redis.asyncio.Redis.from_url(self._url)
            script = client.register_script(_ADD)
            keys = _raw_keys(_prefix(place))
            start = time.perf_counter()
            for number in range(jobs):
                await script(keys=keys, args=[json.dumps({"n": number})])
            rate = jobs / (time.perf_counter() - start)
            await client.aclose()
            return rate

        return asyncio.run(add())

    def raw_bulk(self, place: str, jobs: int) -> float:
        with self._client() as client:
            script = client.register_script(_ADD_MANY)
            start = time.perf_counter()
            for first in range(0, jobs, BULK):
                payloads = [json.dumps({"n": number}) for number in range(first, min(first + BULK, jobs))]
                script(keys=_raw_keys(_prefix(place)), args=payloads)
            return jobs / (time.perf_counter() - start)

    def raw_drain(self, place: str, jobs: int, settle: Callable[[], None]) -> float:
        self.raw_bulk(place, jobs)
        keys = _raw_keys(_prefix(place))
        with self._client() as client:
            script = client.register_script(_CYCLE)
            start = time.perf_counter()
            ids: list[bytes] = []
            done = 0
            while True:
                answer = script(keys=keys, args=[CLAIM, *ids])
                done += len(ids)
                ids = answer[::2]
                if not ids:
                    break
            seconds = time.perf_counter() - start
        if done != jobs:
            raise RuntimeError(f"the raw drain did {done} of {jobs} jobs")
        return jobs / seconds

    def raw_latencies(self, place: str, jobs: int, gap: float) -> list[float]:
        key = f"{key_prefix(_prefix(place))}raw-line"
        with Child("raw_popper", "pop", url=self._url, key=key, jobs=jobs) as popper:
            popper.read()
            asyncio.run(self._push(key, jobs, gap))
            return popper.read()

    async def _push(self, key: str, jobs: int, gap: float) -> None:
        client: Any = redis.asyncio.Redis.from_url(self._url)
        await client.ping()
        for number in range(jobs):
            await asyncio.sleep(gap)
            await client.zadd(key, {json.dumps({"at": time.time(), "n": number}): number})
        await client.aclose()


def _prefix(place: str) -> str:
    return parse_qs(urlsplit(place).query)["key_prefix"][0]


def _raw_keys(prefix: str) -> list[str]:
    return [f"{key_prefix(prefix)}raw-{name}" for name in ("id", "records", "ready", "running", "events")]


async def _finish(place: str, jobs: int) -> None:
    """Finished jobs by the library's own transitions, without handlers."""
    async with JobQueue.from_url(place) as queue:
        await queue.add_jobs(NewJob("noop", {"n": number}) for number in range(jobs))
        outcomes: list[Any] = []
        while True:
            cycle = await queue.backend.cycle("history", outcomes, ["noop"], 500, False)
            if not cycle.jobs:
                return
            outcomes = [Completed(job.id, job.lease_id) for job in cycle.jobs]
