"""The command line in processes of its own."""

from __future__ import annotations

import atexit
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import IO, Any


class Cli:
    """Runs ``dataqueue`` in a directory of its own, with nothing configured but what the test says."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("DATAQUEUE_", "PG")) and name != "DATABASE_URL"
        }
        self.env |= {"COLUMNS": "200", "PYTHONIOENCODING": "utf-8"}
        self._processes: list[subprocess.Popen[str]] = []

    def __call__(self, *args: object, stdin: str = "") -> subprocess.CompletedProcess[str]:
        if sys.platform != "win32":
            return _warm().run(self.folder, self.env, [*map(str, args)], stdin)
        return subprocess.run(
            self._command(args),
            cwd=self.folder,
            env=self.env,
            input=stdin,
            capture_output=True,
            encoding="utf-8",
            timeout=110,
            check=False,
        )

    def json(self, *args: object, code: int = 0) -> Any:
        """What ``--json`` writes: all of stdout must be JSON."""
        done = self(*args, "--json")
        assert done.returncode == code, done.stderr
        return json.loads(done.stdout)

    def start(self, *args: object) -> subprocess.Popen[str]:
        """A command that goes on; its stdout and stderr are one stream."""
        process = subprocess.Popen(
            self._command(args),
            cwd=self.folder,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
        )
        self._processes.append(process)
        return process

    def end(self) -> None:
        for process in self._processes:
            process.kill()
            process.communicate()

    @staticmethod
    def _command(args: tuple[object, ...]) -> list[str]:
        return [sys.executable, "-m", "dataqueue", *map(str, args)]


class Warm:
    """A process that has imported what commands need; each command is a fork of it."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        program = Path(__file__).with_name("warm_commands.py")
        environment = {**os.environ, "COLUMNS": "200", "PYTHONIOENCODING": "utf-8"}
        self._process = subprocess.Popen([sys.executable, str(program)], stdin=theirs, env=environment)
        theirs.close()
        self._answers = self._socket.makefile()
        self._lock = threading.Lock()
        atexit.register(self.end)

    def run(self, folder: Path, env: dict[str, str], args: list[str], stdin: str) -> subprocess.CompletedProcess[str]:
        with self._lock, ExitStack() as stack:
            files = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(3)]
            files[0].write(stdin.encode())
            files[0].seek(0)
            request = json.dumps({"folder": str(folder), "env": env, "args": args}).encode()
            socket.send_fds(self._socket, [request], [file.fileno() for file in files])
            child = int(self._answers.readline())
            timer = threading.Timer(110, os.kill, (child, signal.SIGKILL))
            timer.start()
            code = int(self._answers.readline())
            timer.cancel()
            output, errors = (self._text(file) for file in files[1:])
        return subprocess.CompletedProcess(args, code, output, errors)

    @staticmethod
    def _text(file: IO[bytes]) -> str:
        file.seek(0)
        return file.read().decode()

    def end(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._process.wait()


_warm = cache(Warm)


def read_until(process: subprocess.Popen[str], text: str) -> str:
    """Read a process's output up to a line with this text."""
    assert process.stdout is not None
    seen = ""
    for line in process.stdout:
        seen += line
        if text in line:
            return seen
    raise AssertionError(f"{text!r} was never written; the process wrote:\n{seen}")


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Its exit code, and what it wrote last."""
    rest, _ = process.communicate(timeout=60)
    return process.returncode, rest
