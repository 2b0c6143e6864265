"""A queue of millions, and what a statement reads of it."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import psycopg
from psycopg.rows import tuple_row

from dataqueue.backends.postgres import migrate as migrations
from dataqueue.backends.postgres.migrate import MigrateOptions, migrate

Conn = psycopg.Connection[tuple[Any, ...]]

SETTINGS = {"fsync": "off", "shared_buffers": "512MB", "max_wal_size": "8GB", "checkpoint_timeout": "1h"}
"""Of the servers: what makes building them fast, and nothing that the planner looks at."""

OURS = [f"ours-{n}" for n in range(5)]
FOREIGN = [f"foreign-{n}" for n in range(15)]
STRANGERS = [f"nobody-{n}" for n in range(30)]
"""Types of which there are no jobs."""

FINISHED = 1_000_000
FUTURE = 1_000_000
READY_FOREIGN = 1_000_000
READY = 100_000
FALLEN_DUE = 5_000
RUNNING, RUNNING_EACH = 5_000, 500
EXPIRED = 200


@contextmanager
def embedded() -> Iterator[str]:
    """A server from the wheel, for as long as it is needed."""
    from dataqueue.embedded import start_postgres

    path = Path(tempfile.mkdtemp(prefix="dataqueue-plans-"))
    server = start_postgres(path, settings=SETTINGS)
    try:
        yield server.url
    finally:
        server.stop(wait=True)
        shutil.rmtree(path, ignore_errors=True)


def build(conn: Conn) -> None:
    """The tables at their worst: each kind of job in great numbers, ours scattered among the others."""
    # Indexes after the rows is faster, and makes the same indexes.
    steps = [item for item in migrations.migrations() if item.name.endswith("indexes")]
    indexes = "\n".join(item.sql("public", shared=False) for item in steps)
    for name in re.findall(r"INDEX CONCURRENTLY IF NOT EXISTS (\w+)", indexes):
        conn.execute(f"DROP INDEX IF EXISTS {name}")  # type: ignore[call-overload]
    _insert_jobs(conn)
    conn.execute(
        "INSERT INTO job_events (job_id, event_type) SELECT id, kind FROM job_queue,"
        " unnest(ARRAY['added', 'processing']) kind WHERE id <= 500000"
    )
    conn.execute("SET maintenance_work_mem = '512MB'")
    for statement in re.split(r";$", re.sub(r"(?m)^--.*$", "", indexes), flags=re.MULTILINE):
        if statement.strip():
            conn.execute(statement.replace("CONCURRENTLY", "").encode())
    conn.execute("VACUUM ANALYZE")
    conn.execute("CHECKPOINT")


def _insert_jobs(conn: Conn) -> None:
    columns = (
        "INSERT INTO job_queue (job_type, payload, status, priority, run_at, due, attempts, next_attempt_at,"
        " created_at, completed_at, tags, idempotency_key, locked_by, lease_id)"
    )
    values = {"finished": FINISHED, "rest": READY * 21, "ours": OURS, "foreign": FOREIGN}
    # The oldest ids: what is finished. The failed ones among them first, long ago.
    conn.execute(
        f"""{columns}
        SELECT (%(ours)s::text[])[1 + n %% 5], jsonb_build_object('n', n),
               CASE WHEN n <= 30000 THEN 'failed' WHEN n <= 50000 THEN 'cancelled' ELSE 'completed' END,
               n %% 3, now() - interval '40 days' + n * interval '3 s', FALSE, 3, NULL,
               now() - interval '40 days' + n * interval '3 s', now(),
               CASE WHEN n %% 100 = 0 THEN ARRAY['tenant-' || n %% 100000 / 100, 'common'] WHEN n %% 10 = 0 THEN
               ARRAY['common'] END, CASE WHEN n %% 10 = 0 THEN 'key-' || n END, NULL, NULL
        FROM generate_series(1, %(finished)s) n""",
        values,
    )
    # Then, one beside the other: for later at a higher priority, ready of other types, ready of ours.
    conn.execute(
        f"""{columns}
        SELECT CASE WHEN n %% 21 BETWEEN 1 AND 10 THEN (%(foreign)s::text[])[1 + n / 21 %% 15]
                    ELSE (%(ours)s::text[])[1 + n / 21 %% 5] END,
               jsonb_build_object('n', n), 'pending',
               CASE WHEN n %% 21 = 0 THEN n / 105 %% 4 WHEN n %% 21 <= 10 THEN 5 + n %% 3 ELSE 10 + n %% 3 END,
               CASE WHEN n %% 21 <= 10 THEN now() - (%(rest)s - n) * interval '10 ms' - interval '1 s'
                    ELSE now() + interval '1 day' + (n %% 1000003) * interval '1 s' END,
               n %% 21 <= 10, 0, NULL, now(), NULL,
               CASE WHEN n %% 2100 = 0 THEN ARRAY['tenant-' || n / 2100] END, NULL, NULL, NULL
        FROM generate_series(1, %(rest)s) n""",
        values,
    )
    # Running at workers that live and at one that does not; failed with a retry; fallen due unnoticed.
    for job_type, status, run_at, next_attempt_at, worker, lease, count in (
        ("('ours-' || n %% 5)", "processing", "now()", "NULL", f"'worker-' || (n - 1) / {RUNNING_EACH}", "n", RUNNING),
        ("'ours-0'", "processing", "now()", "NULL", "'gone'", "-n", EXPIRED),
        ("('ours-' || n %% 5)", "failed", "now()", "now() + n * interval '1 s'", "NULL", "NULL::bigint", 20_000),
        ("('ours-' || n %% 5)", "pending", "now() - interval '1 s'", "NULL", "NULL", "NULL::bigint", FALLEN_DUE),
    ):
        conn.execute(
            f"""{columns}
            SELECT {job_type}, '1', '{status}', 0, {run_at}, FALSE, {int(status != "pending")},
                   ({next_attempt_at})::timestamptz, now(), NULL, NULL, NULL, {worker}, {lease}
            FROM generate_series(1, %(count)s) n""".encode(),
            {"count": count},
        )
    conn.execute(
        "INSERT INTO dataqueue_workers (id, host, pid, job_types, concurrency, version, lease_expires_at)"
        " SELECT 'worker-' || n, 'h', n, %(ours)s, 500, '1', now() + interval '1 day' FROM generate_series(0, %(last)s) n",
        {"ours": OURS, "last": RUNNING // RUNNING_EACH},
    )
    conn.execute(
        "INSERT INTO dataqueue_steps (job_id, name, seq, kind, result, done_at)"
        " SELECT n, 'step', 1, 'step', '1', now() FROM generate_series(1, 50000) n"
    )
    conn.execute(
        "INSERT INTO waitpoints (id, job_id, status) SELECT 'token-' || n, n, 'completed' FROM generate_series(1, 20000) n"
    )
    # Schedules: the first is due.
    conn.execute(
        "INSERT INTO cron_schedules (schedule_name, cron_expression, job_type, last_job_id, next_run_at)"
        " SELECT 's' || n, '@daily', 'ours-0', n, CASE WHEN n = 1 THEN '2026-01-01Z' ELSE now() + n * interval '1 h' END"
        " FROM generate_series(1, 2000) n"
    )


@contextmanager
def new_queue(server_url: str, name: str, *, shared: bool = False) -> Iterator[Conn]:
    """A connection to a migrated database of this name, made anew."""
    base, _, query = server_url.partition("?")
    url = f"{base.rpartition('/')[0]}/{name}?{query}"
    with psycopg.connect(server_url, autocommit=True) as conn:
        conn.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)".encode())
        conn.execute(f"CREATE DATABASE {name} TEMPLATE template0".encode())
    migrate(url, {}, None, MigrateOptions(shared=shared))
    with psycopg.connect(url, autocommit=True, row_factory=tuple_row) as conn:
        yield conn


def url_of(conn: Conn) -> str:
    return f"postgresql://{conn.info.user}@/{conn.info.dbname}?host={conn.info.host}"


def version_of(conn: Conn) -> int:
    return conn.info.server_version // 10000


# -- what a statement reads -------------------------------------------------------------------------


@dataclass(frozen=True)
class Report:
    """How a statement was run."""

    plan: dict[str, Any]
    milliseconds: float
    blocks: dict[str, int] = field(default_factory=dict[str, int])
    """Blocks read of each table and index, from memory or disk, by the statement and its planning."""

    @property
    def nodes(self) -> list[dict[str, Any]]:
        return list(_walk(self.plan))

    @property
    def scans(self) -> set[str]:
        """``index name`` for index scans of any kind, ``Seq Scan on table`` for the others."""
        found: set[str] = set()
        for node in self.nodes:
            if "Index Name" in node:
                found.add(node["Index Name"])
            elif node["Node Type"] in ("Seq Scan", "Parallel Seq Scan", "Tid Scan", "Sample Scan"):
                found.add(f"Seq Scan on {node['Relation Name']}")
        return found

    @property
    def rows(self) -> int:
        """Rows (and index entries) that all scans of job_queue came upon, used or not."""
        return sum(
            round((node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"])
            + node.get("Rows Removed by Index Recheck", 0) * node["Actual Loops"]
            for node in self.nodes
            if "Index Name" in node or (node.get("Relation Name") == "job_queue" and "Scan" in node["Node Type"])
        )

    @property
    def total(self) -> int:
        return sum(self.blocks.values())

    def __str__(self) -> str:
        most = sorted(self.blocks.items(), key=lambda item: -item[1])[:4]
        return (
            f"{self.milliseconds:8.2f} ms {self.total:7,} blocks {self.rows:7,} rows  "
            + " ".join(sorted(self.scans))
            + "  (" + ", ".join(f"{name} {count:,}" for name, count in most) + ")"
        )  # fmt: skip


def _walk(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for child in node.get("Plans", ()):
        yield from _walk(child)


def explain(
    conn: Conn,
    statement: str,
    parameters: Mapping[str, Any],
    *,
    generic: bool,
    before: str | None = None,
    runs: int = 3,
) -> Report:
    """Run a statement as a prepared one, as the driver does, and take it back. The fastest of the runs.

    ``generic``: with the plan for any parameters, which the server may change to after five executions.
    """
    prepared, order = _numbered(statement)
    literal = psycopg.ClientCursor(conn).mogrify
    arguments = ", ".join(literal("%s", [parameters[name]]) for name in order)
    execute = f"EXECUTE planned ({arguments})" if order else "EXECUTE planned"
    reports: list[Report] = []
    conn.execute(f"PREPARE planned AS {prepared}".encode())
    try:
        for _ in range(runs):
            with conn.transaction(force_rollback=True):
                conn.execute(f"SET LOCAL plan_cache_mode = force_{'generic' if generic else 'custom'}_plan".encode())
                if before:
                    conn.execute(before.encode())
                counted = _blocks(conn)
                conn.execute("SET LOCAL client_min_messages = warning")
                found = conn.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {execute}".encode()).fetchall()
                (document,) = cast("list[dict[str, Any]]", _json(found[0][0]))
                read = {name: count - counted.get(name, 0) for name, count in _blocks(conn).items()}
                spent = document["Execution Time"] + document.get("Planning Time", 0)
                reports.append(Report(document["Plan"], spent, {name: n for name, n in read.items() if n}))
    finally:
        conn.execute("DEALLOCATE planned")
    return min(reports, key=lambda report: report.milliseconds)


def _json(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) else value


def _blocks(conn: Conn) -> dict[str, int]:
    rows = conn.execute(
        "SELECT relname, pg_stat_get_xact_blocks_fetched(oid) FROM pg_class"
        " WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'i')"
    ).fetchall()
    return {name: count for name, count in rows if count}


def _numbered(statement: str) -> tuple[str, list[str]]:
    """``%(name)s`` to ``$1``; ``%%`` to ``%``."""
    order: list[str] = []

    def number(match: re.Match[str]) -> str:
        if match[0] == "%%":
            return "%"
        if match[1] not in order:
            order.append(match[1])
        return f"${order.index(match[1]) + 1}"

    without_comments = re.sub(r"(?m)^\s*--.*$", "", statement)
    return re.sub(r"%\((\w+)\)s|%%", number, without_comments), order
