"""Redis servers of a test's own."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis


@contextmanager
def system_redis(*options: str, folder: Path | None = None) -> Iterator[str]:
    """The installed redis-server on a socket in a temporary folder, with AOF, for as long as it is needed."""
    path = folder or Path(tempfile.mkdtemp(prefix="dataqueue-redis-"))
    socket = path / "redis.sock"
    process = subprocess.Popen(
        ["redis-server", "--port", "0", "--unixsocket", str(socket), "--dir", str(path), "--save", "",
         "--appendonly", "yes", "--appendfsync", "everysec", "--maxmemory-policy", "noeviction", *options],
        stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        wait_for_redis(f"unix://{socket}")
        yield f"unix://{socket}"
    finally:
        process.terminate()
        process.wait(timeout=30)
        if folder is None:
            shutil.rmtree(path, ignore_errors=True)


def wait_for_redis(url: str) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            with redis.Redis.from_url(url) as client:
                client.ping()
            return
        except (redis.ConnectionError, redis.BusyLoadingError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
