"""Through a real PgBouncer in transaction mode."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict
from servers import free_ports
from support import Working, until

from dataqueue import JobQueue, NewJob, ReadOnlyQueue

pytestmark = pytest.mark.skipif(shutil.which("pgbouncer") is None, reason="needs pgbouncer")


@pytest.fixture
def pooled_url(pg_url: str) -> Iterator[str]:
    tmp_path = Path(tempfile.mkdtemp(prefix="dataqueue-pgbouncer-"))  # pytest's own folders are closed to others
    options = conninfo_to_dict(pg_url)
    (port,) = free_ports(1)
    # As root it must become another account; the one that runs Postgres may use its socket.
    owner = pwd.getpwuid(Path(str(options["host"])).stat().st_uid).pw_name
    user = f"user = {owner}" if os.geteuid() == 0 else ""
    (tmp_path / "users.txt").write_text('"postgres" ""\n')
    (tmp_path / "pgbouncer.ini").write_text(
        f"""
[databases]
* = host={options["host"]} port={options.get("port") or 5432} user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
auth_file = {tmp_path / "users.txt"}
pool_mode = transaction
default_pool_size = 3
ignore_startup_parameters = extra_float_digits
logfile = {tmp_path / "log"}
{user}
"""
    )
    for file in (tmp_path, tmp_path / "pgbouncer.ini", tmp_path / "users.txt"):
        file.chmod(0o777)
    server = subprocess.Popen(
        ["pgbouncer", str(tmp_path / "pgbouncer.ini")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    url = f"postgresql://postgres@127.0.0.1:{port}/{options['dbname']}"
    deadline = time.monotonic() + 30
    while True:
        try:
            psycopg.connect(url).close()
            break
        except psycopg.OperationalError:
            assert time.monotonic() < deadline and server.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.05)
    yield url
    server.terminate()
    server.wait(timeout=30)
    shutil.rmtree(tmp_path, ignore_errors=True)


async def test_groups_keep_to_their_limit(pooled_url: str, working: Working) -> None:
    """What a claim notes for its next statement is its transaction's own."""
    running, most = 0, 0

    async def handler(payload: Any) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.001)
        running -= 1

    async with JobQueue.from_url(pooled_url, max_connections=5) as queue:
        for _ in range(2):
            await working(queue, {"t": handler}, group_concurrency=2, poll_interval=timedelta(seconds=0.2))
        await until(lambda: _workers(queue), "the workers")
        await queue.add_jobs(NewJob("t", None, {"group": "g"}) for _ in range(60))
        await until(lambda: _completed(queue, 60), "all jobs")
    assert most == 2


async def _workers(queue: JobQueue) -> bool:
    return len(await queue.list_workers()) == 2


async def _completed(queue: JobQueue, count: int) -> bool:
    return (await queue.stats()).by_status.get("completed") == count


async def test_jobs_are_added_and_worked(pooled_url: str, working: Working) -> None:
    async with JobQueue.from_url(pooled_url, max_connections=5) as queue:

        async def double(number: int) -> int:
            return 2 * number

        await working(queue, {"double": double}, poll_interval=timedelta(seconds=0.2))
        handles = [await queue.add_job("double", number) for number in range(60)]
        assert [await handle.result(60) for handle in handles] == [2 * number for number in range(60)]
        stats = await queue.stats()
        assert stats.by_status == {"completed": 60} and len(stats.workers) == 1


async def test_a_reading_queue_leaves_no_setting_behind(pooled_url: str) -> None:
    async with JobQueue.from_url(pooled_url) as queue, JobQueue.from_url(pooled_url, read_only=True) as reader:
        for _ in range(10):
            job = await queue.add_job("t")
            assert await reader.get_job(job.id) is not None
            with pytest.raises(ReadOnlyQueue):
                await reader.cancel_job(job.id)
            assert await job.cancel()


async def test_a_heartbeat_goes_on(pooled_url: str, working: Working) -> None:
    async with JobQueue.from_url(pooled_url) as queue:

        async def handler(payload: Any) -> None: ...

        await working(queue, {"t": handler}, lease=timedelta(seconds=1), poll_interval=timedelta(seconds=0.2))

        async def beaten_often() -> bool:
            workers = await queue.list_workers()
            return bool(workers) and (workers[0].last_heartbeat_at - workers[0].started_at).total_seconds() > 3

        await until(beaten_often)
        assert (await queue.list_workers())[0].alive
