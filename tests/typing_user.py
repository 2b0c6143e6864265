"""What a user writes, checked by pyright strict against the installed wheel (tools/check_wheel.py).

A ``pyright: ignore`` marks what must be an error: where it is none, the check fails as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TypedDict, assert_type

import psycopg
from pydantic import BaseModel

from dataqueue import Job, JobContext, JobQueue, NewJob, SyncJobContext, SyncJobQueue
from dataqueue.testing import (
    Drained,
    advance_clock,
    assert_enqueued,
    assert_not_enqueued,
    blocking,
    bound,
    drain,
    enqueued,
)


class SendEmail(BaseModel):
    to: str
    subject: str


@dataclass
class Resize:
    path: str
    width: int = 800


class Row(TypedDict):
    id: int


queue = JobQueue.from_url("postgresql://localhost/app")


@queue.job
async def send_email(payload: SendEmail, ctx: JobContext) -> str:
    await ctx.set_progress(50)
    return payload.to


@queue.job(max_attempts=5, timeout=timedelta(minutes=2), tags=["images"])
def resize(payload: Resize, ctx: SyncJobContext) -> int:
    ctx.set_progress(100)
    return payload.width


@queue.job("import_row", retry_delay=timedelta(seconds=10))
async def import_row(payload: Row) -> None: ...


async def use() -> None:
    email = await send_email.add(SendEmail(to="a@b.c", subject="Hi"), tags=["welcome"], delay=timedelta(hours=1))
    assert_type(await email.result(timeout=30), str)
    image = await resize.add(Resize("a.png"))
    assert_type(await image.result(), int)
    await import_row.add({"id": 1})
    many = await resize.add_many([Resize("a.png"), Resize("b.png")], priority=3)
    assert_type(await many[0].result(), int)
    await queue.add_jobs([NewJob("resize", {"path": "c.png"}), resize.new(Resize("d.png"), priority=1)])
    await queue.add_job("import_row", {"id": 2}, idempotency_key="row-2")
    page = await queue.get_jobs(status=["failed", "cancelled"], job_type="resize", tags=["images"], tag_mode="any")
    print(page[0].error_history, page.next_cursor)
    async with await psycopg.AsyncConnection.connect("") as conn, conn.transaction():
        await send_email.add(SendEmail(to="a@b.c", subject="Hi"), conn=conn)
        await queue.add_job("import_row", {"id": 3}, conn=conn)

    await send_email.add(Resize("a.png"))  # pyright: ignore[reportArgumentType]
    await send_email.add({"to": "a@b.c"})  # pyright: ignore[reportArgumentType]
    await import_row.add({"name": 1})  # pyright: ignore[reportArgumentType]
    await resize.add(Resize("a.png"), prioritty=3)  # pyright: ignore[reportCallIssue]
    await resize.add(Resize("a.png"), timeout=30)  # pyright: ignore[reportArgumentType]
    await queue.get_jobs(status="done")  # pyright: ignore[reportArgumentType]

    async with queue.create_processor(concurrency=32, poll_interval=timedelta(seconds=1)) as processor:
        await processor.run()
    left = (await processor.stop_and_drain(timedelta(seconds=30))).left
    assert_type(left, list[int])


@queue.job(isolation="process", memory_limit=2**30, max_attempts=1)
def crunch(payload: Resize, ctx: SyncJobContext) -> int:
    return len(payload.path)


sync_queue = SyncJobQueue.from_url()


@sync_queue.job
def report(payload: Resize) -> str:
    return payload.path


def use_sync() -> None:
    queue.job(isolation="thread")  # pyright: ignore[reportArgumentType]
    handle = report.add(Resize("a.png"), priority=1)
    assert_type(handle.result(timeout=10), str)
    with psycopg.connect("") as conn:
        report.add(Resize("a.png"), conn=conn)
    report.add(SendEmail(to="a", subject="b"))  # pyright: ignore[reportArgumentType]


async def use_testing() -> None:
    assert_type(await drain(queue, raise_on_error=True, concurrency=1), Drained)
    assert_type(await assert_enqueued(queue, send_email, payload=SendEmail(to="a", subject="b"), count=1), list[Job])
    assert_type(await enqueued(queue, "send_email", tags=["welcome"], status="pending"), list[Job])
    await assert_not_enqueued(queue, resize)
    await advance_clock(queue, timedelta(days=1), hours=2)
    drain(queue)  # pyright: ignore[reportUnusedCoroutine]
    assert_enqueued(queue, report)  # pyright: ignore[reportUnusedCoroutine]
    await drain(queue, concurency=1)  # pyright: ignore[reportCallIssue]


def use_testing_sync(dataqueue_url: str) -> None:
    with bound(sync_queue, dataqueue_url) as bound_queue:
        assert_type(bound_queue, SyncJobQueue)
    assert_type(drain(sync_queue), Drained)
    assert_type(drain(blocking(queue)).completed, list[Job])
    assert_type(assert_enqueued(sync_queue, report), list[Job])
    advance_clock(sync_queue, days=1)
