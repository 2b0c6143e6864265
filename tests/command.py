"""The command line in processes of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any


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
