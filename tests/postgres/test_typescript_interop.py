"""The TypeScript library itself (npm's release) and ours on the same tables."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from dataqueue import JobQueue, NewJob
from dataqueue.backends.base import Completed, WorkerInfo
from dataqueue.backends.postgres.migrate import TYPESCRIPT_MIGRATIONS, MigrateOptions, migrate, migrations

from ..conftest import with_database

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")

HERE = Path(__file__).parent / "interop"
RELEASED = 5
"""Migrations of the release; the rest of the sixteen are only in its repository."""


@pytest.fixture(scope="session")
def modules() -> Path:
    """The folder into which npm has installed the release: kept from run to run."""
    wanted = (HERE / "package.json").read_bytes()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dataqueue-tests"
    folder = cache / f"interop-{hashlib.sha256(wanted).hexdigest()[:12]}"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the processes of this run, and other runs
        if not (folder / "installed").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            (folder / "package.json").write_bytes(wanted)
            command = ["npm", "install", "--no-save", "--no-audit", "--no-fund", "--ignore-scripts"]
            installed = subprocess.run(command, cwd=folder, capture_output=True, text=True)
            assert installed.returncode == 0, f"npm could not install the release:\n{installed.stderr}"
            (folder / "installed").touch()
    return folder


class Original:
    """A Node process that runs the TypeScript library."""

    def __init__(self, modules: Path, url: str) -> None:
        self._modules = modules
        self._environment = {**os.environ, "INTEROP_MODULES": str(modules), "PG_DATAQUEUE_DATABASE": url}
        self._process = subprocess.Popen(
            ["node", str(HERE / "original.mjs")],
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def close(self) -> None:
        try:
            self._process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()

    def _ask(self, **request: Any) -> Any:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["result"]

    async def call(self, method: str, *args: Any) -> Any:
        """A method of its queue."""
        return await asyncio.to_thread(self._ask, operation="call", method=method, args=args)

    async def add(self, job_type: str, payload: Any, **options: Any) -> int:
        return await self.call("addJob", {"jobType": job_type, "payload": payload, **options})

    async def work(self, *types: str, **options: Any) -> list[Any]:
        """One batch of these types; the payloads that it worked on."""
        return await asyncio.to_thread(self._ask, operation="work", types=types, options=options)

    async def start(self, *types: str, **options: Any) -> None:
        await asyncio.to_thread(self._ask, operation="start", types=types, options=options)

    async def seen(self) -> list[Any]:
        return await asyncio.to_thread(self._ask, operation="seen")

    async def stop(self) -> list[Any]:
        return await asyncio.to_thread(self._ask, operation="stop")

    async def events(self, job_id: int) -> list[str]:
        return [event["eventType"] for event in await self.call("getJobEvents", job_id)]

    def migrate(self, *, only: int | None = None, schema: str | None = None) -> str:
        """Run its command line tool (or, for the first few, the runner that this calls); what it said."""
        package = self._modules / "node_modules/@nicnocquee/dataqueue"
        if only is None:
            command = ["node", str(package / "cli.cjs"), "migrate"]
        else:
            runner = str(self._modules / "node_modules/.bin/node-pg-migrate")
            command = [runner, "up", str(only), "-t", "dataqueuedev_migrations", "-d", "PG_DATAQUEUE_DATABASE"]
            command += ["-m", str(package / "migrations")]
        if schema is not None:
            command += ["--schema", schema]
        run = subprocess.run(command, cwd=self._modules, env=self._environment, capture_output=True, text=True)
        if run.returncode != 0:
            raise RuntimeError(run.stdout + run.stderr)
        return run.stdout


@pytest.fixture
def newcomer(modules: Path, pg_empty_url: str) -> Iterator[Original]:
    """It, on an empty database."""
    original = Original(modules, pg_empty_url)
    yield original
    original.close()


@pytest.fixture(scope="session", params=["it migrates first", "we migrate first"])
def template(request: pytest.FixtureRequest, modules: Path, pg_server_url: str) -> Iterator[str]:
    """A database with tables that both use, made in either order."""
    first = request.param == "it migrates first"
    name = f"dq_interop_{os.getpid()}_{first:d}"
    url = with_database(pg_server_url, name)
    with psycopg.connect(pg_server_url, autocommit=True) as conn:
        conn.execute(f'CREATE DATABASE "{name}" TEMPLATE template0')
        original = Original(modules, url)
        try:
            if first:
                assert "Migrations complete!" in original.migrate()
            assert len(migrate(url, {}, None, MigrateOptions(shared=not first))) == len(migrations())
            assert "No migrations to run!" in original.migrate()
            original.close()
            yield name
        finally:
            original.close()
            conn.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
def url(template: str, pg_server_url: str) -> Iterator[str]:
    """A shared database of the test's own."""
    with psycopg.connect(pg_server_url, autocommit=True) as conn:
        conn.execute(f'CREATE DATABASE "{template}_copy" TEMPLATE "{template}"')
        try:
            yield with_database(pg_server_url, f"{template}_copy")
        finally:
            conn.execute(f'DROP DATABASE "{template}_copy" WITH (FORCE)')


@pytest.fixture
def original(modules: Path, url: str) -> Iterator[Original]:
    """It, on the shared database."""
    original = Original(modules, url)
    yield original
    original.close()


@pytest.fixture
async def queue(url: str) -> AsyncIterator[JobQueue]:
    """Ours, on the shared database."""
    async with JobQueue.from_url(url) as queue:
        yield queue


def recorded(url: str, schema: str = "public") -> tuple[str, ...]:
    with psycopg.connect(url) as conn:
        rows = conn.execute(f'SELECT name FROM "{schema}".dataqueuedev_migrations ORDER BY id').fetchall()
    return tuple(name for (name,) in rows)


async def work(queue: JobQueue, *types: str) -> list[Any]:
    """One batch of ours; the payloads that it worked on."""
    seen: list[Any] = []

    async def handler(payload: Any) -> Any:
        seen.append(payload)
        if payload.get("fail"):
            raise ValueError(payload["fail"])
        return {"by": "python"}

    await queue.create_processor(dict.fromkeys(types, handler)).start()
    return seen


# -- migrations -------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", range(1, RELEASED + 1))
async def test_adopting_what_its_runner_has_made(newcomer: Original, pg_empty_url: str, stage: int) -> None:
    """After ours its runner, stopped after any of its migrations, has nothing left to do or to fail at."""
    newcomer.migrate(only=stage)
    assert recorded(pg_empty_url) == TYPESCRIPT_MIGRATIONS[:stage]
    migrate(pg_empty_url, {}, None, MigrateOptions())
    assert recorded(pg_empty_url) == TYPESCRIPT_MIGRATIONS
    assert "No migrations to run!" in newcomer.migrate()
    async with JobQueue.from_url(pg_empty_url) as queue:
        job_id = await newcomer.add("t", {"n": 1})
        assert await work(queue, "t") == [{"n": 1}]
        handle = await queue.add_job("t", {"n": 2})
        assert await newcomer.work("t") == [{"n": 2}]
        assert (await newcomer.call("getJob", job_id))["status"] == (await handle.refresh()).status == "completed"


async def test_a_schema_of_its_own(newcomer: Original, pg_empty_url: str) -> None:
    newcomer.migrate(schema="jobs")
    migrate(pg_empty_url, {}, "jobs", MigrateOptions())
    assert "No migrations to run!" in newcomer.migrate(schema="jobs")
    assert recorded(pg_empty_url, "jobs") == TYPESCRIPT_MIGRATIONS
    with psycopg.connect(pg_empty_url) as conn:
        assert conn.execute("SELECT to_regclass('public.job_queue')").fetchone() == (None,)


async def test_both_migrate_at_once(newcomer: Original, pg_empty_url: str) -> None:
    """Whoever comes first: the other waits, or (its runner) gives up and leaves it to us."""

    def theirs() -> str:
        try:
            return newcomer.migrate()
        except RuntimeError as error:
            return str(error)

    said, made = await asyncio.gather(
        asyncio.to_thread(theirs),
        asyncio.to_thread(migrate, pg_empty_url, {}, None, MigrateOptions(shared=True)),
    )
    assert "Migrations complete!" in said or "Another migration is already running" in said
    assert len(made) == len(migrations())
    assert recorded(pg_empty_url) == TYPESCRIPT_MIGRATIONS
    assert "No migrations to run!" in newcomer.migrate()


# -- one adds, the other works ----------------------------------------------------------------------


async def test_it_adds_and_we_work(original: Original, queue: JobQueue) -> None:
    job_id = await original.add("t", {"n": 1}, tags=["a"], priority=3, maxAttempts=2, timeoutMs=60_000)
    job = await queue.require_job(job_id)
    assert (job.job_type, job.payload, job.status, job.tags) == ("t", {"n": 1}, "pending", ("a",))
    assert (job.priority, job.max_attempts, job.timeout) == (3, 2, timedelta(minutes=1))
    assert await work(queue, "t") == [{"n": 1}]
    theirs = await original.call("getJob", job_id)
    assert (theirs["status"], theirs["attempts"], theirs["lockedBy"]) == ("completed", 1, None)
    assert theirs["completedAt"] is not None and theirs["startedAt"] is not None
    assert await original.events(job_id) == ["added", "processing", "completed"]
    assert [job["id"] for job in await original.call("getJobsByStatus", "completed")] == [job_id]
    assert (await queue.require_job(job_id)).output == {"by": "python"}


async def test_we_add_and_it_works(original: Original, queue: JobQueue) -> None:
    handles = [await queue.add_job("t", {"n": 0}), *await queue.add_jobs(NewJob("t", {"n": n}) for n in range(1, 5))]
    late = await queue.add_job("t", {"n": "late"}, delay=timedelta(hours=1))
    assert sorted(payload["n"] for payload in await original.work("t")) == [0, 1, 2, 3, 4]
    for handle in handles:
        job = await handle.wait(timeout=10)
        assert (job.status, job.attempts, job.locked_at is None or job.locked_at <= job.completed_at) == (
            "completed",
            1,
            True,
        )
        assert [event.event_type for event in await queue.get_job_events(job.id)] == [
            "added",
            "processing",
            "completed",
        ]
    assert (await late.refresh()).status == "pending"
    assert (await queue.stats()).by_status == {"completed": 5, "pending": 1}


@pytest.mark.parametrize(
    "payload", [{}, {"text": 'ü "\\ 😀', "list": [1, 2.5, None, True, {"deep": [[]]}], "big": 2**53}]
)
async def test_payloads_arrive_whole(original: Original, queue: JobQueue, payload: Any) -> None:
    theirs = await original.add("from-it", payload)
    ours = await queue.add_job("from-us", payload)
    assert (await queue.require_job(theirs)).payload == payload
    assert (await original.call("getJob", ours.id))["payload"] == payload
    assert await work(queue, "from-it") == await original.work("from-us") == [payload]


async def test_a_delayed_job_of_its_runs_when_it_is_due(original: Original, queue: JobQueue) -> None:
    """It inserts without our columns; a worker that sleeps meanwhile takes it nonetheless."""
    done = asyncio.Event()

    async def handler(_: Any) -> None:
        done.set()

    processor = queue.create_processor({"t": handler}, poll_interval=timedelta(milliseconds=100))
    processor.start_in_background()
    try:
        # Its client has no Date in JSON: by way of an edit it takes null for now.
        job_id = (await queue.add_job("t", {}, delay=timedelta(hours=1))).id
        await original.call("editJob", job_id, {"runAt": None, "priority": 5})
        await asyncio.wait_for(done.wait(), 30)
    finally:
        await processor.stop_and_drain(5)
    job = await queue.require_job(job_id)
    assert (job.status, job.priority) == ("completed", 5)
    # It records an edit after it was made, and so perhaps after the job was done.
    assert sorted(await original.events(job_id)) == ["added", "completed", "edited", "processing"]


async def test_what_fails_there_is_retried_here(original: Original, queue: JobQueue, url: str) -> None:
    job_id = await original.add("t", {"fail": "boom"})
    assert await original.work("t") == [{"fail": "boom"}]
    job = await queue.require_job(job_id)
    assert (job.status, job.attempts, job.failure_reason, job.last_error) == ("failed", 1, "handler_error", "boom")
    assert job.next_attempt_at is not None and job.next_attempt_at > datetime.now(UTC)
    assert await work(queue, "t") == []
    sooner(url, job_id)
    assert await work(queue, "t") == [{"fail": "boom"}]
    job = await queue.require_job(job_id)
    assert (job.status, job.attempts, len(job.error_history)) == ("failed", 2, 2)
    sooner(url, job_id)
    assert await original.work("t") == [{"fail": "boom"}]  # its third and last attempt
    theirs = await original.call("getJob", job_id)
    assert (theirs["status"], theirs["attempts"], theirs["nextAttemptAt"]) == ("failed", 3, None)
    assert [entry["message"] for entry in theirs["errorHistory"]] == ["boom"] * 3
    sooner(url, job_id)
    assert await work(queue, "t") == []
    assert await original.events(job_id) == ["added", *["processing", "failed"] * 3]


def sooner(url: str, job_id: int) -> None:
    with psycopg.connect(url) as conn:
        conn.execute(
            "UPDATE job_queue SET next_attempt_at = now() WHERE id = %s AND next_attempt_at > now()", (job_id,)
        )


async def test_retries_by_hand_of_both_sides(original: Original, queue: JobQueue) -> None:
    job_id = await original.add("t", {"fail": "boom"}, maxAttempts=2)
    await original.work("t")
    await original.call("retryJob", job_id)
    assert await work(queue, "t") == [{"fail": "boom"}]
    assert (await queue.require_job(job_id)).next_attempt_at is None
    assert await queue.retry_job(job_id)
    assert await original.work("t") == [{"fail": "boom"}]
    assert (await original.call("getJob", job_id))["attempts"] == 3


async def test_cancels_of_both_sides(original: Original, queue: JobQueue) -> None:
    ours, theirs = (await queue.add_job("t", {"n": 1})).id, await original.add("t", {"n": 2})
    assert await queue.cancel_job(theirs)
    await original.call("cancelJob", ours)
    assert await work(queue, "t") == await original.work("t") == []
    for job_id in (ours, theirs):
        assert (await queue.require_job(job_id)).status == "cancelled"
        assert (await original.call("getJob", job_id))["status"] == "cancelled"
        assert await original.events(job_id) == ["added", "cancelled"]
    assert not await queue.cancel_job(ours)

    handles = await queue.add_jobs(NewJob("t", n) for n in range(3))
    assert await original.call("cancelAllUpcomingJobs", {"jobType": "t"}) == 3
    assert [(await handle.refresh()).status for handle in handles] == ["cancelled"] * 3


async def test_tags_of_both_sides(original: Original, queue: JobQueue) -> None:
    ours = (await queue.add_job("t", {}, tags=["a", "b"])).id
    theirs = await original.add("t", {}, tags=["b", "c"])
    await original.add("t", {})
    for tags, mode, expected in (
        (["b"], "all", [theirs, ours]),
        (["a", "c"], "any", [theirs, ours]),
        (["a", "b"], "exact", [ours]),
    ):
        assert [job.id for job in await queue.get_jobs_by_tags(tags, mode)] == expected  # type: ignore[arg-type]
        assert [job["id"] for job in await original.call("getJobsByTags", tags, mode)] == expected


# -- both work --------------------------------------------------------------------------------------


@pytest.mark.parametrize("types", [("one", "two"), ("same", "same")], ids=["a type each", "the same type"])
async def test_both_work_at_once_and_each_job_is_done_once(
    original: Original, queue: JobQueue, types: tuple[str, str]
) -> None:
    theirs, ours = types
    runs: list[int] = []

    async def handler(payload: Any) -> None:
        runs.append(payload["n"])
        await asyncio.sleep(0.002)

    processor = queue.create_processor({ours: handler}, concurrency=4, prefetch=2, poll_interval=timedelta(seconds=0.1))
    processor.start_in_background()
    await original.start(theirs, batchSize=4, concurrency=4, pollInterval=20)
    try:
        jobs: Callable[[int], Any] = lambda n: (types[n % 2], {"n": n, "ms": 2})  # noqa: E731
        added = [original.add(*jobs(n)) for n in range(100)]
        ids = [*(await queue.add_jobs(NewJob(*jobs(n)) for n in range(100, 200))).ids]
        for adding in added:
            ids.append(await adding)
        async with asyncio.timeout(60):
            while (await queue.stats()).by_status != {"completed": 200}:
                await asyncio.sleep(0.05)
            for job_id in ids:
                while len(await queue.get_job_events(job_id)) < 3:  # it writes its events afterwards
                    await asyncio.sleep(0.05)
    finally:
        await processor.stop_and_drain(5)
        seen = [payload["n"] for payload in await original.stop()]
    assert sorted(runs + seen) == list(range(200))
    assert runs and seen
    if types == ("one", "two"):
        assert {n % 2 for n in seen} == {0} and {n % 2 for n in runs} == {1}
    for job_id in ids:
        events = await original.events(job_id)
        assert sorted(events) == ["added", "completed", "processing"], (job_id, events)
        assert (await queue.require_job(job_id)).attempts == 1


async def test_neither_takes_types_that_it_has_no_handler_for(original: Original, queue: JobQueue) -> None:
    await original.add("only-python", {"n": 1})
    await queue.add_job("only-typescript", {"n": 2})
    assert await original.work("only-typescript") == [{"n": 2}]
    assert await work(queue, "only-python") == [{"n": 1}]
    assert (await queue.stats()).by_status == {"completed": 2}


# -- who holds a job --------------------------------------------------------------------------------

WORKER = WorkerInfo("py-1", "here", 1, ("t",), 10, "1", 30.0)


async def test_its_reclaim_spares_jobs_whose_worker_lives(original: Original, queue: JobQueue, url: str) -> None:
    backend, heart = queue.backend, queue.backend.heart()
    await backend.register_worker(WORKER)
    await queue.add_jobs(NewJob("t", n) for n in range(2))
    kept, silent = (await backend.cycle(WORKER.id, [], ["t"], 2, True)).jobs
    with ExitStack() as stack, psycopg.connect(url, autocommit=True) as conn:
        stack.callback(heart.close)
        conn.execute("UPDATE job_queue SET locked_at = now() - interval '11 minutes'")
        pulse = await asyncio.to_thread(heart.beat, WORKER, [(kept.id, kept.lease_id)])
        assert pulse.lost == []
        assert await original.call("reclaimStuckJobs", 10) == 1
        held = [(job.id, job.lease_id) for job in (kept, silent)]
        assert (await asyncio.to_thread(heart.beat, WORKER, held)).lost == held[1:]
    outcomes = [Completed(job.id, job.lease_id, '"ours"') for job in (kept, silent)]
    assert (await backend.cycle(WORKER.id, outcomes, ["t"], 0, False)).lost == held[1:]
    assert [job.status for job in await queue.get_jobs()] == ["pending", "completed"]


async def test_its_late_handler_does_not_finish_a_job_that_we_hold(
    original: Original, queue: JobQueue, url: str
) -> None:
    """It takes a job, is slow, loses the job to its own reclaim, and completes it while we run it."""
    backend = queue.backend
    await backend.register_worker(WORKER)
    job_id = (await queue.add_job("t", {"ms": 2000})).id
    await original.start("t", batchSize=1, concurrency=1, pollInterval=60_000)
    while not await original.seen():
        await asyncio.sleep(0.01)
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("UPDATE job_queue SET locked_at = now() - interval '11 minutes'")
    assert await original.call("reclaimStuckJobs", 10) == 1
    (job,) = (await backend.cycle(WORKER.id, [], ["t"], 1, True)).jobs
    await original.stop()
    async with asyncio.timeout(30):
        while "completed" not in await original.events(job_id):  # it records what did not happen
            await asyncio.sleep(0.05)
    assert (await queue.require_job(job_id)).status == "processing"
    assert (await backend.cycle(WORKER.id, [Completed(job.id, job.lease_id, '"ours"')], ["t"], 0, False)).lost == []
    assert (await original.call("getJob", job_id))["status"] == "completed"
    assert (await queue.require_job(job_id)).output == "ours"
