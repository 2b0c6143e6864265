"""Modules of this folder in processes of their own, which must find the *installed* dataqueue.

The project root, where ``./dataqueue`` is not the package (its migrations and docs lie beside it), goes
to the end of the path: far enough back for dataqueue, near enough for ``benchmarks``.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
_RUN = """
import runpy, sys
sys.path.append(sys.argv.pop(1))
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""


def prefer_installed() -> None:
    """Move the project root to the end of this process's path."""
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]
    sys.path.append(str(ROOT))


class Child:
    """``benchmarks.MODULE`` at work: a line of JSON says what it found."""

    def __init__(self, module: str, task: str, **arguments: object) -> None:
        command = [sys.executable, "-P", "-c", _RUN, str(ROOT), f"benchmarks.{module}", task, json.dumps(arguments)]
        self._what = f"{module} {task}"
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def read(self) -> Any:
        """The next line it prints."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"The process for {self._what} ended with code {self._process.wait(10)}.")
        return json.loads(line)

    def __enter__(self) -> Child:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if error is not None:
            self._process.kill()
        self._process.communicate(timeout=60)
