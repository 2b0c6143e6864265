"""Stops an embedded server once nobody uses it any more, however its users ended.

Run as a script, in a process of its own, with the fields of :class:`Target` as arguments. It imports the
standard library only, so that it starts within 30 ms and takes some 10 MB; the rest of the package takes
the file locks and the stopping from here.

Three lock files in the home directory say everything; the kernel drops a lock when its holder dies, so
that SIGKILL, a reused pid or another pid namespace cannot leave a wrong entry behind:

- ``lock``: held for a moment by whoever starts or stops the server;
- ``users``: held shared by each process that uses the server, taken only under ``lock``;
- ``watchdog``: held by the one watchdog for its lifetime.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import NamedTuple

POLL_SECONDS = 1.0
GRACE_SECONDS = 2.0
"""How long nobody must have used the server before it is stopped."""
STOP_SECONDS = 60.0
"""How long a clean stop may take: a busy Postgres writes its checkpoint first."""


class Target(NamedTuple):
    """What is watched, in words that fit on a command line."""

    home: str
    """The directory of the lock files."""
    data: str
    """The server's data directory. It is an argument of the server, which tells it from a stranger's pid."""
    pid_file: str
    """Written by the server; its first line is the pid."""
    signal_name: str
    """The signal that stops the server cleanly (POSIX)."""
    pg_ctl: str
    """The program that stops it where there are no signals (Windows); else not used."""


if sys.platform == "win32":
    import msvcrt

    _USERS = 4096

    def try_lock(descriptor: int, *, shared: bool = False) -> bool:
        """Lock an open file without waiting; False if another holds it."""
        # Windows' byte locks are exclusive: a sharer takes any free byte, who wants all takes them all.
        for offset, length in [(byte, 1) for byte in range(_USERS)] if shared else [(0, _USERS)]:
            os.lseek(descriptor, offset, os.SEEK_SET)
            try:
                msvcrt.locking(descriptor, msvcrt.LK_NBLCK, length)
            except OSError:
                continue
            return True
        return False

    def unlock(descriptor: int) -> None:
        """Undo an exclusive :func:`try_lock`."""
        os.lseek(descriptor, 0, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_UNLCK, _USERS)

else:
    import fcntl
    import signal

    def try_lock(descriptor: int, *, shared: bool = False) -> bool:
        """Lock an open file without waiting; False if another holds it."""
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return False
        return True

    def unlock(descriptor: int) -> None:
        """Undo an exclusive :func:`try_lock`, also for children that inherited the open file by fork."""
        fcntl.flock(descriptor, fcntl.LOCK_UN)


def open_lock(path: Path) -> int:
    """Open a lock file, made if missing, and return its descriptor, which no child program inherits."""
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)


def recorded_pid(target: Target) -> int | None:
    """Return the pid in the server's pid file, which may be stale; None if there is none."""
    try:
        first = Path(target.pid_file).read_text("utf-8", "replace").partition("\n")[0]
        return int(first) if int(first) > 0 else None
    except (OSError, ValueError):
        return None


def arguments_of(pid: int) -> list[str]:
    """Return a process's command line; empty if it is gone, a zombie or not to be read."""
    if sys.platform == "linux":
        try:
            return [os.fsdecode(word) for word in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")]
        except OSError:
            return []
    import subprocess  # not needed, and so not loaded, on Linux

    if sys.platform == "win32":
        command = ["tasklist", "/FI", f"PID eq {pid}", "/FO", "LIST", "/NH"]
    else:
        command = ["ps", "-ww", "-o", "command=", "-p", str(pid)]
    return [subprocess.run(command, capture_output=True, text=True, check=False).stdout]


def runs(target: Target, pid: int | None) -> bool:
    """Say whether this pid is the server, alive."""
    if pid is None:
        return False
    arguments = arguments_of(pid)
    if sys.platform == "linux":
        return target.data in arguments
    return any(("postgres.exe" if sys.platform == "win32" else target.data) in word for word in arguments)


def shut_down(target: Target, pid: int | None, *, clean: bool = True) -> bool:
    """Stop the server (kill it, if not ``clean``) and wait for its end; the caller holds ``lock``.

    False if it did not end within :data:`STOP_SECONDS`.
    """
    if pid is None or not runs(target, pid):
        return True
    if sys.platform == "win32":
        import subprocess

        subprocess.run([target.pg_ctl, "stop", "-D", target.data, "-m", "fast", "-W"], check=False)
    else:
        try:
            os.kill(pid, signal.Signals[target.signal_name] if clean else signal.SIGKILL)
        except ProcessLookupError:
            return True
    deadline = time.monotonic() + STOP_SECONDS
    while runs(target, pid):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _is_replaced(descriptor: int, path: Path) -> bool:
    try:
        return not os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False


def _watch(target: Target, own_lock: int) -> None:
    """Wait until nobody has used the server for :data:`GRACE_SECONDS`, then stop it."""
    home = Path(target.home)
    entry, users = open_lock(home / "lock"), open_lock(home / "users")
    pid: int | None = None
    idle_since: float | None = None
    while True:
        time.sleep(POLL_SECONDS if pid else POLL_SECONDS / 20)
        # If our directory was deleted and made anew, its pid file is another server's.
        replaced = _is_replaced(entry, home / "lock")
        known = None if replaced else recorded_pid(target)
        if known not in (None, pid):
            pid = known
            _log(f"the server has pid {pid}")
        if not try_lock(entry):
            idle_since = None  # somebody is just coming in
            continue
        try:
            if not try_lock(users):
                idle_since = None
                continue
            unlock(users)
            idle_since = idle_since or time.monotonic()
            if time.monotonic() - idle_since >= GRACE_SECONDS:
                # A clean end would remove the socket of the other server; there are no data to save.
                stopped = shut_down(target, pid, clean=not replaced)
                _log(f"{'stopped' if stopped else 'cannot stop'} the unused server, pid {pid}")
                unlock(own_lock)  # before ``lock``: the next starter must find no watchdog here
                return
        finally:
            unlock(entry)


def _log(message: str) -> None:
    sys.stderr.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {message}\n")
    sys.stderr.flush()


def _detach(log_file: Path) -> None:
    """Leave the parent, its session, its working directory and its standard streams."""
    if sys.platform != "win32":
        if os.fork():
            os._exit(0)
        os.setsid()
    os.chdir(os.path.abspath(os.sep))  # noqa: PTH100 - a plain string is all that is needed
    null = os.open(os.devnull, os.O_RDWR)
    log = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    for stream, source in enumerate((null, log, log)):
        os.dup2(source, stream)


def main() -> None:
    """Become the watchdog of the target on the command line; return at once if it has one already."""
    target = Target(*sys.argv[1:])
    own_lock = open_lock(Path(target.home, "watchdog"))
    if not try_lock(own_lock):
        return
    # The lock goes over to the forked child, so it is held from before the starter's call returns.
    _detach(Path(target.home, "watchdog.log"))
    _log(f"watching {target.home}")
    _watch(target, own_lock)


if __name__ == "__main__":
    main()
