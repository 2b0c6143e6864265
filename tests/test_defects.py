"""Every grave defect of the original has a test here that names it in its docstring."""

from __future__ import annotations

import ast
import re
from pathlib import Path

TESTS = Path(__file__).parent
ID = re.compile(r"\b[DPR]-[A-Z][A-Z0-9]+\b")
GRAVE = ("S1", "S2")


def _listed() -> dict[str, tuple[str, str]]:
    """Severity of each, and the reason why it has no test (empty for none)."""
    found: dict[str, tuple[str, str]] = {}
    for line in (TESTS / "defects.txt").read_text("utf-8").splitlines():
        if line and not line.startswith("#"):
            name, severity, *reason = line.split(maxsplit=2)
            assert name not in found and ID.fullmatch(name) and severity in (*GRAVE, "S3"), line
            found[name] = severity, "".join(reason)
    return found


def _named() -> dict[str, list[str]]:
    """The tests that name each in their docstring."""
    found: dict[str, list[str]] = {}
    for path in sorted(TESTS.rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                for name in ID.findall(ast.get_docstring(node) or ""):
                    found.setdefault(name, []).append(f"{path.relative_to(TESTS)}::{node.name}")
    return found


def test_every_grave_defect_has_a_test_or_a_reason() -> None:
    named = _named()
    listed = _listed()
    assert len(listed) > 80
    missing = [name for name, (grave, reason) in listed.items() if grave in GRAVE and not reason and name not in named]
    assert missing == []


def test_no_test_names_a_defect_that_is_not_listed() -> None:
    listed = _listed()
    assert {name: tests for name, tests in _named().items() if name not in listed} == {}
