"""The pytest plugin, as users have it: pytest in a process of its own, on an application with a queue at module level."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

import pytest
from pages import python_blocks

ROOT = Path(__file__).parent.parent
TESTS_IN_PAGES = (
    (ROOT / "docs/how-to/testing.md", "pg_server_url"),
    (ROOT / "ai/skills/dataqueue/references/testing.md", "redis_server_url"),
)

APPLICATION = """
from datetime import timedelta

from dataqueue import JobQueue, SyncJobQueue
from fastapi import FastAPI

queue = JobQueue.from_url("postgresql://nobody@localhost:1/production")  # never to be reached
blocking_queue = SyncJobQueue.from_url()
web = FastAPI()


@queue.job(max_attempts=2, retry_delay=timedelta(days=3), retry_backoff=False)
async def send_welcome(payload: dict[str, str]) -> str:
    if "@" not in payload["to"]:
        raise ValueError(f"{payload['to']} is no address")
    return f"Welcome, {payload['to']}"


@queue.job
async def sign_up(payload: str) -> None:
    await send_welcome.add({"to": payload})


@web.post("/sign-up/{who}")
async def post_sign_up(who: str) -> int:
    return (await sign_up.add(who)).id


@blocking_queue.job
def thumbnail(payload: str) -> int:
    return len(payload)
"""

CONFTEST = """
import pytest

from app.jobs import blocking_queue, queue


@pytest.fixture(autouse=True)
def jobs(dataqueue_bind):
    dataqueue_bind(blocking_queue)
    return dataqueue_bind(queue)


@pytest.fixture
def anyio_backend():
    return "asyncio"
"""

TESTS = """
import asyncio
import os
import re
from pathlib import Path
from urllib.parse import unquote

import pytest
from dataqueue.testing import advance_clock, assert_enqueued, assert_not_enqueued, blocking, drain
from fastapi.testclient import TestClient

from app.jobs import blocking_queue, queue, send_welcome, sign_up, thumbnail, web


@pytest.mark.anyio
@pytest.mark.parametrize("time", range(3))
async def test_async(time):
    await sign_up.add("ada@example.com")
    await assert_not_enqueued(queue, send_welcome)  # the store is empty each time
    drained = await drain(queue)
    assert [job.job_type for job in drained.completed] == ["sign_up", "send_welcome"]
    await assert_enqueued(queue, send_welcome, payload={"to": "ada@example.com"}, count=1)


@pytest.mark.anyio
async def test_the_clock():
    job = await send_welcome.add({"to": "nobody"})
    assert len((await drain(queue)).failed) == 1
    await advance_clock(queue, days=3)
    with pytest.raises(ValueError, match="nobody is no address"):
        await drain(queue, raise_on_error=True)
    assert (await job.refresh()).is_finished


@pytest.mark.anyio
async def test_a_result_in_the_background():
    async with queue.create_processor() as processor:
        processor.start_in_background()
        job = await send_welcome.add({"to": "ada@example.com"})
        assert await job.result(timeout=30) == "Welcome, ada@example.com"


def test_blocking():
    job = thumbnail.add("cat.png")
    assert [done.output for done in drain(blocking_queue).completed] == [7]
    assert job.result(timeout=30) == 7


def test_a_loop_of_its_own():
    async def run():
        await sign_up.add("ada@example.com")
        await drain(queue)

    asyncio.run(run())
    assert len(assert_enqueued(blocking(queue), send_welcome, status="completed")) == 1


def test_a_web_application():
    jobs = blocking(queue)
    with TestClient(web) as client:
        assert client.post("/sign-up/ada@example.com").status_code == 200
        assert len(drain(jobs).completed) == 2  # on the loop of the client
    assert TestClient(web).post("/sign-up/grace@example.com").status_code == 200
    assert len(drain(jobs).completed) == 2
    assert_enqueued(jobs, send_welcome, count=2)


def test_a_queue_without_definitions(dataqueue_queue):
    async def run():
        await dataqueue_queue.add_job("anything", 1)

    asyncio.run(run())
    assert_enqueued(blocking(dataqueue_queue), "anything", payload=1)


def test_processes_see_the_store_too(dataqueue_url):
    assert os.environ["DATAQUEUE_URL"] == dataqueue_url


def test_asyncio_run_again(dataqueue_queue):
    for number in (1, 2):
        asyncio.run(dataqueue_queue.add_job("anything", number))
    assert_enqueued(blocking(dataqueue_queue), count=2)


def test_where(dataqueue_server):
    directory = re.search("/[^?&=]*dataqueue-pytest-[^/]+", unquote(dataqueue_server)).group()
    Path(f"where-{os.getpid()}.txt").write_text(directory)
"""

FORGOTTEN = """
import asyncio

from dataqueue.testing import assert_enqueued


def test_it(dataqueue_queue):
    async def run():
        assert_enqueued(dataqueue_queue, "never added")

    asyncio.run(run())
"""

WITH_PYTEST_ASYNCIO = """
import pytest
from dataqueue.testing import assert_enqueued, drain

from app.jobs import queue, send_welcome, sign_up

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.asyncio(loop_scope="function")
@pytest.mark.parametrize("time", range(2))
async def test_a_loop_for_each(time):
    await sign_up.add("ada@example.com")
    assert len((await drain(queue)).completed) == 2
    await assert_enqueued(queue, send_welcome, count=1)


@pytest.mark.parametrize("time", range(2))
async def test_a_loop_for_all(time):
    await sign_up.add("ada@example.com")
    assert len((await drain(queue)).completed) == 2
    await assert_enqueued(queue, send_welcome, count=1)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "__init__.py").touch()
    (tmp_path / "app" / "jobs.py").write_text(APPLICATION)
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "pytest.ini").write_text("[pytest]\npythonpath = .\nfilterwarnings = error\n")
    return tmp_path


def run_pytest(folder: Path, tests: str, *options: str) -> str:
    """The output of a run that must be green."""
    done = start(folder, tests, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def start(folder: Path, tests: str, *options: str) -> subprocess.CompletedProcess[str]:
    (folder / "test_app.py").write_text(tests)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "DATAQUEUE_"))}
    loaded = entry_points(group="pytest11", name="dataqueue")
    plugin = () if loaded else ("-p", "dataqueue.testing.plugin")  # in a checkout that was never installed
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *plugin, *options]
    if tests is not WITH_PYTEST_ASYNCIO:
        command += ["-p", "no:asyncio"]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=100, check=False
    )


@pytest.mark.projects
@pytest.mark.parametrize(("store", "processes"), [("postgres", 2), ("valkey", 1)])
def test_an_application_is_tested_on_a_server_that_goes_with_the_run(folder: Path, store: str, processes: int) -> None:
    with (folder / "pytest.ini").open("a") as file:
        file.write(f"dataqueue_store = {store}\n")
    options = ("-n2", "--dist=each") if processes > 1 else ()
    assert f"{12 * processes} passed" in run_pytest(folder, TESTS, *options)
    said = [file.read_text() for file in folder.glob("where-*.txt")]
    assert len(said) == processes
    [directory] = set(said)
    assert "dataqueue-pytest-" in directory
    assert not Path(directory).exists()


def test_an_assertion_that_is_not_awaited_fails(folder: Path, redis_server_url: str) -> None:
    done = start(folder, FORGOTTEN, f"--dataqueue-store={redis_server_url}")
    assert done.returncode == 1
    assert "Never awaited, so nothing was done or checked: assert_enqueued." in done.stdout


def test_a_store_that_is_none_is_refused(folder: Path) -> None:
    done = start(folder, TESTS, "--dataqueue-store=sqlite")
    assert "dataqueue_store must be postgres, valkey or the URL of a server, not 'sqlite'" in done.stdout


@pytest.mark.skipif(find_spec("pytest_asyncio") is None, reason="pytest-asyncio is not installed")
@pytest.mark.parametrize("store", ["postgres", "redis"])
def test_with_pytest_asyncio(folder: Path, store: str, request: pytest.FixtureRequest) -> None:
    url: str = request.getfixturevalue({"postgres": "pg_server_url", "redis": "redis_server_url"}[store])
    assert "4 passed" in run_pytest(
        folder, WITH_PYTEST_ASYNCIO, f"--dataqueue-store={url}", "-oasyncio_default_fixture_loop_scope=function"
    )


def test_the_plugin_loads_next_to_nothing() -> None:
    code = (
        "import sys, dataqueue.testing.plugin\n"
        "heavy = {'psycopg', 'redis', 'pydantic', 'anyio', 'mcp', 'typer', 'asyncio'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_library_never_loads_it() -> None:
    code = (
        "import sys, dataqueue\n"
        "dataqueue.JobQueue, dataqueue.SyncJobQueue, dataqueue.Processor\n"
        "sys.exit('pytest' in sys.modules or 'dataqueue.testing' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(("page", "server"), TESTS_IN_PAGES, ids=["manual", "skill"])
def test_the_tests_that_the_texts_show_are_green(
    folder: Path, page: Path, server: str, request: pytest.FixtureRequest
) -> None:
    url: str = request.getfixturevalue(server)
    blocks = [block for block in python_blocks(page.read_text()) if block.title]
    for block in blocks:
        assert block.title is not None
        (folder / block.title).write_text(block.code)
    count = sum(block.code.count("\ndef test_") + block.code.count("\nasync def test_") for block in blocks)
    assert count > 1
    assert f"{count} passed" in run_pytest(folder, "", f"--dataqueue-store={url}")
