"""What the installers write, before independent judges: ``make check-installers``.

For every client and both scopes, in a home and a project of their own: install, let each program that knows the client
read it back, install again (not a byte may change) and uninstall (everything must be as before). The judges come from
npm and PyPI. None of them knows everything: ``GAPS`` says what is not asked of whom, and why.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, get_args

from dataqueue.ai import render_rules, skill_files
from dataqueue.installers.clients import BY_ID, CLIENTS, NAME, PYTHON_FILES, Client
from dataqueue.installers.places import Places, Scope
from dataqueue.installers.plan import Kind, lacks
from npm import FOLDER, INSPECTOR, install_programs
from ruamel.yaml import YAML

KINDS: tuple[Kind, ...] = get_args(Kind)
PROGRAMS = {"add-mcp": "add-mcp@2", "rulesync": "rulesync@17", "skills": "skills@1.7", **INSPECTOR}

MOVERS = (
    "XDG_", "CODEX_", "COPILOT_", "CLINE_", "GROK_", "KIMI_", "CLAUDE_", "CRUSH_", "DATAQUEUE_", "DATABASE_URL",
)  # fmt: skip
"""Variables that would move files out of the fake home, or name a store."""

# -- what each judge calls the clients, where that is not our id -----------------------------------------

NAMES: dict[str, dict[str, str]] = {
    "add-mcp": {
        "cline": "cline-cli", "copilot-cli": "github-copilot-cli", "grok": "grok-build", "kilo": "kilo-code",
        "kimi": "kimi-code", "kiro": "kiro-cli",
    },
    "rulesync": {
        "agents": "agentsmd", "antigravity": "antigravity-ide", "claude-code": "claudecode", "codex": "codexcli",
        "copilot-cli": "copilotcli", "factory": "factorydroid", "grok": "grokcli", "jetbrains-ai": "aiassistant",
        "kimi": "kimi-code", "kiro": "kiro-cli", "qwen": "qwencode", "vscode": "copilot", "windsurf": "devin",
    },
    "skills": {
        "agents": "universal", "copilot-cli": "github-copilot", "factory": "droid", "kimi": "kimi-code-cli",
        "kiro": "kiro-cli", "qwen": "qwen-code", "vscode": "github-copilot",
    },
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Gap:
    """Something that a judge is not asked about."""

    judge: str
    clients: str
    why: str
    scope: str = ""
    kind: str = ""

    def covers(self, judge: str, client: str, scope: str, kind: str) -> bool:
        return (
            self.judge == judge
            and client in self.clients.split()
            and self.scope in ("", scope)
            and self.kind in ("", kind)
        )


GAPS = (
    Gap("add-mcp", "junie amp continue qwen crush warp factory", "is none of its agents"),
    Gap("add-mcp", "antigravity windsurf", "it reads the user's file only", "project"),
    Gap("rulesync", "claude-desktop gemini-cli", "is none of its targets"),
    Gap("rulesync", "vscode", "it knows no user file of VS Code", "user", "mcp"),
    Gap("rulesync", "copilot-cli", "of a project it reads .github/mcp.json only", "project", "mcp"),
    Gap("rulesync", "windsurf", "it reads the folders named after Devin only", "user", "mcp"),
    Gap("rulesync", "windsurf", "it reads the folders named after Devin only", "", "skills"),
    Gap("rulesync", "zed", "it reads .rules only", "project", "rules"),
    Gap("rulesync", "junie", "it reads .junie/AGENTS.md only", "project", "rules"),
    Gap("rulesync", "goose", "it reads .goosehints only", "project", "rules"),
    Gap("rulesync", "crush", "it reads CRUSH.md only", "project", "rules"),
    Gap("rulesync", "kimi", "it reads .kimi-code/AGENTS.md only", "project", "rules"),
    Gap("rulesync", "cline opencode crush kilo factory", "it reads the client's own folder only", "", "skills"),
    Gap("rulesync", "agents", "its target for AGENTS.md has no skills", "", "skills"),
    Gap("rulesync", "goose jetbrains-ai", "it knows no skills of a user", "user", "skills"),
    Gap("skills", "jetbrains-ai", "is none of its agents"),
    Gap("skills", "cursor vscode copilot-cli gemini-cli", "of a project it reads .agents/skills only", "project"),
    Gap("skills", "antigravity", "it reads .gemini/antigravity, rulesync .gemini/config", "user"),
)


# -- one case --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A client and a scope, and what is there before: files with their texts."""

    client: Client
    scope: Scope
    before: Mapping[str, str] = field(default_factory=dict[str, str])
    names: Mapping[str, str] = field(default_factory=dict[str, str])
    """What judges call the client here. The others are not asked."""
    kinds: tuple[Kind, ...] = ("mcp",)
    """What those are asked about."""
    note: str = ""
    beside: bool = False
    """Let add-mcp write another server first."""

    @property
    def title(self) -> str:
        more = "beside another server" if self.beside else self.note or " ".join(self.before)
        return f"{self.client.id}, {self.scope}" + (f", {more}" if more else "")

    def name(self, judge: str) -> str | None:
        if self.names:
            return self.names.get(judge)
        return NAMES[judge].get(self.client.id, self.client.id)


SERVERS, SETTINGS = '{\n  "mcpServers": {}\n}\n', '{\n  "other": [1, 2]\n}\n'
COMMENTED, RULES = '{\n  // kept\n  "other": [1, 2]\n}\n', "# Mine\n\nBe brief.\n"
CLINE_IN_VSCODE = ".config/Code/User/globalStorage/saoudrizwan.claude-dev/settings"
OTHERS = (
    Case(BY_ID["copilot-cli"], "project", {".github/mcp.json": SERVERS}, {"rulesync": "copilotcli"}),
    Case(BY_ID["windsurf"], "user", {".config/devin/config.json": "{}\n"}, {"rulesync": "devin"}, ("mcp", "skills")),
    Case(BY_ID["cline"], "user", {f"{CLINE_IN_VSCODE}/a.json": "{}\n"}, {"add-mcp": "cline"}, note="in VS Code"),
    Case(BY_ID["opencode"], "project", {"opencode.json": COMMENTED}, {"add-mcp": "opencode", "rulesync": "opencode"}),
    Case(BY_ID["kilo"], "project", {".kilo/kilo.jsonc": COMMENTED}, {"add-mcp": "kilo-code", "rulesync": "kilo"}),
    Case(BY_ID["amp"], "project", {".amp/settings.jsonc": COMMENTED}, {"rulesync": "amp"}),
    Case(BY_ID["crush"], "project", {".crush.json": SETTINGS}, {"rulesync": "crush"}),
    Case(BY_ID["zed"], "project", {".zed/settings.json": COMMENTED}, {"add-mcp": "zed"}),
    Case(BY_ID["zed"], "project", {".rules": RULES}, {"rulesync": "zed"}, ("mcp", "rules")),
    Case(BY_ID["junie"], "project", {".junie/AGENTS.md": RULES}, {"rulesync": "junie"}, ("mcp", "rules")),
)
"""Clients that have several files and find one of them here. No gap counts for the judges that are named."""


class Complaint(Exception):
    """What is wrong."""


Tree = dict[str, bytes | None]


class Desk:
    """A home and a project on the disk, in which programs run."""

    def __init__(self, folder: Path, case: Case, environ: Mapping[str, str]) -> None:
        self.case, self.folder = case, folder
        self.home, self.project = folder / "home", folder / "project"
        self._environ = environ
        self.home.mkdir(parents=True)
        self.project.mkdir()

    @property
    def top(self) -> Path:
        return self.project if self.case.scope == "project" else self.home

    @property
    def environ(self) -> dict[str, str]:
        home = str(self.home)
        config, roaming = str(self.home / ".config"), str(self.home / "AppData" / "Roaming")
        return {
            **self._environ, "HOME": home, "USERPROFILE": home, "XDG_CONFIG_HOME": config, "APPDATA": roaming,
            "NO_COLOR": "1", "DO_NOT_TRACK": "1", "DISABLE_TELEMETRY": "1",
        }  # fmt: skip

    def run(self, *command: str, cwd: Path | None = None, without: str = "") -> str:
        environ = {name: value for name, value in self.environ.items() if name != without}
        done = subprocess.run(
            command, cwd=cwd or self.project, env=environ, stdin=subprocess.DEVNULL, capture_output=True,
            encoding="utf-8", timeout=120, check=False,
        )  # fmt: skip
        if done.returncode:
            said = (done.stdout + done.stderr).strip()
            raise Complaint(f"{Path(command[0]).name} {command[1]} ended with {done.returncode}: {said[-600:]}")
        return re.sub(r"\x1b\[[0-9;]*m", "", done.stdout)

    def install(self, command: str = "install-ai", *options: str) -> dict[str, Any]:
        args = [command, "--editor", self.case.client.id, "--scope", self.case.scope, *options, "--json"]
        return json.loads(self.run(sys.executable, "-m", "dataqueue", *args))

    def copy(self, name: str) -> Desk:
        """The same elsewhere, for a judge that writes."""
        desk = Desk(self.folder.parent / name, self.case, self._environ)
        for source, target in ((self.home, desk.home), (self.project, desk.project)):
            shutil.copytree(source, target, dirs_exist_ok=True)
        return desk

    def tree(self) -> Tree:
        return {
            path.relative_to(self.folder).as_posix(): path.read_bytes() if path.is_file() else None
            for path in self.folder.rglob("*")
        }

    def path(self, shown: str) -> Path:
        return self.home / shown[2:] if shown.startswith("~/") else self.project / shown


@dataclass(slots=True)
class Installed:
    """What the installer says it has written."""

    command: list[str]
    paths: dict[Kind, list[Path]]


# -- the judges: each yields what is wrong with a kind that it was asked about, or nothing ------------------

Verdicts = Iterator[tuple[Kind, str]]


def add_mcp(desk: Desk, name: str, installed: Installed) -> Verdicts:
    scope = ["--global"] if desk.case.scope == "user" else []
    # It takes XDG_CONFIG_HOME for the folder of Copilot CLI; what we set it to is the usual one anyway.
    said = desk.run("add-mcp", "list", *scope, "--agent", name, without="XDG_CONFIG_HOME")
    servers = dict(re.findall(r"^\s+- (\S+) \((.*)\)$", said, re.MULTILINE))
    if servers.get(NAME) != " ".join(installed.command):
        yield "mcp", f"lists {servers}"
    if desk.case.beside and "other-server" not in servers:
        yield "mcp", f"no longer lists the server that it wrote itself: {servers}"


def rulesync(desk: Desk, name: str, installed: Installed) -> Verdicts:
    desk = desk.copy("rulesync")
    scope = ["--global"] if desk.case.scope == "user" else []
    features = ",".join(installed.paths)
    said = desk.run("rulesync", "import", "--targets", name, "--features", features, *scope, cwd=desk.top)
    folder = desk.top / ".rulesync"
    if "mcp" in installed.paths:
        file = folder / "mcp.jsonc"
        servers = json.loads(file.read_text())["mcpServers"] if file.exists() else {}
        entry = servers.get(NAME, {})
        if [entry.get("command"), *entry.get("args", [])] != installed.command or entry.get("disabled"):
            yield "mcp", f"imports {servers}"
    if "rules" in installed.paths:
        texts = [file.read_text() for file in (folder / "rules").glob("*.md")]
        if not (found := [text for text in texts if render_rules().strip() in text]):
            yield "rules", f"imports {len(texts)} rules, none of them ours: {said[-200:]!r}"
        elif desk.case.scope == "project" and desk.case.client.rules and desk.case.client.rules.front:
            globs = YAML(typ="safe").load(found[0].split("---\n")[1]).get("globs")
            if globs != [PYTHON_FILES]:
                yield "rules", f"would apply the rule to {globs}"
    if "skills" in installed.paths:
        for skill, files in skill_files().items():
            for path, text in files.items():
                file = folder / "skills" / skill / path
                if not file.exists():
                    yield "skills", f"does not import {skill}/{path}"
                    return
                # It writes the front matter in its own way.
                if file.read_text().split("---\n")[-1].strip() != text.split("---\n")[-1].strip():
                    yield "skills", f"reads {skill}/{path} differently"


def skills(desk: Desk, name: str, installed: Installed) -> Verdicts:
    scope = ["--global"] if desk.case.scope == "user" else []
    listed = {
        Path(one["path"]).resolve() for one in json.loads(desk.run("skills", "list", *scope, "--agent", name, "--json"))
    }
    if missing := {path.resolve() for path in installed.paths["skills"]} - listed:
        yield "skills", f"does not list {sorted(path.name for path in missing)}"


def skills_ref(desk: Desk, installed: Installed) -> Verdicts:
    for path in installed.paths["skills"]:
        try:
            desk.run(str(Path(sys.executable).parent / "agentskills"), "validate", str(path))
        except Complaint as complaint:
            yield "skills", str(complaint)


def inspector(desk: Desk, installed: Installed) -> Verdicts:
    """The server, started from the file that was written, with this Python instead of uvx."""
    answer = desk.install("install-mcp", "--launcher", "python")
    home = desk.folder.parent / "inspector"  # it may write there
    home.mkdir()
    for result in answer["results"]:
        file = str(desk.path(result["path"]))
        options = ["--cli", "--quiet", "--format", "json", "--config", file, "--server", NAME, "--method", "tools/list"]
        said = desk.run("env", f"HOME={home}", "mcp-inspector", *options)
        tools = {tool["name"] for tool in json.loads(said)["result"]["tools"]}
        if not {"search_docs", "explain_job"} <= tools:
            yield "mcp", f"gets the tools {sorted(tools)} from {result['path']}"


Named = Callable[[Desk, str, Installed], Verdicts]
NAMED: dict[str, tuple[tuple[Kind, ...], Named]] = {
    "add-mcp": (("mcp",), add_mcp),
    "rulesync": (KINDS, rulesync),
    "skills": (("skills",), skills),
}


# -- the round --------------------------------------------------------------------------------------------


class Round:
    """One case from the beginning to the end: what it has to say, and what is wrong."""

    def __init__(self, case: Case, environ: Mapping[str, str]) -> None:
        self.case, self._environ = case, environ
        self.lines: list[str] = []
        self.complaints: list[str] = []

    def run(self) -> Round:
        with tempfile.TemporaryDirectory(prefix="dataqueue-judge-") as folder:
            desk = Desk(Path(folder).resolve() / "desk", self.case, self._environ)
            try:
                self._run(desk)
            except (Complaint, subprocess.TimeoutExpired) as complaint:
                self._complain("dataqueue", str(complaint))
        return self

    def _run(self, desk: Desk) -> None:
        case = self.case
        places = Places(case.scope, desk.project, desk.home, desk.environ)
        wanted = [kind for kind in KINDS if not lacks(case.client, kind, places)]
        if not wanted:
            return
        for path, text in case.before.items():
            file = desk.top / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        if case.beside:
            scope = ["--global"] if case.scope == "user" else []
            options = ["--agent", case.name("add-mcp") or "", "--name", "other-server", "--yes", *scope]
            desk.run("add-mcp", "other-server", *options, without="XDG_CONFIG_HOME")
        before = desk.tree()
        answer = desk.install()
        paths: dict[Kind, list[Path]] = {}
        for result in answer["results"]:
            paths.setdefault(result["kind"], []).append(desk.path(result["path"]))
        if sorted(paths) != sorted(wanted):
            raise Complaint(f"installs {sorted(paths)} instead of {sorted(wanted)}")
        launch = answer.get("launch", {"command": "", "args": []})
        installed = Installed([launch["command"], *launch["args"]], paths)
        after = desk.tree()
        for judge, (kinds, ask) in NAMED.items():
            asked: list[Kind] = [kind for kind in kinds if kind in paths and (not case.names or kind in case.kinds)]
            name = case.name(judge) if not case.beside or judge == "add-mcp" else None
            if asked and name is not None:
                about = Installed(installed.command, {kind: paths[kind] for kind in asked})
                self._hear(judge, asked, partial(ask, desk, name, about))
        if "skills" in paths and not case.names and not case.beside:
            self._hear("skills-ref", ["skills"], partial(skills_ref, desk, installed))
        self._compare(after, desk.tree(), "a judge")
        answer = desk.install()
        self._compare(after, desk.tree(), "installing again")
        if states := {result["state"] for result in answer["results"]} - {"unchanged"}:
            self._complain("dataqueue", f"installing again says {states}")
        mcp = case.client.mcp
        if "mcp" in paths and mcp and mcp.form == "json" and mcp.keys == ("mcpServers",) and not case.beside:
            self._hear("inspector", ["mcp"], partial(inspector, desk, installed))
        desk.install("install-ai", "--uninstall")
        self._compare(before, desk.tree(), "uninstalling")

    def _hear(self, judge: str, asked: list[Kind], ask: Callable[[], Verdicts]) -> None:
        case = self.case
        gaps = {
            kind: gap.why
            for kind in asked
            for gap in GAPS
            if not case.names and gap.covers(judge, case.client.id, case.scope, kind)
        }
        reasons: dict[str, list[str]] = {}
        for kind, why in gaps.items():
            reasons.setdefault(why, []).append(kind)
        notes = "".join(f"; not {', '.join(kinds)}: {why}" for why, kinds in reasons.items())
        if len(gaps) == len(asked):
            self._say(judge, notes[2:])
            return
        try:
            wrong = list(ask())
        except (Complaint, ValueError, KeyError, OSError, subprocess.TimeoutExpired) as error:
            self._complain(judge, str(error) if isinstance(error, Complaint) else f"{type(error).__name__}: {error}")
            self._say(judge, "complains")
            return
        for kind, text in wrong:
            if kind not in gaps:
                self._complain(judge, f"{kind}: {text}")
        bad = {kind for kind, _ in wrong}
        notes += "".join(f" (it does read {kind}: the gap can go)" for kind in gaps if kind not in bad)
        good = [kind for kind in asked if kind not in bad and kind not in gaps]
        self._say(judge, (f"reads {', '.join(good)}" if good else "complains") + notes)

    def _say(self, judge: str, text: str) -> None:
        self.lines.append(f"{self.case.title:<40} {judge:<14} {text}")

    def _compare(self, old: Tree, new: Tree, by: str) -> None:
        if changed := sorted(path for path in old.keys() | new.keys() if old.get(path, "") != new.get(path, "")):
            self._complain("dataqueue", f"{by} changed {', '.join(changed[:5])}")

    def _complain(self, judge: str, text: str) -> None:
        self.complaints.append(f"{self.case.title}, {judge}: {text}")


def judge_wheel(environ: Mapping[str, str]) -> list[str]:
    """library-skills finds the skills in the installed package, as it does in projects that depend on it."""
    with tempfile.TemporaryDirectory(prefix="dataqueue-judge-") as name:
        folder = Path(name)
        (folder / "pyproject.toml").write_text(
            '[project]\nname = "shop"\nversion = "1"\ndependencies = ["dataqueue"]\n'
        )
        done = subprocess.run(
            [str(Path(sys.executable).parent / "library-skills"), "list", "--json"], cwd=folder,
            env={**environ, "UV_PROJECT_ENVIRONMENT": sys.prefix}, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
    if done.returncode:
        return [f"library-skills ended with {done.returncode}: {(done.stdout + done.stderr)[-600:]}"]
    answer = json.loads(done.stdout)
    found = {one["name"] for one in answer["skills"] if "dataqueue" in json.dumps(one)}
    print(f"{'the package':<40} {'library-skills':<14} finds {', '.join(sorted(found)) or 'nothing'}")
    if found == set(skill_files()) and not answer["warnings"]:
        return []
    return [f"library-skills finds {sorted(found)} and warns {answer['warnings']}; is this a plain installation?"]


def main() -> None:
    found = install_programs(FOLDER, PROGRAMS)
    environ = {name: value for name, value in found.items() if not name.startswith(MOVERS)}
    os.environ["PATH"] = environ["PATH"]  # where subprocess looks for programs
    cases = [Case(client, scope) for client in CLIENTS for scope in get_args(Scope)]
    written = [
        case for case in cases if not any(gap.covers("add-mcp", case.client.id, case.scope, "mcp") for gap in GAPS)
    ]
    beside = [Case(case.client, case.scope, beside=True) for case in written if _has_mcp(case)]
    complaints = judge_wheel(environ)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for done in pool.map(lambda case: Round(case, environ).run(), [*cases, *OTHERS, *beside]):
            for line in done.lines:
                print(line, flush=True)
            complaints += done.complaints
    if complaints:
        sys.exit("\n".join(["", f"{len(complaints)} complaints:", *complaints]))
    print("All is well.")


def _has_mcp(case: Case) -> bool:
    mcp = case.client.mcp
    return mcp is not None and bool(mcp.project if case.scope == "project" else mcp.user)


if __name__ == "__main__":
    main()
