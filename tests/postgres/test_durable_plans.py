"""What waiting jobs, steps and tokens cost the statements of a queue (``make check-plans``)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from . import plans
from .plans import OURS, Conn, Report, explain
from .test_plans import (
    _CLAIM_SETTINGS,
    FUTURE,
    PKEY,
    READY_INDEX,
    SQL,
    Case,
    _of_jobs,
    claim,
    server_url,  # noqa: F401  # pyright: ignore[reportUnusedImport]
    used_by,
)

pytestmark = [pytest.mark.plans, pytest.mark.timeout(900)]

FINISHED, RUNNING, WAITING, READY, TOKENS = 300_000, 1_000, 100_000, 20_000, 50_000
FIRST_RUNNING = FINISHED + 1
FIRST_WAITING = FINISHED + RUNNING + 1
LONG_JOB = FIRST_RUNNING + 500
STEPS = 10_000
AWAITED, EXPIRING = "dataqueue_awaited", "dataqueue_expiring"
STEPS_PKEY, TOKENS_PKEY, EDGES = "dataqueue_steps_pkey", "waitpoints_pkey", "dataqueue_dependencies_pkey"
_READY_JOBS = (
    "INSERT INTO job_queue (job_type, payload, due) SELECT (%s::text[])[1 + n %% 5], '1', TRUE"
    " FROM generate_series(1, %s) n"
)


@pytest.fixture(scope="module")
def durable(server_url: str) -> Iterator[Conn]:  # noqa: F811
    """Much that is over, a line of jobs, and 100,000 that wait: for a time, for a token, for others."""
    with plans.new_queue(server_url, "durable") as conn:
        conn.execute(
            "INSERT INTO job_queue (job_type, payload, status, attempts, has_steps) SELECT 'ours-0', '1', 'completed', 1,"
            " n % 10 = 0 FROM generate_series(1, 300000) n"
        )
        conn.execute(
            "INSERT INTO job_queue (job_type, payload, status, attempts, lease_id, locked_by, has_steps)"
            " SELECT 'ours-1', '1', 'processing', 1, n, 'worker-1', n <= 600 FROM generate_series(1, 1000) n"
        )
        conn.execute(
            "INSERT INTO job_queue (job_type, payload, status, attempts, has_steps, wait_until, wait_token_id, blocked)"
            " SELECT (%s::text[])[1 + n %% 5], '1', 'waiting', 1, TRUE,"
            " CASE WHEN n %% 10 > 1 THEN now() + interval '1 h' + n * interval '1 s' END,"
            " CASE WHEN n %% 10 = 1 THEN 'tok_' || n END, n %% 10 = 0 FROM generate_series(1, %s) n",
            (OURS, WAITING),
        )
        conn.execute(_READY_JOBS, (OURS, READY))
        conn.execute(
            "INSERT INTO dataqueue_steps (job_id, name, seq, kind, until, token_id, done_at)"
            " SELECT %s + n, 'wait', 1, CASE n %% 10 WHEN 0 THEN 'jobs' WHEN 1 THEN 'token' ELSE 'sleep' END,"
            " CASE WHEN n %% 10 > 1 THEN now() + interval '1 h' END, CASE WHEN n %% 10 = 1 THEN 'tok_' || n END, NULL"
            " FROM generate_series(1, %s) n",
            (FIRST_WAITING - 1, WAITING),
        )
        conn.execute(
            "INSERT INTO dataqueue_steps (job_id, name, seq, kind, result, done_at) SELECT %s, 'step-' || n, n, 'run',"
            " to_jsonb(repeat('x', 100)), now() FROM generate_series(1, %s) n",
            (LONG_JOB, STEPS),
        )
        conn.execute("ALTER TABLE dataqueue_dependencies DISABLE TRIGGER dataqueue_join")
        conn.execute(
            "INSERT INTO dataqueue_dependencies SELECT %s + n %% 400, %s + n * 10 FROM generate_series(1, %s) n",
            (FIRST_RUNNING, FIRST_WAITING - 1, WAITING // 10),
        )
        conn.execute("ALTER TABLE dataqueue_dependencies ENABLE TRIGGER dataqueue_join")
        # Open ones that jobs wait for, open ones with a limit of which a few are over, and many that have ended.
        conn.execute(
            "INSERT INTO waitpoints (id, job_id, status) SELECT 'tok_' || n, %s + n, 'waiting'"
            " FROM generate_series(1, %s, 10) n",
            (FIRST_WAITING - 1, WAITING),
        )
        conn.execute(
            "INSERT INTO waitpoints (id, status, timeout_at) SELECT 'later_' || n, 'waiting', now() + (n - 200) * interval '1 min'"
            " FROM generate_series(1, %s) n",
            (TOKENS,),
        )
        conn.execute(
            "INSERT INTO waitpoints (id, status, timeout_at, completed_at, created_at) SELECT 'old_' || n, 'completed',"
            " now() - n * interval '1 min', now() - n * interval '1 min', now() - n * interval '2 min'"
            " FROM generate_series(1, %s) n",
            (TOKENS,),
        )
        conn.execute("VACUUM ANALYZE")
        yield conn


def _waits(first: int, count: int, **fields: Any) -> dict[str, Any]:
    empty = {"until": None, "delay_ms": None, "token_id": None, "job_ids": None, "place": "app.py:1"}
    waits = [
        {**empty, "id": FIRST_RUNNING + n, "lease_id": n + 1, "name": "w", "seq": 9, **fields}
        for n in range(first, first + count)
    ]
    return {"waits": json.dumps(waits)}


STEP: dict[str, Any] = {
    "id": LONG_JOB,
    "lease_id": 501,
    "seq": 10_001,
    "kind": "run",
    "result": '"r"',
    "place": "app.py:2",
}
STEP |= {
    "token_id": None,
    "job_ids": None,
    "attempts": 1,
    "took_ms": 5.0,
    "token": None,
    "timeout_ms": None,
    "tags": None,
}
NEW_TOKEN = {"token": "tok_new", "token_id": "tok_new", "kind": "create_token", "timeout_ms": 1000.0}
END = {"output": "1", "error": None}
CASES = [
    claim(1, OURS, 200, 400),
    claim(100, OURS, 1_050, 4_500),
    Case("promote, none due", SQL("promote_due"), {}, {FUTURE, PKEY}, 10, 60, _CLAIM_SETTINGS),
    Case("load steps of a waiting job", SQL("load_steps"), {"job_id": FIRST_WAITING}, {STEPS_PKEY, TOKENS_PKEY}, 3, 20),
    Case("load 10,000 steps", SQL("load_steps"), {"job_id": LONG_JOB}, {STEPS_PKEY, TOKENS_PKEY}, STEPS + 10, 2_500),
    Case("save a step", SQL("save_step"), {**STEP, "name": "new"}, {PKEY}, 4, 60),
    Case("save it again", SQL("save_step"), {**STEP, "name": "step-5000"}, {PKEY}, 4, 60),
    Case("save a token", SQL("save_step"), {**STEP, **NEW_TOKEN, "name": "new"}, {PKEY}, 4, 80),
    Case("save a step, lost", SQL("save_step"), {**STEP, "name": "new", "lease_id": 0}, {PKEY}, 4, 20),
    Case("100 wait for a time", SQL("wait_jobs"), _waits(0, 100, kind="sleep", delay_ms=1000), {PKEY, TOKENS_PKEY},
         100, 6_000),
    Case("100 wait for a token", SQL("wait_jobs"), _waits(0, 100, kind="token", token_id="later_5000"), {PKEY, TOKENS_PKEY},
         200, 6_000),
    Case("100 wait for jobs", SQL("wait_jobs"), _waits(400, 100, kind="jobs", job_ids=[FIRST_RUNNING, FIRST_RUNNING + 1]),
         {PKEY, TOKENS_PKEY}, 500, 6_500),
    Case("complete, waking 25", SQL("complete_jobs"), {"ids": [FIRST_RUNNING], "leases": [1], "outputs": ["1"]}, {PKEY}, 1, 1_500),
    Case("answer a token", SQL("end_token"), {**END, "id": "tok_1"}, {TOKENS_PKEY}, 1, 30),
    Case("answer it twice", SQL("end_token"), {**END, "id": "old_1"}, {TOKENS_PKEY}, 1, 10),
    Case("wake who waits", SQL("wake_waiting"), {"ids": ["tok_1"]}, {AWAITED}, 1, 60),
    Case("wake 100", SQL("wake_waiting"), {"ids": [f"tok_{n}" for n in range(1, 1000, 10)]}, {AWAITED}, 100, 5_000),
    Case("expire tokens", SQL("expire_tokens"), {"limit": 100}, {EXPIRING, TOKENS_PKEY}, 200, 2_500),
    Case("delete 1,000 tokens", SQL("delete_tokens"), {"before": datetime(2999, 1, 1, tzinfo=UTC), "limit": 1000},
         {"dataqueue_ended_tokens", TOKENS_PKEY}, 2_000, 12_000),
    Case("delete none", SQL("delete_tokens"), {"before": datetime(1999, 1, 1, tzinfo=UTC), "limit": 1000},
         {"dataqueue_ended_tokens", TOKENS_PKEY}, 0, 30),
    Case("create a token", SQL("create_token"), {"id": "tok_new", "timeout_ms": 1000.0, "tags": ["a"]}, set(), 0, 40),
    Case("cancel a waiting job", SQL("cancel_jobs"), {"by": "ada", "ids": [FIRST_WAITING + 9], "statuses": ["waiting"]},
         {PKEY, STEPS_PKEY}, 8, 200),
]  # fmt: skip


def _of_durable(report: Report) -> set[str]:
    return _of_jobs(report) | (report.scans & {STEPS_PKEY, TOKENS_PKEY})


@pytest.mark.parametrize("generic", [False, True], ids=["", "any parameters"])
@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_a_statement_reads_no_more_than_it_must(durable: Conn, case: Case, generic: bool) -> None:
    """Whatever waits, has been done, or was answered."""
    report = explain(durable, case.statement, case.parameters, generic=generic, before=case.before or _CLAIM_SETTINGS)
    print(f"\n{plans.version_of(durable)} {case.name:28} {'generic' if generic else 'custom '} {report}")
    assert _of_durable(report) <= case.indexes
    assert report.rows <= case.rows
    assert report.total <= case.blocks


def test_claims_cost_the_same_whatever_waits(server_url: str, durable: Conn) -> None:  # noqa: F811
    """The same line of jobs in as many others, with 100,000 that wait and with none."""

    limits = (1, 100)

    def run(conn: Conn) -> list[Report]:
        cases = [claim(limit, OURS, 0, 0) for limit in limits]
        return [explain(conn, c.statement, c.parameters, generic=True, before=_CLAIM_SETTINGS) for c in cases]

    with plans.new_queue(server_url, "no_waits") as conn:
        conn.execute(
            "INSERT INTO job_queue (job_type, payload, status, attempts) SELECT 'ours-0', '1', 'completed', 1"
            " FROM generate_series(1, %s) n",
            (FINISHED + RUNNING + WAITING,),
        )
        conn.execute(_READY_JOBS, (OURS, READY))
        conn.execute("VACUUM ANALYZE")
        without = run(conn)
    for limit, here, there in zip(limits, run(durable), without, strict=True):
        print(f"\n{here}\n{there}")
        assert used_by(here) == {"q": READY_INDEX, "r": PKEY, "job_queue": PKEY}
        # The indexes of what is unfinished may be a level deeper, once for each of three entries of a claimed job.
        assert here.rows <= there.rows and here.total <= there.total + 3 * limit + 30
