"""TOML and YAML: comments and all other bytes stay, and what was put in comes out again."""

from __future__ import annotations

from typing import Any

import pytest
from dataqueue.installers import formats
from dataqueue.installers.errors import Malformed
from dataqueue.installers.formats import Format

TOML_ENTRY: dict[str, Any] = {"command": "C:\\py thon.exe", "args": ["-m", "dataqueue", "mcp"]}
YAML_ENTRY: dict[str, Any] = {
    "name": "dataqueue", "type": "stdio", "cmd": "uvx", "args": ["--from", "dataqueue==0.1.0", "dataqueue", "mcp"],
    "envs": {}, "enabled": True, "timeout": 300,
}  # fmt: skip
PATHS: dict[Format, list[str]] = {"toml": ["mcp_servers", "dataqueue"], "yaml": ["extensions", "dataqueue"]}
ENTRIES = {"toml": TOML_ENTRY, "yaml": YAML_ENTRY}

TOML = [
    "",
    "\n",
    "\ufeff",
    "a = 1",
    "a = 1\n",
    "a = 1\n\n\n",
    "a = 1\r\n\r\n# end\r\n",
    '# mine\nmodel = "o3"   # spaced\n\n[mcp_servers.other]\ncommand = "x"\nargs = [ "a",\n  "b", # two\n]\n',
    "[mcp_servers]\n",
    "[mcp_servers]\nother = {command = 'x'}\n\n[z]\nn = 1_000\n# the end",
    '[profiles."a b"]\nt = """\n[mcp_servers.dataqueue]\nfake = 1\n"""\n',
    "[[list]]\na = 1\n[[list]]\na = 0x1F\n",
    "\ufeff# bom\na = 1\n",
]
TOML_BY_TOMLKIT = [
    "mcp_servers = {}\n",
    'mcp_servers = { other = {command = "x"} } # c\nb = 2\n',
    "mcp_servers.x.command = 'y'\n",
]
YAML = [
    "",
    "\n",
    "# only a comment\n",
    "a: 1",
    "a: 1\n",
    "a:   1  # spaced\r\nlist:\r\n- x\r\n-   y\r\n",
    "extensions:  # mine\n  # first\n  developer:\n    enabled: true\n    cmd: 'it''s'\n\n# end\nGOOSE_MODEL: \"x\"\n",
    "extensions:\n    developer: &d {enabled: true}\n    other: *d\n",
    "extensions: {}\nb: 2\n",
    "extensions: {a: {b: 1}}  # flow\nb: 2\n",
    "b: |\n  extensions:\n    dataqueue: no\nextensions:\n  x: {type: builtin}",
    "\ufeffa: 1\n",
    "---\na: 1\n",
]
CASES: list[Any] = [
    *[pytest.param("toml", text, id=f"toml-{number}") for number, text in enumerate(TOML)],
    *[pytest.param("yaml", text, id=f"yaml-{number}") for number, text in enumerate(YAML)],
]


@pytest.mark.parametrize(("form", "text"), CASES)
def test_put_and_remove_give_the_same_bytes(form: Format, text: str) -> None:
    path, entry = PATHS[form], ENTRIES[form]
    after = formats.put(form, text, path, entry)
    assert formats.get(form, after, path) == entry
    assert formats.put(form, after, path, entry) == after
    rest = iter(after)
    assert all(character in rest for character in text)
    assert formats.remove(form, after, path) == text


@pytest.mark.parametrize(("form", "text"), CASES)
def test_a_later_version_and_keys_of_the_user(form: Format, text: str) -> None:
    path, entry = PATHS[form], ENTRIES[form]
    mine = {**entry, "note": "mine", "more": {"A": "1"}}
    after = formats.put(form, formats.put(form, text, path, mine), path, {**mine, "args": ["other"]})
    assert formats.get(form, after, path) == {**mine, "args": ["other"]}
    assert formats.remove(form, after, path) == text


@pytest.mark.parametrize("text", TOML_BY_TOMLKIT)
def test_inline_tables_keep_their_data(text: str) -> None:
    path = PATHS["toml"]
    after = formats.put("toml", text, path, TOML_ENTRY)
    assert formats.get("toml", after, path) == TOML_ENTRY
    assert formats.remove("toml", after, path) is not None


@pytest.mark.parametrize("form", ["toml", "yaml", "json"])
def test_a_file_made_for_us_goes_away(form: Format) -> None:
    path = PATHS.get(form, ["mcpServers", "dataqueue"])
    assert formats.remove(form, formats.put(form, None, path, {"command": "x"}), path) is None


def test_what_stands_behind_ours_stays() -> None:
    before = "[a]\nb = 1\n"
    text = formats.put("toml", before, PATHS["toml"], TOML_ENTRY)
    text += '\n[mcp_servers.dataqueue.env]  # mine\nA = "1"\n\n# about z\n[z]\nq = 1\n'
    changed = formats.put("toml", text, PATHS["toml"], {**TOML_ENTRY, "args": ["new"], "env": {"A": "1"}})
    assert '[mcp_servers.dataqueue.env]  # mine\nA = "1"\n\n# about z\n[z]\nq = 1\n' in changed
    assert formats.remove("toml", changed, PATHS["toml"]) == before + "\n# about z\n[z]\nq = 1\n"
    text = formats.put("yaml", "extensions:\n  a:\n    x: 1\n", PATHS["yaml"], YAML_ENTRY)
    text = text.replace("    cmd: uvx\n", "    cmd: uvx  # mine\n").replace("  a:\n", "  # about a\n  a:\n")
    changed = formats.put("yaml", text, PATHS["yaml"], {**YAML_ENTRY, "timeout": 9})
    assert "cmd: uvx  # mine" in changed
    assert formats.remove("yaml", changed, PATHS["yaml"]) == "extensions:\n  # about a\n  a:\n    x: 1\n"


@pytest.mark.parametrize(
    ("form", "text", "line"),
    [
        ("toml", "a = 1\nb =\n", 2),
        ("toml", "a = 1\na = 2\n", 2),
        ("toml", "\n\n[open", 3),
        ("yaml", "a: 1\n b: 2\n", 2),
        ("yaml", "a: 1\na: 2\n", 2),
        ("yaml", "a: 1\n---\nb: 2\n", 2),
        ("yaml", "a: 1\n\tb: 2\n", 2),
        ("yaml", "- a\n", 1),
        ("yaml", "text", 1),
    ],
)
def test_malformed_text_is_refused_with_its_line(form: Format, text: str, line: int) -> None:
    with pytest.raises(Malformed) as caught:
        formats.put(form, text, PATHS[form], {"a": 1})
    assert caught.value.line == line


@pytest.mark.parametrize(
    ("form", "text"), [("toml", "mcp_servers = 1\n"), ("yaml", "extensions: [a]\n"), ("yaml", "extensions: text\n")]
)
def test_another_kind_of_value_on_the_way_is_refused(form: Format, text: str) -> None:
    with pytest.raises(Malformed, match="is not a mapping"):
        formats.put(form, text, PATHS[form], {"a": 1})
