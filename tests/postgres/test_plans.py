"""What the statements read of a queue of millions, and of a small one (``make check-plans``).

Rows and blocks are what is guarded: times are printed for information only (``pytest -m plans -s``).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from system_postgres import find_programs, system_postgres

from dataqueue import JobQueue, NewJob
from dataqueue.backends.base import Completed, Failed, JobFilter, Outcome, Released, WorkerInfo
from dataqueue.backends.postgres.records import filter_parameters
from dataqueue.backends.postgres.statements import Statements, _text

from . import plans
from .plans import FINISHED, OURS, READY, RUNNING, STRANGERS, Conn, Report, explain

pytestmark = [pytest.mark.plans, pytest.mark.timeout(900)]

SQL = Statements("public")
_CLAIM_SETTINGS = f"SELECT {_text('_settings')}"
PKEY, READY_INDEX, FUTURE, UNFINISHED = (
    "job_queue_pkey",
    "dataqueue_ready",
    "dataqueue_upcoming",
    "dataqueue_unfinished",
)
FIRES = "dataqueue_next_fires"
PARKED, GROUP_RUNNING = "dataqueue_parked", "dataqueue_group_running"
KEYS, TAGS, EVENTS = "idx_job_queue_idempotency_key", "dataqueue_tags", "job_events_pkey"


@pytest.fixture(scope="module", params=["18", "15"])
def server_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """PostgreSQL 18 from the wheel, and 15 if this machine has it."""
    programs = None if request.param == "18" else find_programs(15)
    if request.param == "15" and programs is None:
        pytest.skip("this machine has no PostgreSQL 15")
    with plans.embedded() if programs is None else system_postgres(programs, plans.SETTINGS) as url:
        yield url


@pytest.fixture(scope="module")
def big(server_url: str) -> Iterator[Conn]:
    """Millions of jobs of all kinds (see ``plans.py``)."""
    with plans.new_queue(server_url, "big") as conn:
        plans.build(conn)
        yield conn


@dataclass(frozen=True)
class Case:
    """A statement, the indexes of job_queue that it shall use, and how much of it it may read."""

    name: str
    statement: str
    parameters: dict[str, Any]
    indexes: set[str]
    rows: int
    blocks: int
    before: str | None = None
    prepared: bool = True
    """Whether the server may come to use a generic plan: not for what the driver never prepares."""


def claim(limit: int, types: list[str], rows: int, blocks: int) -> Case:
    some = "none" if types == STRANGERS else str(limit)
    return Case(
        f"claim {some} of {len(types)} types",
        SQL.claim("claim_jobs", limit),
        {"worker_id": "w", "job_types": types, "limit": limit},
        {READY_INDEX, PKEY},
        rows,
        blocks,
        _CLAIM_SETTINGS,
    )


FIRST_RUNNING = FINISHED + 21 * READY + 1
HELD = {"ids": list(range(FIRST_RUNNING, FIRST_RUNNING + 100)), "leases": list(range(1, 101))}
FAILED = {"messages": ["m"] * 100, "reasons": ["handler_error"] * 100, "retries": [1000] * 100}
FAILED |= {"error_types": ["ValueError"] * 100, "frames": ["a.py:1 f"] * 100}
ONE = {"id": FIRST_RUNNING, "lease_id": 1}
BY = {"by": "ada"}
MANY = {"ids": list(range(FINISHED + 1, FINISHED + 501))}
CHANGES = '{"priority": 7, "delayMs": 60000, "tags": ["a"]}'
NEW = {"job_type": "t", "payload": "1", "priority": 0, "run_at": None, "delay_ms": 0, "max_attempts": 3}
NEW |= {
    "timeout_ms": None,
    "tags": ["a"],
    "retry_delay": None,
    "retry_backoff": None,
    "retry_delay_max": None,
    "group": None,
    "dead_letter": None,
}
OLD: dict[str, Any] = {"before": datetime(2999, 1, 1, tzinfo=UTC), "limit": 1000, "dry_run": False}
NONE = {"before": datetime(1999, 1, 1, tzinfo=UTC)}
WORKER = {
    "id": "worker-1",
    "host": "h",
    "pid": 1,
    "job_types": OURS,
    "concurrency": 1,
    "version": "1",
    "group_concurrency": None,
}


def listing(name: str, indexes: set[str], rows: int, blocks: int, *, page: int | None = None, **where: Any) -> Case:
    parameters = {**filter_parameters(JobFilter(**where)), "id": None, "before_id": page, "limit": 101, "offset": 0}
    parameters["values"] = True
    return Case(f"list {name}", SQL("list_jobs"), parameters, indexes, rows, blocks, prepared=False)


CASES = [
    # A candidate costs its entry and, unless its page is all visible, its row; a claimed row the lock,
    # the new version and the entries of five indexes.
    claim(1, OURS[:1], 40, 150),
    claim(10, OURS[:1], 100, 600),
    claim(100, OURS[:1], 400, 4_000),
    claim(1, OURS, 200, 400),
    claim(10, OURS, 400, 1_000),
    claim(100, OURS, 1_050, 4_500),
    claim(100, OURS + STRANGERS, 1_050, 4_700),
    claim(100, STRANGERS, 0, 150),
    Case("promote", SQL("promote_due"), {}, {FUTURE, PKEY}, 2_010, 30_000, _CLAIM_SETTINGS),
    Case("complete 100", SQL("complete_jobs"), {**HELD, "outputs": ["1"] * 100}, {PKEY}, 100, 3_000),
    Case("fail 100", SQL("fail_jobs"), {**HELD, **FAILED}, {PKEY}, 100, 4_000),
    Case("cancel 100 attempts", SQL("cancel_attempts"), HELD, {PKEY}, 100, 4_000),
    Case("release 100", SQL("release_jobs"), {**HELD, "worker_id": "worker-0"}, {PKEY}, 100, 4_000),
    Case("complete 100 lost", SQL("complete_jobs"), {**HELD, "leases": [0] * 100, "outputs": ["1"] * 100}, {PKEY}, 100, 700),
    Case("reclaim 100", SQL("reclaim_expired"), {"limit": 100}, {UNFINISHED, PKEY}, RUNNING + 300, 5_000),
    Case("check held", SQL("check_held"), {"ids": HELD["ids"]}, {PKEY}, 100, 600),
    Case("touch locked", SQL("touch_locked"), {"ids": HELD["ids"], "worker_id": "worker-0"}, {PKEY}, 100, 600),
    Case("list held", SQL("list_held"), {"worker_id": "worker-0"}, {UNFINISHED}, RUNNING + 300, 700),
    Case("find finished", SQL("find_finished"), {"ids": HELD["ids"]}, {PKEY}, 100, 600),
    Case("set progress", SQL("set_progress"), {**ONE, "percent": 5}, {PKEY}, 1, 40),
    Case("prolong", SQL("prolong"), {**ONE, "ms": 1000}, {PKEY}, 1, 40),
    Case("set output", SQL("set_output"), {**ONE, "output": "5"}, {PKEY}, 1, 40),
    Case("cancel", SQL("cancel_jobs"), {**BY, "ids": [FINISHED + 1], "statuses": ["pending"]}, {PKEY}, 4, 80),
    Case("retry", SQL("retry_jobs"), {**BY, "ids": [1], "statuses": ["failed"], "ended": False}, {PKEY}, 4, 80),
    Case("edit", SQL("edit_jobs"), {**BY, "ids": [FINISHED + 1], "changes": CHANGES}, {PKEY}, 4, 80),
    # Each row is looked up, locked, and looked up again to be changed; each change enters every index.
    Case("cancel 500", SQL("cancel_jobs"), {**BY, **MANY, "statuses": ["pending"]}, {PKEY}, 1_600, 20_000, prepared=False),
    Case("retry 500", SQL("retry_jobs"), {**BY, "ids": list(range(1, 501)), "statuses": ["failed"], "ended": True}, {PKEY},
         1_600, 20_000, prepared=False),
    Case("edit 500", SQL("edit_jobs"), {**BY, **MANY, "changes": CHANGES}, {PKEY}, 1_600, 20_000, prepared=False),
    Case("add", SQL("add_job_once"), {**NEW, "idempotency_key": "new"}, {KEYS}, 1, 60),
    Case("add, key taken", SQL("add_job_once"), {**NEW, "idempotency_key": "key-10"}, {KEYS}, 1, 60),
    Case("add 1000", SQL("add_jobs"), {"jobs": json.dumps([{"t": "t", "p": n, "k": f"key-{n}"} for n in range(1000)])},
         set(), 0, 30_000),
    Case("find keys", SQL("find_keys"), {"keys": [f"key-{n}" for n in range(100)]}, {KEYS}, 100, 600),
    # A page of 5,000 rows, and for each that goes its own pages and those of its events.
    *(
        Case(f"delete 1000 {status}{kind}", SQL(name), {**OLD, **more, "status": status, "after": after},
             {*indexes, EVENTS, PKEY}, rows, blocks, prepared=False)
        for status, name, after, indexes in (
            ("completed", "delete_completed", 50_000, ()),
            ("failed", "delete_ended", 0, (UNFINISHED,)),
            ("cancelled", "delete_ended", 30_000, (UNFINISHED,)),
        )
        for kind, more, rows, blocks in (
            ("", {}, 9_100, 20_000), (", none old", NONE, 5_100, 300), (", counted", {"dry_run": True}, 5_100, 300),
        )
    ),
    Case("delete 1000 events", SQL("delete_events"), {**OLD, "after_job": 1_000, "after_event": 0}, {EVENTS, PKEY}, 6_100, 13_000,
         prepared=False),
    Case("release 1000 keys", SQL("release_keys"), {**OLD, "after": "key-2"}, {KEYS, PKEY}, 7_100, 25_000, prepared=False),
    Case("elect", SQL("elect"), {"role": "r", "holder": "h", "seconds": 30}, set(), 1, 20),
    Case("resign", SQL("resign"), {"role": "r", "holder": "h"}, set(), 1, 20),
    Case("next fire", SQL("find_next_fire"), {"without": []}, {FIRES}, 1, 10, prepared=False),
    Case("due schedules", SQL("list_due_schedules"), {"without": [], "limit": 100}, {FIRES}, 100, 20, prepared=False),
    Case("fire", SQL("fire_schedule"), {"id": 1, "expected": datetime(2026, 1, 1, tzinfo=UTC), "next": None,
         "fires": [datetime(2026, 1, 1, tzinfo=UTC)]}, {PKEY, FIRES, "cron_schedules_pkey"}, 20, 120),
    Case("list events", SQL("list_events"), {"job_id": 1000}, {EVENTS}, 2, 10),
    Case("register worker", SQL("register_worker"), {**WORKER, "lease_seconds": 30}, {UNFINISHED}, RUNNING + 300, 700),
    Case("list workers", SQL("list_workers"), {}, {UNFINISHED}, RUNNING + 300, 700),
    Case("explain", SQL("explain_job"), {"id": FINISHED + 5_000, "most": 10_000}, {PKEY, READY_INDEX, GROUP_RUNNING}, 10_100, 2_000,
         prepared=False),
    Case("list failures", SQL("list_failures"), {"job_type": None, "seconds": 1e9, "limit": 1_000}, {UNFINISHED},
         50_000, 2_500, prepared=False),
    Case("sample finished", SQL("sample_finished"), {"job_type": None, "limit": 2_000}, {PKEY, UNFINISHED}, 30_000,
         30_000, prepared=False),
    Case("get", SQL("list_jobs"), {**listing("", set(), 0, 0).parameters, "id": 500}, {PKEY}, 1, 8, prepared=False),
    listing("all", {PKEY}, 101, 60),
    listing("all, deep", {PKEY}, 101, 60, page=FINISHED),
    # Old ones, behind millions of others that are not meant.
    listing("failed", {UNFINISHED}, 101, 60, statuses=("failed",)),
    listing("failed, next page", {UNFINISHED}, 101, 60, statuses=("failed",), page=25_000),
    listing("cancelled", {UNFINISHED}, 101, 60, statuses=("cancelled",)),
    listing("processing", {UNFINISHED}, 101, 60, statuses=("processing",)),
    listing("waiting", {UNFINISHED}, 0, 10, statuses=("waiting",)),
    listing("processing of a type", {UNFINISHED}, RUNNING + 300, 700, statuses=("processing",), job_types=OURS[1:2]),
    listing("by a tag", {TAGS}, 50, 60, tags=("tenant-5",)),
    listing("by exactly a tag", {TAGS}, 50, 60, tags=("tenant-5",), tag_mode="exact"),
    listing("by any tag", {TAGS}, 100, 120, tags=("tenant-5", "tenant-6"), tag_mode="any"),
    listing("by a tag that nothing has", {TAGS}, 0, 30, tags=("nonesuch",)),
    listing("without a tag", {PKEY}, 101, 60, tags=("tenant-5",), tag_mode="none"),
]  # fmt: skip
VARIANTS = [(case, generic) for case in CASES for generic in ((False, True) if case.prepared else (False,))]


@pytest.mark.parametrize(
    ("case", "generic"), VARIANTS, ids=[f"{case.name}{', any parameters' * generic}" for case, generic in VARIANTS]
)
def test_a_statement_reads_no_more_than_it_must(big: Conn, case: Case, generic: bool) -> None:
    """P-CLAIM, P-FAIL, P-LIST: whatever stands in line, lies in store or is to come."""
    report = explain(big, case.statement, case.parameters, generic=generic, before=case.before)
    print(f"\n{plans.version_of(big)} {case.name:26} {'generic' if generic else 'custom '} {report}")
    scans = _of_jobs(report)
    assert scans == case.indexes
    assert report.rows <= case.rows
    assert report.total <= case.blocks


def _of_jobs(report: Report) -> set[str]:
    """Without those of tables that are small whatever the queue is, and the indexes of steps and tokens."""
    small = ("workers", "listeners", "limits", "dataqueue_dependencies", "dataqueue_prerequisites", "roles")
    durable = {"dataqueue_steps_pkey", "waitpoints_pkey", "dataqueue_job_tokens"}  # by an index, or not at all
    return {name for name in report.scans if name not in durable and not any(part in name for part in small)}


@pytest.mark.parametrize("statuses", [("pending",), ("failed", "cancelled")], ids=" and ".join)
def test_lists_that_may_go_either_way(big: Conn, statuses: Any) -> None:
    """Where many jobs meet the condition, walking all from the newest is as good."""
    case = listing(" and ".join(statuses), set(), 10_000, 2_000, statuses=statuses)
    report = explain(big, case.statement, case.parameters, generic=False)
    print(f"\n{plans.version_of(big)} {case.name:26} custom  {report}")
    assert report.scans <= {PKEY, UNFINISHED}
    assert report.rows <= case.rows and report.total <= case.blocks


# -- plans that were made for another size ----------------------------------------------------------


def used_by(report: Report) -> dict[str, str]:
    """The index by which each alias of job_queue is read in a claim."""
    return {
        node["Alias"]: node.get("Index Name", node["Node Type"])
        for node in report.nodes
        if node.get("Relation Name") == "job_queue" and "Scan" in node["Node Type"]
    }


@pytest.fixture(scope="module")
def little(server_url: str) -> Iterator[Conn]:
    """An empty queue; autovacuum does not come by."""
    with plans.new_queue(server_url, "little") as conn:
        conn.execute("ALTER TABLE job_queue SET (autovacuum_enabled = off)")
        yield conn


@pytest.mark.parametrize("finished", [0, 300_000])
@pytest.mark.parametrize("ready", [0, 10, 1_000])
@pytest.mark.parametrize("analysed", [False, True], ids=["", "analysed"])
def test_a_claim_is_planned_for_the_queue_that_may_come(
    little: Conn, finished: int, ready: int, analysed: bool
) -> None:
    """P-CLAIM: the plan stays when the queue grows; so on a small one, too, candidates come in order and locks by id."""
    little.execute("TRUNCATE job_queue")
    for count, status in ((finished, "completed"), (ready, "pending")):
        little.execute(
            "INSERT INTO job_queue (job_type, payload, status, due) SELECT (%s::text[])[1 + n %% 5], '1', %s, %s"
            " FROM generate_series(1, %s) n",
            (OURS, status, status == "pending", count),
        )
    if analysed:
        little.execute("VACUUM ANALYZE job_queue")
    for case in (claim(limit, types, 0, 0) for limit in (1, 100) for types in (OURS[:1], OURS, STRANGERS)):
        for generic in (False, True):
            report = explain(little, case.statement, case.parameters, generic=generic, before=case.before, runs=1)
            assert used_by(report) == {"q": READY_INDEX, "r": PKEY, "job_queue": PKEY}, case.name


OUTCOMES: dict[str, Callable[[int, int], Outcome]] = {
    "completed": lambda job_id, lease: Completed(job_id, lease, "1"),
    "failed": lambda job_id, lease: Failed(job_id, lease, "m", "handler_error", 60_000),
    "released": lambda job_id, lease: Released(job_id, lease),
}


@pytest.mark.parametrize("outcome", OUTCOMES)
@pytest.mark.parametrize("analysed", [False, True], ids=["", "analysed"])
async def test_outcomes_recorded_first_when_there_were_few_jobs(
    server_url: str, little: Conn, outcome: str, analysed: bool
) -> None:
    """A worker on a new queue prepares its statements; then come very many jobs, before any autovacuum."""
    few, many, batch = 60, 50_000, 100
    little.execute("TRUNCATE job_queue")
    make = OUTCOMES[outcome]
    async with JobQueue.from_url(plans.url_of(little), max_connections=1) as queue:
        backend = queue.backend

        async def turn(limit: int) -> None:
            jobs = (await backend.cycle("w", [], ["t"], limit, False)).jobs
            assert len(jobs) == limit
            assert (await backend.cycle("w", [make(job.id, job.lease_id) for job in jobs], ["t"], 0, False)).lost == []

        await backend.register_worker(WorkerInfo("w", "h", 1, ("t",), 100, "1", 30.0))
        await queue.add_jobs(NewJob("t", n) for n in range(few))
        if analysed:
            little.execute("VACUUM ANALYZE job_queue")
        for _ in range(20):  # five plain, five planned for their parameters, and then for any
            await turn(2)
        little.execute(
            "INSERT INTO job_queue (job_type, payload, due, priority) SELECT 't', '1', TRUE, 1"
            " FROM generate_series(1, %s)",
            (many,),
        )
        before = await read_one_by_one(queue, little)
        for _ in range(3):
            await turn(batch)
        assert await read_one_by_one(queue, little) - before < many


async def read_one_by_one(queue: JobQueue, conn: Conn) -> int:
    """Rows of job_queue that sequential scans have read so far, the queue's one connection included."""
    async with queue.backend.connection() as own:  # type: ignore[attr-defined]
        await own.execute("SELECT pg_stat_force_next_flush()")
    conn.execute("SELECT pg_stat_clear_snapshot()")
    rows = conn.execute("SELECT seq_tup_read FROM pg_stat_user_tables WHERE relname = 'job_queue'").fetchall()
    return rows[0][0]


# -- groups and limits -------------------------------------------------------------------------------

GROUPS_HELD = _CLAIM_SETTINGS + ", set_config('dataqueue.groups', %s, true), set_config('dataqueue.types', %s, true)"


@pytest.fixture(scope="module")
def grouped(server_url: str) -> Iterator[Conn]:
    """Much that is over, 200,000 parked jobs of a few full groups and of many, and a line of jobs in a thousand groups."""
    with plans.new_queue(server_url, "grouped") as conn:
        conn.execute(
            "INSERT INTO job_queue (job_type, payload, status, attempts, group_id) SELECT 'ours-0', '1', 'completed', 1,"
            " 'g-' || n %% 1000 FROM generate_series(1, 300000) n".replace("%%", "%")
        )
        conn.execute(
            "INSERT INTO job_queue (job_type, payload, group_id, due, parked) SELECT (%s::text[])[1 + n %% 5], '1',"
            " CASE WHEN n <= 100000 THEN 'full-' || n %% 3 ELSE 'full-' || n %% 5000 END, FALSE, TRUE"
            " FROM generate_series(1, 200000) n",
            (OURS,),
        )
        conn.execute(
            "INSERT INTO job_queue (job_type, payload, group_id, due) SELECT (%s::text[])[1 + n %% 5], '1',"
            " CASE WHEN n %% 4 > 0 THEN 'g-' || n %% 1000 END, TRUE FROM generate_series(1, 20000) n",
            (OURS,),
        )
        conn.execute(
            "INSERT INTO job_queue (job_type, payload, group_id, status, attempts, lease_id, locked_by)"
            " SELECT 'ours-1', '1', 'full-' || n %% 5000, 'processing', 1, n, 'worker-1' FROM generate_series(1, 5000) n".replace(
                "%%", "%"
            )
        )
        conn.execute(
            "INSERT INTO dataqueue_workers (id, host, pid, job_types, concurrency, version, lease_expires_at,"
            " group_concurrency) VALUES ('worker-1', 'h', 1, %s, 10, '1', now() + interval '1 day', 1)",
            (OURS,),
        )
        conn.execute("INSERT INTO dataqueue_limits (job_type, max_concurrency) VALUES (%s, 10000)", (OURS[0],))
        conn.execute("INSERT INTO dataqueue_limits (job_type, rate_count, rate_ms) VALUES (%s, 90, 60000)", (OURS[1],))
        conn.execute("VACUUM ANALYZE")
        yield conn


def limited(conn: Conn, limit: int) -> tuple[Case, Case]:
    literal = psycopg.ClientCursor(conn).mogrify
    held = literal(GROUPS_HELD, [json.dumps([f"g-{n}" for n in range(limit)]), json.dumps(OURS[:2])])
    parameters: dict[str, Any] = {"worker_id": "w", "job_types": OURS, "limit": limit}
    lock = Case(
        "lock limits", SQL.claim("lock_limits", limit), {"job_types": OURS}, {READY_INDEX}, 0, 0, _CLAIM_SETTINGS
    )
    return lock, Case("claim limited", SQL.claim("claim_limited", limit), parameters, set(), 0, 0, held)


@pytest.mark.parametrize("generic", [False, True], ids=["", "any parameters"])
@pytest.mark.parametrize("limit", [1, 100])
def test_claims_under_limits(grouped: Conn, limit: int, generic: bool) -> None:
    """P-GROUP: they read the line and the running jobs, and nothing of what is parked or over."""
    for case in limited(grouped, limit):
        report = explain(grouped, case.statement, case.parameters, generic=generic, before=case.before)
        print(f"\n{plans.version_of(grouped)} {case.name:26} {'generic' if generic else 'custom '} {report}")
        assert _of_jobs(report) <= {READY_INDEX, PKEY, GROUP_RUNNING, UNFINISHED}
        # The line of each type as far as it is looked into; for the type that is counted, its running jobs.
        assert report.rows <= 5 * (limit + 32) + 5 * limit + 5_300 and report.total <= 12_000


@pytest.mark.parametrize("generic", [False, True], ids=["", "any parameters"])
def test_what_frees_places(grouped: Conn, generic: bool) -> None:
    running = {
        "ids": [row[0] for row in grouped.execute("SELECT id FROM job_queue WHERE status = 'processing' LIMIT 100")]
    }
    literal = psycopg.ClientCursor(grouped).mogrify
    held = literal(GROUPS_HELD, [json.dumps(["full-1", "full-2", *(f"g-{n}" for n in range(98))]), "[]"])
    cases = [
        Case("lock groups", SQL("lock_groups"), running, {PKEY}, 100, 700),
        Case("unpark", SQL("unpark"), {"tell": False}, {PARKED, PKEY, GROUP_RUNNING}, 30, 2_000, held),
        Case("find parked", SQL("find_parked"), {"after": ""}, {PARKED}, 202, 2_000),
        Case("read limits", SQL("read_limits"), {}, {UNFINISHED}, 5_300, 1_000),
        Case("claim settings", SQL("claim_settings"), {"job_types": OURS}, set(), 1, 20),
    ]
    grouped.execute("UPDATE job_queue SET status = 'completed' WHERE status = 'processing' AND group_id = 'full-1'")
    for case in cases:
        report = explain(
            grouped, case.statement, case.parameters, generic=generic, before=case.before or _CLAIM_SETTINGS
        )
        print(f"\n{plans.version_of(grouped)} {case.name:26} {'generic' if generic else 'custom '} {report}")
        assert _of_jobs(report) <= case.indexes, case.name
        assert report.rows <= case.rows and report.total <= case.blocks, case.name


# -- dependencies, dead letters, unique jobs ----------------------------------------------------------

UNIQUE = "dataqueue_unique"


@pytest.fixture(scope="module")
def dependent(server_url: str) -> Iterator[Conn]:
    """Much that is over, some of it with unique keys that come again and again, and 100,000 jobs that wait for others."""
    with plans.new_queue(server_url, "dependent") as conn:
        conn.execute(
            "INSERT INTO job_queue (job_type, payload, status, attempts, unique_key) SELECT 'ours-0', '1', 'completed', 1,"
            " CASE WHEN n > 200000 THEN 't=' || n % 10 END FROM generate_series(1, 300000) n"
        )
        conn.execute(
            "INSERT INTO job_queue (job_type, payload, status, attempts, lease_id, locked_by, has_dependants)"
            " SELECT 'ours-1', '1', 'processing', 1, n, 'worker-1', TRUE FROM generate_series(1, 1000) n"
        )
        conn.execute(
            "INSERT INTO job_queue (job_type, payload, blocked, depends_on, tags) SELECT 'ours-1', '1', TRUE,"
            " ARRAY[300001 + n % 1000], ARRAY['tag-' || n % 5000] FROM generate_series(1, 100000) n"
        )
        conn.execute("ALTER TABLE dataqueue_dependencies DISABLE TRIGGER dataqueue_join")
        conn.execute(
            "INSERT INTO dataqueue_dependencies SELECT 300001 + n % 1000, 301000 + n FROM generate_series(1, 100000) n"
        )
        conn.execute("ALTER TABLE dataqueue_dependencies ENABLE TRIGGER dataqueue_join")
        conn.execute("VACUUM ANALYZE")
        yield conn


@pytest.mark.parametrize("generic", [False, True], ids=["", "any parameters"])
def test_dependencies_and_unique_jobs(dependent: Conn, generic: bool) -> None:
    keys = {"keys": [f"t={n}" for n in range(20)]}
    held = {"ids": list(range(300_001, 300_011)), "leases": list(range(1, 11))}
    waits = json.dumps([{"id": 301_000 + n, "on_ids": [300_001, 5]} for n in range(1, 11)])
    cases = [
        Case("lock unique", SQL("lock_unique"), keys, set(), 20, 20),
        Case("find unique", SQL("find_unique"), keys, {UNIQUE}, 200, 1_500),
        # Each of the ten frees a hundred others: their edges, their rows and indexes, and an event each.
        Case("complete, freeing", SQL("complete_jobs"), {**held, "outputs": ["1"] * 10}, {PKEY}, 10, 45_000),
        Case("depend", SQL("depend"), {"jobs": waits}, {PKEY}, 10, 1_000),
        Case("find unmet", SQL("find_unmet"), {"id": 301_001, "most": 20}, {PKEY}, 2, 40),
        Case("lock letter", SQL("lock_letter"), {"letter": 5, "source": 6}, {PKEY}, 2, 20),
        Case("end letter", SQL("end_letter"), {"letter": 5, "job": 6, "by": None}, {PKEY}, 3, 60),
    ]
    for case in cases:
        report = explain(dependent, case.statement, case.parameters, generic=generic, before=_CLAIM_SETTINGS)
        print(f"\n{plans.version_of(dependent)} {case.name:26} {'generic' if generic else 'custom '} {report}")
        assert _of_jobs(report) <= case.indexes, case.name
        assert report.rows <= case.rows and report.total <= case.blocks, case.name


# -- tables shared with the TypeScript library -------------------------------------------------------

ITS_CLAIM = """
UPDATE job_queue SET status = 'processing', locked_at = now(), locked_by = 'ts', attempts = attempts + 1
WHERE id IN (
    SELECT id FROM job_queue
    WHERE (status = 'pending' OR status = 'failed' AND next_attempt_at <= now()) AND attempts < max_attempts
      AND run_at <= now() AND job_type = ANY (%(types)s)
    ORDER BY priority DESC, created_at LIMIT 10 FOR UPDATE SKIP LOCKED)
RETURNING id"""


@pytest.fixture(scope="module")
def shared(server_url: str) -> Iterator[Conn]:
    with plans.new_queue(server_url, "shared", shared=True) as conn:
        conn.execute(
            "INSERT INTO job_queue (job_type, payload, status, attempts) SELECT 'ours-0', '1', 'completed', 1"
            " FROM generate_series(1, 300000)"
        )
        conn.execute(
            "INSERT INTO job_queue (job_type, payload) SELECT (%s::text[])[1 + n %% 5], '1' FROM generate_series(1, 1000) n",
            (OURS,),
        )
        conn.execute(
            "INSERT INTO job_events (job_id, event_type) SELECT n, kind FROM generate_series(1, 300000) n,"
            " unnest(ARRAY['added', 'processing']) kind"
        )
        conn.execute("VACUUM ANALYZE")
        yield conn


@pytest.mark.parametrize("generic", [False, True], ids=["", "any parameters"])
def test_shared_tables(shared: Conn, generic: bool) -> None:
    def run(case: Case) -> Report:
        report = explain(shared, case.statement, case.parameters, generic=generic, before=case.before)
        print(f"\n{plans.version_of(shared)} shared: {case.name:18} {'generic' if generic else 'custom '} {report}")
        return report

    ours = run(claim(100, OURS, 0, 0))
    assert used_by(ours) == {"q": READY_INDEX, "r": PKEY, "job_queue": PKEY}
    assert ours.total < 5_000
    events = run(Case("list events", SQL("list_events"), {"job_id": 1000}, set(), 0, 0))
    assert events.scans == {EVENTS} and events.total < 10
    # Ours give its claim an index, too: the one by status.
    theirs = run(Case("its claim", ITS_CLAIM, {"types": OURS}, set(), 0, 0))
    assert "Seq Scan on job_queue" not in theirs.scans and theirs.total < 1_000


def test_the_queue_is_what_it_is_said_to_be(big: Conn) -> None:
    """The figures that all of this rests on."""
    counts = dict(
        big.execute(
            "SELECT CASE WHEN status IN ('completed', 'cancelled') OR status = 'failed' AND next_attempt_at IS NULL"
            " THEN 'finished' WHEN status = 'processing' THEN 'running' WHEN ready_at > now() THEN 'future'"
            " WHEN NOT due THEN 'fallen due' WHEN job_type LIKE 'ours%' THEN 'ready' ELSE 'ready foreign' END, count(*)"
            " FROM job_queue GROUP BY 1"
        ).fetchall()
    )
    assert counts["finished"] == FINISHED and counts["ready"] == READY
    assert counts["ready foreign"] == plans.READY_FOREIGN and counts["future"] >= plans.FUTURE
    assert counts["running"] == RUNNING + plans.EXPIRED
    with pytest.raises(psycopg.errors.UniqueViolation):
        big.execute("INSERT INTO job_queue (job_type, payload, idempotency_key) VALUES ('t', '1', 'key-10')")
