"""``dataqueue supervisor`` and ``cleanup``, and the supervisor of a worker: real processes against real stores."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from command import Cli, ended, read_until
from support import until

from dataqueue import JobQueue
from dataqueue.cli.supervisor import parse_age, retention
from dataqueue.errors import ConfigError

NO_SIGNALS = pytest.mark.skipif(sys.platform == "win32", reason="no POSIX signals")


@pytest.fixture
def cli(tmp_path: Path, store_url: str) -> Iterator[Cli]:
    """A command line with a store of the test's own, in a directory with a module ``shop``."""
    cli = Cli(tmp_path)
    cli.env["DATAQUEUE_URL"] = store_url
    (tmp_path / "shop.py").write_text(
        "from dataqueue import JobQueue\nqueue = JobQueue.from_url()\n\n"
        "@queue.job\nasync def double(n: int) -> int:\n    return 2 * n\n"
    )
    yield cli
    cli.end()


async def _cancelled(queue: JobQueue) -> int:
    handle = await queue.add_job("double", 1)
    assert await handle.cancel()
    return handle.id


async def _gone(queue: JobQueue, job_id: int) -> None:
    async def is_gone() -> bool:
        return await queue.get_job(job_id) is None

    await until(is_gone, "the cleanup")


async def test_cleanup_counts_first_and_then_deletes(cli: Cli, queue: JobQueue) -> None:
    job_id, pending = await _cancelled(queue), await queue.add_job("double", 1)
    every = ("--older-than", "0", "--status", "cancelled", "--status", "completed")
    assert cli.json("cleanup", "--older-than", "30", "--status", "cancelled")["deleted"] == 0
    assert cli.json("cleanup", "--older-than", "0")["deleted"] == 0, "completed ones"
    assert cli.json("cleanup", *every, "--dry-run") == {"deleted": 0, "would_delete": 1, "dry_run": True}
    assert await queue.get_job(job_id) is not None
    assert cli("cleanup", *every).stdout == "Deleted 1 job.\n"
    assert await queue.get_job(job_id) is None and await queue.get_job(pending.id) is not None
    assert cli("cleanup", "--older-than", "soon").returncode == 2
    assert cli("cleanup", "--older-than", "0", "--status", "pending").returncode == 2


async def test_the_supervisor_runs_once(cli: Cli, queue: JobQueue) -> None:
    job_id = await _cancelled(queue)
    counts = (
        "reclaimed_jobs",
        "cleaned_up_jobs",
        "cleaned_up_events",
        "cleaned_up_tokens",
        "released_keys",
        "expired_tokens",
    )
    assert cli.json("supervisor", "--once") == {**dict.fromkeys(counts, 0), "errors": {}}
    assert await queue.get_job(job_id) is not None
    done = cli("supervisor", "--once", "--keep-cancelled", "0", "--keep-events", "forever")
    assert (done.returncode, done.stdout.split(",")[2:4]) == (0, [" deleted 1 jobs", " 0 events and 0 tokens"])
    assert await queue.get_job(job_id) is None
    assert cli("supervisor", "--json").returncode == 2
    assert cli("supervisor", "--once", "--keep-failed", "never").returncode == 2


@NO_SIGNALS
async def test_the_supervisor_runs_until_it_is_told_to_stop(cli: Cli, queue: JobQueue) -> None:
    process = cli.start("supervisor", "--interval", 1, "--keep-cancelled", 0)
    read_until(process, "works for this queue now")
    other = cli.start("supervisor", "--interval", 1, "--keep-cancelled", 0)
    await _gone(queue, await _cancelled(queue))
    process.kill()
    read_until(other, "works for this queue now")
    await _gone(queue, await _cancelled(queue))
    _stop(other)


@NO_SIGNALS
async def test_a_worker_has_one_unless_told_otherwise(cli: Cli, queue: JobQueue) -> None:
    job_id = await _cancelled(queue)
    done = await queue.add_job("double", 21)
    without = cli.start("worker", "shop:queue", "--no-supervisor", "--keep-cancelled", 0)
    assert await done.result(timeout=60) == 42
    assert cli("worker", "shop:queue", "--burst", "--keep-cancelled", "0").returncode == 0
    _stop(without)
    assert await queue.get_job(job_id) is not None
    process = cli.start("worker", "shop:queue", "--keep-cancelled", 0)
    read_until(process, "works for this queue now")
    await _gone(queue, job_id)
    _stop(process)


def _stop(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGTERM)
    code, output = ended(process)
    assert code == 0, output
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("text", "age"),
    [
        ("30", timedelta(days=30)),
        ("0", timedelta(0)),
        (" 1.5d", timedelta(hours=36)),
        ("12h", timedelta(hours=12)),
        ("2w", timedelta(weeks=2)),
        ("90s", timedelta(seconds=90)),
        ("5m", timedelta(minutes=5)),
    ],
)
def test_ages(text: str, age: timedelta) -> None:
    assert parse_age(text) == age


@pytest.mark.parametrize("text", ["", "-1", "d", "1y", "1 day", "forever", "1e3", "nan", "1234567"])
def test_what_is_no_age(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_age(text)


def test_for_ever_is_none() -> None:
    options = retention("forever", "1", "Forever", "2h", "3", "forever")
    assert options == {
        "keep_completed": None,
        "keep_failed": timedelta(days=1),
        "keep_cancelled": None,
        "keep_events": timedelta(hours=2),
        "keep_tokens": timedelta(days=3),
        "idempotency_ttl": None,
    }
