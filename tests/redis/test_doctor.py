"""The doctor: what it says of servers, and that it finds every kind of damage in the indexes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from datetime import timedelta

import pytest
import redis
from servers import redis_server, wait_for_redis
from support import Working, until

from dataqueue import JobQueue, NewJob
from dataqueue.backends.base import Cancelled, Completed, Failed, Finding, Released, WorkerInfo
from dataqueue.backends.redis.backend import RedisBackend
from dataqueue.backends.redis.doctor import examine_deep
from dataqueue.backends.redis.layout import pack_id
from dataqueue.options import make_edit


def _of(findings: list[Finding], check: str) -> tuple[str, str]:
    (found,) = [finding for finding in findings if finding.check == check]
    return found.level, found.message


async def test_a_server_as_it_should_be(make_queue: Callable[..., JobQueue]) -> None:
    findings = await make_queue().doctor()
    assert {finding.check: finding.level for finding in findings} == {
        "server": "ok",
        "memory": "ok",
        "durability": "ok",
    }


async def test_what_is_wrong_with_a_server() -> None:
    with (
        redis_server() as server,
        server.client() as client,
        redis_server("--appendonly", "no") as second,
        second.client() as replica,
    ):
        async with JobQueue.from_url(server.url) as queue:
            client.config_set("maxmemory-policy", "allkeys-lru")
            assert _of(await queue.doctor(), "memory")[0] == "warning"
            client.config_set("maxmemory", "1gb")
            assert _of(await queue.doctor(), "memory")[0] == "error"
            client.config_set("maxmemory-policy", "noeviction")
            client.config_set("maxmemory", client.info("memory")["used_memory"] * 100 // 95)
            level, message = _of(await queue.doctor(), "memory")
            assert level == "warning" and "% of maxmemory" in message
            client.config_set("maxmemory", 0)
            client.config_set("appendonly", "no")
            level, message = _of(await queue.doctor(), "durability")
            assert level == "warning" and "a restart loses all" in message
            client.bgsave()
            await until(lambda: not client.info("persistence")["rdb_bgsave_in_progress"])
            level, message = _of(await queue.doctor(), "durability")
            assert level == "warning" and "snapshots" in message
            (server.folder / "dump.rdb").unlink()
            (server.folder / "dump.rdb").mkdir()
            client.bgsave()
            await until(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err")
            assert _of(await queue.doctor(), "durability")[0] == "error"
            (server.folder / "dump.rdb").rmdir()
            client.bgsave()
            await until(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "ok")
        # A replica of it: refuses jobs and says why; its primary has it listed.
        (port,) = _listen(client)
        replica.replicaof("127.0.0.1", port)
        await until(lambda: replica.info("replication")["master_link_status"] == "up")
        async with JobQueue.from_url(server.url) as queue:
            await until(lambda: _state_is(queue, "ok"))
        async with JobQueue.from_url(second.url) as queue:
            level, message = _of(await queue.doctor(), "state")
            assert level == "error" and "replica" in message


async def _state_is(queue: JobQueue, level: str) -> bool:
    return _of(await queue.doctor(), "state")[0] == level


def _listen(client: redis.Redis) -> list[int]:
    from servers import free_ports

    ports = free_ports(1)
    client.config_set("bind", "127.0.0.1")
    client.config_set("port", ports[0])
    wait_for_redis(f"redis://127.0.0.1:{ports[0]}")
    return ports


async def _damage(queue: JobQueue) -> list[str]:
    return [finding.message for finding in await queue.doctor(deep=True) if finding.level == "error"]


@pytest.mark.parametrize("seed", range(3))
async def test_consistent_after_a_random_workload(make_queue: Callable[..., JobQueue], seed: int) -> None:
    queue = make_queue()
    backend = await queue.open()
    assert isinstance(backend, RedisBackend)
    chance = random.Random(seed)
    for name in ("w1", "w2"):
        await backend.register_worker(WorkerInfo(name, "host", 1, ("a", "b"), 1, "0", 60))
    held: dict[str, list[tuple[int, int]]] = {"w1": [], "w2": [], "lost": []}
    for _ in range(300):
        act, worker = chance.randrange(10), chance.choice(list(held))
        jobs = range(1, 1 + max(1, (await backend.client.hlen(backend.key("h")))))
        if act < 3:
            await queue.add_jobs(
                NewJob(chance.choice("ab"), 1, {
                    "priority": chance.randint(-2, 2), "delay": timedelta(milliseconds=chance.choice((0, 0, 50, 5000))),
                    "tags": chance.sample(["x", "y", "z"], chance.randint(0, 3)), "max_attempts": chance.randint(1, 3),
                    **({"idempotency_key": f"{chance.randrange(50)}"} if chance.random() < 0.3 else {}),
                })
                for _ in range(chance.randint(1, 4))
            )  # fmt: skip
        elif act < 8:
            outcomes = []
            for job_id, lease in held[worker][: chance.randint(0, 4)]:
                kind = chance.randrange(5)
                outcomes.append(
                    Completed(job_id, lease, chance.choice((None, "1"))) if kind < 2
                    else Failed(job_id, lease, "no", "handler_error", chance.choice((None, 0, 30))) if kind == 2
                    else Released(job_id, lease) if kind == 3 else Cancelled(job_id, lease)
                )  # fmt: skip
            del held[worker][: len(outcomes)]
            cycle = await backend.cycle(worker, outcomes, chance.sample(["a", "b"], 2), chance.randint(0, 4), True)
            held[worker] += [(job.id, job.lease_id) for job in cycle.jobs]
        elif act == 8:
            job_id = chance.choice(jobs)
            ids = sorted({job_id, *chance.sample(jobs, min(3, len(jobs)))})
            edit = make_edit(
                None, {"priority": chance.randint(-2, 2), "delay": timedelta(hours=chance.choice((0, 0, 1)))}
            )
            kind = chance.randrange(3)
            await (backend.cancel(ids) if kind == 0 else backend.retry(ids) if kind == 1 else backend.edit(ids, edit))
        else:
            await backend.reclaim_expired(5)
        if chance.random() < 0.05:
            assert await _damage(queue) == []
    assert await _damage(queue) == []
    assert [finding.level for finding in await examine_deep(backend, page=7)] == ["ok"]


async def test_consistent_while_it_works(make_queue: Callable[..., JobQueue], working: Working) -> None:
    queue = make_queue()

    async def t(payload: int) -> int:
        await asyncio.sleep(0.001)
        return payload

    await queue.add_jobs(NewJob("t", n, {"tags": ["a"]}) for n in range(2000))
    await working(queue, {"t": t}, concurrency=50)
    while (await queue.stats()).by_status.get("completed", 0) < 2000:
        assert await _damage(queue) == []


DAMAGE: dict[str, tuple[Callable[[redis.Redis, str], object], str]] = {
    "ix member gone": (lambda c, p: c.zrem(f"{p}ix", b"\0\1\1" + pack_id(1)), "job that is missing in ix: 1"),
    "ix member of another state": (lambda c, p: c.zadd(f"{p}ix", {b"\0\1\3" + pack_id(1): 0}), "member of ix that its job does not ask for: 1"),
    "not ready": (lambda c, p: c.zremrangebyrank(f"{p}rd", 0, 0), "job that is in none of rd, dl and pk"),
    "not delayed": (lambda c, p: c.zremrangebyrank(f"{p}dl", 0, 0), "job that is in none of rd, dl and pk"),
    "both ready and delayed": (lambda c, p: _twice(c, p), "job that is in more than one of rd, dl and pk: 3"),
    "ready with another priority": (lambda c, p: c.zadd(f"{p}rd", {b"\0\1" + b"\0" * 10 + pack_id(1): 0}), "member of rd that its job does not ask for: 1"),
    "ghost": (lambda c, p: c.hdel(f"{p}h", pack_id(1)), "member of rd whose job is gone: 1"),
    "ghost of a payload": (lambda c, p: c.hdel(f"{p}h", pack_id(1)), "entry of s whose job is gone: 1"),
    "payload gone": (lambda c, p: c.hdel(f"{p}s", pack_id(2)), "job without its payload: 2"),
    "lease gone": (lambda c, p: c.zremrangebyrank(f"{p}ls", 0, 0), "job that is missing in ls"),
    "lease of nobody": (lambda c, p: c.zadd(f"{p}ls", {b"nobody\0" + pack_id(1): 0}), "member of ls that its job does not ask for: 1"),
    "tag gone": (lambda c, p: c.zrem(f"{p}tg", b"a\0" + pack_id(1)), "job that is missing in tg: 1"),
    "tag too many": (lambda c, p: c.zadd(f"{p}tg", {b"b\0" + pack_id(1): 0}), "member of tg that its job does not ask for: 1"),
    "score": (lambda c, p: c.zadd(f"{p}rd", {c.zrange(f"{p}rd", 0, 0)[0]: 1}), "member of rd with a score"),
    "output of nobody": (lambda c, p: c.hset(f"{p}o", pack_id(99), "1"), "entry of o whose job is gone: 99"),
    "key of nobody": (lambda c, p: c.hset(f"{p}id", "k", pack_id(99)), "idempotency key of a job that does not have it: 99"),
    "key of another": (lambda c, p: c.hset(f"{p}id", "k2", pack_id(1)), "idempotency key of a job that does not have it: 1"),
    "counter set back": (lambda c, p: c.hset(f"{p}m", "id", 5), "job with an id that is still to be given: 6"),
}  # fmt: skip


def _twice(client: redis.Redis, prefix: str) -> None:
    (member,) = client.zrange(f"{prefix}dl", 0, 0)
    client.zadd(f"{prefix}rd", {member[6:12] + member[:6] + member[12:]: 0})


@pytest.mark.parametrize("what", DAMAGE)
async def test_damage_is_found(make_queue: Callable[..., JobQueue], redis_server_url: str, what: str) -> None:
    queue = make_queue()
    backend = await queue.open()
    assert isinstance(backend, RedisBackend)
    await queue.add_job("t", 1, tags=["a"], idempotency_key="k1")
    await queue.add_job("t", 2)
    await queue.add_job("t", 3, delay=timedelta(hours=1))
    await queue.add_jobs(NewJob("t", n, {"priority": 1}) for n in range(3))
    assert len((await backend.cycle("w", [], ["t"], 1, True)).jobs) == 1
    assert await _damage(queue) == []
    damage, expected = DAMAGE[what]
    with redis.Redis.from_url(redis_server_url) as client:
        damage(client, backend.prefix)
    assert any(expected in message for message in await _damage(queue)), await _damage(queue)
