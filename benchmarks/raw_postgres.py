"""The reference on Postgres: the fewest statements that leave the same rows and events, by psycopg alone.

No validation, leases, heartbeats, wake-ups (but in the latency), retries or timeouts; one connection.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, LiteralString
from urllib.parse import urlsplit, urlunsplit

import psycopg

from benchmarks.processes import Child
from benchmarks.report import Limit
from dataqueue import JobQueue

CLAIM = 100
UNNEST = 5000
CHANNEL = "benchmark"

_ADD: LiteralString = """
WITH new AS (
    INSERT INTO job_queue (job_type, payload, due) VALUES ('noop', %(payload)s::jsonb, true) RETURNING id
), logged AS (
    INSERT INTO job_events (job_id, event_type, metadata) SELECT id, 'added', '{"jobType": "noop"}' FROM new
)
SELECT id FROM new"""

_ADD_AND_TELL: LiteralString = f"{_ADD}, pg_notify('{CHANNEL}', '')"

_ADD_MANY: LiteralString = """
WITH new AS (
    INSERT INTO job_queue (job_type, payload, due)
    SELECT 'noop', given::jsonb, true FROM unnest(%(payloads)s::text[]) AS given RETURNING id
), logged AS (
    INSERT INTO job_events (job_id, event_type, metadata) SELECT id, 'added', '{"jobType": "noop"}' FROM new
)
SELECT id FROM new"""

CLAIM_SOME: LiteralString = f"""
WITH claimed AS (
    UPDATE job_queue SET status = 'processing', attempts = attempts + 1, started_at = now(), locked_at = now(),
                         locked_by = 'raw', updated_at = now(), due = false
    WHERE id = ANY (ARRAY(
        SELECT id FROM job_queue
        WHERE job_type = 'noop' AND due AND ready_at IS NOT NULL AND ready_at <= now()
        ORDER BY priority DESC, ready_at, id LIMIT {CLAIM} FOR UPDATE SKIP LOCKED))
    RETURNING id, payload
), logged AS (
    INSERT INTO job_events (job_id, event_type, metadata)
    SELECT id, 'processing', '{{"worker": "raw"}}' FROM claimed
)
SELECT id, payload FROM claimed"""

_COMPLETE: LiteralString = """
WITH done AS (
    UPDATE job_queue SET status = 'completed', completed_at = now(), updated_at = now(), locked_at = NULL,
                         locked_by = NULL
    WHERE id = ANY (%(ids)s) RETURNING id
)
INSERT INTO job_events (job_id, event_type) SELECT id, 'completed' FROM done"""

_HISTORY: LiteralString = """
WITH new AS (
    INSERT INTO job_queue (job_type, payload, status, attempts, run_at, created_at, updated_at, started_at,
                           completed_at)
    SELECT CASE WHEN n %% 2 = 0 THEN 'noop' ELSE 'other' END, jsonb_build_object('n', n), 'completed', 1,
           moment, moment, moment, moment, moment
    FROM (SELECT n, now() - n * interval '1 second' AS moment FROM generate_series(1, %(jobs)s::int) n) given
    RETURNING id
)
INSERT INTO job_events (job_id, event_type)
SELECT id, kind FROM new CROSS JOIN unnest(ARRAY['added', 'processing', 'completed']) AS kind"""

_COUNT: LiteralString = """
SELECT (SELECT count(*) FROM job_queue WHERE id > %(after)s AND status = %(status)s),
       (SELECT count(*) FROM job_events WHERE job_id > %(after)s AND event_type = 'added'),
       (SELECT count(*) FROM job_events WHERE job_id > %(after)s AND event_type = 'processing'),
       (SELECT count(*) FROM job_events WHERE job_id > %(after)s AND event_type = 'completed'),
       (SELECT COALESCE(max(id), 0) FROM job_queue)"""

_SETTINGS = (
    "server_version",
    "fsync",
    "synchronous_commit",
    "wal_sync_method",
    "shared_buffers",
    "max_wal_size",
)
# What a claim on a table of any size needs (../shared/design/POSTGRES.md, traps).
_PLANNER: LiteralString = "SET jit = off; SET enable_seqscan = off; SET enable_bitmapscan = off"


class PostgresStore:
    """Databases of our own on one server, copies of a migrated one."""

    limits = {  # noqa: RUF012
        "drain": (Limit(at_least=0.33), Limit(at_least=0.65)),
        "sleep": (Limit(at_least=0.2), Limit(at_least=0.39)),
        "single": (Limit(at_least=0.6), Limit(at_least=0.85)),
        "bulk": (Limit(at_least=0.4), Limit(at_least=0.8)),
        "latency": (Limit(at_most=3), Limit(at_most=1.6)),
    }

    def __init__(self, url: str) -> None:
        self._url = url
        self._name = f"dataqueue_bench_{uuid.uuid4().hex[:8]}"
        self._count = 0
        self._checked: dict[str, int] = {}
        with self._admin() as admin:
            admin.execute(f"CREATE DATABASE {self._name}")
        asyncio.run(self._migrate())

    async def _migrate(self) -> None:
        queue = JobQueue.from_url(self._place(self._name))
        await queue.migrate()
        await queue.close()

    def close(self) -> None:
        with self._admin() as admin:
            admin.execute(f"DROP DATABASE IF EXISTS {self._name} WITH (FORCE)")

    def _admin(self) -> psycopg.Connection[Any]:
        return psycopg.connect(self._url, autocommit=True)

    def _place(self, database: str) -> str:
        return urlunsplit(urlsplit(self._url)._replace(path=f"/{database}"))

    def describe(self) -> dict[str, str]:
        with self._admin() as admin:
            found = {name: admin.execute("SELECT current_setting(%s)", (name,)).fetchall()[0][0] for name in _SETTINGS}
        return {**found, "psycopg": psycopg.__version__, "libpq": psycopg.pq.__impl__}

    @contextmanager
    def fresh(self) -> Iterator[str]:
        self._count += 1
        name = f"{self._name}_{self._count}"
        with self._admin() as admin:
            admin.execute(f"CREATE DATABASE {name} TEMPLATE {self._name}")
        try:
            yield self._place(name)
        finally:
            with self._admin() as admin:
                admin.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def settle(self, place: str) -> None:
        with psycopg.connect(place, autocommit=True) as conn:
            conn.execute("VACUUM (ANALYZE) job_queue")
            conn.execute("VACUUM (ANALYZE) job_events")
            conn.execute("CHECKPOINT")

    def add_history(self, place: str, jobs: int) -> None:
        with psycopg.connect(place, autocommit=True) as conn:
            conn.execute(_HISTORY, {"jobs": jobs})
        self.settle(place)
        self._checked[place] = self._counts(place, "completed")[-1]

    def check_added(self, place: str, jobs: int) -> None:
        found = self._counts(place, "pending")[:2]
        if found != (jobs, jobs):
            raise RuntimeError(f"{jobs} jobs were added, but jobs and events there are {found}")

    def check_drained(self, place: str, jobs: int) -> None:
        *found, newest = self._counts(place, "completed")
        if found != [jobs] * 4:
            raise RuntimeError(f"{jobs} jobs were done, but completed jobs and their three events are {found}")
        self._checked[place] = newest

    def _counts(self, place: str, status: str) -> tuple[int, ...]:
        with psycopg.connect(place, autocommit=True) as conn:
            after = self._checked.get(place, 0)
            return conn.execute(_COUNT, {"after": after, "status": status}).fetchall()[0]

    # -- the reference ------------------------------------------------------------------------------

    def raw_single(self, place: str, jobs: int) -> float:
        async def add() -> float:
            async with await psycopg.AsyncConnection.connect(place, autocommit=True) as conn:
                cursor = conn.cursor()
                start = time.perf_counter()
                for number in range(jobs):
                    await cursor.execute(_ADD, {"payload": json.dumps({"n": number})})
                    await cursor.fetchone()
                return jobs / (time.perf_counter() - start)

        return asyncio.run(add())

    def raw_bulk(self, place: str, jobs: int) -> float:
        with psycopg.connect(place) as conn:  # all or none, as ours
            start = time.perf_counter()
            ids: list[int] = []
            for first in range(0, jobs, UNNEST):
                payloads = [json.dumps({"n": number}) for number in range(first, min(first + UNNEST, jobs))]
                ids.extend(row[0] for row in conn.execute(_ADD_MANY, {"payloads": payloads}))
            conn.commit()
            return jobs / (time.perf_counter() - start)

    def raw_drain(self, place: str, jobs: int, settle: Callable[[], None]) -> float:
        self.raw_bulk(place, jobs)
        settle()
        with psycopg.connect(place, autocommit=True) as conn:
            conn.execute(_PLANNER)
            start = time.perf_counter()
            done = 0
            while rows := conn.execute(CLAIM_SOME).fetchall():
                ids = [job_id for job_id, _ in rows]
                conn.execute(_COMPLETE, {"ids": ids})
                done += len(ids)
            seconds = time.perf_counter() - start
        if done != jobs:
            raise RuntimeError(f"the raw drain did {done} of {jobs} jobs")
        return jobs / seconds

    def raw_latencies(self, place: str, jobs: int, gap: float) -> list[float]:
        with Child("raw_listener", "listen", url=place, jobs=jobs, planner=_PLANNER) as listener:
            listener.read()
            with psycopg.connect(place, autocommit=True) as conn:
                conn.execute(_ADD_AND_TELL, {"payload": json.dumps({"at": None})})
                time.sleep(gap)
                for _ in range(jobs):
                    conn.execute(_ADD_AND_TELL, {"payload": json.dumps({"at": time.time()})})
                    time.sleep(gap)
            return listener.read()
