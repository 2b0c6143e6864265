"""Cleaning up beside other transactions, and on tables that are shared with the TypeScript library."""

from __future__ import annotations

from datetime import timedelta

import psycopg
import pytest

from dataqueue import DependsOn, JobQueue, NewJob

NOW = timedelta(0)


async def test_what_somebody_has_in_hand_is_passed_over(queue: JobQueue, pg_url: str) -> None:
    handles = await queue.add_jobs(NewJob("t", n, {"idempotency_key": f"k{n}"}) for n in range(3))
    await queue.cancel_jobs(handles.ids)
    with psycopg.connect(pg_url) as conn:
        conn.execute("SELECT 1 FROM job_queue WHERE id = %s FOR UPDATE", (handles.ids[1],))
        assert await queue.release_idempotency_keys(NOW) == 2
        assert await queue.cleanup_old_jobs(NOW, status="cancelled") == 2, "without waiting for the third"
        assert [job.id for job in await queue.get_all_jobs()] == [handles.ids[1]]
        conn.rollback()
    assert await queue.cleanup_old_jobs(NOW, status="cancelled") == 1


async def test_a_pair_that_is_being_settled_is_not_waited_for(queue: JobQueue, pg_url: str) -> None:
    """Who ends the prerequisite has the pair first and wants the dependent's row then."""
    first = await queue.add_job("t", 1)
    second = await queue.add_job("t", 2, depends_on=[first])
    assert await second.cancel()
    with psycopg.connect(pg_url) as conn:
        conn.execute("SELECT 1 FROM dataqueue_dependencies FOR UPDATE")
        assert await queue.cleanup_old_jobs(NOW, status="cancelled") == 1
        conn.rollback()
    assert await first.cancel()
    assert await queue.cleanup_old_jobs(NOW, status="cancelled") == 1
    with psycopg.connect(pg_url) as conn:
        assert conn.execute("SELECT * FROM dataqueue_dependencies").fetchall() == []


async def test_a_deleted_dependent_leaves_no_pair(queue: JobQueue, pg_url: str) -> None:
    first = await queue.add_job("t", 1, tags=["a"])
    second = await queue.add_job("t", 2, depends_on=DependsOn([first], tags=["a"]))
    assert await second.cancel() and await queue.cleanup_old_jobs(NOW, status="cancelled") == 1
    with psycopg.connect(pg_url) as conn:
        assert conn.execute("SELECT * FROM dataqueue_dependencies").fetchall() == []
        assert conn.execute("SELECT DISTINCT job_id FROM job_events").fetchall() == [(first.id,)]


@pytest.mark.parametrize("foreign_key", [False, True])
async def test_on_shared_tables(pg_empty_url: str, foreign_key: bool) -> None:
    await JobQueue.from_url(pg_empty_url).migrate(shared_typescript=True)
    with psycopg.connect(pg_empty_url, autocommit=True) as conn:
        if foreign_key:  # as its own migrations make it
            conn.execute("ALTER TABLE job_events ADD FOREIGN KEY (job_id) REFERENCES job_queue (id) ON DELETE CASCADE")
        async with JobQueue.from_url(pg_empty_url) as queue:
            kept = await queue.add_job("t", 1, idempotency_key="kept")
            ours = await queue.add_job("t", 2, idempotency_key="ours")
            assert await ours.cancel()
            # It leaves next_attempt_at on completed jobs, and no time on those that it cancels in bulk.
            conn.execute(
                "INSERT INTO job_queue (job_type, payload, status, completed_at, next_attempt_at, idempotency_key) VALUES"
                " ('t', '1', 'completed', now(), now(), 'a'), ('t', '1', 'cancelled', NULL, now(), 'b'),"
                " ('t', '1', 'failed', NULL, now() + interval '1 h', 'c'), ('t', '1', 'failed', NULL, NULL, 'd')"
            )
            conn.execute("INSERT INTO job_events (job_id, event_type) SELECT id, 'added' FROM job_queue WHERE id > 2")
            assert await queue.release_idempotency_keys(NOW) == 4
            assert await queue.cleanup_old_jobs(NOW, status=["completed", "failed", "cancelled"]) == 4
            left = await queue.get_all_jobs()
            assert [job.idempotency_key for job in left] == ["c", "kept"] and left[1].id == kept.id
            assert await queue.cleanup_old_job_events(NOW) == 2
            assert conn.execute("SELECT count(*) FROM job_events").fetchone() == (0,)
