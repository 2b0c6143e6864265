"""SyncJobQueue: the same queue without an event loop."""

from __future__ import annotations

import asyncio
import threading
from datetime import timedelta

import pytest

from dataqueue import InvalidJob, InvalidPayload, JobCancelled, ResultTimeout, SyncJobContext, SyncJobQueue, WrongLoop


def test_everything_blocks_and_works(store_url: str) -> None:
    with SyncJobQueue.from_url(store_url) as queue:

        @queue.job(tags=["t"])
        def doubled(payload: int) -> int:
            return payload * 2

        one = doubled.add(21, priority=3)
        many = doubled.add_many(range(3))
        assert doubled(4) == 8 and len(many) == 3 and many.ids == sorted(many.ids)
        with pytest.raises(ResultTimeout):
            one.result(timeout=0.05)
        worker = queue.queue.create_processor()
        loop = queue.queue.open_on()
        assert loop is not None
        asyncio.run_coroutine_threadsafe(worker.start(), loop).result(30)
        assert one.result(timeout=20) == 42 and [handle.result(timeout=20) for handle in many] == [0, 2, 4]
        assert [update.output for update in one.updates()] == [42]
        assert one.refresh().priority == 3 and one.wait().status == "completed"
        assert [event.event_type for event in queue.get_job_events(one.id)] == ["added", "processing", "completed"]
        assert len(queue.get_jobs_by_tags(["t"])) == 4 and len(queue.get_jobs_by_status("completed")) == 4
        assert queue.stats().by_status == {"completed": 4} and queue.list_workers() == []
        other = queue.add_job("doubled", 5, delay=timedelta(hours=1))
        assert other.cancel() and not queue.cancel_job(other.id)
        with pytest.raises(JobCancelled):
            other.result()
        assert queue.retry_job(other.id)
        later = queue.add_job("doubled", 6, delay=timedelta(hours=1), tags=["later"])
        assert later.edit(priority=4) and queue.edit_job(later.id, payload=7)
        with pytest.raises(InvalidPayload):
            queue.edit_job(later.id, payload="seven")
        assert queue.edit_all_pending_jobs({"payload": 8}, job_type="doubled", tags=["later"]) == 1
        assert (later.refresh().priority, later.refresh().payload) == (4, 8)
        assert queue.cancel_all_upcoming_jobs(tags=["later"]) == 1
        assert queue.retry_all_failed_jobs(tags=["later"], status="cancelled", dry_run=True) == 1
        assert queue.retry_jobs([later.id]) == {later.id: "changed"}
        assert queue.cancel_jobs([later.id, 4711]) == {later.id: "changed", 4711: "missing"}
        with pytest.raises(InvalidJob):
            queue.add_job("doubled", 5, priority="high")  # type: ignore[arg-type]
        assert not [finding for finding in queue.doctor() if finding.level == "error"]
    assert queue.require_job(one.id).output == 42, "it opens again by itself"
    queue.close()


async def test_a_handler_uses_its_own_queue_inside_a_worker(store_url: str) -> None:
    queue = SyncJobQueue.from_url(store_url)
    threads: list[str] = []

    @queue.job
    def leaf(payload: int) -> int:
        return payload + 1

    @queue.job
    def root(payload: int, ctx: SyncJobContext) -> int:
        threads.append(threading.current_thread().name)
        return leaf.add(payload).result(timeout=20)

    handle = await root.definition.add(1)
    processor = queue.queue.create_processor(concurrency=5)
    processor.start_in_background()
    assert await handle.result(timeout=25) == 2
    with pytest.raises(WrongLoop, match="await"):
        leaf.add(1)
    await processor.stop_and_drain()
    await queue.queue.close()
    assert threads and threads[0] != threading.main_thread().name
