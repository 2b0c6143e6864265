"""What is wrong with a Postgres store, and how to mend it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, LiteralString

from dataqueue.backends.base import Finding

if TYPE_CHECKING:
    from dataqueue.backends.postgres.backend import PostgresBackend

_OLDEST_SERVER = 140000
_INDEXES = (
    "dataqueue_ready",
    "dataqueue_upcoming",
    "dataqueue_parked",
    "dataqueue_unique",
    "dataqueue_group_running",
    "dataqueue_unfinished",
    "dataqueue_tags",
    "idx_job_queue_idempotency_key",
)
_LONG_TRANSACTION_SECONDS = 300

_SERVER: LiteralString = "SELECT current_setting('server_version_num')::int, current_setting('server_version')"
_DURABLE: LiteralString = "SELECT current_setting('fsync'), current_setting('synchronous_commit')"
_BAD_INDEXES: LiteralString = """
SELECT w.name, i.indexrelid IS NOT NULL, COALESCE(i.indisvalid, FALSE)
FROM unnest(%(names)s::text[]) AS w (name)
LEFT JOIN (pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = %(schema)s
           JOIN pg_index i ON i.indexrelid = c.oid) ON c.relname = w.name"""
_OLD_SNAPSHOTS: LiteralString = """
SELECT pid, extract(epoch FROM now() - xact_start)::int, COALESCE(application_name, '')
FROM pg_stat_activity
WHERE datname = current_database() AND xact_start < now() - %(seconds)s * interval '1 second'
  AND backend_type = 'client backend' AND pid <> pg_backend_pid()
ORDER BY xact_start LIMIT 1"""
_DEAD_ROWS: LiteralString = """
SELECT n_live_tup, n_dead_tup FROM pg_stat_user_tables WHERE schemaname = %(schema)s AND relname = 'job_queue'"""
_SEQUENCES: LiteralString = """
SELECT sequencename, COALESCE(last_value, 0), max_value FROM pg_sequences
WHERE schemaname = %(schema)s AND sequencename IN ('job_queue_id_seq', 'job_events_id_seq')"""


async def examine(backend: PostgresBackend) -> list[Finding]:
    """All checks; a check that cannot run says so instead of hiding the others."""
    read = backend.read
    schema = backend.statements.schema
    findings: list[Finding] = []

    number, version = (await read(_SERVER, {}))[0]
    if number < _OLDEST_SERVER:
        findings.append(Finding("server", "error", f"PostgreSQL {version} is not supported.", "Use 14 or newer."))
    else:
        findings.append(Finding("server", "ok", f"PostgreSQL {version} at {backend.location()}"))
    findings.append(
        Finding("schema", "ok", "tables shared with the TypeScript library" if backend.shared else "own tables")
    )
    findings.append(_durability(*(await read(_DURABLE, {}))[0]))
    findings.append(_indexes(await read(_BAD_INDEXES, {"names": list(_INDEXES), "schema": schema})))
    findings.extend(_old_snapshot(await read(_OLD_SNAPSHOTS, {"seconds": _LONG_TRANSACTION_SECONDS})))
    findings.extend(_dead_rows(await read(_DEAD_ROWS, {"schema": schema})))
    findings.extend(_sequences(await read(_SEQUENCES, {"schema": schema})))
    return findings


async def examine_deep(backend: PostgresBackend) -> list[Finding]:
    """Contradictions within the rows."""
    read = backend.read
    rows = await read(backend.statements("count_contradictions"), {})
    if not rows:
        return [Finding("consistency", "ok", "no job contradicts itself")]
    return [
        Finding(
            "consistency",
            "error",
            f"{count:,} jobs: {kind} (for example job {example}).",
            "Another program writes to these tables. `dataqueue jobs show`, then retry or cancel the job.",
        )
        for kind, count, example in rows
    ]


def _durability(fsync: str, commit: str) -> Finding:
    if fsync == "off":
        return Finding("durability", "warning", "fsync is off: a power cut can lose the database.", "Turn fsync on.")
    if commit == "off":
        return Finding(
            "durability",
            "warning",
            "synchronous_commit is off: a server crash can lose the last moments' jobs.",
            "Turn synchronous_commit on, unless you have chosen this.",
        )
    return Finding("durability", "ok", f"fsync {fsync}, synchronous_commit {commit}")


def _indexes(rows: list[tuple[Any, ...]]) -> Finding:
    bad = [name for name, exists, valid in rows if not (exists and valid)]
    if bad:
        return Finding(
            "indexes",
            "error",
            f"Missing or invalid: {', '.join(sorted(bad))}. Claims or lists will be slow.",
            "The statements stand in the manual: dataqueue docs show how-to/postgres.",
        )
    return Finding("indexes", "ok", f"all {len(rows)} there and valid")


def _old_snapshot(rows: list[tuple[Any, ...]]) -> list[Finding]:
    return [
        Finding(
            "transactions",
            "warning",
            f"A transaction has been open for {seconds} s (pid {pid}, {name or 'unnamed'}): vacuum cannot clean up "
            "behind it, and claims slow down.",
            "Find out what it does; end it with pg_terminate_backend(pid) if it was forgotten.",
        )
        for pid, seconds, name in rows
    ]


def _dead_rows(rows: list[tuple[Any, ...]]) -> list[Finding]:
    return [
        Finding(
            "vacuum",
            "warning",
            f"job_queue has {dead:,} dead rows beside {live:,} live ones.",
            "Check that autovacuum runs and is not held up by a long transaction or replication slot.",
        )
        for live, dead in rows
        if dead > 100_000 and dead > live
    ]


def _sequences(rows: list[tuple[Any, ...]]) -> list[Finding]:
    return [
        Finding(
            "ids",
            "warning",
            f"{name} has used {100 * used / most:.0f} % of its numbers.",
            "On shared tables ids are 32-bit: move to tables of dataqueue's own before they run out.",
        )
        for name, used, most in rows
        if used > 0.7 * most
    ]
