"""The install commands as people and scripts run them: real processes, real folders."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from dataqueue.installers import regions
from dataqueue.installers.clients import ALIASES, BY_ID, CLIENTS
from dataqueue.installers.entries import merge
from dataqueue.installers.launch import Launch, extra_arguments
from dataqueue.installers.places import Places
from typer.testing import CliRunner, Result

import dataqueue
from dataqueue.cli import app

VERSION = dataqueue.__version__
UVX = {"command": "uvx", "args": ["--from", f"dataqueue=={VERSION}", "dataqueue", "mcp"]}
COMMANDS = ("install-mcp", "install-rules", "install-skills", "install-ai")
DEFAULT = [
    "cursor",
    "claude-code",
    "claude-desktop",
    "vscode",
    "copilot-cli",
    "windsurf",
    "codex",
    "gemini-cli",
    "antigravity",
    "zed",
    "junie",
    "cline",
    "opencode",
    "kiro",
    "amp",
    "goose",
]


class Install:
    """Runs the commands in a project with a home folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.root, self.home = folder / "project", folder / "home"
        self.root.mkdir()
        self.home.mkdir()
        moved = (
            "XDG_CONFIG_HOME",
            "CODEX_HOME",
            "COPILOT_HOME",
            "CLINE_DIR",
            "CLINE_DATA_DIR",
            "GROK_HOME",
            "KIMI_CODE_HOME",
        )
        self.env: dict[str, str | None] = dict.fromkeys((*moved, "DATAQUEUE_URL", "DATABASE_URL"))
        self.env |= {"HOME": str(self.home), "USERPROFILE": str(self.home), "COLUMNS": "200"}

    def __call__(self, *args: str, code: int = 0) -> Result:
        """Run a command in this process, where it starts at once; without a terminal."""
        with contextlib.chdir(self.root):
            done = CliRunner().invoke(app, args, env=self.env)
        assert done.exit_code == code, done.output
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done

    def json(self, *args: str, code: int = 0) -> Any:
        return json.loads(self(*args, "--json", code=code).stdout)

    def write(self, path: str, text: str, *, home: bool = False) -> Path:
        file = (self.home if home else self.root) / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    def tree(self) -> dict[str, bytes]:
        return {
            path.relative_to(self.root.parent).as_posix(): path.read_bytes() if path.is_file() else b"folder"
            for path in self.root.parent.rglob("*")
        }

    def load(self, path: str, *, home: bool = False) -> Any:
        return json.loads(((self.home if home else self.root) / path).read_text())


@pytest.fixture
def install(tmp_path: Path) -> Install:
    return Install(tmp_path)


def test_a_real_process_without_stdin_decides_nothing(install: Install) -> None:
    environ = os.environ | {"HOME": str(install.home)}
    command = [sys.executable, "-m", "dataqueue", "install-mcp"]
    for more, code in ([], 2), (["--editor", "cursor"], 0), (["--editor", "cursor", "--check"], 0):
        done = subprocess.run(
            [*command, *more], cwd=install.root, env=environ, stdin=subprocess.DEVNULL, capture_output=True, timeout=60,
            check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stderr
    assert install.load(".cursor/mcp.json") == {"mcpServers": {"dataqueue": UVX}}


# -- every client ---------------------------------------------------------------------------------------


def test_the_usual_clients_are_there() -> None:
    assert {client.id for client in CLIENTS if client.usual and client.mcp} == set(DEFAULT)
    assert set(ALIASES.values()) <= set(BY_ID)
    assert not set(ALIASES) & set(BY_ID)


@pytest.mark.parametrize("scope", ["project", "user"])
@pytest.mark.parametrize("command", COMMANDS)
def test_all_clients_in_and_out_again(install: Install, command: str, scope: str) -> None:
    before = install.tree()
    assert "unchanged" not in install(command, "--all", "--scope", scope).stdout
    after = install.tree()
    assert after != before
    assert set(json.loads(install(command, "--all", "--scope", scope, "--json").stdout)) >= {"results", "notes"}
    install(command, "--all", "--scope", scope, "--check")
    assert install.tree() == after
    install(command, "--all", "--scope", scope, "--uninstall", "--dry-run")
    assert install.tree() == after
    install(command, "--all", "--scope", scope, "--uninstall")
    assert install.tree() == before


@pytest.mark.parametrize("client", [client for client in CLIENTS if client.mcp], ids=lambda client: client.id)
def test_install_mcp_for_one_client_installs_or_fails(install: Install, client: Any) -> None:
    for scope in ("project", "user"):
        fits = bool(client.mcp.project if scope == "project" else client.mcp.user)
        before = install.tree()
        done = install("install-mcp", "--editor", client.id, "--scope", scope, code=0 if fits else 2)
        assert (install.tree() != before) == fits
        assert fits or "Nothing was written" in done.stderr or "--print" in done.stderr
        if client.mcp.paste or fits:
            assert "dataqueue" in install("install-mcp", "--editor", client.id, "--scope", scope, "--print").stdout


def test_the_entries_are_as_each_client_reads_them(install: Install) -> None:
    install("install-mcp", "--all")
    assert install.load(".cursor/mcp.json") == {"mcpServers": {"dataqueue": UVX}}
    assert install.load(".vscode/mcp.json") == {"servers": {"dataqueue": {"type": "stdio", **UVX}}}
    assert install.load(".zed/settings.json") == {"context_servers": {"dataqueue": UVX}}
    assert install.load(".amp/settings.json") == {"amp.mcpServers": {"dataqueue": UVX}}
    line = [UVX["command"], *UVX["args"]]
    opencode = {"type": "local", "command": line, "enabled": True}
    assert install.load("opencode.jsonc") == {"mcp": {"dataqueue": opencode}}
    assert tomllib.loads((install.root / ".codex/config.toml").read_text()) == {"mcp_servers": {"dataqueue": UVX}}
    install("install-mcp", "--all", "--scope", "user")
    python = {"command": sys.executable, "args": ["-m", "dataqueue", "mcp"]}
    assert install.load(".claude.json", home=True) == {"mcpServers": {"dataqueue": python}}
    assert install.load(".copilot/mcp-config.json", home=True) == {
        "mcpServers": {"dataqueue": {"type": "stdio", **python, "tools": ["*"]}}
    }
    goose = (install.home / ".config/goose/config.yaml").read_text()
    assert f"cmd: {sys.executable}\n" in goose
    assert "timeout: 300\n" in goose


def test_paths_on_every_platform() -> None:
    def paths(client: str, platform: str, **environ: str) -> list[str]:
        mcp = BY_ID[client].mcp
        assert mcp is not None
        return [Places("user", Path("/p"), Path("/h"), environ, platform).path(user).as_posix() for user in mcp.user]

    assert paths("vscode", "darwin") == ["/h/Library/Application Support/Code/User/mcp.json"]
    assert paths("vscode", "linux", XDG_CONFIG_HOME="/x") == ["/x/Code/User/mcp.json"]
    assert paths("vscode", "linux", XDG_CONFIG_HOME="relative") == ["/h/.config/Code/User/mcp.json"]
    assert paths("vscode", "win32", APPDATA="/a") == ["/a/Code/User/mcp.json"]
    assert paths("claude-desktop", "win32") == ["/h/AppData/Roaming/Claude/claude_desktop_config.json"]
    assert paths("zed", "darwin", XDG_CONFIG_HOME="/x") == ["/h/.config/zed/settings.json"]
    assert paths("zed", "win32", APPDATA="/a") == ["/a/Zed/settings.json"]
    assert paths("codex", "linux", CODEX_HOME="/c") == ["/c/config.toml"]
    assert paths("copilot-cli", "linux", COPILOT_HOME="~/c") == ["/h/c/mcp-config.json"]
    assert paths("cline", "linux", CLINE_DIR="/c")[0] == "/c/data/settings/cline_mcp_settings.json"
    assert paths("goose", "win32", APPDATA="/a") == ["/a/Block/goose/config/config.yaml"]


# -- choosing -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_an_undecided_call_without_a_terminal_lists_the_ids(install: Install, command: str) -> None:
    (install.root / ".cursor").mkdir()
    before = install.tree()
    done = install(command, code=2)
    assert "cursor (found .cursor/)" in done.stderr
    assert all(client.id in done.stderr for client in CLIENTS)
    assert install.json(command, code=2)["error"]["type"] == "ConfigError"
    assert install.tree() == before


def test_yes_takes_what_is_found(install: Install) -> None:
    assert "No client was found" in install("install-mcp", "--yes", code=2).stderr
    (install.root / ".cursor").mkdir()
    install.write("CLAUDE.md", "# mine\n")
    done = install("install-mcp", "--yes")
    assert "cursor: found .cursor/" in done.stderr
    assert "claude-code: found CLAUDE.md" in done.stderr
    assert {file.name for file in install.root.iterdir()} == {".cursor", "CLAUDE.md", ".mcp.json"}


@pytest.mark.parametrize(
    "args",
    [
        ["--editor", "emacs"], ["--scope", "machine", "--all"], ["--launcher", "npx", "--all"], ["--all", "--editor", "cursor"],
        ["--all", "--dry-run", "--check"], ["--all", "--uninstall", "--check"], ["--all", "--root", "nowhere"], ["--nonsense"],
    ],
)  # fmt: skip
def test_wrong_usage_writes_nothing(install: Install, args: list[str]) -> None:
    before = install.tree()
    install("install-mcp", *args, code=2)
    assert install.tree() == before


def test_a_wrong_name_gets_a_suggestion(install: Install) -> None:
    assert "Did you mean cursor?" in install("install-mcp", "--editor", "curser", code=2).stderr


def test_short_names_and_several_editors(install: Install) -> None:
    install("install-skills", "--editor", "claude", "--client", "copilot")
    assert (install.root / ".claude/skills/dataqueue/SKILL.md").is_file()
    assert (install.root / ".github/skills/dataqueue/SKILL.md").is_file()


def test_root_is_the_project_or_the_home_folder(install: Install, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    install("install-mcp", "--editor", "cursor", "--root", str(other))
    assert json.loads((other / ".cursor/mcp.json").read_text())["mcpServers"]["dataqueue"] == UVX
    install("install-mcp", "--editor", "codex", "--scope", "user", "--root", str(other))
    assert "-m" in (other / ".codex/config.toml").read_text()
    assert list(install.root.iterdir()) == list(install.home.iterdir()) == []


# -- the entry ------------------------------------------------------------------------------------------


def test_what_the_user_added_to_our_entry_stays(install: Install) -> None:
    file = install.write(
        ".cursor/mcp.json",
        '{\n  "mcpServers": {\n    "dataqueue": {\n      "command": "uvx", // mine\n'
        '      "args": ["--from", "dataqueue==0.0.1", "dataqueue", "mcp", "--allow-writes"],\n'
        '      "env": {"DATAQUEUE_URL": "${env:X}"},\n      "disabled": true\n    }\n  }\n}\n',
    )
    before = file.read_text()
    assert "to update" in install("install-mcp", "--editor", "cursor", "--check", code=1).stdout
    install("install-mcp", "--editor", "cursor")
    assert file.read_text() == before.replace("0.0.1", VERSION)


def test_a_command_of_the_users_own_is_left_alone(install: Install) -> None:
    text = '{"mcpServers": {"dataqueue": {"command": "docker", "args": ["run", "acme/dataqueue", "mcp"], "env": {"A": "1"}}}}'
    file = install.write(".cursor/mcp.json", text)
    for args in ([], ["--uninstall"], ["--check"]):
        done = install("install-mcp", "--editor", "cursor", *args, code=1)
        assert "docker run acme/dataqueue mcp" in done.stdout
        assert file.read_text() == text
    install("install-mcp", "--editor", "cursor", "--force")
    assert install.load(".cursor/mcp.json")["mcpServers"]["dataqueue"] == UVX


@pytest.mark.parametrize(
    ("argv", "extra"),
    [
        (["dataqueue", "mcp"], []),
        (["/x/.venv/bin/dataqueue", "mcp", "--env-file", "/x/.env"], ["--env-file", "/x/.env"]),
        (["C:\\py\\python.exe", "-m", "dataqueue", "mcp"], []),
        (["uv", "run", "--no-sync", "dataqueue", "mcp", "--allow-writes"], ["--allow-writes"]),
        (["uvx", "--from", "dataqueue[embedded]==9", "dataqueue", "mcp"], []),
        (["npx", "dataqueue-cli", "mcp"], []),
        (["docker", "run", "dataqueue", "mcp"], None),
        (["uv", "run", "--project", "/x", "dataqueue", "mcp"], None),
        (["python", "-m", "other", "mcp"], None),
        (["dataqueue"], None),
        ([], None),
    ],
)
def test_which_command_lines_are_ours(argv: list[str], extra: list[str] | None) -> None:
    assert extra_arguments(argv) == extra


def test_a_remote_server_of_our_name_is_left_alone() -> None:
    launch = Launch("uvx", ("x",), "")
    assert merge("plain", launch, {"url": "https://example.com/mcp"}) is None
    assert merge("plain", launch, "text") is None
    assert merge("plain", launch, {}) == {"command": "uvx", "args": ["x"]}


def test_the_launch_command_fits_the_project(install: Install) -> None:
    install.write("uv.lock", 'version = 1\n\n[[package]]\nname = "other"\n')
    assert install.json("install-mcp", "--editor", "cursor", "--dry-run")["launch"]["command"] == "uvx"
    install.write("uv.lock", 'version = 1\n\n[[package]]\nname = "dataqueue"\nversion = "0.1.0"\n')
    launch = install.json("install-mcp", "--editor", "cursor")["launch"]
    assert [launch["command"], *launch["args"]] == ["uv", "run", "--no-sync", "dataqueue", "mcp"]
    assert "uv.lock" in launch["why"]
    done = install("install-mcp", "--editor", "cursor", "--launcher", "python")
    assert "exists on this machine only" in done.stderr
    assert install.load(".cursor/mcp.json")["mcpServers"]["dataqueue"]["command"] == sys.executable


def test_opencode_takes_the_file_and_layout_that_are_there(install: Install) -> None:
    install.write("opencode.json", '{"mcp": {"servers": {}}}')
    install("install-mcp", "--editor", "opencode")
    entry = install.load("opencode.json")["mcp"]["servers"]["dataqueue"]
    assert entry == {"type": "local", "command": ["uvx", *UVX["args"]]}
    assert not (install.root / "opencode.jsonc").exists()


def test_no_url_is_ever_written(install: Install) -> None:
    install.env |= {
        "DATAQUEUE_URL": "postgresql://ada:hunter2@db/app",
        "DATABASE_URL": "postgresql://ada:hunter2@db/app",
    }
    install.write(".env", "DATAQUEUE_URL=postgresql://ada:hunter2@db/app\n")
    install("install-ai", "--all")
    install("install-ai", "--all", "--scope", "user")
    assert [path for path, content in install.tree().items() if b"hunter2" in content] == ["project/.env"]


# -- files ----------------------------------------------------------------------------------------------


def test_a_dry_run_shows_a_diff_and_writes_nothing(install: Install) -> None:
    install.write(".cursor/mcp.json", '{\n  "mcpServers": {\n    "a": {"command": "a"}\n  }\n}\n')
    before = install.tree()
    done = install("install-mcp", "--editor", "cursor", "--dry-run")
    assert '+    "dataqueue": {' in done.stdout
    assert "--- .cursor/mcp.json" in done.stdout
    assert '"dataqueue"' in install.json("install-mcp", "--editor", "cursor", "--dry-run")["results"][0]["diff"]
    assert install.tree() == before


def test_one_broken_file_keeps_all_from_being_written(install: Install) -> None:
    install.write(".vscode/mcp.json", '{\n  "servers": {\n')
    before = install.tree()
    done = install("install-mcp", "--editor", "cursor", "--editor", "vscode", code=1)
    assert ".vscode/mcp.json, line 3" in done.stderr
    assert "Nothing was written" in done.stderr
    assert install.tree() == before


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX modes and links")
def test_modes_and_links_are_kept_and_read_only_files_refused(install: Install, tmp_path: Path) -> None:
    real = tmp_path / "dotfiles.json"
    real.write_text("{}")
    real.chmod(0o600)
    (install.root / ".cursor").mkdir()
    link = install.root / ".cursor/mcp.json"
    link.symlink_to(real)
    install("install-mcp", "--editor", "cursor")
    assert link.is_symlink()
    assert real.stat().st_mode & 0o777 == 0o600
    assert json.loads(real.read_text())["mcpServers"]["dataqueue"] == UVX
    real.chmod(0o444)
    before = install.tree()
    assert "is read-only" in install("install-mcp", "--editor", "cursor", "--uninstall", code=1).stderr
    assert install.tree() == before
    real.chmod(0o600)
    install("install-mcp", "--editor", "cursor", "--uninstall")
    assert real.read_text() == "{}"


@pytest.mark.skipif(sys.platform == "win32", reason="links")
def test_one_folder_of_skills_behind_a_link_is_written_once(install: Install) -> None:
    (install.root / ".agents/skills").mkdir(parents=True)
    (install.root / ".claude").mkdir()
    (install.root / ".claude/skills").symlink_to("../.agents/skills")
    results = install.json("install-skills", "--all")["results"]
    shared = [result for result in results if {"claude-code", "codex"} <= set(result["clients"])]
    assert len({result["path"] for result in shared}) == len(shared) > 0


def test_user_files_are_backed_up(install: Install) -> None:
    text = '{"numStartups": 7, "projects": {"/x": {"mcpServers": {}}}}'
    file = install.write(".claude.json", text, home=True)
    backup = install.home / ".claude.json.dataqueue-backup"
    assert install.json("install-mcp", "--editor", "claude", "--scope", "user")["backups"] == [str(backup)]
    assert backup.read_text() == text
    install("install-mcp", "--editor", "claude", "--scope", "user", "--uninstall")
    assert file.read_text() == text
    assert not backup.exists()


# -- rules and skills -----------------------------------------------------------------------------------


def test_rules_have_the_front_matter_of_each_client(install: Install) -> None:
    install("install-rules", "--all")
    heads = {
        ".cursor/rules/dataqueue.mdc": ["description: ", "globs: **/*.py", "alwaysApply: false"],
        ".claude/rules/dataqueue.md": ["paths:", "  - '**/*.py'"],
        ".github/instructions/dataqueue.instructions.md": ["description: ", "applyTo: '**/*.py'"],
        ".devin/rules/dataqueue.md": ["trigger: glob", "globs: '**/*.py'"],
        ".kiro/steering/dataqueue.md": ["inclusion: fileMatch", "fileMatchPattern: '**/*.py'"],
        ".clinerules/dataqueue.md": ["paths:", "  - '**/*.py'"],
        ".agents/rules/dataqueue.md": ["trigger: glob", "globs: '**/*.py'"],
    }
    for path, head in heads.items():
        lines = (install.root / path).read_text().splitlines()
        assert lines[0] == "---"
        assert all(line.startswith(start) for line, start in zip(lines[1:], head, strict=False))
        assert lines[len(head) + 1] == "---"
    assert (install.root / "AGENTS.md").read_text().startswith("<!-- dataqueue:begin")


def test_a_persons_edit_inside_the_region_is_left_alone(install: Install) -> None:
    file = install.write("AGENTS.md", "# Mine\n")
    install("install-rules", "--editor", "codex")
    file.write_text(file.read_text().replace("# dataqueue", "# dataqueue, as we use it"))
    edited = file.read_text()
    for args in ([], ["--check"], ["--uninstall"]):
        assert "somebody has edited" in install("install-rules", "--editor", "codex", *args, code=1).stdout
        assert file.read_text() == edited
    install("install-rules", "--editor", "codex", "--force")
    assert "as we use it" not in file.read_text()
    file.write_text("above\n" + file.read_text() + "below\n")
    install("install-rules", "--editor", "codex", "--uninstall")
    assert file.read_text() == "above\n# Mine\nbelow\n"


def test_an_older_rule_is_renewed_where_it_stands(install: Install) -> None:
    old = regions.block("old text")
    file = install.write("AGENTS.md", f"# Mine\n\n{old}\nbelow\n")
    install("install-rules", "--editor", "codex", "--check", code=1)
    install("install-rules", "--editor", "codex")
    text = file.read_text()
    assert text.startswith("# Mine\n\n<!-- dataqueue:begin")
    assert text.endswith("<!-- dataqueue:end -->\n\nbelow\n")
    assert "old text" not in text


def test_front_matter_that_a_person_changed_stays(install: Install) -> None:
    install("install-rules", "--editor", "cursor")
    file = install.root / ".cursor/rules/dataqueue.mdc"
    file.write_text(file.read_text().replace("alwaysApply: false", "alwaysApply: true"))
    edited = file.read_text()
    assert "unchanged" in install("install-rules", "--editor", "cursor").stdout
    assert "front matter" in install("install-rules", "--editor", "cursor", "--uninstall", code=1).stdout
    assert file.read_text() == edited
    install("install-rules", "--editor", "cursor", "--uninstall", "--force")
    assert list(install.root.iterdir()) == []


@pytest.mark.parametrize(
    ("client", "there", "used"),
    [
        ("zed", [".rules", "AGENTS.md"], ".rules"),
        ("zed", ["CLAUDE.md"], "CLAUDE.md"),
        ("zed", [], "AGENTS.md"),
        ("junie", [".junie/AGENTS.md", "AGENTS.md"], ".junie/AGENTS.md"),
        ("junie", [".junie/guidelines.md"], ".junie/guidelines.md"),
        ("junie", [], "AGENTS.md"),
        ("opencode", ["CLAUDE.md"], "CLAUDE.md"),
    ],
)
def test_clients_that_read_one_file_only(install: Install, client: str, there: list[str], used: str) -> None:
    for path in there:
        install.write(path, "# mine\n")
    before = install.tree()
    done = install("install-rules", "--editor", client)
    assert [path for path, content in install.tree().items() if b"dataqueue:begin" in content] == [f"project/{used}"]
    assert ("reads only the first" in done.stderr) == (used != "AGENTS.md" and client != "opencode")
    install("install-rules", "--editor", client, "--uninstall")
    assert install.tree() == before


def test_a_new_agents_file_that_hides_another_is_warned_of(install: Install) -> None:
    install.write("CLAUDE.md", "# mine\n")
    assert "Zed and opencode will read it instead of CLAUDE.md" in install("install-rules", "--editor", "codex").stderr


def test_clines_old_rules_file_gets_the_region(install: Install) -> None:
    install.write(".clinerules", "be brief\n")
    install("install-rules", "--editor", "cline")
    assert (install.root / ".clinerules").read_text().startswith("be brief\n\n<!-- dataqueue:begin")


def test_skills_go_where_clients_look(install: Install) -> None:
    (install.root / ".cursor").mkdir()
    install("install-skills", "--yes")
    assert not (install.root / ".claude").exists()
    assert (install.root / ".agents/skills/dataqueue/SKILL.md").is_file()
    (install.root / ".claude").mkdir()
    install("install-skills", "--yes")
    assert (install.root / ".claude/skills/dataqueue/SKILL.md").is_file()
    install("install-skills", "--editor", "cursor")
    assert (install.root / ".cursor/skills/dataqueue/SKILL.md").is_file()


def test_skills_of_a_user_go_where_each_client_looks(install: Install) -> None:
    for client, folder in ("amp", ".config/agents"), ("goose", ".config/goose"), ("kiro", ".kiro"):
        install("install-skills", "--editor", client, "--scope", "user")
        assert (install.home / folder / "skills/dataqueue/SKILL.md").is_file()
    install("install-skills", "--all", "--scope", "user", "--uninstall")
    assert list(install.home.iterdir()) == []


def test_windsurf_and_devin_have_folders_of_their_own(install: Install) -> None:
    install.write(".config/devin/config.json", "{}", home=True)
    before = install.tree()
    command = ("install-ai", "--editor", "windsurf", "--scope", "user")
    install(*command)
    assert (install.home / ".config/devin/skills/dataqueue/SKILL.md").is_file()
    assert not (install.home / ".codeium").exists()
    install(*command, "--check")
    install(*command, "--uninstall")
    assert install.tree() == before
    (install.home / ".codeium/windsurf").mkdir(parents=True)
    install(*command)
    for folder in (".config/devin", ".codeium/windsurf"):
        assert (install.home / folder / "mcp_config.json").is_file()
        assert (install.home / folder / "skills/dataqueue/SKILL.md").is_file()


def test_edited_skills_are_left_alone(install: Install) -> None:
    install("install-skills", "--editor", "cursor")
    file = install.root / ".cursor/skills/dataqueue/SKILL.md"
    mine = install.write(".cursor/skills/dataqueue/notes.md", "mine")
    before = file.read_text()
    file.write_bytes(before.replace("\n", "\r\n").encode())  # as git does on Windows
    install("install-skills", "--editor", "cursor", "--check")
    file.write_text(before + "\nOurs: ask first.\n")
    for args in ([], ["--check"], ["--uninstall"]):
        assert "somebody has edited SKILL.md" in install("install-skills", "--editor", "cursor", *args, code=1).stdout
        assert file.read_text() == before + "\nOurs: ask first.\n"
    install("install-skills", "--editor", "cursor", "--force")
    assert file.read_text() == before
    install("install-skills", "--editor", "cursor", "--uninstall")
    assert [path.name for path in (install.root / ".cursor/skills/dataqueue").iterdir()] == [mine.name]


def test_skills_of_an_older_version_are_renewed(install: Install) -> None:
    install("install-skills", "--editor", "cursor")
    folder = install.root / ".cursor/skills/dataqueue"
    current = (folder / "SKILL.md").read_text()
    old = {"SKILL.md": "old\n", "references/gone.md": "gone\n"}
    for name, text in old.items():
        install.write(f".cursor/skills/dataqueue/{name}", text)
    hashes = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in old.items()}
    (folder / ".dataqueue.json").write_text(json.dumps({"version": "0.0.1", "files": hashes}))
    install("install-skills", "--editor", "cursor")
    assert (folder / "SKILL.md").read_text() == current
    assert not (folder / "references" / "gone.md").exists()


def test_print_gives_what_would_be_written(install: Install) -> None:
    before = install.tree()
    done = install("install-mcp", "--editor", "cursor", "--print")
    assert json.loads(done.stdout) == {"mcpServers": {"dataqueue": UVX}}
    assert "cursor, mcp: .cursor/mcp.json" in done.stderr
    done = install("install-mcp", "--editor", "copilot-cloud", "--print")
    assert json.loads(done.stdout)["mcpServers"]["dataqueue"]["tools"] == ["*"]
    assert {one["kind"] for one in install.json("install-ai", "--editor", "zed", "--print")} == {
        "mcp",
        "rules",
        "skills",
    }
    assert install.tree() == before


@pytest.mark.anyio
async def test_the_server_starts_from_what_was_written(install: Install) -> None:
    from mcp import Client, StdioServerParameters

    install("install-mcp", "--editor", "cursor", "--scope", "user")
    entry = install.load(".cursor/mcp.json", home=True)["mcpServers"]["dataqueue"]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("DATA")}
    server = StdioServerParameters(command=entry["command"], args=entry["args"], cwd=install.root, env=environ)
    async with Client(server) as client:
        assert "search_docs" in {tool.name for tool in (await client.list_tools()).tools}
