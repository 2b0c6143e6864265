"""The server under a role that can only read, and while its store goes away and comes back."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
from dataqueue.mcp_server import ServerOptions, create_server
from mcp import Client
from servers import redis_server
from support import until

from dataqueue import JobQueue, NewJob
from dataqueue.backends.base import Failed, WorkerInfo
from dataqueue.backends.redis.connect import ACL_READER
from dataqueue.backends.redis.layout import key_prefix

READS: list[tuple[str, dict[str, Any]]] = [
    ("queue_status", {}),
    ("queue_status", {"job_type": "pay"}),
    ("list_jobs", {}),
    ("list_jobs", {"tags": ["shop"], "error_contains": "declined", "status": ["failed"]}),
    ("get_job", {"job_id": 1, "include": ["events", "errors", "payload", "output"]}),
    ("explain_job", {"job_id": 1}),
    ("explain_job", {"job_id": 2}),
    ("summarize_failures", {}),
    ("list_workers", {}),
    ("check_setup", {}),
    ("list_schedules", {}),
]


async def fill(queue: JobQueue) -> None:
    await queue.add_jobs(NewJob("pay", {"n": n}, {"tags": ["shop"], "max_attempts": 1}) for n in range(3))
    await queue.backend.register_worker(WorkerInfo("w", "host", 1, ("pay",), 1, "0", 60))
    (job,) = (await queue.backend.cycle("w", [], ["pay"], 1, True)).jobs
    failed = Failed(job.id, job.lease_id, "card declined", "handler_error", None, "ValueError", "shop.py:1 pay")
    await queue.backend.cycle("w", [failed], [], 0, False)
    await queue.add_cron_job("nightly", "@daily", "pay")


async def check_reads(client: Client) -> None:
    for name, arguments in READS:
        result = await client.call_tool(name, arguments)
        assert not result.is_error, f"{name}: {result.content[0].text}"  # type: ignore[union-attr]


@pytest.fixture
async def filled(queue: JobQueue) -> AsyncIterator[JobQueue]:
    await queue.open()
    await fill(queue)
    yield queue


async def test_a_role_with_select_only(pg_url: str) -> None:
    async with JobQueue.from_url(pg_url) as queue:
        await fill(queue)
        role = f"reader_{os.getpid()}"
        with psycopg.connect(pg_url, autocommit=True) as conn:
            conn.execute(f"CREATE ROLE {role} LOGIN")
            conn.execute(f"GRANT USAGE ON SCHEMA public TO {role}")
            conn.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}")
        try:
            url = pg_url.replace("postgres@", f"{role}@", 1)
            reader = JobQueue.from_url(url, read_only=True)
            async with Client(create_server(ServerOptions(), reader)) as client:
                await check_reads(client)
        finally:
            with psycopg.connect(pg_url, autocommit=True) as conn:
                conn.execute(f"DROP OWNED BY {role}")
                conn.execute(f"DROP ROLE {role}")


@pytest.mark.parametrize("rights", [ACL_READER, f"{ACL_READER} +eval_ro +info", "+@read +eval_ro +ping +time"])
async def test_a_user_with_read_commands_only(redis_url: str, redis_server_url: str, rights: str) -> None:
    async with JobQueue.from_url(redis_url) as queue:
        await fill(queue)
        prefix = redis_url.partition("key_prefix=")[2]
        user = f"reader-{os.getpid()}"
        with redis.Redis.from_url(redis_server_url) as admin:
            words = ["on", ">pw", f"~{key_prefix(prefix)}*", *rights.split()]
            admin.execute_command("ACL", "SETUSER", user, *words)
            try:
                url = redis_url.replace("unix://", f"unix://{user}:pw@").replace("redis://", f"redis://{user}:pw@")
                reader = JobQueue.from_url(url, read_only=True)
                async with Client(create_server(ServerOptions(), reader)) as client:
                    await check_reads(client)
            finally:
                admin.execute_command("ACL", "DELUSER", user)


async def test_a_redis_user_that_writes_without_eval_ro_is_refused(redis_url: str, redis_server_url: str) -> None:
    prefix = redis_url.partition("key_prefix=")[2]
    user = f"writer-{os.getpid()}"
    with redis.Redis.from_url(redis_server_url) as admin:
        words = ["on", ">pw", f"~{key_prefix(prefix)}*", "+@all", "-eval_ro"]
        admin.execute_command("ACL", "SETUSER", user, *words)
        try:
            url = redis_url.replace("unix://", f"unix://{user}:pw@").replace("redis://", f"redis://{user}:pw@")
            async with Client(create_server(ServerOptions(), JobQueue.from_url(url, read_only=True))) as client:
                result = await client.call_tool("queue_status", {})
                assert result.is_error and "+eval_ro" in result.content[0].text  # type: ignore[union-attr]
        finally:
            admin.execute_command("ACL", "DELUSER", user)


async def test_redis_goes_away_and_comes_back(tmp_path: Path) -> None:
    with redis_server(folder=tmp_path) as server:
        async with JobQueue.from_url(server.url) as queue:
            await fill(queue)
        async with Client(create_server(ServerOptions(), JobQueue.from_url(server.url, read_only=True))) as client:
            await check_reads(client)
            server.stop(signal.SIGKILL)
            result = await client.call_tool("queue_status", {})
            assert result.is_error and "cannot be reached" in result.content[0].text  # type: ignore[union-attr]
            assert not (await client.call_tool("get_doc", {})).is_error
            server.start()
            await check_reads(client)


async def test_postgres_goes_away_and_comes_back() -> None:
    import shutil
    import tempfile

    from dataqueue.embedded import start_postgres

    path = Path(tempfile.mkdtemp(prefix="dataqueue-mcp-"))
    server = start_postgres(path, settings={"fsync": "off"})
    try:
        await JobQueue.from_url(server.url).migrate()
        async with JobQueue.from_url(server.url) as queue:
            await fill(queue)
        async with Client(create_server(ServerOptions(), JobQueue.from_url(server.url, read_only=True))) as client:
            await check_reads(client)
            os.kill(server.pid, signal.SIGKILL)

            async def told() -> str:
                result = await client.call_tool("queue_status", {})
                return result.content[0].text if result.is_error else ""  # type: ignore[union-attr]

            message = await until(told)
            assert "Postgres at" in message, message
            server.stop()
            server = start_postgres(path, settings={"fsync": "off"})

            async def answers() -> bool:
                return not (await client.call_tool("queue_status", {})).is_error

            await until(answers)
            await check_reads(client)
    finally:
        server.stop(wait=True)
        shutil.rmtree(path, ignore_errors=True)
