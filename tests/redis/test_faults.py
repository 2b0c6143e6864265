"""What can happen to a Redis, and to what lies in it."""

from __future__ import annotations

import asyncio
import json
import random
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from servers import RedisServer, redis_server
from support import Working, until

from dataqueue import DataQueueError, JobQueue, NewJob, StoreUnavailable
from dataqueue.backends.base import Backend, Cancelled, Claimed, Completed, Failed, Pulse, Released, WorkerInfo
from dataqueue.backends.redis.backend import RedisBackend
from dataqueue.backends.redis.layout import KEYS, SORTED_SETS, pack_id
from dataqueue.cron_jobs import plan_fire
from dataqueue.options import make_edit
from dataqueue.steps import StepRecord
from dataqueue.tokens import make_token

SHORT = timedelta(seconds=2)


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """A server that the test may end; options by indirect parameters."""
    with redis_server(*getattr(request, "param", ())) as server:
        yield server


@pytest.fixture
async def backend(queue: JobQueue) -> RedisBackend:
    backend = await queue.open()
    assert isinstance(backend, RedisBackend)
    return backend


@pytest.fixture
def client(redis_server_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_server_url) as client:
        yield client


class Load:
    """Adds jobs and works them while something goes wrong."""

    def __init__(self, url: str) -> None:
        self.producer, self.consumer = JobQueue.from_url(url), JobQueue.from_url(url)
        self.acknowledged: list[int] = []
        self.unsure = 0
        self._adding = True

    async def work(self, payload: int) -> int:
        await asyncio.sleep(0.002)
        return payload

    async def add(self) -> None:
        number = 0
        while self._adding:
            try:
                if number % 10:
                    handles = [await self.producer.add_job("work", number, max_attempts=100)]
                else:
                    handles = list(
                        await self.producer.add_jobs(NewJob("work", number, {"max_attempts": 100}) for _ in range(10))
                    )
                self.acknowledged += [handle.id for handle in handles]
            except StoreUnavailable:
                self.unsure += 1
                await asyncio.sleep(0.05)
            number += 1

    async def run(self, working: Working, trouble: Callable[[], Any]) -> None:
        worker = await working(self.consumer, {"work": self.work}, concurrency=20, lease=SHORT)
        adding = asyncio.create_task(self.add())
        await until(lambda: len(self.acknowledged) > 50, "load")
        await trouble()
        before = len(self.acknowledged)
        await until(lambda: len(self.acknowledged) > before + 50, "load after the trouble")
        self._adding = False
        await adding
        await until(self._all_done, "the end of the work")
        assert worker.is_running()
        jobs = {job.id: job for job in await self.producer.get_all_jobs(limit=1000)}
        cursor = min(jobs)
        while page := await self.producer.get_jobs(limit=1000, cursor=cursor):
            jobs |= {job.id: job for job in page}
            cursor = page[-1].id
        assert set(self.acknowledged) <= set(jobs), "an acknowledged job is gone"
        assert {job.status for job in jobs.values()} == {"completed"}
        findings = await self.producer.doctor(deep=True)
        assert [finding for finding in findings if finding.level == "error"] == []
        await worker.stop_and_drain()
        await self.producer.close()
        await self.consumer.close()

    async def _all_done(self) -> bool:
        try:
            counts = (await self.producer.stats()).by_status
        except StoreUnavailable:
            return False
        return set(counts) == {"completed"}


async def test_forgotten_scripts_are_loaded_again_under_load(server: RedisServer, working: Working) -> None:
    async def trouble() -> None:
        with server.client() as client:
            for _ in range(20):
                client.script_flush()
                await asyncio.sleep(0.02)

    load = Load(server.url)
    await load.run(working, trouble)
    assert load.unsure == 0


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=lambda how: how.name)
@pytest.mark.parametrize("server", [("--appendfsync", "everysec"), ("--appendfsync", "always")], indirect=True)
async def test_a_restart_loses_nothing_that_was_acknowledged(
    server: RedisServer, working: Working, how: signal.Signals
) -> None:
    """D-CRASH, R-ATOMIC."""

    async def trouble() -> None:
        for _ in range(2):
            await asyncio.to_thread(server.stop, how)
            await asyncio.sleep(0.2)
            await asyncio.to_thread(server.start)
            await asyncio.sleep(0.5)

    await Load(server.url).run(working, trouble)


async def test_killed_connections_lose_nothing(server: RedisServer, working: Working) -> None:
    """D-CRASH."""

    async def trouble() -> None:
        with server.client() as client:
            for _ in range(6):
                for kind in ("normal", "pubsub"):
                    client.client_kill_filter(_type=kind, skipme=True)
                await asyncio.sleep(0.1)

    await Load(server.url).run(working, trouble)


async def test_waiting_survives_a_killed_subscription(server: RedisServer, working: Working) -> None:
    async def t(payload: int) -> int:
        return payload

    queue = JobQueue.from_url(server.url)
    handle = await queue.add_job("t", 5)
    waiting = asyncio.create_task(handle.result(timeout=25))
    await asyncio.sleep(0.2)
    with server.client() as client:
        client.client_kill_filter(_type="pubsub")
    worker = await working(queue, {"t": t})
    assert await waiting == 5
    await worker.stop_and_drain()
    await queue.close()


@pytest.mark.parametrize("server", [("--maxmemory-policy", "noeviction")], indirect=True)
async def test_full_memory_refuses_new_jobs_only(server: RedisServer, working: Working) -> None:
    queue = JobQueue.from_url(server.url)
    added = await queue.add_jobs(NewJob("t", n, {"tags": ["a"]}) for n in range(50))
    running = await queue.add_job("t", "to be cancelled", priority=10)
    backend = await queue.open()
    assert await backend.register_worker(_worker("early"))
    (job,) = (await backend.cycle("early", [], ["t"], 1, True)).jobs
    with server.client() as client:
        client.config_set("maxmemory", 1)
        before = _dump(client, "{dq}:")
        for refused in (queue.add_job("t"), queue.add_jobs([NewJob("t"), NewJob("new type", options={"tags": ["b"]})])):
            with pytest.raises(StoreUnavailable, match="out of memory"):
                await refused
        assert _dump(client, "{dq}:") == before
        # All else goes on: leases, outputs, cancelling, completing, claiming, retrying, opening.
        assert _beat(backend, "early", job).lost == []
        assert await backend.set_output(job.id, job.lease_id, '"half"')
        assert await backend.set_progress(job.id, job.lease_id, 50)
        assert await queue.cancel_job(running.id)
        await backend.cycle("early", [Cancelled(job.id, job.lease_id)], [], 0, False)
        assert await queue.retry_job(running.id)
        other = JobQueue.from_url(server.url)

        async def t(payload: object) -> object:
            return payload

        worker = await working(other, {"t": t}, lease=SHORT)
        for handle in (*added, running):
            await handle.wait(timeout=25)
        await worker.stop_and_drain()
        client.config_set("maxmemory", 0)
        await other.close()
    assert (await queue.stats()).by_status == {"completed": 51}
    assert [finding for finding in await queue.doctor(deep=True) if finding.level == "error"] == []
    await queue.close()


def _worker(name: str) -> WorkerInfo:
    return WorkerInfo(name, "host", 1, ("t",), 1, "0", 60)


def _beat(backend: Backend, worker: str, job: Claimed) -> Pulse:
    heart = backend.heart()
    try:
        return heart.beat(_worker(worker), [(job.id, job.lease_id)])
    finally:
        heart.close()


def _dump(client: redis.Redis, prefix: str) -> dict[str, Any]:
    """All that is stored under a prefix, by value (DUMP may differ for equal sets)."""
    found: dict[str, Any] = {}
    for name in KEYS:
        key = f"{prefix}{name}"
        kind = client.type(key).decode()
        if kind == "hash":
            found[name] = client.hgetall(key)
        elif kind == "zset":
            found[name] = client.zrange(key, 0, -1, withscores=True)
        elif kind == "string":
            found[name] = client.get(key)
    return found


# -- keys that are not what they should be ------------------------------------------------------------------


@pytest.mark.parametrize("name", KEYS)
async def test_a_key_of_another_kind_changes_nothing(
    make_queue: Callable[..., JobQueue], client: redis.Redis, name: str
) -> None:
    """R-ATOMIC: a change that cannot be made whole is not begun."""
    queue = make_queue()
    backend = await queue.open()
    assert isinstance(backend, RedisBackend)
    await queue.add_jobs(
        NewJob("t", n, {"tags": ["a"], "idempotency_key": f"k{n}", "delay": timedelta(hours=n % 2), "max_attempts": 9})
        for n in range(8)
    )
    await queue.add_jobs([NewJob("t", 1), NewJob("t", 2)])
    assert await backend.register_worker(_worker("w"))
    held = (await backend.cycle("w", [], ["t"], 4, True)).jobs
    failed, plain, other, again = held
    await backend.cycle("w", [Failed(failed.id, failed.lease_id, "no", "handler_error", None)], [], 0, False)
    await backend.listen_for("work", "w", 60)
    await backend.listen_for("finished", "w", 60)
    lost = (await backend.cycle("gone", [], ["t"], 1, False)).jobs
    assert len(lost) == 1
    schedule = await queue.add_cron_job("s", "@daily", "t", tags=["a"])
    stored = replace(schedule, next_run_at=datetime(2026, 1, 1, tzinfo=UTC))
    client.delete(backend.key(name))
    client.set(backend.key(name), "x")
    before = _dump(client, backend.prefix)
    outcomes = [
        Completed(plain.id, plain.lease_id),
        Completed(other.id, other.lease_id, "1"),
        Failed(again.id, again.lease_id, "no", "handler_error", 1000),
        Released(lost[0].id, lost[0].lease_id),
    ]
    calls: dict[str, Callable[[], Any]] = {
        "add": lambda: queue.add_jobs([NewJob("t", options={"tags": ["b"], "idempotency_key": "n"}), NewJob("new")]),
        "add_one": lambda: queue.add_job("t"),
        "cycle": lambda: backend.cycle("w", outcomes, ["t"], 5, True),
        "cancel_jobs": lambda: queue.cancel_job(failed.id + 4),
        "retry_jobs": lambda: queue.retry_job(failed.id),
        "edit_jobs": lambda: backend.edit(
            [failed.id + 4], make_edit(None, {"tags": ["c"], "delay": timedelta(hours=1)})
        ),
        "reclaim": lambda: backend.reclaim_expired(10),
        "save_step": lambda: backend.save_step(
            plain.id, plain.lease_id, StepRecord(1, "s", "step"), make_token("1d", None)
        ),
        "create_token": lambda: backend.create_token(make_token("1d", None)),
        "end_token": lambda: backend.end_token("wp_none", "1", None),
        "expire_tokens": lambda: backend.expire_tokens(10),
        "delete_tokens": lambda: backend.delete_tokens(datetime(2026, 1, 1, tzinfo=UTC), 10),
        "set_output": lambda: backend.set_output(plain.id, plain.lease_id, "2"),
        "register": lambda: backend.register_worker(_worker("new")),
        "unregister": lambda: backend.unregister_worker("w"),
        "beat": lambda: asyncio.to_thread(_beat, backend, "w", plain),
        "store_schedule": lambda: backend.add_schedule(replace(schedule, name="new")),
        "fire_schedule": lambda: backend.fire_schedule(stored, plan_fire(stored, datetime.now(UTC))),
        "remove_schedule": lambda: backend.call("remove_schedule", schedule.id, "s"),
    }
    used = {call: _keys_of(call) for call in calls}
    for call, run in calls.items():
        if name in used[call]:
            with pytest.raises(DataQueueError, match=f"WRONGKEY {backend.prefix}{name} is a string"):
                await run()
            assert _dump(client, backend.prefix) == before, call
    assert any(name in keys for keys in used.values())


def _keys_of(script_name: str) -> tuple[str, ...]:
    from dataqueue.backends.redis.call import script

    return script(script_name).keys


async def test_members_of_vanished_jobs_are_not_in_the_way(
    queue: JobQueue, backend: RedisBackend, client: redis.Redis, working: Working
) -> None:
    """R-GHOST: and nothing is lost with them."""
    added = await queue.add_jobs(NewJob("t", n, {"tags": ["a"]}) for n in range(60))
    delayed = await queue.add_jobs(NewJob("t", n, {"delay": timedelta(milliseconds=300)}) for n in range(10))
    gone = [*added[0:50], *delayed[0:5]]
    for handle in gone:
        client.hdel(backend.key(random.choice(("h", "s"))), pack_id(handle.id))
    assert [job.id for job in await queue.get_jobs(tags=["a"])] == [handle.id for handle in reversed(added[50:])]
    assert len(await queue.get_all_jobs()) == 15
    (first,) = (await backend.cycle("w", [], ["t"], 1, False)).jobs
    assert first.id == added[50].id, "fifty ghosts stand before it"
    await backend.cycle("w", [Released(first.id, first.lease_id)], [], 0, False)

    async def t(payload: int) -> int:
        return payload

    await working(queue, {"t": t}, concurrency=3)
    for handle in (*added[50:], *delayed[5:]):
        await handle.wait(timeout=25)
    assert client.zcard(backend.key("rd")) == client.zcard(backend.key("dl")) == 0


# -- order ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
async def test_the_order_is_that_of_the_model(queue: JobQueue, backend: RedisBackend, seed: int) -> None:
    """R-FIFO, R-PRIO."""
    chance = random.Random(seed)
    start = datetime.now(UTC) - timedelta(hours=1)
    types = [f"type {n}" for n in range(5)]
    priorities = [-(2**31), 2**31 - 1, -1, 0, 1, 255, 256, -256, 65535, 65536]
    priorities += [chance.randint(-(2**31), 2**31 - 1) for _ in range(10)]
    jobs = [
        NewJob(
            chance.choice(types), n,
            {"priority": chance.choice(priorities), "run_at": start + timedelta(milliseconds=chance.randrange(8))},
        )
        for n in range(600)
    ]  # fmt: skip
    handles = await queue.add_jobs(jobs)
    waiting = {
        handle.id: (-job.options["priority"], job.options["run_at"], handle.id, job.job_type)
        for handle, job in zip(handles, jobs, strict=True)
    }
    while waiting:
        wanted = chance.sample(types, chance.randint(1, len(types)))
        limit = chance.choice((1, 2, 3, 7, 20))
        claimed = (await backend.cycle("w", [], wanted, limit, True)).jobs
        expected = sorted(entry for entry in waiting.values() if entry[3] in wanted)[:limit]
        assert [job.id for job in claimed] == [entry[2] for entry in expected]
        back = [job for job in claimed if chance.random() < 0.3]
        outcomes = [
            Released(job.id, job.lease_id) if job in back else Completed(job.id, job.lease_id) for job in claimed
        ]
        assert (await backend.cycle("w", outcomes, [], 0, False)).lost == []
        for job in claimed:
            if job not in back:
                del waiting[job.id]


async def test_many_at_once(queue: JobQueue, backend: RedisBackend) -> None:
    """R-UNPACK: more values than Lua's stack holds; claims and completions of the largest size."""
    added = await queue.add_jobs(
        NewJob("t", n, {"tags": [f"{n % 7}", "all", *(f"{n}-{k}" for k in range(8))], "idempotency_key": str(n)})
        for n in range(9000)
    )
    assert [handle.id for handle in added] == list(range(1, 9001)) and all(handle.created for handle in added)
    assert not any(
        handle.created
        for handle in await queue.add_jobs(NewJob("t", 0, {"idempotency_key": str(n)}) for n in range(9000))
    )
    assert len(await queue.get_jobs(tags=["all", "3"], limit=1000)) == 1000
    claimed: list[Claimed] = []
    while jobs := (await backend.cycle("w", [], ["t"], 500, True)).jobs:
        claimed += jobs
    assert [job.id for job in claimed] == list(range(1, 9001))
    half = [Completed(job.id, job.lease_id, str(job.id) if job.id % 2 else None) for job in claimed]
    cycle = await backend.cycle("w", [*half, *half[:100]], [], 0, False)
    assert sorted(cycle.lost) == sorted((item.id, item.lease_id) for item in half[:100]), "each counts once"
    assert (await queue.stats()).by_status == {"completed": 9000}
    assert (await queue.require_job(1)).output == 1 and (await queue.require_job(2)).output is None


async def test_the_first_outcome_of_a_job_in_a_batch_counts(queue: JobQueue, backend: RedisBackend) -> None:
    await queue.add_jobs(NewJob("t") for _ in range(2))
    one, two = (await backend.cycle("w", [], ["t"], 2, True)).jobs
    outcomes = [
        Failed(one.id, one.lease_id, "first", "handler_error", None),
        Completed(one.id, one.lease_id),
        Completed(two.id, two.lease_id, "1"),
        Completed(two.id, two.lease_id),
        Completed(two.id, two.lease_id + 1),
    ]
    lost = (await backend.cycle("w", outcomes, [], 0, False)).lost
    assert lost == [(one.id, one.lease_id), (two.id, two.lease_id), (two.id, two.lease_id + 1)]
    assert (await queue.require_job(one.id)).status == "failed" and (await queue.require_job(two.id)).output == 1


async def test_many_fall_due_at_once(queue: JobQueue, backend: RedisBackend) -> None:
    when = datetime.now(UTC) + timedelta(seconds=1.5)
    handles = await queue.add_jobs(
        NewJob(f"type {n % 2}", n, {"run_at": when, "priority": n * 7919 % 5000}) for n in range(5000)
    )
    assert (await backend.cycle("w", [], ["type 0"], 100, True)).jobs == []
    await asyncio.sleep(1.6)
    order = sorted(range(5000), key=lambda n: (-(n * 7919 % 5000), n))
    claimed: list[int] = []
    promote = True
    while jobs := (await backend.cycle("w", [], ["type 0", "type 1"], 500, promote)).jobs:
        claimed += [job.id for job in jobs]
        promote = False
    assert claimed == [handles[n].id for n in order]


@pytest.mark.parametrize(
    "text",
    ["1e400", "12345678901234567890123", "1.0", "1.10", "-0.0", '{"b":1,"a":{},"c":[]}', '"\\u0000"', '"\\ud83d\\ude00é"', '"\r\n"', "{}", "[]"],
)  # fmt: skip
async def test_values_are_kept_to_the_byte(queue: JobQueue, backend: RedisBackend, text: str) -> None:
    from dataqueue.options import JobSpec

    await backend.add([JobSpec("t", text)])
    await backend.add([JobSpec("t", text), JobSpec("t", text, tags=("a",))])
    jobs = (await backend.cycle("w", [], ["t"], 5, True)).jobs
    assert [job.payload for job in jobs] == [text] * 3
    await backend.cycle("w", [Completed(job.id, job.lease_id, text) for job in jobs], [], 0, False)
    assert await backend.client.hget(backend.key("o"), pack_id(jobs[0].id)) == text.encode()


async def test_long_and_odd_texts(queue: JobQueue, backend: RedisBackend) -> None:
    name = "ж" * 255
    assert await backend.register_worker(_worker(name))
    handle = await queue.add_job("t", max_attempts=2)
    (job,) = (await backend.cycle(name, [], ["t"], 1, True)).jobs
    message = "\U0001f600\x01" * 10_000
    await backend.cycle(name, [Failed(job.id, job.lease_id, message, "handler_error", 0)], [], 0, False)
    (job,) = (await backend.cycle(name, [], ["t"], 1, True)).jobs
    stored = await queue.require_job(handle.id)
    assert (stored.locked_by, stored.last_error) == (name, message)
    events = await queue.get_job_events(handle.id)
    assert [event.event_type for event in events] == ["added", "processing", "failed", "processing"]
    assert (events[2].metadata or {})["message"] == message and events[3].metadata == {"worker": name}


async def test_lost_workers_are_found_among_many(queue: JobQueue, backend: RedisBackend) -> None:
    for n in range(120):  # dead ones that hold nothing, and were there first
        await backend.register_worker(WorkerInfo(f"dead {n}", "host", 1, ("t",), 1, "0", 0.001))
    handles = await queue.add_jobs(NewJob("t") for _ in range(3))
    await backend.register_worker(_worker("live"))
    await backend.register_worker(WorkerInfo("z lost", "host", 1, ("t",), 1, "0", 0.05))
    assert len((await backend.cycle("live", [], ["t"], 1, True)).jobs) == 1
    assert len((await backend.cycle("z lost", [], ["t"], 1, True)).jobs) == 1
    await asyncio.sleep(0.1)
    assert [(item.id, item.worker) for item in await backend.reclaim_expired(100)] == [(handles[1].id, "z lost")]


async def test_more_types_than_fit_are_refused_whole(
    queue: JobQueue, backend: RedisBackend, client: redis.Redis
) -> None:
    await queue.add_job("t")
    client.hset(backend.key("m"), "type", 65533)
    before = _dump(client, backend.prefix)
    with pytest.raises(DataQueueError, match="65534"):
        await queue.add_jobs(NewJob(f"type {n}", 1, {"tags": ["a"], "idempotency_key": f"{n}"}) for n in range(5))
    assert _dump(client, backend.prefix) == before
    assert (await queue.add_job("the last")).created


async def test_errors_of_json_stay_json(queue: JobQueue, backend: RedisBackend) -> None:
    await queue.add_job("t", max_attempts=1)
    worker = 'we"ird\\/ñ\n'.replace("\n", " ")
    (job,) = (await backend.cycle(worker, [], ["t"], 1, True)).jobs
    assert [item.worker for item in await backend.reclaim_expired(10)] == [worker]
    stored = await queue.require_job(job.id)
    assert stored.status == "failed" and worker in (stored.last_error or "")
    assert json.dumps([event.metadata for event in await queue.get_job_events(job.id)])


def test_every_key_is_described() -> None:
    text = (Path(__file__).parents[2] / "dataqueue" / "backends" / "redis" / "layout.py").read_text()
    for name in KEYS:
        kind = "zset" if name in SORTED_SETS else "hash"
        assert f"\n {name:<4} {kind}" in text, name
