"""``dataqueue cron``: real processes against real stores."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from command import Cli


@pytest.fixture
def cli(tmp_path: Path, store_url: str) -> Iterator[Cli]:
    cli = Cli(tmp_path)
    cli.env["DATAQUEUE_URL"] = store_url
    yield cli
    cli.end()


def test_schedules_from_the_shell(cli: Cli) -> None:
    assert cli.json("cron", "list") == []
    added = cli.json(
        "cron", "add", "report", "0 9 * * 1-5", "send", "--payload", '{"a": 1}', "--timezone", "Europe/Oslo",
        "--missed", "catch_up", "--limit", "5", "--allow-overlap",
    )  # fmt: skip
    assert (added["name"], added["payload"], added["missed"], added["catch_up_limit"]) == (
        "report",
        {"a": 1},
        "catch_up",
        5,
    )
    assert added["description"] == "At 09:00, Monday through Friday" and len(added["next_fires"]) == 3
    assert "report" in cli("cron", "list").stdout
    shown = cli("cron", "show", "report").stdout
    assert "At 09:00, Monday through Friday, Europe/Oslo" in shown and shown.count("next: ") == 3
    assert cli.json("cron", "show", str(added["id"]))["id"] == added["id"]
    assert cli("cron", "pause", "report").stdout.startswith("Schedule report is paused")
    assert cli("cron", "pause", "report").returncode == 1
    assert cli.json("cron", "resume", "report")["changed"] is True
    assert cli("cron", "run").stdout == "No schedule is due.\n"
    assert cli.json("cron", "run") == {"jobs": []}
    assert cli("cron", "remove", "report").returncode == 0
    for command in ("show", "pause", "resume", "remove"):
        gone = cli("cron", command, "report")
        assert gone.returncode == 1 and "There is no schedule 'report'" in gone.stderr


def test_what_is_wrong_is_said(cli: Cli) -> None:
    assert "not a cron expression" in cli("cron", "add", "a", "61 * * * *", "t").stderr
    assert "no time zone" in cli("cron", "add", "a", "@daily", "t", "--timezone", "Mars/Olympus").stderr
    assert "not JSON" in cli("cron", "add", "a", "@daily", "t", "--payload", "{").stderr
    assert "--missed is" in cli("cron", "add", "a", "@daily", "t", "--missed", "x").stderr
    assert "goes with" in cli("cron", "add", "a", "@daily", "t", "--limit", "3").stderr
    assert cli.json("cron", "list") == []
