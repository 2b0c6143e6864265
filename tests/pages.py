"""Runs the Python blocks of a page of the manual, as one program that may ``await`` at its top level.

Conventions, by the info string of a fence: a ``python`` block is run, in the page's order and in one namespace;
with ``title="shop/jobs.py"`` it is written to that file instead, to be imported by a later block.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_BLOCK = re.compile(r"^( *)```python([^\n]*)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    line: int
    title: str | None
    code: str


def python_blocks(text: str) -> list[Block]:
    blocks: list[Block] = []
    for match in _BLOCK.finditer(text):
        indent = match[1]
        code = "\n".join(line.removeprefix(indent) for line in match[3].splitlines())
        title = re.search(r'title="([^"]+)"', match[2])
        blocks.append(Block(text[: match.start()].count("\n") + 2, title[1] if title else None, code + "\n"))
    return blocks


def run_blocks(name: str, blocks: list[Block], folder: Path) -> dict[str, Any]:
    """Run them with ``folder`` as the current directory and on the import path; gives their namespace."""
    namespace: dict[str, Any] = {"__name__": "__page__"}
    queues: list[Any] = []

    async def run() -> None:
        for block in blocks:
            if block.title:
                file = folder / block.title
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(block.code)
                continue
            padded = "\n" * (block.line - 1) + block.code  # so that a traceback names the page's own line
            code = compile(padded, name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            result = eval(code, namespace)
            if inspect.iscoroutine(result):
                await result
        for module in (namespace, *(vars(sys.modules[name]) for name in set(sys.modules) - before)):
            for value in list(module.values()):
                if type(value).__name__ in ("JobQueue", "SyncJobQueue") and value not in queues:
                    queues.append(value)
        for queue in queues:
            if type(queue).__name__ == "JobQueue":
                await queue.close()

    before, environment = set(sys.modules), dict(os.environ)
    sys.path.insert(0, str(folder))
    try:
        asyncio.run(run())
    finally:
        os.environ.clear()
        os.environ.update(environment)
        sys.path.remove(str(folder))
        for queue in queues:
            if type(queue).__name__ == "SyncJobQueue":
                queue.close()
        for module in set(sys.modules) - before:  # the page's own files: another page may have others of this name
            file = getattr(sys.modules[module], "__file__", None)
            if file is None or file.startswith(str(folder)):
                del sys.modules[module]
    return namespace
