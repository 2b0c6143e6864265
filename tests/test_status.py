"""The verdict over a queue, as a rule over what a store says."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dataqueue import Rate
from dataqueue.backends.base import Stats, WorkerRecord
from dataqueue.failures import FailureSummary
from dataqueue.limits import LimitState
from dataqueue.status import QueueStatus, judge

NOW = datetime(2030, 1, 1, tzinfo=UTC)
MINUTE = Rate(10, per=timedelta(minutes=1))
PAUSED: dict[str, Any] = {"paused_at": NOW, "paused_by": "ana"}


def status(limits: list[LimitState], job_type: str | None = None, **waited: float) -> QueueStatus:
    """Of a queue with one live, idle worker, in which due jobs of these types have waited for so many seconds."""
    worker = WorkerRecord(
        id="w", host="h", pid=1, job_types=("a", "b"), concurrency=5, version="0", started_at=NOW,
        last_heartbeat_at=NOW, lease_expires_at=NOW, alive=True, running=0,
    )  # fmt: skip
    by_type = {name: {"pending": 1} for name in waited}
    stats = Stats(by_type=by_type, oldest_ready_by_type=waited, workers=[worker])
    return judge(
        stats,
        [],
        FailureSummary(groups=(), total=0, group_count=0, truncated=False),
        NOW,
        timedelta(days=1),
        job_type,
        limits,
    )


def test_without_limits_due_work_that_does_not_move_is_stuck_or_a_backlog() -> None:
    assert status([], a=300).verdict == "stuck"
    assert status([], a=90).verdict == "backlog"
    assert status([], a=1).verdict == "healthy"


@pytest.mark.parametrize("seconds", [90, 300])
@pytest.mark.parametrize("job_type", [None, "a"])
def test_paused_work_is_evidence_and_no_verdict(seconds: float, job_type: str | None) -> None:
    found = status([LimitState(job_type=job_type, **PAUSED)], a=seconds)
    assert found.verdict == "healthy"
    assert any(
        "paused by ana at 2030-01-01 00:00:00 UTC; a due job of it has waited" in line for line in found.evidence
    )
    assert any("dataqueue resume" in line for line in found.suggestions)
    assert found.evidence[0].startswith("No job is due but of what is paused")


def test_what_is_not_paused_is_judged_as_ever() -> None:
    paused = LimitState(job_type="a", **PAUSED)
    assert status([paused], a=300, b=300).verdict == "stuck"
    assert status([paused], a=300, b=90).verdict == "backlog"
    assert status([paused], "b", a=300, b=1).limits == ()


def test_a_used_up_rate_makes_a_backlog_and_is_not_stuck() -> None:
    used_up = LimitState(job_type="a", rate=MINUTE, started=10, opens_at=NOW)
    found = status([used_up], a=300)
    assert found.verdict == "backlog" and any("has used up its rate" in line for line in found.evidence)
    assert status([LimitState(job_type="a", rate=MINUTE, started=9)], a=300).verdict == "stuck"


def test_a_full_type_that_does_not_move_is_stuck() -> None:
    found = status([LimitState(job_type="a", max_concurrency=2, running=2)], a=300)
    assert found.verdict == "stuck" and any("at its limit: 2 of 2 run" in line for line in found.evidence)
