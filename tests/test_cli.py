"""The command line as scripts and people use it: real processes against a real Postgres."""

from __future__ import annotations

import io
import json
import logging
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from command import Cli, ended, read_until

from dataqueue.cli.stopping import SAME_SIGNAL_SECONDS

NO_SIGNALS = pytest.mark.skipif(sys.platform == "win32", reason="no POSIX signals")
UNREACHABLE = "postgresql://someone:hunter2@127.0.0.1:1/nowhere"

APP = """
import asyncio, os
from pathlib import Path
from datetime import timedelta
from dataqueue import JobContext, JobQueue, Rate, SyncJobQueue

queue = JobQueue.from_url()
sync_queue = SyncJobQueue.from_url()
empty = JobQueue.from_url()
number = 3

@queue.job
async def wait_for_file(name: str) -> str:
    print("running", flush=True)
    while not Path(name).exists():
        await asyncio.sleep(0.01)
    return "found"

@queue.job
async def block_a_thread(seconds: float) -> None:
    print("running", flush=True)
    await asyncio.to_thread(__import__("time").sleep, seconds)

@queue.job
async def divide(by: int) -> float:
    return 1 / by

@queue.job(max_concurrency=2, rate=Rate(3, per=timedelta(hours=1)))
async def call(number: int) -> None:
    print("called", number, flush=True)

@sync_queue.job
def double(number: int) -> int:
    return 2 * number
"""


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    """A command line without a store."""
    cli = Cli(tmp_path)
    yield cli
    cli.end()


@pytest.fixture
def store(cli: Cli, pg_url: str) -> Cli:
    """A command line with a store of the test's own."""
    cli.env["DATAQUEUE_URL"] = pg_url
    return cli


@pytest.fixture
def app(store: Cli) -> Cli:
    """A command line in a directory with a module ``shop.jobs``."""
    (store.folder / "shop").mkdir()
    (store.folder / "shop" / "jobs.py").write_text(APP)
    (store.folder / "shop" / "broken.py").write_text("import nothing_of_this_name\n")
    return store


# -- the frame ------------------------------------------------------------------------------------------


def test_the_version_is_printed(cli: Cli) -> None:
    import dataqueue

    assert cli("--version").stdout.strip() == f"dataqueue {dataqueue.__version__}"


def test_help_loads_no_driver_and_no_tables() -> None:
    heavy = "{'psycopg', 'pydantic', 'rich.table', 'dataqueue.queue'}"
    code = f"import sys, dataqueue.cli; print({heavy} & set(sys.modules) or 'light')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=False)
    assert done.stdout.strip() == "light"


@pytest.mark.parametrize("args", [["no-such-command"], ["stats", "--no-such-option"], ["jobs", "show", "abc"]])
def test_wrong_usage_is_code_2(cli: Cli, args: list[str]) -> None:
    done = cli(*args)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_no_store_is_code_2_and_names_the_variables(cli: Cli) -> None:
    done = cli("stats", "--json")
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"]["type"] == "ConfigError"
    assert "DATAQUEUE_URL" in done.stderr


@pytest.mark.parametrize("command", [["migrate"], ["stats"], ["jobs", "add", "send_email"]], ids=" ".join)
def test_an_unreachable_store_is_code_3_and_shows_no_password(cli: Cli, command: list[str]) -> None:
    done = cli(*command, "--url", UNREACHABLE, "--json")
    assert done.returncode == 3
    error = json.loads(done.stdout)["error"]
    assert error["type"] == "StoreUnavailable"
    assert "127.0.0.1:1" in error["message"]
    assert "hunter2" not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:hunter2@host:port/db",
        "postgresql://me:hunter2[@host/db",
        "postgresql://me:hunter2\u2100@host/db",
        "postgresql://me:x@hunter2@host:port/db",
        "postgresql://host/db?password=hunter2&nonsense=1",
        "mysql://me:hunter2@host/db",
        "me:hunter2@host/db",
        "host=somewhere password=hunter2",
    ],
)
def test_a_bad_url_is_code_2_and_shows_no_password(cli: Cli, url: str) -> None:
    done = cli("stats", "--url", url)
    doctor = cli("doctor", "--url", url)
    assert "hunter2" not in done.stdout + done.stderr + doctor.stdout + doctor.stderr
    assert (done.returncode, doctor.returncode) == (2, 1)


def test_missing_tables_are_code_4_until_they_are_migrated(cli: Cli, pg_empty_url: str) -> None:
    cli.env["DATABASE_URL"] = pg_empty_url
    assert cli("stats").returncode == 4
    assert cli.json("migrate", "--status", code=4)["up_to_date"] is False
    assert "CREATE TABLE" in cli("migrate", "--dry-run").stdout
    assert cli("stats").returncode == 4
    assert cli.json("migrate")["applied"]
    assert cli.json("migrate")["applied"] == []
    assert cli.json("migrate", "--status")["up_to_date"] is True
    assert cli("stats").returncode == 0


def test_migrate_keeps_to_a_schema(cli: Cli, pg_empty_url: str) -> None:
    assert cli("migrate", "--url", pg_empty_url, "--schema", "side").returncode == 0
    assert cli("stats", "--url", pg_empty_url, "--schema", "side").returncode == 0
    assert cli("stats", "--url", pg_empty_url).returncode == 4
    assert cli("migrate", "--url", pg_empty_url, "--schema", "").returncode == 2


# -- the environment file -------------------------------------------------------------------------------


def test_the_store_is_read_from_a_dotenv_file_here(cli: Cli, pg_url: str) -> None:
    (cli.folder / ".env").write_text(f"# the queue\nexport DATAQUEUE_URL='{pg_url}'\nnot a setting: secret\n")
    done = cli("doctor")
    assert done.returncode == 0
    assert "from DATAQUEUE_URL in .env" in done.stdout
    assert ".env, line 3" in done.stderr
    assert "secret" not in done.stderr


def test_the_real_environment_wins_over_the_file(cli: Cli, pg_url: str) -> None:
    (cli.folder / "settings").write_text(f"DATAQUEUE_URL={UNREACHABLE}\n")
    cli.env["DATAQUEUE_URL"] = pg_url
    assert cli("stats", "--env-file", "settings").returncode == 0


def test_a_named_file_must_exist(cli: Cli) -> None:
    done = cli("stats", "--env-file", "missing.env")
    assert done.returncode == 2
    assert "missing.env" in done.stderr


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("A=plain", "plain"),
        ("A = spaces around ", "spaces around"),
        ("export A=exported", "exported"),
        ("A=", ""),
        ("A=# nothing", "# nothing"),
        ("A= # nothing", ""),
        ("A=postgres://u:p#w@h/d # note", "postgres://u:p#w@h/d"),
        ("A='single \\n # kept'", "single \\n # kept"),
        ('A="double \\"quoted\\"\\n$HOME"  # note', 'double "quoted"\n$HOME'),
        ('A="two\nlines"', "two\nlines"),
        ("A=last\r\n", "last"),
    ],
)
def test_values_of_an_environment_file(line: str, value: str) -> None:
    from dataqueue.cli.envfile import parse

    assert parse(f"# comment\n\n{line}\nB=2\n") == ({"A": value, "B": "2"}, [])


def test_lines_that_cannot_be_read_are_reported_by_number() -> None:
    from dataqueue.cli.envfile import parse

    assert parse("A=1\nnonsense\nB='open\nC=3\n") == ({"A": "1", "C": "3"}, [2, 3])


# -- jobs -----------------------------------------------------------------------------------------------


def test_a_job_is_added_listed_and_shown(store: Cli) -> None:
    options = ["--priority", 7, "--tag", "a", "--tag", "b", "--key", "k1", "--max-attempts", 2, "--timeout", 1.5]
    added = store.json("jobs", "add", "send_email", '{"to": "Zoë"}', *options)
    assert added["created"] is True
    assert store.json("jobs", "add", "send_email", "1", "--key", "k1") == {"id": added["id"], "created": False}
    assert store.json("jobs", "add", "other", "--delay", 3600)["created"] is True

    (listed,) = store.json("jobs", "list", "--tag", "a", "--status", "pending", "--type", "send_email")["jobs"]
    shown = store.json("jobs", "show", added["id"])
    assert shown["job"] == listed
    assert shown["job"]["payload"] == {"to": "Zoë"}
    assert (listed["priority"], listed["tags"], listed["max_attempts"]) == (7, ["a", "b"], 2)
    assert listed["timeout_seconds"] == 1.5
    assert [event["event_type"] for event in shown["events"]] == ["added"]
    assert "send_email" in store("jobs", "list").stdout
    assert '{"to": "Zoë"}' in store("jobs", "show", added["id"]).stdout


def test_a_list_goes_on_where_its_page_ended(store: Cli) -> None:
    ids = [store.json("jobs", "add", "t", number)["id"] for number in range(3)]
    first = store.json("jobs", "list", "--limit", 2)
    second = store.json("jobs", "list", "--limit", 2, "--cursor", first["next_cursor"])
    assert [job["id"] for page in (first, second) for job in page["jobs"]] == ids[::-1]
    assert second["next_cursor"] is None


def test_a_payload_is_read_from_stdin(store: Cli) -> None:
    done = store("jobs", "add", "t", "-", "--json", stdin='["from", "stdin"]')
    assert store.json("jobs", "show", json.loads(done.stdout)["id"])["job"]["payload"] == ["from", "stdin"]


def test_bad_input_is_code_2_and_stores_nothing(store: Cli) -> None:
    for args in (
        ["add", "t", "{not json"],
        ["add", "t", "NaN"],
        ["add", "t", "--delay", "nan"],
        ["add", "t", "--delay", "-1"],
        ["add", "t", "--run-at", "tomorrow"],
        ["add", "t", "--run-at", "2026-01-01T00:00:00"],
        ["add", ""],
        ["list", "--status", "broken"],
        ["list", "--tag-mode", "most"],
        ["list", "--limit", "0"],
    ):
        done = store("jobs", *args)
        assert done.returncode == 2, args
        assert done.stderr.startswith("Error: "), args
        assert "Traceback" not in done.stderr, args
    assert store.json("jobs", "list")["jobs"] == []


def test_cancel_and_retry_say_what_became_of_each_job(store: Cli) -> None:
    job_id = store.json("jobs", "add", "t")["id"]
    assert store.json("jobs", "cancel", job_id) == {"results": [{"id": job_id, "result": "cancelled"}]}
    again = store.json("jobs", "cancel", job_id, 999, code=1)
    assert [item["result"] for item in again["results"]] == ["unchanged", "not_found"]
    assert store.json("jobs", "retry", job_id) == {"results": [{"id": job_id, "result": "retried"}]}
    assert "nothing was changed" in store("jobs", "retry", job_id).stderr
    assert store.json("jobs", "show", job_id)["job"]["status"] == "pending"


def test_a_pending_job_is_edited(store: Cli) -> None:
    job_id = store.json("jobs", "add", "t", "1", "--delay", 3600, "--tag", "a", "--timeout", 5)["id"]
    edit = ["--priority", 7, "--run-at", "now", "--payload", '{"n": 2}', "--tag", "b", "--clear", "timeout"]
    assert store.json("jobs", "edit", job_id, *edit) == {"id": job_id, "changed": True, "status": "pending"}
    shown = store.json("jobs", "show", job_id)
    job, event = shown["job"], shown["events"][-1]
    assert (job["priority"], job["payload"], job["tags"], job["timeout_seconds"]) == (7, {"n": 2}, ["b"], None)
    assert (event["event_type"], event["metadata"]["by"], event["metadata"]["runAt"]) == ("edited", "cli", None)
    for wrong in (
        [],
        ["--payload", "{"],
        ["--run-at", "soon"],
        ["--run-at", "2026-01-01T00:00:00"],
        ["--priority", str(2**31)],
        ["--clear", "group"],
        ["--delay", "1", "--run-at", "now"],
    ):
        done = store("jobs", "edit", job_id, *wrong)
        assert done.returncode == 2 and done.stderr.startswith("Error: "), wrong
    assert store.json("jobs", "show", job_id)["job"] == job
    store("jobs", "cancel", job_id)
    told = store("jobs", "edit", job_id, "--priority", "1")
    assert told.returncode == 1 and "is cancelled, not pending: nothing was changed" in told.stderr
    assert store.json("jobs", "edit", 4711, "--priority", "1", code=1)["error"]["type"] == "JobNotFound"


def test_a_filter_stands_in_place_of_ids(store: Cli) -> None:
    for number in range(3):
        store.json("jobs", "add", "t", number, "--tag", "a", "--group", "g")
    other = store.json("jobs", "add", "u")["id"]
    assert store.json("jobs", "cancel", "--tag", "a", "--dry-run") == {"count": 3, "dry_run": True}
    assert "3 jobs would be cancelled" in store("jobs", "cancel", "--type", "t", "--dry-run").stdout
    assert store.json("jobs", "cancel", "--group", "g", "--type", "t") == {"count": 3, "dry_run": False}
    assert "0 jobs were cancelled" in store("jobs", "cancel", "--tag", "a").stdout
    assert store.json("jobs", "retry", "--all", code=1)["count"] == 0
    assert (
        store.json("jobs", "retry", "--status", "cancelled", "--before", "2020-01-01T00:00:00Z", code=1)["count"] == 0
    )
    done = store("jobs", "retry", "--status", "cancelled", "--after", "2020-01-01T00:00:00Z")
    assert done.returncode == 0 and "3 jobs were retried" in done.stdout
    for wrong in (
        ["cancel"],
        ["cancel", other, "--all"],
        ["cancel", other, "--type", "u"],
        ["cancel", "--all", "--type", "u"],
        ["cancel", "--status", "completed"],
        ["retry", "--status", "pending"],
        ["retry", "--all", "--force"],
        ["cancel", "--before", "yesterday"],
    ):
        assert store("jobs", *wrong).returncode == 2, wrong
    assert {job["status"] for job in store.json("jobs", "list")["jobs"]} == {"pending"}


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
@pytest.mark.parametrize(("answer", "left"), [("n", "pending"), ("y", "cancelled")])
def test_a_person_at_a_terminal_is_asked(store: Cli, answer: str, left: str) -> None:
    import pty

    job_id = store.json("jobs", "add", "t")["id"]
    person, terminal = pty.openpty()
    try:
        os.write(person, f"{answer}\n".encode())
        command = [sys.executable, "-m", "dataqueue", "jobs", "cancel", "--all"]
        done = subprocess.run(
            command, stdin=terminal, capture_output=True, text=True, env=store.env, cwd=store.folder, timeout=60
        )
    finally:
        os.close(person)
        os.close(terminal)
    assert "1 jobs will be cancelled. Go on?" in done.stderr
    assert store.json("jobs", "show", job_id)["job"]["status"] == left


def test_an_unknown_job_is_code_1(store: Cli) -> None:
    assert store.json("jobs", "show", 4711, code=1)["error"]["type"] == "JobNotFound"


def test_escape_sequences_in_a_job_do_not_reach_the_terminal(store: Cli) -> None:
    job_id = store.json("jobs", "add", "\x1b[31mred", '"\\u001b]0;title\\u0007"', "--tag", "[bold]tag")["id"]
    for done in (store("jobs", "list"), store("jobs", "show", job_id), store("stats")):
        assert done.returncode == 0
        assert "\x1b" not in done.stdout
        assert "red" in done.stdout
    assert "[bold]tag" in store("jobs", "list").stdout


# -- stats and doctor -----------------------------------------------------------------------------------


def test_stats_count_by_type_and_name_what_no_worker_takes(store: Cli) -> None:
    store("jobs", "add", "t")
    stats = store.json("stats")
    assert stats["by_type"] == {"t": {"pending": 1}}
    assert stats["unhandled_types"] == ["t"]
    assert stats["workers"] == []
    assert "No worker takes: t." in store("stats").stdout


@NO_SIGNALS
def test_stats_are_watched_until_interrupted(store: Cli) -> None:
    process = store.start("stats", "--watch", "--interval", "0.1", "--json")
    assert process.stdout is not None
    lines = [process.stdout.readline(), process.stdout.readline()]
    assert all("by_type" in json.loads(line) for line in lines)
    process.send_signal(signal.SIGINT)
    assert ended(process)[0] == 130


def test_doctor_names_the_source_and_what_is_wrong(store: Cli) -> None:
    store.env["DATABASE_URL"] = UNREACHABLE
    report = store.json("doctor")
    findings = {finding["check"]: finding for finding in report["findings"]}
    assert report["ok"] is True
    assert "from DATAQUEUE_URL" in findings["configuration"]["message"]
    assert "DATABASE_URL set, not used" in findings["configuration"]["message"]
    assert findings["workers"]["level"] == "warning"


def test_doctor_finds_missing_tables(cli: Cli, pg_empty_url: str) -> None:
    report = cli.json("doctor", "--url", pg_empty_url, code=1)
    assert report["findings"][-1]["check"] == "schema"
    assert report["findings"][-1]["fix"] == "dataqueue migrate"


def test_doctor_without_a_store_is_code_1(cli: Cli) -> None:
    assert cli.json("doctor", code=1)["ok"] is False


# -- worker ---------------------------------------------------------------------------------------------


def test_a_job_is_explained(app: Cli) -> None:
    assert app.json("explain", 7, code=1)["state"] == "not_found"
    job_id = app.json("jobs", "add", "divide", "0", "--max-attempts", 1)["id"]
    found = app.json("explain", job_id)
    assert (found["state"], found["will_run"]) == ("ready", "unknown")
    assert "no_worker_for_type" in app("explain", job_id).stdout
    app("worker", "shop.jobs:queue", "--burst")
    shown = app("explain", job_id)
    assert shown.returncode == 0
    assert "ZeroDivisionError" in shown.stdout and f"dataqueue jobs retry {job_id}" in shown.stdout
    assert app("explain", "x").returncode == 2


def test_failures_and_status_are_told(app: Cli) -> None:
    assert app("status").returncode == 0
    for _ in range(6):
        app("jobs", "add", "divide", "0", "--max-attempts", 1)
    assert app.json("status", code=1)["verdict"] == "no_workers"
    app("worker", "shop.jobs:queue", "--burst")
    summary = app.json("failures")
    assert (summary["total"], summary["groups"][0]["count"]) == (6, 6)
    shown = app("failures", "--window", "1h", "--job-type", "divide").stdout
    assert "6 × ZeroDivisionError in divide" in shown and "jobs.py" in shown
    assert app.json("failures", "--job-type", "other")["total"] == 0
    status = app("status")
    assert status.returncode == 1 and status.stdout.startswith("failing")
    assert app("status", "--window", "soon").returncode == 2


def test_jobs_of_a_group_are_added_and_listed(store: Cli) -> None:
    job_id = store.json("jobs", "add", "email", "--group", "acme")["id"]
    store("jobs", "add", "email", "--group", "other")
    assert [job["id"] for job in store.json("jobs", "list", "--group", "acme")["jobs"]] == [job_id]
    assert store.json("jobs", "show", job_id)["job"]["group"] == "acme"
    assert any(line.split() == ["group", "acme"] for line in store("jobs", "show", job_id).stdout.splitlines())
    assert store("jobs", "add", "email", "--group", "").returncode == 2


def test_a_type_is_paused_until_it_is_resumed(app: Cli) -> None:
    app("jobs", "add", "divide", 2)
    paused = app("pause", "divide", "--by", "ana: the shop is shut")
    assert paused.returncode == 0 and "dataqueue resume divide" in paused.stdout
    again = app("pause", "divide")
    assert again.returncode == 1 and "by ana: the shop is shut already" in again.stderr
    assert "Ran 0 jobs" in app("worker", "shop.jobs:queue", "--burst").stderr
    states = {state["job_type"]: state for state in app.json("limits")}
    assert (states["divide"]["paused_by"], states["divide"]["free"]) == ("ana: the shop is shut", 0)
    assert "by ana" in app("limits").stdout
    assert app.json("explain", 1)["state"] == "paused"
    assert app.json("resume", "divide") == {"job_type": "divide", "changed": True, "still_paused": []}
    assert app("resume", "divide").returncode == 1
    assert "Ran 1 job;" in app("worker", "shop.jobs:queue", "--burst").stderr
    assert [state["job_type"] for state in app.json("limits")] == ["call"]  # which its definition limits


def test_the_whole_queue_is_paused(app: Cli) -> None:
    app("jobs", "add", "divide", 2)
    app("pause", "divide")
    assert app.json("pause", "--all")["changed"] is True
    states = app.json("limits")
    assert [state["job_type"] for state in states] == [None, "divide"] and states[0]["paused_by"]
    assert "(the whole queue)" in app("limits").stdout
    resumed = app("resume", "--all")
    assert resumed.returncode == 0 and "Still paused: divide" in resumed.stderr
    for wrong in (["pause"], ["resume"], ["pause", "divide", "--all"], ["resume", "divide", "--all"]):
        assert app(*wrong).returncode == 2
    unknown = app("pause", "typo")
    assert unknown.returncode == 0 and "no job of type typo" in unknown.stderr


def test_a_pause_is_evidence_and_no_verdict(app: Cli) -> None:
    app("jobs", "add", "divide", 2)
    process = app.start("worker", "shop.jobs:queue", "--job-types", "divide", "--group-concurrency", 2)
    read_until(process, "Worker ")
    app("pause", "divide", "--by", "ana")
    job_id = app.json("jobs", "add", "divide", 2)["id"]
    status = app.json("status")
    assert status["verdict"] == "healthy"
    assert any("divide was paused by ana" in line for line in status["evidence"])
    assert "at most 2 of one group" in app("workers").stdout
    assert app.json("jobs", "show", job_id)["job"]["status"] == "pending"
    process.send_signal(signal.SIGTERM)
    assert ended(process)[0] == 0


def test_limits_of_a_type_are_listed_with_their_use(app: Cli) -> None:
    for number in range(5):
        app("jobs", "add", "call", number)
    assert "Ran 3 jobs" in app("worker", "shop.jobs:queue", "--burst").stderr
    (state,) = app.json("limits")
    assert (state["running"], state["max_concurrency"], state["started"], state["free"]) == (0, 2, 3, 0)
    assert state["rate"] == {"count": 3, "per": 3600.0} and state["opens_at"]
    shown = app("limits").stdout
    assert "at its limit" in shown and "0 of 2" in shown and "3 of 3 in 60 min" in shown and "in 60 min" in shown
    assert app("worker", "shop.jobs:queue", "--burst", "--group-concurrency", 0).returncode == 2


def test_workers_are_listed(app: Cli) -> None:
    assert app("workers").returncode == 1
    job_id = app.json("jobs", "add", "wait_for_file", json.dumps(str(app.folder / "never")))["id"]
    process = app.start("worker", "shop.jobs:queue", "--worker-id", "seen", "--drain-timeout", 0)
    read_until(process, "running")
    (entry,) = app.json("workers")
    assert entry["worker"]["id"] == "seen" and [job["id"] for job in entry["jobs"]] == [job_id]
    assert f"job {job_id}  wait_for_file" in app("workers").stdout
    process.send_signal(signal.SIGTERM)
    assert ended(process)[0] == 0


def test_the_manual_is_searched_and_shown(cli: Cli) -> None:
    assert cli.json("docs", "search", "retry", "with", "backoff")[0]["slug"]
    assert "how-to/" in cli("docs", "search", "pgbouncer").stdout
    assert cli("docs", "search", "zzqqxx").returncode == 1
    assert cli("docs", "show", "retries").stdout.startswith("# ")
    assert "The nearest" in cli("docs", "show", "retrys").stderr
    assert len(cli.json("docs", "list")) > 30
    assert cli("docs", "llms").stdout.startswith("# dataqueue")


@pytest.mark.parametrize(
    ("target", "advice"),
    [
        ("shop.jobs", "Write shop.jobs:queue"),
        ("shop.jobs:que", "Write shop.jobs:queue"),
        ("shop.jobs:number", "is of type int"),
        ("shop.jobs:empty", "@queue.job"),
        ("shop.nojobs:queue", "no module 'shop.nojobs'"),
        ("shop/jobs.py:queue", "shop.jobs:queue"),
        ("shop.broken:queue", "nothing_of_this_name"),
    ],
)
def test_a_queue_that_cannot_be_had_is_code_2_with_advice(app: Cli, target: str, advice: str) -> None:
    done = app("worker", target)
    assert done.returncode == 2
    assert advice in done.stderr
    assert "importlib" not in done.stderr


def test_a_burst_works_what_is_due_and_ends(app: Cli) -> None:
    good = [app.json("jobs", "add", "divide", 2)["id"] for _ in range(3)]
    bad = app.json("jobs", "add", "divide", 0, "--max-attempts", 1)["id"]
    later = app.json("jobs", "add", "divide", 1, "--delay", 3600)["id"]
    done = app("worker", "shop.jobs:queue", "--burst", "--batch-size", 2, "--worker-id", "burst-1")
    assert done.returncode == 0, done.stderr
    assert "burst-1" in done.stderr
    assert "Ran 4 jobs" in done.stderr
    status = {job["id"]: job["status"] for job in app.json("jobs", "list")["jobs"]}
    assert status == {**dict.fromkeys(good, "completed"), bad: "failed", later: "pending"}
    assert "ZeroDivisionError" in app("jobs", "show", bad).stdout


def test_a_sync_queue_is_worked_too(app: Cli) -> None:
    job_id = app.json("jobs", "add", "double", 21)["id"]
    assert app("worker", "shop.jobs:sync_queue", "--burst").returncode == 0
    assert app.json("jobs", "show", job_id)["job"]["output"] == 42


def test_json_logs_are_one_object_a_line(app: Cli) -> None:
    app("jobs", "add", "divide", 0)
    done = app("worker", "shop.jobs:queue", "--burst", "--log-json", "--log-level", "debug")
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert all({"time", "level", "logger", "message"} <= set(line) for line in lines)
    assert any("ZeroDivisionError" in line.get("exception", "") for line in lines)


def test_json_logs_have_the_extra_fields() -> None:
    from dataqueue.cli.logs import JsonFormatter

    record = logging.getLogger("shop").makeRecord(
        "shop", logging.INFO, "jobs.py", 1, "sent %s", ("it",), None, extra={"order": 7}
    )
    line = json.loads(JsonFormatter().format(record))
    assert (line["message"], line["level"], line["logger"], line["order"]) == ("sent it", "info", "shop", 7)


@NO_SIGNALS
def test_sigterm_lets_the_running_job_finish(app: Cli) -> None:
    file = app.folder / "go"
    job_id = app.json("jobs", "add", "wait_for_file", json.dumps(str(file)))["id"]
    process = app.start("worker", "shop.jobs:queue")
    read_until(process, "running")
    process.send_signal(signal.SIGTERM)
    read_until(process, "draining")
    waiting = app.json("jobs", "add", "wait_for_file", json.dumps(str(file)))["id"]
    file.touch()
    code, output = ended(process)
    assert code == 0, output
    assert "1 finished, 0 handed back" in output
    assert app.json("jobs", "show", job_id)["job"]["output"] == "found"
    assert app.json("jobs", "show", waiting)["job"]["status"] == "pending"
    assert app.json("stats")["workers"] == []


@NO_SIGNALS
@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_hands_the_running_job_back(app: Cli, first: signal.Signals) -> None:
    job_id = app.json("jobs", "add", "wait_for_file", json.dumps(str(app.folder / "never")))["id"]
    process = app.start("worker", "shop.jobs:queue", "--drain-timeout", 3600)
    read_until(process, "running")
    process.send_signal(first)
    read_until(process, "draining")
    time.sleep(2 * SAME_SIGNAL_SECONDS)  # sooner, it would count as the first one, sent twice
    process.send_signal(signal.SIGTERM)
    code, output = ended(process)
    assert code == 0, output
    assert f"1 handed back ({job_id})" in output
    job = app.json("jobs", "show", job_id)["job"]
    assert (job["status"], job["attempts"]) == ("pending", 0)


@NO_SIGNALS
def test_a_thread_that_runs_on_does_not_keep_the_process(app: Cli) -> None:
    app.json("jobs", "add", "block_a_thread", 3600)
    process = app.start("worker", "shop.jobs:queue", "--drain-timeout", "0")
    read_until(process, "running")
    process.send_signal(signal.SIGTERM)
    code, output = ended(process)
    assert code == 1
    assert "ends without them" in output


@NO_SIGNALS
def test_doctor_and_stats_see_a_worker(app: Cli) -> None:
    app.json("jobs", "add", "wait_for_file", json.dumps(str(app.folder / "never")))
    process = app.start("worker", "shop.jobs:queue", "--worker-id", "seen", "--concurrency", "3")
    read_until(process, "running")
    (worker,) = app.json("stats")["workers"]
    assert (worker["id"], worker["alive"], worker["running"], worker["concurrency"]) == ("seen", True, 1, 3)
    assert "1 alive with 3 slots, holding 1 jobs" in app("doctor").stdout
    job_id = app.json("jobs", "list")["jobs"][0]["id"]
    assert app.json("jobs", "cancel", job_id)["results"][0]["result"] in ("requested", "cancelled")
    process.send_signal(signal.SIGTERM)
    assert ended(process)[0] == 0
    assert app.json("jobs", "show", job_id)["job"]["status"] == "cancelled"


@NO_SIGNALS
def test_adding_with_wait_gives_the_end_of_the_job(app: Cli) -> None:
    process = app.start("worker", "shop.jobs:queue")
    read_until(process, "Worker")
    add: list[object] = ["jobs", "add", "divide", "--wait", 60, "--max-attempts", 1]
    assert app.json(*add, 4)["job"]["output"] == 0.25
    assert app.json(*add, 0, code=1)["job"]["failure_reason"] == "handler_error"
    process.send_signal(signal.SIGTERM)
    assert ended(process)[0] == 0


def test_a_wait_that_ends_too_soon_is_code_1_and_names_the_job(store: Cli) -> None:
    waited = store.json("jobs", "add", "t", "--wait", 0.1, code=1)
    assert waited["job"]["id"] == waited["id"]
    assert waited["job"]["is_finished"] is False


# -- demo -----------------------------------------------------------------------------------------------


def test_the_demo_loses_nothing_and_its_advice_works(cli: Cli, pg_url: str) -> None:
    cli.env["DATABASE_URL"] = UNREACHABLE
    for _ in range(2):  # the second one is not confused by what the first one left
        done = cli("demo", "--url", pg_url, "--jobs", 300, "--concurrency", 50, "--yes")
        assert done.returncode == 0, done.stdout + done.stderr
        assert "lost 0: 309 ids" in done.stdout
        assert "\x1b" not in done.stdout
        assert done.stderr == ""
    commands = [line for line in done.stdout.splitlines() if " -m dataqueue " in line]
    assert len(commands) == 5
    assert cli("stats", "--url", pg_url).stdout.count("send_email") == 0
    if sys.platform == "win32":
        return
    for command in commands:
        tried = subprocess.run(
            command, shell=True, cwd=cli.folder, env=cli.env, capture_output=True, encoding="utf-8", check=False
        )
        assert tried.returncode == 0, f"{command}\n{tried.stdout}{tried.stderr}"


def test_a_job_that_is_not_in_the_store_counts_as_lost() -> None:
    from rich.console import Console

    from dataqueue import JobQueue
    from dataqueue.cli.demo_view import Board, print_summary

    board = Board(JobQueue.from_url("postgresql://nobody@127.0.0.1:1/nowhere"))
    board.expect([(1, "send_email"), (2, "send_email")])
    board.start()
    out = io.StringIO()
    assert print_summary(Console(file=out), board, stored={}) == 2
    assert "lost 2" in out.getvalue()


@pytest.fixture
def name_program(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    def name(*argv: str, on_path: str | None) -> str:
        from dataqueue.cli import common

        monkeypatch.setattr(sys, "argv", list(argv))
        monkeypatch.setattr(common.shutil, "which", lambda _: on_path)
        return common.program_name()

    return name


def test_the_program_is_named_as_it_was_called(name_program: Callable[..., str]) -> None:
    assert name_program("/usr/bin/dataqueue", on_path="/usr/bin/dataqueue") == "dataqueue"
    assert name_program(".venv/bin/dataqueue", on_path=None) == ".venv/bin/dataqueue"
    module = name_program("/lib/dataqueue/__main__.py", on_path="/usr/bin/dataqueue")
    assert module == f"{shlex.quote(sys.executable)} -m dataqueue"
