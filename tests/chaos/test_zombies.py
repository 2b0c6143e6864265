"""Workers that are stopped (SIGSTOP) past their lease, and wake up when others have done their jobs."""

from __future__ import annotations

import asyncio
import random
import signal
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from chaos.ledger import Fleet, compare, draw_seed, fleet
from support import until

from dataqueue import JobHandle, JobQueue

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")

LEASE = 2.0
TYPES = ("late", "late_thread")
ACTS = ("complete", "fail")
MEANWHILE = ("finished", "cancelled", "cancelled and retried", "run once more")
"""What becomes of a job while its first worker is stopped."""


@pytest.mark.parametrize("told", [True, False], ids=["told", "not told"])
async def test_a_worker_stopped_past_its_lease_changes_nothing(
    queue: JobQueue, store_url: str, tmp_path: Path, told: bool
) -> None:
    """D-FENCE1, D-FENCE2, D-ZOMBIESTEP: complete, fail, progress, output and prolong of a lost lease.

    Its heartbeat tells it when it wakes; or says nothing, so that it sends all that it has.
    """
    go = tmp_path / "go"
    with fleet(store_url, tmp_path, LEASE) as workers:
        jobs = {
            await queue.add_job(job_type, {"go": str(go), "act": act}, max_attempts=5): meanwhile
            for job_type in TYPES
            for act in ACTS
            for meanwhile in MEANWHILE
        }
        zombie = workers.start(concurrency=len(jobs), **({} if told else {"mute": str(go)}))
        await until(lambda: len(workers.ledger.lines("start")) == len(jobs), "the first starts")
        workers.send(zombie, signal.SIGSTOP)
        for handle, meanwhile in jobs.items():
            if meanwhile.startswith("cancelled"):
                await handle.cancel()
        second = workers.start(concurrency=len(jobs))
        for handle, meanwhile in jobs.items():
            job = await handle.wait(timeout=60)
            assert job.status == ("cancelled" if meanwhile.startswith("cancelled") else "completed")
            if meanwhile == "cancelled and retried":
                assert await queue.retry_job(handle.id)
            elif meanwhile == "run once more":
                assert await queue.retry_job(handle.id, force=True)
        records = {handle.id: await handle.wait(timeout=60) for handle in jobs}
        events = {handle.id: await queue.get_job_events(handle.id) for handle in jobs}
        for handle, meanwhile in jobs.items():
            job = records[handle.id]
            if meanwhile == "cancelled":
                assert (job.status, job.attempts, job.output) == ("cancelled", 1, None)
            else:
                assert (job.status, job.output["worker"]) == ("completed", second)
                assert job.attempts == (3 if meanwhile == "run once more" else 2)
        workers.send(second, signal.SIGTERM)
        await until(lambda: workers.has_ended(second), "the end of the second worker")

        go.touch()
        workers.send(zombie, signal.SIGCONT)
        await until(lambda: len(workers.ledger.lines("late end")) == len(jobs), "the late ends")
        if told:
            after = await queue.add_job("quick", 0)  # the late outcomes have been sent by the time this is done
            assert (await after.wait(timeout=60)).output["worker"] == zombie, "it goes on with other jobs"
        else:
            outcomes = ("completed", "failed", "cancelled")
            await until(
                lambda: len([line for line in workers.ledger.lines("refused") if line["of"] in outcomes]) == len(jobs),
                "the late outcomes",
            )

        for handle in jobs:
            assert await handle.refresh() == records[handle.id]
            assert await queue.get_job_events(handle.id) == events[handle.id]
        late = [line for line in workers.ledger.lines(worker=zombie) if line.get("job") in records]
        assert [line for line in late if line["what"] == "stored"] == []
        assert {line["job"] for line in late if line["what"] == "LeaseLost"} == set(records), "each handler is told"
        refused = {line["of"] for line in late if line["what"] == "refused"}
        assert refused >= {"progress", "output"} | (set() if told else {"prolong", "completed", "failed"})


async def test_a_worker_whose_lease_is_over_claims_nothing_before_it_has_renewed_it(
    queue: JobQueue, store_url: str, tmp_path: Path
) -> None:
    mute = tmp_path / "mute"
    with fleet(store_url, tmp_path, LEASE) as workers:
        silent = workers.start(mute=str(mute))
        await until(lambda: workers.is_up(silent), "the worker")
        mute.touch()

        async def is_lost() -> bool:
            return [worker.alive for worker in await queue.list_workers()] == [False]

        await until(is_lost, "the end of its lease")
        handle = await queue.add_job("quick", 0)
        other = workers.start(types=["threaded"])  # what this one does takes longer than a claim
        await (await queue.add_job("threaded", 0)).wait(timeout=60)
        assert workers.ledger.lines("start", job=handle.id) == []
        mute.unlink()
        job = await handle.wait(timeout=60)
        assert (job.output["worker"], job.attempts) == (silent, 1)
        assert workers.is_up(other)


@pytest.mark.chaos  # the server waits for 20 s
async def test_a_worker_stopped_inside_a_transaction_locks_its_jobs_for_a_while_only(
    pg_url: str, tmp_path: Path
) -> None:
    queue = JobQueue.from_url(pg_url)
    with psycopg.connect(pg_url) as conn:
        if conn.info.server_version < 170000:
            pytest.skip("needs the transaction_timeout of PostgreSQL 17")
    with fleet(pg_url, tmp_path, LEASE) as workers:
        handle = await queue.add_job("quick", 0, max_attempts=5)
        frozen = workers.start(kill={"at": "commit", "when": "before", "by": "SIGSTOP"})
        await until(lambda: workers.ledger.lines("killed"), "the stop")
        second = workers.start()
        job = await handle.wait(timeout=60)
        assert (job.output["worker"], job.attempts) == (second, 2)
        workers.send(frozen, signal.SIGCONT)
        await until(lambda: workers.ledger.lines("refused", worker=frozen), "its late outcome")
        assert await handle.refresh() == job
    await queue.close()


async def campaign(queue: JobQueue, workers: Fleet, rounds: int, chance: random.Random) -> None:
    """Workers are stopped at moments of chance, shorter and longer than the lease, while all are busy."""
    added: list[JobHandle[Any]] = []
    over = asyncio.Event()
    names = [workers.start() for _ in range(3)]
    stops: list[str] = []

    async def feed() -> None:
        while not over.is_set():
            counts = (await queue.stats()).by_status
            if sum(counts.values()) - counts.get("completed", 0) < 40:
                added.extend(
                    await queue.add_jobs(
                        {
                            "job_type": chance.choice(("quick", "threaded", "writes", "flaky")),
                            "payload": chance.uniform(0.02, 0.2),
                            "max_attempts": 100,
                            "retry_delay": timedelta(0),
                        }
                        for _ in range(40)
                    )
                )
            await asyncio.sleep(0.02)

    async def rescued(name: str) -> bool:
        held = await queue.get_jobs(status="processing", limit=1000)
        return name not in {job.locked_by for job in held}

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(feed())
        for name in names:
            await until(lambda name=name: workers.is_up(name), name)
        for _ in range(rounds):
            name = chance.choice(names)
            begun = len(workers.ledger.lines("start", worker=name))
            enough = begun + chance.randint(5, 40)
            await until(lambda: len(workers.ledger.lines("start", worker=name)) >= enough, "load")  # noqa: B023
            workers.send(name, signal.SIGSTOP)
            stops.append(name)
            if chance.random() < 0.75:
                await until(lambda: rescued(name), "the rescue")  # noqa: B023
            workers.send(name, signal.SIGCONT)
        over.set()
    for handle in added:
        await handle.wait(timeout=60)
    for name in names:
        workers.send(name, signal.SIGTERM)
    for name in names:
        await until(lambda name=name: workers.has_ended(name), f"the end of {name}")
    await compare(queue, added, workers.ledger, stops)
    refused = len(workers.ledger.lines("refused"))
    print(
        f"{rounds} stops, {len(added)} jobs, {len(workers.ledger.lines('start'))} starts, {refused} late writes refused"
    )


async def test_workers_stopped_at_any_moment(queue: JobQueue, store_url: str, tmp_path: Path) -> None:
    chance = draw_seed(long=False)
    with fleet(store_url, tmp_path, LEASE) as workers:
        await campaign(queue, workers, 2, chance)


@pytest.mark.chaos
@pytest.mark.timeout(3600)
async def test_workers_stopped_at_many_moments(queue: JobQueue, store_url: str, tmp_path: Path) -> None:
    chance = draw_seed(long=True)
    with fleet(store_url, tmp_path, LEASE) as workers:
        await campaign(queue, workers, 40, chance)
