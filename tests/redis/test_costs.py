"""What a call makes the server do, however much else lies in the queue: commands and bytes, not time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
import redis
from servers import RedisServer, redis_server

from dataqueue import DependsOn, JobQueue, NewJob
from dataqueue.backends.base import Claimed, Completed, Failed, Outcome, WorkerInfo

MANY = 10_000


@dataclass(frozen=True)
class Cost:
    commands: dict[str, int]
    """How often each was called, by the client or a script."""
    received: int
    sent: int
    """Bytes."""

    @property
    def calls(self) -> int:
        return sum(self.commands.values())


Measure = Callable[[Callable[[], Awaitable[Any]]], Awaitable[Cost]]


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with redis_server("--appendonly", "no") as server:
        yield server


@pytest.fixture
def client(server: RedisServer) -> Iterator[redis.Redis]:
    with server.client() as client:
        yield client


@pytest.fixture
async def queue(server: RedisServer) -> AsyncIterator[JobQueue]:
    async with JobQueue.from_url(server.url, max_connections=1) as queue:
        await queue.open()
        for name, lease in (("w", 3600.0), ("gone", 0.0)):
            await queue.backend.register_worker(WorkerInfo(name, "h", 1, ("t", "u"), 10, "0", lease))
        yield queue


@pytest.fixture
def measure(client: redis.Redis) -> Measure:
    own = {"info", "config|resetstat", "client|setinfo", "client|setname", "hello", "select", "ping"}

    def figures() -> tuple[dict[str, int], int, int]:
        stats = client.info("commandstats")
        commands = {name.removeprefix("cmdstat_"): entry["calls"] for name, entry in stats.items()}
        net = client.info("stats")
        received, sent = net["total_net_input_bytes"], net["total_net_output_bytes"]
        return {name: count for name, count in commands.items() if name not in own}, received, sent

    async def measure(call: Callable[[], Awaitable[Any]]) -> Cost:
        await call()  # scripts are loaded, names are known
        client.config_resetstat()
        base = figures()  # what asking itself costs
        again = figures()
        await call()
        after = figures()
        asking = again[1] - base[1], again[2] - base[2]
        return Cost(after[0], after[1] - again[1] - asking[0], after[2] - again[2] - asking[1])

    return measure


async def _claim(queue: JobQueue, worker: str = "w", limit: int = 1, job_type: str = "t") -> list[Claimed]:
    return (await queue.backend.cycle(worker, [], [job_type], limit, True)).jobs


async def _others(queue: JobQueue, count: int) -> None:
    """Jobs that have nothing to do with what is measured: in line, waiting for others, scheduled, running, finished."""
    first = await queue.add_job("u", priority=-9)
    await queue.add_jobs(NewJob("t", n, {"priority": -5, "tags": ["other"]}) for n in range(count))
    await queue.add_jobs(NewJob("u", n, {"depends_on": first, "tags": ["other"]}) for n in range(count // 10))
    await queue.add_jobs(NewJob("t", n, {"delay": timedelta(days=1)}) for n in range(count // 10))
    await queue.add_jobs(NewJob("u", n, {"tags": ["other"]}) for n in range(count // 5))
    running = await _claim(queue, limit=count // 5, job_type="u")
    ended: list[Outcome] = [Completed(job.id, job.lease_id) for job in running[::2]]
    await queue.backend.cycle("w", ended, [], 0, False)


@pytest.mark.parametrize("kind", ["retry", "final", "dead letter", "cascade"])
async def test_a_failure_costs_the_same_in_a_long_line(queue: JobQueue, measure: Measure, kind: str) -> None:
    """R-FAILCOST, P-FAIL: nobody looks through the pending jobs for those that waited for it."""

    async def fail() -> None:
        options: Any = {"priority": 5, "dead_letter": "dead" if kind == "dead letter" else None}
        job = await queue.add_job("t", 1, **{name: value for name, value in options.items() if value is not None})
        if kind == "cascade":
            await queue.add_job("t", 1, priority=5, depends_on=job)
        (held,) = await _claim(queue)
        assert held.id == job.id
        failure = Failed(held.id, held.lease_id, "m", "handler_error", 60_000 if kind == "retry" else None)
        assert (await queue.backend.cycle("w", [failure], [], 0, False)).lost == []

    before = await measure(fail)
    await _others(queue, MANY)
    after = await measure(fail)
    assert after.commands == before.commands
    assert after.received < before.received + 100 and after.sent < before.sent + 100


async def test_a_claim_costs_the_same_beside_one_that_waits_for_a_tag(queue: JobQueue, measure: Measure) -> None:
    """R-TAGCOST: what it waits for was found when it was added."""
    await queue.add_jobs(NewJob("t", n, {"priority": -8, "tags": ["in"]}) for n in range(5))
    barrier = await queue.add_job("t", depends_on=DependsOn(tags=["in"]))

    async def claim() -> None:
        await queue.add_job("t", priority=5)
        (held,) = await _claim(queue)
        await queue.backend.cycle("w", [Completed(held.id, held.lease_id)], [], 0, False)

    before = await measure(claim)
    await _others(queue, MANY)
    after = await measure(claim)
    assert after.commands == before.commands
    assert (await barrier.refresh()).blocked


async def test_a_rescue_takes_as_many_as_it_is_told_to(queue: JobQueue, measure: Measure) -> None:
    """R-TAGCOST: no script is as long as there are jobs."""
    taken: list[int] = []

    async def rescue() -> None:
        taken.append(len(await queue.backend.reclaim_expired(10)))

    costs: list[int] = []
    for count in (30, 3_000):
        await queue.add_jobs(NewJob("t", n, {"max_attempts": 1}) for n in range(count))
        held = 0
        while held < count:
            held += len(await _claim(queue, "gone", limit=min(500, count - held)))
        costs.append((await measure(rescue)).calls)
    assert taken == [10] * 4 and costs[1] <= costs[0] + 5, "pages of members, perhaps"


LISTS: dict[str, dict[str, Any]] = {
    "all": {},
    "status": {"status": "pending"},
    "type and status": {"job_type": "t", "status": ["pending", "failed"]},
    "a rare status": {"status": "cancelled"},
    "a rare tag, exactly": {"tags": ["rare"], "tag_mode": "exact"},
    "two tags": {"tags": ["other", "rare"], "tag_mode": "all"},
    "any tag": {"tags": ["other", "rare"], "tag_mode": "any"},
}


@pytest.mark.parametrize("where", LISTS.values(), ids=LISTS)
async def test_a_page_costs_the_same_of_a_long_list(queue: JobQueue, measure: Measure, where: dict[str, Any]) -> None:
    """R-LIST: the server picks the jobs, and no others come to the client."""
    await queue.add_jobs(NewJob("t", n, {"tags": ["rare"] if n % 2 else ["rare", "other"]}) for n in range(20))
    await (await queue.add_job("u")).cancel()
    costs: list[Cost] = []
    for count in (300, MANY):
        await _others(queue, count)
        costs.append(await measure(lambda: queue.get_jobs(limit=10, **where)))
    assert costs[1].calls <= costs[0].calls + 2
    assert costs[1].sent <= 1.5 * costs[0].sent + 500


async def test_cleaning_up_reads_only_what_is_the_queues(
    queue: JobQueue, client: redis.Redis, measure: Measure
) -> None:
    """R-LIST: the server is shared with others, whose keys are not looked through."""
    client.mset({f"foreign:{n}": "x" for n in range(2_000)})
    handle = await queue.add_job("t")

    async def clean() -> None:
        await queue.cleanup_old_job_events(timedelta(0))
        await queue.cleanup_old_jobs(timedelta(0), status=["completed", "failed", "cancelled"])

    cost = await measure(clean)
    assert not {"scan", "keys"} & set(cost.commands) and cost.sent < 2_000 and cost.calls < 200
    assert await queue.get_job_events(handle.id) == []


async def test_a_script_is_sent_once(queue: JobQueue, measure: Measure) -> None:
    """R-EVAL: then its digest is enough."""
    cost = await measure(lambda: _claim(queue))
    assert cost.commands["evalsha"] == 1 and "eval" not in cost.commands
    assert cost.received < 1_000
