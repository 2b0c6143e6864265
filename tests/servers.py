"""Redis servers of a test's own."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import redis

NODES = 3


class RedisServer:
    """The installed redis-server on a socket in a folder, with AOF; it can be ended and started again."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self.url = f"unix://{folder / 'redis.sock'}"
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            ["redis-server", "--port", "0", "--unixsocket", str(self.folder / "redis.sock"), "--dir", str(self.folder),
             "--save", "", "--appendonly", "yes", "--appendfsync", "everysec", "--maxmemory-policy", "noeviction",
             *self._options],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        wait_for_redis(self.url)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        if self._process is not None:
            process, self._process = self._process, None
            process.send_signal(how)
            try:
                process.wait(timeout=15)
            except subprocess.TimeoutExpired:  # it will not end by itself while its first append-only file is written
                process.kill()
                process.wait(timeout=15)

    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.url)


@contextmanager
def redis_server(*options: str, folder: Path | None = None) -> Iterator[RedisServer]:
    path = folder or Path(tempfile.mkdtemp(prefix="dataqueue-redis-"))
    server = RedisServer(path, *options)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        if folder is None:
            shutil.rmtree(path, ignore_errors=True)


@contextmanager
def system_redis(*options: str, folder: Path | None = None) -> Iterator[str]:
    """The URL of a server for as long as it is needed."""
    with redis_server(*options, folder=folder) as server:
        yield server.url


@contextmanager
def redis_cluster() -> Iterator[Sequence[int]]:
    """The ports of a cluster of three nodes on this machine, each with a third of the slots."""
    ports = free_ports(2 * NODES)
    with ExitStack() as stack:
        for port, bus in zip(ports[:NODES], ports[NODES:], strict=True):
            stack.enter_context(
                system_redis("--port", str(port), "--bind", "127.0.0.1", "--cluster-enabled", "yes",
                             "--cluster-port", str(bus), "--cluster-node-timeout", "3000")
            )  # fmt: skip
        nodes = [f"127.0.0.1:{port}" for port in ports[:NODES]]
        subprocess.run(
            ["redis-cli", "--cluster", "create", *nodes, "--cluster-replicas", "0", "--cluster-yes"],
            check=True, timeout=60, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        clients = [stack.enter_context(redis.Redis(port=port)) for port in ports[:NODES]]
        deadline = time.monotonic() + 30
        while any(client.cluster("INFO")["cluster_state"] != "ok" for client in clients):
            assert time.monotonic() < deadline, "the cluster did not come up"
            time.sleep(0.05)
        yield ports[:NODES]


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def wait_for_redis(url: str) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            with redis.Redis.from_url(url) as client:
                client.ping()
            return
        except redis.AuthenticationError:
            return
        except (redis.ConnectionError, redis.BusyLoadingError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
