"""The package itself: what importing it loads, and what it says of itself."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import tomllib
from pathlib import Path

import dataqueue

ROOT = Path(__file__).parent.parent


def _fresh(code: str) -> str:
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return ran.stdout.strip()


def test_importing_loads_only_what_is_used() -> None:
    code = (
        "import sys, dataqueue; dataqueue.JobQueue.from_url('postgresql://localhost/x'); "
        "heavy = {'mcp', 'starlette', 'jinja2', 'typer', 'redis', 'rich', 'croniter', 'pydantic'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    assert _fresh(code) == "[]"
    assert _fresh("import sys, dataqueue; print(sorted({'psycopg', 'asyncio'} & set(sys.modules)))") == "[]"


def test_every_public_name_can_be_imported() -> None:
    for name in dataqueue.__all__:
        assert getattr(dataqueue, name) is not None


def test_every_package_folder_is_in_the_wheel() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    listed = set(settings["packages"])
    inside = {
        str(init.parent.relative_to(ROOT)).replace("/", ".") for init in (ROOT / "dataqueue").rglob("__init__.py")
    }
    assert inside <= listed
    assert {f"dataqueue.{name}" for name in ("ai", "docs", "installers", "mcp_server", "migrations")} <= listed


def test_the_version_is_said_once() -> None:
    assert importlib.metadata.version("dataqueue") == dataqueue.__version__
    assert f"## [{dataqueue.__version__}]" in (ROOT / "CHANGELOG.md").read_text()
