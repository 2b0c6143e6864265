"""``dataqueue worker`` is told to end: real processes and signals, with handlers that do not want to."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from chaos.ledger import draw_seed
from command import Cli, ended, read_until
from servers import redis_server
from support import Working, until

from dataqueue import JobHandle, JobQueue
from dataqueue.cli.stopping import SAME_SIGNAL_SECONDS

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")

TWICE = pytest.mark.parametrize(
    "twice", [pytest.param(False, id="once", marks=pytest.mark.chaos), pytest.param(True, id="twice")]
)
"""Whether the signal comes a second time. If not, the handlers have their whole grace period, which takes its time."""

APP = r"""
import asyncio, os, time
from pathlib import Path
from dataqueue import JobContext, JobQueue

queue = JobQueue.from_url()

def say(word: str) -> None:
    os.write(1, f"{word}\n".encode())  # as one piece, whatever the threads do

@queue.job
async def polite(name: str) -> str:
    say("running")
    while not Path(name).exists():
        await asyncio.sleep(0.01)
    return "done"

@queue.job
def deaf_thread(name: str) -> str:
    say("running")
    while not Path(name).exists():
        time.sleep(0.01)
    return "done"

@queue.job
async def swallows(name: str) -> str:
    say("running")
    while not Path(name).exists():
        try:
            await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            pass
    return "done"

@queue.job
async def blocks(name: str) -> str:
    say("running")
    await asyncio.sleep(0.2)  # so that others begin
    say("blocked")
    while not Path(name).exists():
        time.sleep(3600)
    return "done"

@queue.job
async def work(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return os.environ["RELEASE"]

@queue.job
def work_thread(seconds: float) -> str:
    time.sleep(seconds)
    return os.environ["RELEASE"]
"""


@pytest.fixture
def app(tmp_path: Path, store_url: str) -> Iterator[Cli]:
    cli = Cli(tmp_path)
    cli.env["DATAQUEUE_URL"] = store_url
    (tmp_path / "jobs.py").write_text(APP)
    yield cli
    cli.end()


async def start(app: Cli, running: int, *options: object) -> subprocess.Popen[str]:
    """A worker, once so many handlers run."""
    process = app.start("worker", "jobs:queue", *options)
    for _ in range(running):
        await asyncio.to_thread(read_until, process, "running")
    return process


async def test_what_ends_in_time_is_recorded(queue: JobQueue, app: Cli) -> None:
    go = app.folder / "go"
    handles = [await queue.add_job(job_type, str(go)) for job_type in ("polite", "deaf_thread", "swallows")]
    process = await start(app, 3)
    process.send_signal(signal.SIGTERM)
    await asyncio.to_thread(read_until, process, "draining")
    go.touch()
    code, output = await asyncio.to_thread(ended, process)
    assert code == 0, output
    assert "Drained: 3 finished, 0 handed back, 0 left behind." in output
    for handle in handles:
        job = await handle.refresh()
        assert (job.status, job.output, job.attempts) == ("completed", "done", 1)


@TWICE
async def test_handlers_that_do_not_stop_are_left_behind(queue: JobQueue, app: Cli, twice: bool) -> None:
    never = str(app.folder / "never")
    polite = await queue.add_job("polite", never)
    deaf = [await queue.add_job(job_type, never) for job_type in ("deaf_thread", "swallows")]
    process = await start(app, 3, "--drain-timeout", 3600 if twice else 0)
    process.send_signal(signal.SIGTERM)
    if twice:
        await asyncio.to_thread(read_until, process, "draining")
        time.sleep(2 * SAME_SIGNAL_SECONDS)  # sooner, it would count as the first one, sent twice
        process.send_signal(signal.SIGTERM)
    code, output = await asyncio.to_thread(ended, process)
    assert code == 1, output
    assert "0 finished, 3 handed back" in output and "2 left behind" in output
    assert all(str(handle.id) in output.split("left behind")[1] for handle in deaf)
    await are_free(queue, [polite, *deaf])


@TWICE
async def test_a_blocked_event_loop_does_not_keep_the_process(queue: JobQueue, app: Cli, twice: bool) -> None:
    """The jobs beside the one that blocks are handed back as well, and cost no attempt."""
    never = str(app.folder / "never")
    handles = [await queue.add_job(job_type, never) for job_type in ("polite", "deaf_thread", "blocks")]
    process = await start(app, 3, "--drain-timeout", 3600 if twice else 0)
    await asyncio.to_thread(read_until, process, "blocked")
    process.send_signal(signal.SIGTERM)
    if twice:
        time.sleep(2 * SAME_SIGNAL_SECONDS)
        process.send_signal(signal.SIGTERM)
    code, output = await asyncio.to_thread(ended, process)
    assert code == 1, output
    assert "blocks the event loop" in output and "in blocks" in output
    assert "Handed back 3: " in output
    await are_free(queue, handles)


async def are_free(queue: JobQueue, handles: list[JobHandle[Any]]) -> None:
    for handle in handles:
        job = await handle.refresh()
        assert (job.status, job.attempts, job.locked_by) == ("pending", 0, None)
        assert [event.event_type for event in await queue.get_job_events(handle.id)][-1] == "released"
    assert await queue.list_workers() == []


# -- while the store is away ----------------------------------------------------------------------------


@TWICE
async def test_a_store_that_is_away_does_not_keep_the_process(tmp_path: Path, working: Working, twice: bool) -> None:
    with redis_server() as server:
        cli = Cli(tmp_path)
        cli.env["DATAQUEUE_URL"] = server.url
        (tmp_path / "jobs.py").write_text(APP)
        go = tmp_path / "go"
        queue = JobQueue.from_url(server.url)
        handle = await queue.add_job("polite", str(go))
        process = await start(cli, 1, "--lease", 2, "--drain-timeout", 1000 if twice else 0)
        try:
            server.stop(signal.SIGKILL)
            await asyncio.to_thread(read_until, process, "unavailable" if twice else "heartbeat")
            if twice:
                go.touch()
            process.send_signal(signal.SIGTERM)
            if twice:
                await asyncio.to_thread(read_until, process, "draining")
                time.sleep(2 * SAME_SIGNAL_SECONDS)
                process.send_signal(signal.SIGTERM)
            code, output = await asyncio.to_thread(ended, process)
            assert code == 1, output
            assert f"The store could not be told about 1 ({handle.id})" in output
            server.start()
        finally:
            cli.end()

        async def polite(name: str) -> str:
            return "by another"

        await working(queue, {"polite": polite})
        assert await handle.result(timeout=30) == "by another"
        await queue.close()


# -- deploys --------------------------------------------------------------------------------------------


async def deploys(
    make_queue: Callable[..., JobQueue], app: Cli, rounds: int, chance: random.Random, drain_timeout: float
) -> None:
    """Three workers under load are restarted one after the other, again and again."""
    queue = make_queue()
    added: list[JobHandle[Any]] = []
    over = asyncio.Event()
    versions = iter(range(1, 1000))

    async def feed() -> None:
        while not over.is_set():
            counts = (await queue.stats()).by_status
            if sum(counts.values()) - counts.get("completed", 0) < 40:
                added.extend(
                    await queue.add_jobs(
                        {"job_type": chance.choice(("work", "work_thread")), "payload": chance.uniform(0, 0.3)}
                        for _ in range(40)
                    )
                )
            await asyncio.sleep(0.02)

    async def release() -> subprocess.Popen[str]:
        app.env["RELEASE"] = f"v{next(versions)}"
        process = app.start("worker", "jobs:queue", "--drain-timeout", drain_timeout, "--concurrency", 8)
        await asyncio.to_thread(read_until, process, " at a time: ")
        return process

    async def end(process: subprocess.Popen[str]) -> str:
        process.send_signal(signal.SIGTERM)
        code, output = await asyncio.to_thread(ended, process)
        assert code == 0, output
        assert "0 left behind." in output
        return output

    outputs: list[str] = []
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(feed())
        workers = [await release() for _ in range(3)]
        for number in range(3 * rounds):
            begun = len(added)
            await until(lambda: len(added) > begun, "load")  # noqa: B023
            outputs.append(await end(workers[number % 3]))
            workers[number % 3] = await release()
        over.set()
    jobs = [await handle.wait(timeout=60) for handle in added]
    outputs += [await end(process) for process in workers]
    assert {(job.status, job.attempts) for job in jobs} == {("completed", 1)}
    interrupted = 0
    for job in jobs:
        kinds = [event.event_type for event in await queue.get_job_events(job.id)]
        released = kinds.count("released")
        assert kinds == ["added", *["processing", "released"] * released, "processing", "completed"]
        interrupted += released
    reported = sum(int(output.split(" handed back")[0].rsplit(" ", 1)[1]) for output in outputs)
    assert reported == interrupted, "what is handed back is told"
    assert len({job.output for job in jobs}) > 3, "several releases had their part"
    print(f"{len(outputs)} workers ended, {len(jobs)} jobs, {interrupted} handed back")


@pytest.mark.parametrize("drain_timeout", [30, 0], ids=["patient", "hurried"])
async def test_a_deploy_burns_no_attempt(make_queue: Callable[..., JobQueue], app: Cli, drain_timeout: float) -> None:
    await deploys(make_queue, app, 1, draw_seed(long=False), drain_timeout)


@pytest.mark.chaos
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("drain_timeout", [30, 0], ids=["patient", "hurried"])
async def test_many_deploys_burn_no_attempt(
    make_queue: Callable[..., JobQueue], app: Cli, drain_timeout: float
) -> None:
    await deploys(make_queue, app, 12, draw_seed(long=True), drain_timeout)
