"""A real cluster of three nodes: all that a queue does, on the node that has its keys."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, cast

import pytest
import redis
import redis.asyncio
from servers import redis_cluster
from support import Working

from dataqueue import JobHandle, JobQueue, ReadOnlyQueue, StoreUnavailable
from dataqueue.backends.redis.backend import RedisBackend

UseEverything = Callable[[JobQueue], Awaitable[None]]


@pytest.fixture(scope="module")
def ports() -> Iterator[Sequence[int]]:
    with redis_cluster() as ports:
        yield ports


def _prefixes(ports: Sequence[int]) -> list[str]:
    """One for each node."""
    found: dict[int, str] = {}
    with redis.RedisCluster(port=ports[0], host="127.0.0.1") as client:
        for n in range(100):
            node = client.get_node_from_key(f"{{q{n}}}:m")
            assert node is not None
            found.setdefault(int(node.port), f"q{n}")
    return list(found.values())


async def test_queues_on_different_nodes(ports: Sequence[int], use_everything: UseEverything) -> None:
    """R-CLUSTER: the keys of a queue are on one node, and all are declared."""
    prefixes = _prefixes(ports)
    assert len(prefixes) == 3
    for prefix in prefixes:
        async with JobQueue.from_url(f"redis+cluster://127.0.0.1:{ports[0]}", key_prefix=prefix) as queue:
            await use_everything(queue)
            assert {"cluster", "server", "memory"} <= {finding.check for finding in await queue.doctor()}


async def test_a_queue_for_reading_only(ports: Sequence[int]) -> None:
    for prefix in _prefixes(ports):
        url = f"redis+cluster://127.0.0.1:{ports[0]}?key_prefix={prefix}-reader"
        async with JobQueue.from_url(url) as queue, JobQueue.from_url(url, read_only=True) as reader:
            job = await queue.add_job("t", {"a": 1}, tags=["x"])
            assert await reader.get_jobs(tags=["x"]) == [await job.refresh()]
            assert (await reader.explain_job(job.id)).state == "ready"
            assert (await reader.status()).verdict == "no_workers"
            assert all(finding.level != "error" for finding in await reader.doctor(deep=True))
            with pytest.raises(ReadOnlyQueue):
                await reader.cancel_job(job.id)
            with pytest.raises(Exception, match=r"read-only|not allowed"):
                await cast(RedisBackend, reader.backend).client.hset(f"{{{prefix}-reader}}:m", "x", "y")


async def test_a_cluster_client_of_ones_own(ports: Sequence[int], use_everything: UseEverything) -> None:
    client = redis.asyncio.RedisCluster(host="127.0.0.1", port=ports[1])
    queue = JobQueue(client=client, key_prefix="own")
    await use_everything(queue)
    await queue.close()
    assert await client.get("anything") is None, "it is the caller's to close"
    await client.aclose()


async def test_forgotten_scripts_and_killed_connections(ports: Sequence[int], working: Working) -> None:
    url = f"redis+cluster://127.0.0.1:{ports[2]}?key_prefix=faults"

    async def t(payload: int) -> int:
        return payload

    async with JobQueue.from_url(url) as queue, JobQueue.from_url(url, max_connections=2) as producer:
        processor = await working(queue, {"t": t})
        added = await asyncio.gather(*(producer.add_job("t", n) for n in range(100)))
        for port in ports:
            with redis.Redis(port=port) as node:
                node.script_flush()
                for kind in ("normal", "pubsub"):
                    node.client_kill_filter(_type=kind, skipme=True)
        added += await _add_again(producer)
        for handle in added:
            await handle.wait(timeout=25)
        await processor.stop_and_drain()


async def _add_again(queue: JobQueue) -> list[JobHandle[Any]]:
    for _ in range(20):
        try:
            return [await queue.add_job("t", 1)]
        except StoreUnavailable:
            await asyncio.sleep(0.1)
    raise AssertionError("the cluster's client did not come back")
