"""The README, done as it says."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from readme import write_readme_files

DATAQUEUE = [sys.executable, "-m", "dataqueue"]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    write_readme_files(tmp_path)
    return tmp_path


@pytest.fixture
def environment(pg_empty_url: str) -> Iterator[dict[str, str]]:
    yield {**os.environ, "DATAQUEUE_URL": pg_empty_url, "PYTHONUNBUFFERED": "1"}


def _run(project: Path, environment: dict[str, str], *command: str) -> str:
    ran = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, timeout=90, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def test_the_first_job(project: Path, environment: dict[str, str], pg_empty_url: str) -> None:
    _run(project, environment, *DATAQUEUE, "migrate")
    worker = subprocess.Popen([*DATAQUEUE, "worker", "jobs:queue", "--concurrency", "20"], cwd=project, env=environment)
    try:
        printed = _run(project, environment, sys.executable, "add.py")
        assert printed == "1 Welcome, Ada <ada@example.com>\n"
        _run(project, environment, *DATAQUEUE, "stats")
        assert '"completed"' in _run(project, environment, *DATAQUEUE, "jobs", "show", "1", "--json")
    finally:
        worker.terminate()
        assert worker.wait(timeout=60) == 0


def test_the_other_examples(project: Path, environment: dict[str, str], pg_empty_url: str) -> None:
    _run(project, environment, *DATAQUEUE, "migrate")
    with psycopg.connect(pg_empty_url, autocommit=True) as conn:
        conn.execute("CREATE TABLE users (email text)")
    (project / "all.py").write_text(
        f"""
import asyncio, psycopg
import blocking, durable, jobs, more, options, transaction

async def main() -> None:
    await options.examples()
    await more.more()
    async with await psycopg.AsyncConnection.connect({pg_empty_url!r}) as conn:
        await transaction.sign_up(conn, "eve@example.com")
    print((await jobs.queue.stats()).by_status["pending"])
    await jobs.queue.close()

asyncio.run(main())
print(blocking.upload("a.png") > 0)
blocking.queue.close()
"""
    )
    assert _run(project, environment, sys.executable, "all.py") == "10014\nTrue\n"
