"""``dataqueue init``: each template generated, installed, run and tested as a user would; and what it leaves alone."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from ruamel.yaml import YAML

from dataqueue import JobQueue
from dataqueue.errors import ConfigError
from dataqueue.templates import TEMPLATES, look_at, make_plan

ROOT = Path(__file__).parent.parent
WEB = ("fastapi", "django", "flask")
SERVE = {
    "fastapi": ["-m", "uvicorn", "main:app", "--port", "{port}"],
    "flask": ["-m", "flask", "--app", "main", "run", "--port", "{port}"],
    "django": ["manage.py", "runserver", "--noreload", "{port}"],
}


class Here:
    """Runs programs in a folder, with nothing configured but what the test says."""

    def __init__(self, folder: Path, **env: str) -> None:
        self.folder = folder
        self.env = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("DATAQUEUE_", "PG")) and name not in ("DATABASE_URL", "PYTHONPATH")
        }
        self.env |= {"PYTHONPATH": str(ROOT), "COLUMNS": "200", "PYTHONDONTWRITEBYTECODE": "1", **env}

    def python(self, *args: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, *args],
            cwd=self.folder,
            env=self.env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            timeout=110,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done

    def init(self, *args: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        return self.python("-m", "dataqueue", "init", *args, code=code)

    def json(self, *args: str, code: int = 0) -> Any:
        return json.loads(self.init(*args, "--json", code=code).stdout)

    def files(self) -> dict[str, bytes]:
        return {
            file.relative_to(self.folder).as_posix(): file.read_bytes()
            for file in sorted(self.folder.rglob("*"))
            if file.is_file()
        }


@pytest.fixture
def here(tmp_path: Path, pg_url: str) -> Here:
    """A folder with a store of its own."""
    folder = tmp_path / "shop"
    folder.mkdir()
    return Here(folder, DATAQUEUE_URL=pg_url)


def generate(here: Here, template: str) -> None:
    """What ``dataqueue init`` writes (see the first test), without its trial."""
    write(here.folder, {file.path: file.text for file in make_plan(look_at(here.folder), template).files})


def write(folder: Path, files: dict[str, str]) -> None:
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)


# -- each template, from nothing to a job that has run --------------------------------------------------


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_job_has_run_on_the_store_that_is_configured(here: Here, template: str) -> None:
    report = here.json("--template", template, "--yes")
    assert report["job"]["ran"] is True
    assert report["job"]["store"] == "DATAQUEUE_URL"
    assert report["job"]["output"] == "Job 1 (send_welcome) is completed: Welcome, Ada <ada@example.com>"
    assert {file["action"] for file in report["files"]} == {"create"}
    assert {file["path"] for file in report["files"]} == set(here.files()) - {"db.sqlite3"}
    plan = make_plan(look_at(here.folder.parent / "planned" / "shop"), template)
    assert {file.path: file.text.encode() for file in plan.files} == {
        path: text for path, text in here.files().items() if path != "db.sqlite3"
    }
    show = here.python("-m", "dataqueue", "jobs", "show", "1", "--json")
    assert json.loads(show.stdout)["job"]["status"] == "completed"


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_second_run_changes_no_byte(here: Here, template: str) -> None:
    generate(here, template)
    before = here.files()
    report = here.json("--yes" if template != "worker" else "--template=worker", "--yes")  # now it is detected
    assert report["template"] == template
    assert {file["action"] for file in report["files"]} == {"unchanged"}
    assert here.files() == before


@pytest.mark.projects
@pytest.mark.parametrize("template", TEMPLATES)
def test_its_own_tests_are_green(here: Here, template: str) -> None:
    generate(here, template)
    here.env["DATAQUEUE_URL"] = "postgresql://nobody@127.0.0.1:1/never"  # they have a store of their own
    done = here.python("-m", "pytest", "-q", "-p", "no:cacheprovider")
    assert f"{2 if template == 'worker' else 3} passed" in done.stdout


@pytest.mark.projects
@pytest.mark.parametrize(
    "template", ["worker", "fastapi", "django"]
)  # flask's pyproject.toml lists what fastapi's does
def test_it_is_installed_and_runs_from_elsewhere(here: Here, template: str, tmp_path: Path) -> None:
    generate(here, template)
    site = tmp_path / "site"
    here.python("-m", "pip", "install", "-q", "--no-deps", "--target", str(site), str(here.folder))
    elsewhere = Here(tmp_path, DATAQUEUE_URL=here.env["DATAQUEUE_URL"])
    elsewhere.env["PYTHONPATH"] = f"{ROOT}{os.pathsep}{site}"
    assert "is completed" in elsewhere.python("-P", "-m", "background").stdout
    elsewhere.python("-m", "dataqueue", "jobs", "add", "count_words", '"to be or not to be"')
    elsewhere.python("-m", "dataqueue", "worker", "background.worker:queue", "--burst")
    show = elsewhere.python("-m", "dataqueue", "jobs", "list", "--type", "count_words", "--json")
    assert json.loads(show.stdout)["jobs"][0]["output"] == {"to": 2, "be": 2, "or": 1, "not": 1}


@pytest.mark.parametrize("template", WEB)
def test_it_serves_and_the_cron_script_works_its_jobs(here: Here, template: str) -> None:
    generate(here, template)
    assert "CRON_SECRET is not set" in here.python("-m", "background.cron", code=2).stderr
    with serving(here, template) as base:
        here.env |= {"APP_URL": base, "CRON_SECRET": "wrong"}
        assert "503" in here.python("-m", "background.cron", "process", code=1).stderr
    secret = "a secret of this test"
    here.env["CRON_SECRET"] = secret
    with serving(here, template) as base:
        here.env["APP_URL"] = base
        job = fetch(f"{base}/jobs/welcome", {"to": "ada@example.com"})["job"]
        assert fetch(f"{base}/jobs/{job}")["status"] == "pending"
        done = here.python("-m", "background.cron", "process", "reclaim", "cleanup").stdout.replace(" ", "")
        assert '"taken":1' in done and '"reclaimed":0' in done and '"events":0' in done and '"jobs":0' in done
        status = fetch(f"{base}/jobs/{job}")
        assert (status["result"], status["finished"]) == ("Welcome, friend <ada@example.com>", True)
        here.env["CRON_SECRET"] = "wrong"
        assert "401" in here.python("-m", "background.cron", code=1).stderr
    assert "does not answer" in here.python("-m", "background.cron", code=1).stderr


@contextmanager
def serving(here: Here, template: str) -> Iterator[str]:
    """The application on a port of its own, once it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, *(arg.format(port=port) for arg in SERVE[template])]
    log = here.folder.parent / "server.log"
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=here.folder, env=here.env, stdout=output, stderr=output)
        try:
            base = f"http://127.0.0.1:{port}"
            while True:
                assert process.poll() is None, log.read_text()
                try:
                    fetch(f"{base}/jobs/0")
                except urllib.error.HTTPError:
                    break
                except OSError:
                    time.sleep(0.05)
            yield base
        finally:
            process.terminate()
            process.wait(30)


def fetch(url: str, body: object = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def test_without_a_store_it_runs_on_an_embedded_one(here: Here) -> None:
    del here.env["DATAQUEUE_URL"]
    # Not the user's own servers, which may hold anything; nor tmp_path, closed to the account of root's Postgres.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        here.env["DATAQUEUE_EMBEDDED_HOME"] = home
        Path(home).chmod(0o711)
        report = here.json("--template", "worker", "--yes")
        assert (Path(home) / "postgres").is_dir()
    assert report["job"]["ran"] is True
    assert report["job"]["store"].startswith("embedded:")


def test_the_store_may_stand_in_the_projects_env_file(here: Here) -> None:
    url = here.env.pop("DATAQUEUE_URL")
    (here.folder / ".env").write_text(f"DATAQUEUE_URL={url}\n")
    report = here.json("--template", "worker", "--root", str(here.folder), "--yes")
    assert report["job"]["ran"] is True
    assert report["job"]["store"].startswith("DATAQUEUE_URL in ")


def test_tables_that_are_missing_are_not_made(here: Here, pg_empty_url: str) -> None:
    here.env["DATAQUEUE_URL"] = pg_empty_url
    done = here.init("--template", "worker", "--yes", code=1)
    assert "The files are written, but the trial" in done.stderr
    assert "dataqueue migrate" in done.stderr
    assert (here.folder / "background" / "jobs.py").is_file()
    with psycopg.connect(pg_empty_url) as conn:
        assert conn.execute("SELECT count(*) FROM pg_tables WHERE tablename = 'job_queue'").fetchone() == (0,)
    assert here.json("--template", "worker", "--yes", code=1)["job"]["ran"] is False


# -- what the files are ---------------------------------------------------------------------------------


@pytest.mark.parametrize("template", TEMPLATES)
def test_the_files_are_well_formed(tmp_path: Path, template: str) -> None:
    plan = make_plan(look_at(tmp_path / "my Shop"), template)
    texts = {file.path: file.text for file in plan.files}
    for path, text in texts.items():
        assert text.endswith("\n") and not text.endswith("\n\n"), path
        assert "{{" not in text and "{%" not in text, path
        assert max(map(len, text.splitlines())) <= 120, path
        if path.endswith(".py"):
            compile(text, path, "exec")
    compose = YAML(typ="safe", pure=True).load(texts["docker-compose.yml"])
    assert set(compose["services"]) == {"db", "migrate", "worker"} | ({"web"} if template in WEB else set())
    assert compose["services"]["worker"]["command"][:2] == ["dataqueue", "worker"]
    assert all(isinstance(word, str) for service in compose["services"].values() for word in service.get("command", []))
    project = tomllib.loads(texts["pyproject.toml"])["project"]
    assert project["name"] == "my-shop"
    assert any(name.startswith("dataqueue>=") for name in project["dependencies"])
    assert ("CRON_SECRET=\n" in texts[".env.example"]) == (template in WEB)


def test_a_project_is_not_called_like_what_it_requires(tmp_path: Path) -> None:
    plan = make_plan(look_at(tmp_path / "django"), "django")
    [file] = [file for file in plan.files if file.path == "pyproject.toml"]
    assert tomllib.loads(file.text)["project"]["name"] == "django-app"


@pytest.mark.parametrize("template", TEMPLATES)
def test_the_code_passes_ruff(tmp_path: Path, template: str) -> None:
    if subprocess.run([sys.executable, "-m", "ruff", "--version"], capture_output=True).returncode:
        pytest.skip("ruff is not installed")
    plan = make_plan(look_at(tmp_path), template)
    write(tmp_path, {file.path: file.text for file in plan.files})
    ruff = [sys.executable, "-m", "ruff"]
    style = ["--isolated", "--no-cache", "--line-length", "120"]
    for command in (["check", "--select", "E,F,W,I,B,UP", *style, "."], ["format", "--check", *style, "."]):
        done = subprocess.run([*ruff, *command], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


# -- beside what is there -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "installer", "framework", "entry"),
    [
        ({}, "none", None, None),
        ({"uv.lock": "", "pyproject.toml": '[project]\ndependencies = ["fastapi>=0.115"]\n'}, "uv", "fastapi", None),
        ({"poetry.lock": "", "pyproject.toml": "[tool.poetry.dependencies]\nFlask = '^3'\n"}, "poetry", "flask", None),
        ({"requirements.txt": "Django~=5.2\ndataqueue\n"}, "requirements", "django", None),
        ({"pyproject.toml": "[project]\nname='x'\n"}, "pyproject", None, None),
        ({"src/shop/web.py": "from fastapi import FastAPI\n\napi: FastAPI = FastAPI()\n"}, "none", "fastapi",
         "src/shop/web.py"),
        ({"shop.py": "import flask\n\n\ndef create():\n    app = flask.Flask(__name__)\n"}, "none", "flask", "shop.py"),
        ({".venv/x.py": "app = FastAPI()\n", "tests/x.py": "app = FastAPI()\n"}, "none", None, None),
    ],
)  # fmt: skip
def test_what_is_there_is_found(
    tmp_path: Path, files: dict[str, str], installer: str, framework: str | None, entry: str | None
) -> None:
    write(tmp_path, files)
    project = look_at(tmp_path)
    assert (project.installer, project.framework, project.entry) == (installer, framework, entry)
    assert bool(project.why) == (installer != "none" or framework is not None)


def test_into_a_fastapi_project_with_uv(here: Here) -> None:
    theirs = {
        "uv.lock": "version = 1\n",
        "pyproject.toml": '[project]\nname = "shop"\nversion = "1"\ndependencies = ["fastapi"]\n',
        "main.py": "from fastapi import FastAPI\n\napp = FastAPI()\n",
        ".env.example": "A=1\n",
        "compose.yaml": "services: {}\n",
    }
    write(here.folder, theirs)
    report = here.json("--yes")
    assert report["template"] == "fastapi"
    assert report["found"] == ["found uv.lock", "main.py makes a fastapi application"]
    actions = {file["path"]: file["action"] for file in report["files"]}
    assert actions[".env.example"] == "keep"
    assert not set(actions) & {"main.py", "pyproject.toml", "docker-compose.yml"}
    assert report["next_steps"][0] == "uv add dataqueue"
    assert "in main.py: from background.web import router; app.include_router(router)" in report["next_steps"]
    assert any("compose.yaml is yours" in step for step in report["next_steps"])
    assert "uv sync" in (here.folder / "Dockerfile").read_text()
    assert {name: here.files()[name].decode() for name in theirs} == theirs
    with (here.folder / "main.py").open("a") as main:  # as the next step says
        main.write("from background.web import router\n\napp.include_router(router)\n")
    with serving(here, "fastapi") as base:
        assert fetch(f"{base}/jobs/1")["status"] == "completed"


def test_into_a_django_project(here: Here) -> None:
    here.python("-m", "django", "startproject", "shop", ".")
    theirs = here.files()
    report = here.json("--yes")
    assert report["template"] == "django"
    assert report["job"]["ran"] is True
    assert 'setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")' in (here.folder / "background/worker.py").read_text()
    assert not {"manage.py", "config/settings.py"} & {file["path"] for file in report["files"]}
    assert {name: here.files()[name] for name in theirs} == theirs
    here.python("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests")


def test_files_that_were_changed_are_kept_and_missing_ones_come_back(here: Here) -> None:
    here.init("--template", "worker", "--yes")
    jobs = here.folder / "background" / "jobs.py"
    jobs.write_text(jobs.read_text().replace('f"Welcome, ', 'f"Hello, '))
    (here.folder / "Dockerfile").unlink()
    report = here.json("--template", "worker", "--yes")
    actions = {file["path"]: file["action"] for file in report["files"]}
    assert (actions["background/jobs.py"], actions["Dockerfile"]) == ("keep", "create")
    assert "Hello, Ada" in report["job"]["output"]


def test_a_dangling_link_is_not_written_through(here: Here) -> None:
    (here.folder / "Dockerfile").symlink_to(here.folder.parent / "elsewhere")
    report = here.json("--template", "worker", "--yes")
    assert {"path": "Dockerfile", "action": "keep"} in report["files"]
    assert not (here.folder.parent / "elsewhere").exists()


# -- asking and refusing --------------------------------------------------------------------------------


def test_a_dry_run_shows_the_diff_and_writes_nothing(here: Here) -> None:
    done = here.init("--template", "flask", "--dry-run")
    assert "+++ b/background/jobs.py" in done.stdout
    assert "+async def" not in done.stdout and "+def send_welcome(" in done.stdout
    assert here.json("--template", "flask", "--dry-run")["diff"].startswith("--- /dev/null\n+++ b/background/__init__")
    assert here.files() == {}
    patch = here.json("--template", "worker", "--dry-run")["diff"]
    applied = subprocess.run(["git", "apply", "-"], cwd=here.folder, input=patch, text=True, capture_output=True)
    assert applied.returncode == 0, applied.stderr
    assert {file["action"] for file in here.json("--template", "worker", "--yes")["files"]} == {"unchanged"}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--template", "worker"], "there is nobody to ask here"),
        ([], "Say what to write with --template fastapi|django|flask|worker"),
        (["--template", "rails", "--yes"], "There is no template 'rails'"),
        (["--template", "worker", "--yes", "--package", "my-jobs"], "--package is the name of a Python package"),
        (["--template", "worker", "--yes", "--package", "taken"], "something else called taken"),
        (["--template", "worker", "--yes", "--package", "single"], "something else called single"),
        (["--template", "worker", "--yes", "--root", "single.py"], "is a file"),
        (["--template", "worker", "--yes", "--root", "blocked"], "is a file, so tests/test_background.py"),
    ],
)
def test_it_refuses_before_anything_is_written(here: Here, args: list[str], message: str) -> None:
    write(here.folder, {"taken/queue.py": "items = []\n", "single.py": "", "blocked/tests": ""})
    before = here.files()
    done = here.init(*args, code=2)
    assert message in done.stderr
    assert here.files() == before
    assert "error" in here.json(*args, code=2)


@pytest.mark.skipif(sys.platform == "win32", reason="no terminals to make")
@pytest.mark.parametrize(("answer", "code"), [("n", 1), ("y", 0)])
def test_on_a_terminal_it_shows_the_diff_and_asks(here: Here, answer: str, code: int) -> None:
    import pty

    ours, theirs = pty.openpty()
    os.write(ours, f"{answer}\n".encode())
    command = [sys.executable, "-m", "dataqueue", "init", "--template", "worker"]
    done = subprocess.run(command, cwd=here.folder, env=here.env, stdin=theirs, capture_output=True, timeout=110)
    os.close(ours)
    os.close(theirs)
    assert done.returncode == code, done.stderr
    assert b"+++ b/background/jobs.py" in done.stdout
    assert b"Write 10 files, and run one job on the store of DATAQUEUE_URL?" in done.stderr
    assert bool(here.files()) == (answer == "y")


@pytest.mark.skipif(sys.platform == "win32", reason="other rights")
def test_a_file_that_cannot_be_written_is_named(here: Here) -> None:
    (here.folder / "tests").symlink_to("/proc/none")
    done = here.init("--template", "worker", "--yes", code=1)
    assert "tests" in done.stderr and "run the command again" in done.stderr


def test_another_name_for_the_package(here: Here) -> None:
    write(here.folder, {"background/__init__.py": "", "background/models.py": ""})
    with pytest.raises(ConfigError, match="Choose another name with --package"):
        make_plan(look_at(here.folder), "flask")
    report = here.json("--template", "flask", "--yes", "--package", "async_work")
    assert report["job"]["ran"] is True
    assert (here.folder / "tests" / "test_async_work.py").is_file()
    here.python("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests")


@pytest.mark.anyio
async def test_the_trial_leaves_one_completed_job(here: Here) -> None:
    here.init("--template", "fastapi", "--yes")
    async with JobQueue.from_url(here.env["DATAQUEUE_URL"]) as queue:
        assert (await queue.stats()).by_status == {"completed": 1}
