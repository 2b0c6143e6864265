"""One server for all processes of a user: the first starts it, and it is stopped after the last."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from dataqueue.embedded import watchdog
from dataqueue.embedded.process import log_tail, spawn_script
from dataqueue.embedded.watchdog import Target, open_lock, recorded_pid, runs, shut_down, try_lock, unlock
from dataqueue.errors import ConfigError, StoreUnavailable

ENTER_SECONDS = 180.0
"""How long to wait for another process that is starting or stopping the server."""
START_SECONDS = 120.0
"""How long a server may take to recover after a crash, or to load its data."""
SETTLE_SECONDS = 5.0
"""How long a launched server may go without a pid file before it counts as dead."""


class Server(Protocol):
    """What Postgres and Valkey differ in."""

    @property
    def target(self) -> Target:
        """What the watchdog has to know."""
        ...

    @property
    def log_file(self) -> Path:
        """Where the server writes its log."""
        ...

    @property
    def url(self) -> str:
        """How clients reach the running server."""
        ...

    def refusal(self) -> str | None:
        """Connect; return None if the server works for us, else why it does not."""
        ...

    def launch(self) -> None:
        """Start the server, which does not run. Raises if it cannot."""
        ...


class Hold:
    """This process's use of a server: while one is held, by any process, the server is not stopped.

    A shared file lock. The kernel drops it when the process ends, however it ends. A child made by
    ``fork()`` shares its parent's hold, and keeps it until both have given it up or ended.
    """

    def __init__(self, home: Path) -> None:
        self._mutex = threading.Lock()
        self._descriptor: int | None = open_lock(home / "users")
        if not try_lock(self._descriptor, shared=True):
            self.release()
            raise StoreUnavailable(f"{home / 'users'} is locked by something that is not dataqueue.")

    def release(self) -> None:
        """Give the hold up; does nothing the second time."""
        with self._mutex:
            descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)  # no unlock: that would take a forked process's hold as well


@dataclass(frozen=True)
class EmbeddedServer:
    """A running server, and this caller's hold on it. As a context manager it calls :meth:`stop`."""

    url: str
    """For ``psycopg.connect`` (Postgres) or ``redis.from_url`` (Valkey)."""
    path: Path
    """The directory that holds the data; give it to start the same server again."""
    pid: int
    """The server's process id, as of now."""
    _target: Target = field(repr=False)
    _hold: Hold = field(repr=False, compare=False)

    def stop(self, *, wait: bool = False) -> bool:
        """Give up this caller's hold; may be called again. Say whether the server is known to be down.

        Only this and the end of the process give the hold up, not the loss of the object. The server is
        stopped when nobody has held it for about two seconds. With ``wait``, it is stopped before this
        returns, unless somebody else uses it; do so, and look at the answer, before you delete its
        directory. Raises :class:`StoreUnavailable` if the server does not stop within a minute.
        """
        self._hold.release()
        return wait and (not self.path.exists() or _stop_if_unused(self._target))

    def __enter__(self) -> EmbeddedServer:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.stop()


def enter(server: Server) -> EmbeddedServer:
    """Return the running server, started if it is down, with a hold on it."""
    home = Path(server.target.home)
    with _exclusive(home / "lock"):
        hold = Hold(home)
        try:
            _ensure_watchdog(server.target)  # first: whatever happens next, somebody stops the server
            _ensure_running(server)
            pid = recorded_pid(server.target)
            if pid is None:
                raise StoreUnavailable(f"The server answers, but {server.target.pid_file} is missing.")
            return EmbeddedServer(server.url, home, pid, server.target, hold)
        except BaseException:
            hold.release()
            raise


def _ensure_running(server: Server) -> None:
    deadline = time.monotonic() + START_SECONDS
    why = server.refusal()
    # A process without an answer is starting, recovering or stopping: a second one must not join it.
    while why is not None and runs(server.target, recorded_pid(server.target)):
        _give_up_after(deadline, server, why)
        time.sleep(0.02)
        why = server.refusal()
    if why is None:
        return
    server.launch()
    launched = time.monotonic()
    while (why := server.refusal()) is not None:
        dead = not runs(server.target, recorded_pid(server.target))
        _give_up_after(launched + (SETTLE_SECONDS if dead else START_SECONDS), server, why)
        time.sleep(0.01)


def _give_up_after(deadline: float, server: Server, why: str) -> None:
    if time.monotonic() > deadline:
        raise StoreUnavailable(
            f"The embedded server in {server.target.home} accepts no connections: {why}\n"
            f"The end of its log {server.log_file}:\n{log_tail(server.log_file)}"
        )


def _ensure_watchdog(target: Target) -> None:
    own_lock = open_lock(Path(target.home, "watchdog"))
    try:
        if not try_lock(own_lock):
            return
        unlock(own_lock)
    finally:
        os.close(own_lock)
    outcome = spawn_script(Path(watchdog.__file__), target, Path(target.home))
    if outcome.code != 0:
        raise StoreUnavailable(f"The watchdog of the embedded server did not start: {outcome.output}")


def _stop_if_unused(target: Target) -> bool:
    with _exclusive(Path(target.home, "lock")):
        users = open_lock(Path(target.home, "users"))
        try:
            unused = try_lock(users)
        finally:
            os.close(users)
        if unused and not shut_down(target, recorded_pid(target)):
            raise StoreUnavailable(f"The embedded server in {target.home} does not stop; see its log.")
        return unused


@contextmanager
def _exclusive(lock_file: Path) -> Generator[None]:
    """Hold the lock under which the server is started and stopped."""
    descriptor = open_lock(lock_file)
    try:
        deadline = time.monotonic() + ENTER_SECONDS
        while not _try_lock(descriptor, lock_file):
            if time.monotonic() > deadline:
                raise StoreUnavailable(
                    f"Another process has held {lock_file} for {ENTER_SECONDS:.0f} seconds: it starts or "
                    "stops the embedded server and hangs. Look for it with: fuser -v " + str(lock_file)
                )
            time.sleep(0.02)
        try:
            yield
        finally:
            unlock(descriptor)  # not just closed: another thread's fork() may have copied it
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int, lock_file: Path) -> bool:
    try:
        return try_lock(descriptor)
    except OSError as error:
        if error.errno not in {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS}:
            raise
        raise ConfigError(
            f"The file system of {lock_file} has no file locks ({error.strerror}), which an embedded server "
            "needs. Give a path on a local disk."
        ) from error
