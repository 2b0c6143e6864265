"""Connections: the caller's pool, killed backends, an absent server, TLS, URLs, loops, forks."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from certificates import certificates
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool
from support import Working, until
from system_postgres import find_programs, system_postgres

from dataqueue import TLS, ConfigError, JobQueue, NewJob, SchemaError, StoreUnavailable, SyncJobQueue, WrongLoop
from dataqueue.backends.base import Cancelled, Completed, Failed, Outcome, WorkerInfo


async def _kill_all(url: str) -> int:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True, application_name="killer") as conn:
        rows = await conn.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
            " AND pid <> pg_backend_pid() AND application_name <> 'killer'"
        )
        return len(await rows.fetchall())


async def test_idle_connections_that_were_killed_are_replaced(make_queue: Callable[..., JobQueue], pg_url: str) -> None:
    """D-CRASH2."""
    queue = make_queue(min_connections=4, max_connections=4)
    await asyncio.gather(*(queue.add_job("t") for _ in range(8)))
    for _ in range(3):
        assert await _kill_all(pg_url) > 0
        await queue.add_job("t")
        assert await queue.get_job(1) is not None
    assert len(await queue.get_all_jobs()) == 11


async def test_a_worker_survives_killed_connections_and_loses_nothing(
    make_queue: Callable[..., JobQueue], pg_url: str, working: Working
) -> None:
    """D-CRASH, D-CRASH2: nobody listens to ``error``."""
    producer = make_queue()
    ran: list[int] = []

    async def work(payload: int) -> int:
        ran.append(payload)
        await asyncio.sleep(0.01)
        return payload

    added = await producer.add_jobs(NewJob("work", n) for n in range(400))
    worker = await working(make_queue(), {"work": work}, concurrency=10, lease=timedelta(seconds=5))
    for _ in range(6):
        await asyncio.sleep(0.1)
        await _kill_all(pg_url)
    for handle in added:
        job = await until(lambda handle=handle: _completed(producer, handle.id), f"job {handle.id}")
        assert job.attempts <= 2
    assert set(ran) == set(range(400)) and worker.is_running()
    assert await until(lambda: _nothing_held(producer))


async def _completed(queue: JobQueue, job_id: int) -> Any:
    try:
        job = await queue.require_job(job_id)
    except StoreUnavailable:
        return None
    return job if job.status == "completed" else None


async def _nothing_held(queue: JobQueue) -> bool:
    return not await queue.get_jobs(status="processing")


async def test_waiting_survives_killed_connections(
    make_queue: Callable[..., JobQueue], pg_url: str, working: Working
) -> None:
    queue = make_queue()
    handle = await queue.add_job("t", 5)
    waiting = asyncio.create_task(handle.result(timeout=25))
    await asyncio.sleep(0.2)
    await _kill_all(pg_url)

    async def t(payload: int) -> int:
        return payload

    await working(make_queue(), {"t": t})
    assert await waiting == 5


@pytest.mark.parametrize("autocommit", [True, False])
async def test_a_pool_of_ones_own_is_used_and_left_open(pg_url: str, working: Working, autocommit: bool) -> None:
    kwargs = {"autocommit": autocommit, "row_factory": dict_row}
    async with AsyncConnectionPool(pg_url, kwargs=kwargs, min_size=1, max_size=4, open=False) as pool:
        queue = JobQueue(pool)

        async def t(payload: Any) -> int:
            return 1

        processor = await working(queue, {"t": t}, lease=timedelta(seconds=1))
        added = await queue.add_jobs(NewJob("t") for _ in range(1500))
        await added[-1].result(timeout=25)
        await processor.stop_and_drain()
        await queue.close()
        async with pool.connection() as conn:
            assert conn.autocommit is autocommit
            assert (await (await conn.execute("SELECT 1 AS one")).fetchall()) == [{"one": 1}]


def test_another_kind_of_pool_is_refused() -> None:
    with pytest.raises(ConfigError, match="AsyncConnectionPool"):
        _ = JobQueue(object()).backend  # type: ignore[arg-type]


async def test_an_absent_server_is_named_and_the_password_is_not() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    queue = JobQueue.from_url(f"postgresql://me:s3cret@127.0.0.1:{port}/db?connect_timeout=2")
    with pytest.raises(StoreUnavailable, match=f"127.0.0.1:{port}") as caught:
        await queue.add_job("t")
    assert "s3cret" not in str(caught.value) and "s3cret" not in repr(caught.value.__cause__)
    await queue.close()


@pytest.mark.parametrize(
    "url",
    [
        "mysql://me:s3cret@h/db",
        "postgresql://me:s3cret@h:port/db",
        "postgresql://me:s3cret@h/db?nonsense=1",
        "host=h password=s3cret",
        "nonsense",
    ],
)
def test_a_bad_url_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        JobQueue.from_url(url)
    assert "s3cret" not in str(caught.value)


async def test_no_url_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATAQUEUE_URL", "PG_DATAQUEUE_DATABASE", "DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match="DATAQUEUE_URL, PG_DATAQUEUE_DATABASE, DATABASE_URL"):
        await JobQueue.from_url().add_job("t")


async def test_the_environment_names_the_store(pg_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = JobQueue.from_url()
    monkeypatch.delenv("DATAQUEUE_URL", raising=False)
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    monkeypatch.setenv("PG_DATAQUEUE_DATABASE", pg_url.replace("postgresql://", "postgres://"))
    assert (await queue.add_job("t")).created
    await queue.close()


async def test_a_schema_by_url_and_by_argument(pg_empty_url: str) -> None:
    """D-SEARCHPATH."""
    joint = "&" if "?" in pg_empty_url else "?"
    by_argument = JobQueue.from_url(pg_empty_url, schema="Odd-one")
    with pytest.raises(SchemaError, match="dataqueue migrate"):
        await by_argument.add_job("t")
    await by_argument.migrate()
    handle = await by_argument.add_job("t")
    by_url = JobQueue.from_url(f"{pg_empty_url}{joint}search_path=Odd-one")
    assert (await by_url.require_job(handle.id)).job_type == "t"
    await by_url.close()
    await by_argument.close()
    for schema in ("", "x" * 51, "a%b"):
        with pytest.raises(ConfigError):
            JobQueue.from_url(pg_empty_url, schema=schema)


async def test_closed_and_used_again(queue: JobQueue) -> None:
    handle = await queue.add_job("t")
    await queue.close()
    await queue.close()
    assert (await handle.refresh()).id == handle.id


def test_one_queue_on_one_loop_after_another(pg_url: str) -> None:
    queue = JobQueue.from_url(pg_url)

    async def add() -> int:
        return (await queue.add_job("t")).id

    first, second = asyncio.run(add()), asyncio.run(add())
    assert second > first


def test_a_loop_that_ends_while_the_pool_connects_ends(pg_url: str) -> None:
    script = f"""
import asyncio, logging
from dataqueue import JobQueue
logging.disable()
async def leave() -> None:
    queue = JobQueue.from_url({pg_url!r})
    await queue.open()
    adding = [asyncio.create_task(queue.add_job("t")) for _ in range(10)]
    await asyncio.sleep(0.002)
for _ in range(30):
    asyncio.run(leave())
print("left")
"""
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.stdout.strip() == "left", ran.stderr


async def test_a_second_live_loop_is_refused(queue: JobQueue) -> None:
    await queue.add_job("t")
    with pytest.raises(WrongLoop, match="another event loop"):
        await asyncio.to_thread(lambda: asyncio.run(queue.add_job("t")))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_sync_queue_survives_a_fork(pg_url: str) -> None:
    script = f"""
import os, sys
from dataqueue import SyncJobQueue
queue = SyncJobQueue.from_url({pg_url!r})
queue.add_job("t", "parent")
children = []
for n in range(2):
    pid = os.fork()
    if pid == 0:
        queue.add_job("t", f"child {{n}}")
        os._exit(0)
    children.append(pid)
for pid in children:
    assert os.waitpid(pid, 0)[1] == 0
queue.add_job("t", "parent again")
print(sorted(job.payload for job in queue.get_all_jobs()))
queue.close()
"""
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.stdout.strip() == "['child 0', 'child 1', 'parent', 'parent again']", ran.stderr


def test_a_sync_queue_from_many_threads(pg_url: str) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with SyncJobQueue.from_url(pg_url, max_connections=4) as queue, ThreadPoolExecutor(20) as threads:
        ids = list(threads.map(lambda n: queue.add_job("t", n).id, range(40)))
        assert len(set(ids)) == 40
        assert queue.get_jobs(limit=1)[0].id == max(ids)
        assert queue.cancel_job(ids[0]) and not queue.cancel_job(ids[0])


# -- TLS ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tls_server() -> Iterator[tuple[str, dict[str, str]]]:
    """A server that takes only TLS with a client certificate; its URL, and the PEM texts."""
    programs = find_programs()
    if programs is None:
        pytest.skip("the wheel's server is built without TLS: apt-get install postgresql")
    pems = certificates()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def prepare(data: Path) -> None:
        for name in ("ca", "server_cert", "server_key"):
            (data / f"tls-{name}.pem").write_text(pems[name])
        (data / "pg_hba.conf").write_text(
            "local all all trust\nhostssl all all 127.0.0.1/32 trust clientcert=verify-ca\n"
        )

    settings = {
        "ssl": "on",
        "ssl_ca_file": "tls-ca.pem",
        "ssl_cert_file": "tls-server_cert.pem",
        "ssl_key_file": "tls-server_key.pem",
        "listen_addresses": "127.0.0.1",
        "port": str(port),
    }
    with system_postgres(programs, settings, prepare):
        yield f"postgresql://postgres@127.0.0.1:{port}/postgres", pems


async def test_tls_with_pem_texts_and_files(tls_server: tuple[str, dict[str, str]], tmp_path: Path) -> None:
    url, pems = tls_server
    for name in ("ca", "client_cert", "client_key"):
        (tmp_path / f"{name}.pem").write_text(pems[name])
        (tmp_path / f"{name}.pem").chmod(0o600)
    texts = TLS(ca=pems["ca"], cert=pems["client_cert"], key=pems["client_key"])
    files = TLS(*(f"file://{tmp_path}/{name}.pem" for name in ("ca", "client_cert", "client_key")))
    unverified = TLS(cert=pems["client_cert"], key=pems["client_key"], verify=False)
    for tls in (texts, files, unverified):
        queue = JobQueue.from_url(url, tls=tls)
        await queue.migrate()
        assert (await queue.add_job("t")).created
        await queue.close()
    assert "PRIVATE KEY" not in repr(texts)
    for wrong in (TLS(ca=pems["other_ca"], cert=pems["client_cert"], key=pems["client_key"]), TLS(ca=pems["ca"])):
        with pytest.raises(StoreUnavailable):
            await JobQueue.from_url(url + "?connect_timeout=3", tls=wrong).migrate()
    for broken in (TLS(ca="file:///nowhere.pem"), TLS(ca="not PEM at all")):
        with pytest.raises(ConfigError):
            JobQueue.from_url(url, tls=broken)


async def test_a_batch_that_fails_spoils_no_later_one(make_queue: Callable[..., JobQueue], pg_url: str) -> None:
    """The driver prepares a statement at its sixth execution; an error before it in the pipeline skips that."""
    queue = make_queue(max_connections=1)
    backend = await queue.open()
    real = await queue.add_job("t")
    assert await backend.register_worker(WorkerInfo("w", "h", 1, ("t",), 10, "0", 3600.0))
    (held,) = (await backend.cycle("w", [], ["t"], 1, True)).jobs
    missing: list[Outcome] = [Failed(10_000, 1, "no", "handler_error", None), Cancelled(10_001, 1)]
    for _ in range(5):
        await backend.cycle("w", [Completed(10_002, 1), *missing], [], 0, False)
    with psycopg.connect(pg_url, autocommit=True) as conn:
        conn.execute(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not now'; END $$;"
            "CREATE TRIGGER refuse BEFORE UPDATE ON job_queue FOR EACH ROW EXECUTE FUNCTION refuse()"
        )
        with pytest.raises(psycopg.errors.RaiseException):
            await backend.cycle("w", [Completed(held.id, held.lease_id), *missing], [], 0, False)
        conn.execute("DROP TRIGGER refuse ON job_queue")
    await backend.cycle("w", [Completed(held.id, held.lease_id), *missing], [], 0, False)
    assert (await real.refresh()).status == "completed"
