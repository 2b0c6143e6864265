"""Real servers for the tests: one Postgres a run (``DATAQUEUE_TEST_URL`` or an embedded one), a database a test."""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
from servers import system_redis
from support import Working

from dataqueue import JobQueue, Processor, ProcessorOptions
from dataqueue.backends.postgres.migrate import MigrateOptions, migrate
from dataqueue.backends.redis.layout import KEYS, key_prefix

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def pg_server_url(testrun_uid: str) -> Iterator[str]:
    """A server on which databases can be made."""
    given = os.environ.get("DATAQUEUE_TEST_URL")
    if given:
        yield given
        return
    from dataqueue.embedded import start_postgres

    # One server for all processes of a run; not in pytest's own folder, which root keeps to itself.
    path = Path(tempfile.gettempdir()) / f"dataqueue-tests-{testrun_uid[:12]}"
    server = start_postgres(path, settings={"fsync": "off", "full_page_writes": "off", "max_connections": "300"})
    yield server.url
    if server.stop(wait=True):  # False while another process of this run uses it
        shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def pg_template(pg_server_url: str, testrun_uid: str, worker_id: str) -> Iterator[str]:
    name = f"dq_template_{testrun_uid[:8]}_{worker_id}"
    with psycopg.connect(pg_server_url, autocommit=True) as conn:
        conn.execute(f'CREATE DATABASE "{name}"')
        migrate(with_database(pg_server_url, name), {}, None, MigrateOptions())
        yield name
        conn.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
def pg_url(pg_server_url: str, pg_template: str) -> Iterator[str]:
    """A migrated database of the test's own."""
    yield from _database(pg_server_url, f'TEMPLATE "{pg_template}"')


@pytest.fixture
def pg_empty_url(pg_server_url: str) -> Iterator[str]:
    """An empty database of the test's own."""
    yield from _database(pg_server_url, "TEMPLATE template0")


def _database(server_url: str, how: str) -> Iterator[str]:
    name = f"dq_{os.getpid()}_{next(_numbers)}"
    with psycopg.connect(server_url, autocommit=True) as conn:
        conn.execute(f'CREATE DATABASE "{name}" {how}')
        try:
            yield with_database(server_url, name)
        finally:
            conn.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


def with_database(url: str, name: str) -> str:
    base, _, query = url.partition("?")
    scheme, _, rest = base.partition("://")
    authority = rest.partition("/")[0]
    return f"{scheme}://{authority}/{name}" + (f"?{query}" if query else "")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def redis_server_url() -> Iterator[str]:
    """A Redis of this test process: ``DATAQUEUE_TEST_REDIS``, the installed one, or a Valkey from the wheel."""
    given = os.environ.get("DATAQUEUE_TEST_REDIS")
    if given:
        yield given
    elif shutil.which("redis-server"):
        with system_redis() as url:
            yield url
    else:
        from dataqueue.embedded import start_valkey

        path = Path(tempfile.mkdtemp(prefix="dataqueue-valkey-"))
        server = start_valkey(path)
        yield server.url
        server.stop(wait=True)
        shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def redis_url(redis_server_url: str) -> Iterator[str]:
    """Keys of the test's own."""
    prefix = f"test-{os.getpid()}-{next(_numbers)}"
    joint = "&" if "?" in redis_server_url else "?"
    yield f"{redis_server_url}{joint}key_prefix={prefix}"
    with redis.Redis.from_url(redis_server_url) as client:
        client.unlink(*(f"{key_prefix(prefix)}{name}" for name in KEYS))


@pytest.fixture(params=["postgres", "redis"])
def store_url(request: pytest.FixtureRequest) -> str:
    """A store of the test's own, on each backend in turn."""
    return request.getfixturevalue({"postgres": "pg_url", "redis": "redis_url"}[request.param])


@pytest.fixture
async def make_queue(store_url: str) -> AsyncIterator[Callable[..., JobQueue]]:
    """Queues on the test's store, closed at its end."""
    queues: list[JobQueue] = []

    def make(**options: Any) -> JobQueue:
        queues.append(JobQueue.from_url(store_url, **options))
        return queues[-1]

    yield make
    for queue in queues:
        await queue.close()


@pytest.fixture
def queue(make_queue: Callable[..., JobQueue]) -> JobQueue:
    return make_queue()


@pytest.fixture
async def working() -> AsyncIterator[Working]:
    """Start workers that are stopped at the end of the test: ``await working(queue, handlers, …)``."""
    processors: list[Processor] = []

    async def start(queue: JobQueue, handlers: Any = None, **options: Any) -> Processor:
        chosen: ProcessorOptions = {"concurrency": 10, **options}  # type: ignore[typeddict-item]
        processor = queue.create_processor(handlers, **chosen)
        processor.start_in_background()
        processors.append(processor)
        return processor

    yield start
    for processor in processors:
        await processor.stop_and_drain(0)
