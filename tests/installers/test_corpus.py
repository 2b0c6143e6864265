"""Over the corpus: installing adds our part only, again changes nothing, and uninstalling gives the same bytes back."""

from __future__ import annotations

from pathlib import Path

import pytest
from dataqueue.installers import formats
from dataqueue.installers.clients import BY_ID
from dataqueue.installers.errors import InstallError
from dataqueue.installers.launch import choose
from dataqueue.installers.places import Places
from dataqueue.installers.plan import Kind, Plan, make_plan
from install_corpus import BROKEN, CASES, Case


def run(root: Path, case: Case, *, uninstall: bool = False) -> Plan:
    places = Places("project", root, root / "home")
    kinds: list[Kind] = ["rules" if case.client == "agents" else "mcp"]
    plan = make_plan(kinds, [BY_ID[case.client]], places, choose(places, None), named=True, uninstall=uninstall)
    plan.draft.apply(backup=False)
    return plan


def prepare(root: Path, case: Case) -> Path:
    file = root / case.path
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(case.content)
    return file


def test_the_corpus_is_large_enough() -> None:
    assert len(CASES) + len(BROKEN) >= 60


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_nothing_is_lost(case: Case, tmp_path: Path) -> None:
    file = prepare(tmp_path, case)
    plan = run(tmp_path, case)
    assert [plan.state(outcome) for outcome in plan.outcomes] == ["updated"]
    installed = file.read_bytes()
    rest = iter(installed)
    assert all(byte in rest for byte in case.content)
    mcp = BY_ID[case.client].mcp
    if mcp is None:
        assert b"dataqueue:begin" in installed
    else:
        before = formats.load(mcp.form, case.content.decode())
        after = formats.load(mcp.form, installed.decode())
        assert after[mcp.keys[0]].pop("dataqueue")
        assert after == {**before, mcp.keys[0]: before.get(mcp.keys[0], {})}
    if b"\r\n" in case.content:
        assert installed.count(b"\n") == installed.count(b"\r\n")
    assert run(tmp_path, case).draft.changed() == []
    assert file.read_bytes() == installed
    run(tmp_path, case, uninstall=True)
    assert file.read_bytes() == case.content


@pytest.mark.parametrize("case", BROKEN, ids=lambda case: case.name)
def test_a_broken_file_is_never_touched(case: Case, tmp_path: Path) -> None:
    file = prepare(tmp_path, case)
    for uninstall in (False, True):
        try:
            run(tmp_path, case, uninstall=uninstall)
        except InstallError as error:
            assert case.path in str(error)
            assert "Nothing was written" in str(error)
        else:
            assert uninstall  # there is nothing of ours to take away
        assert file.read_bytes() == case.content
    assert sorted(path.name for path in file.parent.iterdir()) == [file.name]


@pytest.mark.parametrize(
    ("name", "line"), [("missing-comma", 3), ("cut-off", 3), ("toml", 2), ("marks-cut", 2), ("list", 1)]
)
def test_the_error_names_the_line(name: str, line: int, tmp_path: Path) -> None:
    case = next(case for case in BROKEN if case.name == name)
    prepare(tmp_path, case)
    with pytest.raises(InstallError, match=f"{case.path}, line {line}: "):
        run(tmp_path, case)
