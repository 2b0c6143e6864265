"""The heartbeat's own connection, used from its own thread."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg.rows import tuple_row

from dataqueue.backends.base import Held, Pulse, WorkerInfo
from dataqueue.backends.postgres.connect import store_errors
from dataqueue.backends.postgres.records import worker_parameters
from dataqueue.backends.postgres.statements import Statements


class PostgresHeart:
    """One connection, opened at the first beat and anew after a failure."""

    def __init__(self, conninfo: str, kwargs: dict[str, Any], statements: Statements, shared: bool, where: str) -> None:
        self._conninfo = conninfo
        self._kwargs = kwargs
        self._statements = statements
        self._shared = shared
        self._where = where
        self._conn: psycopg.Connection[Any] | None = None

    def beat(self, worker: WorkerInfo, held: Sequence[Held]) -> Pulse:
        with store_errors(self._where):
            try:
                return self._beat(worker, held)
            except psycopg.Error:
                self.close()
                raise

    def _beat(self, worker: WorkerInfo, held: Sequence[Held]) -> Pulse:
        if self._conn is None or self._conn.closed:
            self._conn = psycopg.connect(self._conninfo, **self._kwargs, autocommit=True)
        cursor = self._conn.cursor(row_factory=tuple_row)
        cursor.execute(self._statements("beat"), worker_parameters(worker))
        if not held:
            return Pulse([], [])
        ids = [job_id for job_id, _ in held]
        if self._shared:
            cursor.execute(self._statements("touch_locked"), {"ids": ids, "worker_id": worker.id})
        rows = cursor.execute(self._statements("check_held"), {"ids": ids}).fetchall()
        leases = {job_id: lease_id for job_id, lease_id, _ in rows}
        asked = {job_id for job_id, _, cancel in rows if cancel}
        lost = [(job_id, lease_id) for job_id, lease_id in held if leases.get(job_id) != lease_id]
        cancelled = [item for item in held if item[0] in asked and item not in lost]
        return Pulse(lost, cancelled)

    def close(self) -> None:
        if self._conn is not None:
            self._conn.close()
            self._conn = None
