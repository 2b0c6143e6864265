"""The bundle for AI assistants: its form, that its code runs, and that it names nothing that does not exist."""

from __future__ import annotations

import builtins
import inspect
import keyword
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

import pytest
import typer
from dataqueue.ai import render_rules, skill_files
from dataqueue.docs import load_pages
from dataqueue.mcp_server import ServerOptions, create_server
from mcp import Client
from pages import python_blocks, run_blocks
from ruamel.yaml import YAML

import dataqueue
import dataqueue.cli
import dataqueue.testing.plugin
from dataqueue import DependsOn, Job, JobContext, JobQueue, SyncJobContext, SyncJobQueue, Unique
from dataqueue.definitions import JobDefinition
from dataqueue.explain import Explanation, Reason
from dataqueue.failures import FailureGroup, FailureSummary
from dataqueue.jobs import STATUSES, AddedJobs, ErrorEntry, FailureReason, JobEvent, JobHandle, JobPage
from dataqueue.limits import LimitState, Rate
from dataqueue.options import DefinitionOptions, JobOptions
from dataqueue.status import QueueStatus
from dataqueue.steps import Step
from dataqueue.testing import Drained
from dataqueue.tokens import Token, TokenResult
from dataqueue.worker.options import ProcessorOptions
from dataqueue.worker.processor import DrainResult, Processor

ROOT = Path(__file__).parent.parent
SKILLS = ROOT / "ai" / "skills"
NAMES = ["dataqueue", "dataqueue-debugging", "dataqueue-durable", "dataqueue-web"]
TEXTS = {f"{skill}/{path}": text for skill, files in skill_files().items() for path, text in files.items()}
TEXTS["rules"] = render_rules()

# What the texts say is not there. When one of these comes, the texts must be changed.
NOT_OURS = {"delay()", "apply_async"}
# Names of Python, of frameworks, and of the examples.
FOREIGN = set(
    """BackgroundTasks CancelledError TaskGroup TypedDict app app_context asyncio asyncpg atomic balance close_old_connections
    connection datetime db django finished flow gather gunicorn jobs key number on_commit order paid pg_stat_activity
    pk preload psycopg psycopg2 pytest requests setup shop sleep timedelta transaction tries user queue time pip install flask false valid py payload store valkey TestClient add_all
    answer fn ids moment now random token trial uuid4""".split()  # noqa: SIM905
)


def front_matter(text: str) -> dict[str, Any]:
    match = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
    assert match is not None
    return YAML(typ="safe", pure=True).load(match[1])


# -- form -----------------------------------------------------------------------------------------------


def test_the_rules_are_short_and_name_every_skill() -> None:
    rules = render_rules()
    assert len(rules.encode()) <= 1500
    assert rules.startswith("# ")
    assert all(f"`{name}`" in rules for name in NAMES)
    assert dataqueue.__version__ in rules


def test_the_skills() -> None:
    assert list(skill_files()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_skill_has_the_form_of_the_standard(name: str) -> None:
    files = skill_files()[name]
    front = front_matter(files["SKILL.md"])
    assert set(front) == {"name", "description", "license"}
    assert front["name"] == name
    assert 100 < len(front["description"]) <= 1024
    assert "Use when" in front["description"]
    assert len(files["SKILL.md"].splitlines()) <= 200
    assert all(path == "SKILL.md" or re.fullmatch(r"references/[a-z]+\.md", path) for path in files)


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_to_files_and_every_reference_is_linked(name: str) -> None:
    files = skill_files()[name]
    linked = set(re.findall(r"\]\(([^)\s]+)\)", files["SKILL.md"]))
    assert linked == set(files) - {"SKILL.md"}
    for path, text in files.items():
        if path != "SKILL.md":
            assert re.findall(r"\]\(([^)\s]+)\)", text) == []  # one level deep


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.skipif(find_spec("skills_ref") is None, reason="skills-ref is not installed")
def test_the_reference_validator_accepts_it(name: str) -> None:
    from skills_ref import validate  # pyright: ignore

    assert validate(SKILLS / name) == []


# -- code -----------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("store", ["postgres", "redis"])
@pytest.mark.parametrize("name", [name for name, text in TEXTS.items() if python_blocks(text)])
def test_the_python_blocks_run(
    name: str, store: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if store == "redis" and "psycopg.Async" in TEXTS[name]:
        pytest.skip("adds inside a Postgres transaction")
    monkeypatch.setenv("DATAQUEUE_URL", request.getfixturevalue({"postgres": "pg_url", "redis": "redis_url"}[store]))
    monkeypatch.setenv("CRON_SECRET", "")
    monkeypatch.chdir(tmp_path)
    blocks = python_blocks(TEXTS[name])
    tests = [block.title for block in blocks if (block.title or "").startswith("test_")]
    run_blocks(name, blocks, tmp_path)
    if tests:  # what the text shows as tests must be green with what the text shows as fixtures
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
        environment = {"PYTHONPATH": f"{tmp_path}:{ROOT}", "PATH": "/usr/bin:/bin"}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100)
        assert done.returncode == 0, done.stdout + done.stderr


# -- names ----------------------------------------------------------------------------------------------


def commands() -> dict[tuple[str, ...], set[str]]:
    """Every command of the program with its options."""
    found: dict[tuple[str, ...], set[str]] = {}

    def visit(command: Any, path: tuple[str, ...]) -> None:
        found[path] = {"--help", "-h"} | {opt for param in command.params for opt in param.opts}
        for name, inner in getattr(command, "commands", {}).items():
            visit(inner, (*path, name))

    visit(typer.main.get_command(dataqueue.cli.app), ())
    return found


def members(*kinds: type) -> Iterator[str]:
    for kind in kinds:
        yield from (name for name in dir(kind) if not name.startswith("_"))
        yield from getattr(kind, "__annotations__", {})
        for name in dir(kind):
            if not name.startswith("_") and inspect.isfunction(inspect.unwrap(getattr(kind, name))):
                yield from inspect.signature(getattr(kind, name)).parameters


def spans(text: str) -> Iterator[str]:
    """Code in a line, and lines of console blocks."""
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    yield from re.findall(r"`([^`\n]+)`", prose)
    for block in re.findall(r"```console\n(.*?)```", text, re.DOTALL):
        yield from (line[2:].partition("  # ")[0].partition("    ")[0] for line in block.splitlines())


async def vocabulary() -> set[str]:
    sources = (ROOT / "dataqueue" / "explain.py").read_text() + (ROOT / "dataqueue" / "status.py").read_text()
    sources += "".join(path.read_text() for path in (ROOT / "dataqueue" / "backends" / "postgres").rglob("*.sql"))
    quoted = set(re.findall(r"[\"']([a-z_]+)[\"']", sources))  # codes, verdicts and events
    async with Client(create_server(ServerOptions(allow_writes=True), JobQueue.from_url("redis://x"))) as client:
        tools = (await client.list_tools()).tools
        prompts = (await client.list_prompts()).prompts
    parameters = {name for tool in tools for name in tool.input_schema["properties"]}
    return {
        *dataqueue.__all__, *dataqueue.testing.__all__, *members(Drained), *vars(dataqueue.testing.plugin),
        *inspect.signature(JobQueue.from_url).parameters, *members(JobQueue, SyncJobQueue, JobHandle, Job, JobContext, SyncJobContext, JobDefinition, Processor),
        *members(AddedJobs, JobPage, JobEvent, ErrorEntry, Explanation, Reason, QueueStatus, DrainResult),
        *members(FailureGroup, FailureSummary, DefinitionOptions, JobOptions, ProcessorOptions, Rate, LimitState, Unique, DependsOn),
        *members(Step, Token, TokenResult),
        *STATUSES, *get_args(FailureReason), *quoted, *parameters,
        *(tool.name for tool in tools), *(prompt.name for prompt in prompts),
        *(word for path in commands() for word in path),
        *dir(builtins), *keyword.kwlist, *FOREIGN, "dataqueue", "conn", "embedded", "ctx", "add", "testing",
        "dataqueue_store",
    }  # fmt: skip


def wrong_commands(line: str) -> Iterator[str]:
    """What a command line names that the program does not have."""
    known = commands()
    words = shlex.split(line, comments=True)
    words = words[words.index("dataqueue") + 1 :]
    path: tuple[str, ...] = ()
    while words and (*path, words[0]) in known:
        path = (*path, words.pop(0))
    if words and path in ((), ("jobs",), ("docs",)) and not words[0].startswith("-"):
        yield f"command {' '.join((*path, words[0]))}"
    yield from (f"option {word} of {path}" for word in words if word.startswith("-") and word not in known[path])


@pytest.mark.anyio
@pytest.mark.parametrize("name", TEXTS)
async def test_every_name_exists(name: str) -> None:
    known = await vocabulary()
    every_option = set().union(*commands().values())
    wrong: list[str] = []
    for span in spans(TEXTS[name]):
        if re.match(r"(\S+ )*dataqueue [a-z]", span):
            wrong.extend(f"{span}: {found}" for found in wrong_commands(span))
            continue
        if span.startswith("--"):
            wrong.extend([span] if span.split()[0] not in every_option else [])
            continue
        if span.startswith(".") or span in NOT_OURS or "/" in span or span in NAMES:
            continue
        for word in re.findall(r"(?<![\"'\w:])[A-Za-z_]\w+(?![\w:]*[\"'])", span):
            if word not in known and not word.isupper():
                wrong.append(f"{span}: {word}")
    assert wrong == []


@pytest.mark.parametrize("name", TEXTS)
def test_every_page_of_the_manual_that_is_named_exists(name: str) -> None:
    slugs = {page.slug for page in load_pages()}
    named = set(re.findall(r"\b((?:how-to|reference|explanation|tutorial)/[a-z-]+)", TEXTS[name]))
    assert named <= slugs


def test_what_is_said_to_be_missing_is_missing() -> None:
    public = set(members(JobQueue, JobContext, SyncJobContext, JobDefinition))
    assert public & {"delay", "apply_async", "add_schedule"} == set()


def test_the_check_of_names_finds_inventions() -> None:
    assert list(wrong_commands("dataqueue jobs purge 1")) == ["command jobs purge"]
    assert list(wrong_commands("dataqueue worker a:b --threads 3")) == ["option --threads of ('worker',)"]
    assert list(wrong_commands("$ dataqueue docs show how-to/x --section Y")) == []


# -- the wheel ------------------------------------------------------------------------------------------


def test_the_wheel_has_the_bundle_where_both_look_for_it(tmp_path: Path) -> None:
    source = tmp_path / "source"  # a build leaves folders behind: not in the checkout
    for folder in ("dataqueue", "ai", "docs", "installers", "mcp_server", "migrations"):
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "-q", "-w", str(tmp_path / "dist"), str(source)]
    subprocess.run(command, check=True, capture_output=True, timeout=110)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        for skill, files in skill_files().items():
            for path, text in files.items():
                for place in (f"dataqueue/ai/skills/{skill}/{path}", f"dataqueue/.agents/skills/{skill}/{path}"):
                    assert archive.read(place).decode() == text
        record = next(name for name in names if name.endswith("/RECORD"))
        assert "dataqueue/.agents/skills/dataqueue/SKILL.md" in archive.read(record).decode()
    assert "dataqueue/ai/rules/dataqueue.md.j2" in names
    templates = ROOT / "dataqueue" / "templates"
    for file in templates.rglob("*.j2"):
        assert f"dataqueue/templates/{file.relative_to(templates).as_posix()}" in names
