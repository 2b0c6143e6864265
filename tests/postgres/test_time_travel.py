"""advance_clock on tables that are shared with the TypeScript library, whose triggers watch every change."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import psycopg
import pytest

from dataqueue import JobQueue
from dataqueue.testing import advance_clock, drain

DAY = timedelta(days=1)


@pytest.mark.parametrize("shared", [True, False])
async def test_finished_and_future_jobs_move_with_all_their_times(pg_empty_url: str, shared: bool) -> None:
    schema = 'odd "name"'
    with psycopg.connect(pg_empty_url, autocommit=True) as conn:
        conn.execute('CREATE SCHEMA "odd ""name"""')
        queue = JobQueue.from_url(pg_empty_url, schema=schema)
        await queue.migrate(shared_typescript=shared)
        async with queue:

            @queue.job
            async def work(payload: int) -> None: ...

            @queue.job
            async def fail(payload: int) -> None:
                raise ValueError(payload)

            done, failed = await work.add(1), await fail.add(2, retry_delay=DAY, retry_backoff=False)
            await drain(queue)
            future = await work.add(3, delay=DAY)
            before = times(conn)
            await advance_clock(queue, DAY)
            after = times(conn)
            assert {key: time - after[key] for key, time in before.items()} == dict.fromkeys(after, DAY)
            assert {job.id for job in (await drain(queue)).jobs} == {failed.id, future.id}
            assert (await done.refresh()).status == "completed"
            triggers = conn.execute(
                "SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal AND tgenabled <> 'O'"
            ).fetchone()
            assert triggers == (0,)


def times(conn: psycopg.Connection[Any]) -> dict[str, datetime]:
    found: dict[str, datetime] = {}
    for table in ("job_queue", "job_events"):
        cursor = conn.execute(f'SELECT * FROM "odd ""name""".{table} ORDER BY id')
        assert cursor.description is not None
        names = [column.name for column in cursor.description]
        for row in cursor.fetchall():
            found |= {
                f"{table} {row[0]} {name}": value
                for name, value in zip(names, row, strict=True)
                if isinstance(value, datetime)
            }
    assert len(found) > 15
    return found
