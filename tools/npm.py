"""Programs from npm, in a folder of their own, with a Node.js that runs them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parent.parent
INSPECTOR = {"mcp-inspector": "@modelcontextprotocol/inspector@2"}
FOLDER = ROOT / ".venv" / "inspector"


def install_programs(folder: Path, programs: Mapping[str, str]) -> dict[str, str]:
    """Install what is missing.

    Args:
        folder: where to.
        programs: name of a program → the package that has it.

    Returns:
        An environment in which the programs are found.
    """
    bins = folder / "node_modules" / ".bin"
    if missing := [package for name, package in programs.items() if not (bins / name).exists()]:
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "package.json").exists():
            (folder / "package.json").write_text('{"private": true}\n')
        npm = ["npm", "install", "--no-audit", "--no-fund", "--loglevel=error"]
        subprocess.run([*npm, "node@22", *missing], cwd=folder, stdin=subprocess.DEVNULL, check=True)
    node = folder / "node_modules" / "node" / "bin"
    return {**os.environ, "PATH": os.pathsep.join([str(node), str(bins), os.environ["PATH"]])}
