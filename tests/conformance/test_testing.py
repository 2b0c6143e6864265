"""dataqueue.testing: what is due is run, what was added is found, and time passes."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import BaseModel
from support import Working, until

from dataqueue import ConfigError, InvalidPayload, Job, JobContext, JobQueue, Rate, SyncJobQueue
from dataqueue.testing import advance_clock, assert_enqueued, assert_not_enqueued, blocking, drain, enqueued

SOON = timedelta(seconds=5)


class Mail(BaseModel):
    to: str
    subject: str = "Hello"


async def fail(payload: Any) -> None:
    raise ValueError(f"not {payload}")


async def times_of(queue: JobQueue, job_id: int) -> dict[str, datetime]:
    """Every moment that the queue tells of a job."""
    job = await queue.require_job(job_id)
    times = {name: getattr(job, name) for name in Job.__slots__ if isinstance(getattr(job, name), datetime)}
    times |= {f"error {n}": error.timestamp for n, error in enumerate(job.error_history)}
    for event in await queue.get_job_events(job_id):
        times[f"{event.event_type} {event.id}"] = event.created_at
        for name in ("nextAttemptAt", "until"):
            if event.metadata and name in event.metadata:
                times[f"{name} {event.id}"] = datetime.fromisoformat(event.metadata[name])
    return times


async def assert_in_order(queue: JobQueue) -> None:
    assert [finding for finding in await queue.doctor(deep=True) if finding.check in ("indexes", "consistency")]
    assert [finding for finding in await queue.doctor(deep=True) if finding.level == "error"] == []


# -- drain ------------------------------------------------------------------------------------------------


async def test_a_drain_runs_what_is_due_and_what_that_adds(queue: JobQueue) -> None:
    seen: list[int] = []

    @queue.job
    async def count_down(payload: int) -> None:
        seen.append(payload)
        if payload:
            await count_down.add(payload - 1)

    await count_down.add(3)
    later = await count_down.add(9, delay=timedelta(hours=1))
    drained = await drain(queue)
    assert seen == [3, 2, 1, 0]
    assert [job.payload for job in drained.completed] == [3, 2, 1, 0]
    assert (drained.failed, drained.cancelled, drained.errors) == ([], [], ())
    assert (await later.refresh()).status == "pending"
    assert (await drain(queue)).jobs == ()


async def test_failures_do_not_stop_a_drain_and_are_told(queue: JobQueue) -> None:
    tries: list[int] = []

    async def second_try(payload: int) -> int:
        tries.append(payload)
        if len(tries) == 1:
            raise KeyError("the first")
        return payload

    lost = await queue.add_job("fail", 1)
    kept = await queue.add_job("second_try", 2, retry_delay=timedelta(0))
    drained = await drain(queue, {"fail": fail, "second_try": second_try})
    assert [job.id for job in drained.failed] == [lost.id]
    assert [job.id for job in drained.completed] == [kept.id]
    assert [type(error) for error in drained.errors] == [ValueError, KeyError]
    assert not (await lost.refresh()).is_finished


async def test_a_drain_raises_the_handlers_own_error_if_asked(queue: JobQueue) -> None:
    await queue.add_job("fail", "so")
    other = await queue.add_job("work")

    async def work(payload: None) -> None: ...

    with pytest.raises(ValueError, match="not so") as caught:
        await drain(queue, {"fail": fail, "work": work}, raise_on_error=True)
    assert caught.traceback[-1].name == "fail"
    assert (await other.refresh()).status == "completed"


async def test_jobs_that_add_each_other_for_ever_are_noticed(queue: JobQueue) -> None:
    @queue.job
    async def again(payload: None) -> None:
        await again.add(None)

    await again.add(None)
    with pytest.raises(AssertionError, match="has run 25 attempts, and more is due, of again"):
        await drain(queue, limit=25)
    assert len(await queue.get_jobs(status="completed")) == 25


async def test_a_drain_may_end_with_its_limit(queue: JobQueue) -> None:
    @queue.job
    async def once(payload: int) -> None: ...

    await once.add_many(range(7))
    assert len((await drain(queue, limit=7)).completed) == 7


async def test_a_drain_takes_the_options_of_a_worker(queue: JobQueue) -> None:
    running: list[int] = []

    @queue.job
    async def alone(payload: int) -> None:
        running.append(payload)
        await asyncio.sleep(0)
        assert running.pop() == payload

    await alone.add_many(range(5))
    assert len((await drain(queue, concurrency=1, raise_on_error=True)).completed) == 5


# -- what was added ---------------------------------------------------------------------------------------


async def test_jobs_are_found_by_type_payload_and_conditions(queue: JobQueue) -> None:
    @queue.job
    async def send(payload: Mail) -> None: ...

    @queue.job
    async def other(payload: dict[str, int]) -> None: ...

    first = await send.add(Mail(to="ada"), tags=["a"])
    second = await send.add(Mail(to="grace", subject="Bye"), group="g")
    await other.add({"n": 1})
    assert [job.id for job in await enqueued(queue, send)] == [first.id, second.id]
    assert [job.id for job in await enqueued(queue, "send", payload=Mail(to="ada"))] == [first.id]
    assert [job.id for job in await enqueued(queue, "send", payload={"to": "grace", "subject": "Bye"})] == [second.id]
    assert [job.id for job in await enqueued(queue, send, payload=lambda mail: mail.to == "ada")] == [first.id]
    assert [job.id for job in await enqueued(queue, send, tags=["a"])] == [first.id]
    assert len(await assert_enqueued(queue, send, count=2)) == 2
    assert len(await assert_enqueued(queue, count=3)) == 3
    await assert_enqueued(queue, group="g", status="pending")
    await assert_not_enqueued(queue, send, payload=Mail(to="nobody"))
    await assert_not_enqueued(queue, other, tags=["a"])
    with pytest.raises(InvalidPayload):
        await enqueued(queue, send, payload={"too": "ada"})


async def test_jobs_that_have_run_were_added_too(queue: JobQueue) -> None:
    await queue.add_job("work", None)

    async def work(payload: None) -> None: ...

    await drain(queue, {"work": work})
    await assert_enqueued(queue, "work", payload=None, count=1)
    await assert_not_enqueued(queue, "work", status="pending")


async def test_more_jobs_than_a_page_are_counted(queue: JobQueue) -> None:
    await queue.add_jobs({"job_type": "many", "payload": n} for n in range(1500))
    await assert_enqueued(queue, "many", count=1500)
    assert [job.payload for job in await enqueued(queue, "many", payload=lambda n: n in (0, 1499))] == [0, 1499]


async def test_a_failed_assertion_says_what_is_there(queue: JobQueue) -> None:
    with pytest.raises(AssertionError, match=r"No job of type .send. was added\. The queue is empty\."):
        await assert_enqueued(queue, "send")
    await queue.add_job("send", {"to": {"name": "ada", "age": 3}}, tags=["x"])
    with pytest.raises(AssertionError, match=r"other types: send \(1\)\."):
        await assert_enqueued(queue, "sned")
    with pytest.raises(AssertionError) as caught:
        await assert_enqueued(queue, "send", payload={"to": {"name": "eve"}, "by": 1})
    text = str(caught.value)
    assert "No job of type 'send' with the payload {'to': {'name': 'eve'}, 'by': 1} was added." in text
    assert "tags=['x']" in text
    assert 'payload.to.name is "ada", "eve" was expected' in text
    assert "payload.to.age is 3, nothing was expected" in text
    assert "payload.by is missing, 1 was expected" in text
    with pytest.raises(AssertionError, match="1 job of type 'send' was added, not 2"):
        await assert_enqueued(queue, "send", count=2)
    with pytest.raises(
        AssertionError, match=r"(?s)No job of type 'send' should have been added. There is:\n  job 1 send pending"
    ):
        await assert_not_enqueued(queue, "send")


# -- the clock --------------------------------------------------------------------------------------------


async def test_a_delayed_job_falls_due(queue: JobQueue) -> None:
    @queue.job
    async def remind(payload: None) -> None: ...

    job = await remind.add(None, delay=timedelta(days=3))
    await advance_clock(queue, days=2, hours=23)
    assert (await drain(queue)).jobs == ()
    stored = await job.refresh()
    assert timedelta(minutes=59) < stored.run_at - datetime.now(UTC) <= timedelta(hours=1)
    await advance_clock(queue, timedelta(hours=1))
    assert [done.id for done in (await drain(queue)).completed] == [job.id]
    await assert_in_order(queue)


async def test_tokens_time_out_with_the_clock(queue: JobQueue) -> None:
    @queue.job
    async def ask(payload: None, ctx: JobContext) -> bool:
        return (await ctx.wait_for_token(await ctx.create_token("approval", timeout=timedelta(days=2)))).ok

    job = await ask.add(None)
    await drain(queue)
    await advance_clock(queue, days=1)
    await drain(queue)
    assert (await job.refresh()).status == "waiting"
    await advance_clock(queue, days=1)
    await drain(queue)
    assert await job.result(10) is False


async def test_retries_fall_due_one_after_the_other(queue: JobQueue) -> None:
    job = await queue.add_job("fail", 1, max_attempts=3, retry_delay=timedelta(days=1), retry_backoff=False)
    for attempts in (1, 2, 3):
        assert len((await drain(queue, {"fail": fail})).failed) == 1
        assert (await drain(queue, {"fail": fail})).jobs == ()
        assert (await job.refresh()).attempts == attempts
        await advance_clock(queue, days=1)
    assert (await job.refresh()).is_finished
    assert (await drain(queue, {"fail": fail})).jobs == ()
    await assert_in_order(queue)


async def test_time_passes_until_a_moment_of_a_job(queue: JobQueue) -> None:
    job = await queue.add_job("fail", 1, max_attempts=2)  # the delay of its retry is random
    await drain(queue, {"fail": fail})
    await advance_clock(queue, until=(await job.refresh()).next_attempt_at)
    assert len((await drain(queue, {"fail": fail})).failed) == 1
    assert (await job.refresh()).is_finished
    with pytest.raises(ConfigError, match="needs a time from 1 ms"):
        await advance_clock(queue, until=(await job.refresh()).created_at)
    with pytest.raises(ConfigError, match="an aware datetime, or a length of time"):
        await advance_clock(queue, until=datetime.now(UTC) + SOON, days=1)


async def test_every_time_of_a_job_moves_by_as_much(queue: JobQueue) -> None:
    failed = await queue.add_job("fail", 1, tags=["t"], retry_delay=timedelta(hours=5))
    done = await queue.add_job("work", 2, group="g")
    later = await queue.add_job("work", 3, priority=7, delay=timedelta(days=30))
    gone = await queue.add_job("work", 4, delay=timedelta(days=30))
    await queue.cancel_job(gone.id)
    again = await queue.add_job("work", 5, delay=timedelta(days=30))
    await queue.cancel_job(again.id)
    await queue.retry_job(again.id)
    dead = await queue.add_job("fail", 6, max_attempts=1, dead_letter="graves", tags=['"dla":7'])
    blocked = await queue.add_job("work", 7, depends_on=[later.id], delay=timedelta(days=40))

    async def work(payload: int, ctx: Any) -> None:
        await ctx.prolong(SOON)

    await drain(queue, {"fail": fail, "work": work})
    ids = [failed.id, done.id, later.id, gone.id, again.id, dead.id, blocked.id]
    before = {job_id: await times_of(queue, job_id) for job_id in ids}
    await advance_clock(queue, days=1, seconds=1.5)
    moved = timedelta(days=1, seconds=1.5)
    for job_id in ids:
        after = await times_of(queue, job_id)
        assert {name: time - after[name] for name, time in before[job_id].items()} == dict.fromkeys(after, moved)
    names = set().union(*(times for times in before.values()))
    assert (await dead.refresh()).tags == ('"dla":7',)
    assert {name.split()[0] for name in names} >= {
        "created_at", "updated_at", "run_at", "started_at", "completed_at", "last_failed_at", "next_attempt_at",
        "last_cancelled_at", "last_retried_at", "dead_lettered_at", "error", "nextAttemptAt", "prolonged",
    }  # fmt: skip
    await assert_in_order(queue)


async def test_a_rate_opens_again(queue: JobQueue) -> None:
    @queue.job(rate=Rate(2, per=timedelta(hours=1)))
    async def call(payload: int) -> None: ...

    await call.add_many(range(5))
    assert len((await drain(queue)).completed) == 2
    assert (await drain(queue)).jobs == ()
    await advance_clock(queue, minutes=61)
    assert len((await drain(queue)).completed) == 2


async def test_a_pause_began_earlier(queue: JobQueue) -> None:
    await queue.pause("work", by="ana")
    [before] = await queue.list_limits()
    await advance_clock(queue, hours=2)
    [after] = await queue.list_limits()
    assert before.paused_at is not None and after.paused_at is not None
    assert before.paused_at - after.paused_at == timedelta(hours=2)
    assert after.paused_by == "ana"


async def test_parked_jobs_keep_their_places(queue: JobQueue, working: Working) -> None:
    release = asyncio.Event()

    async def wait(payload: int) -> int:
        if payload == 0:
            await release.wait()
        return payload

    for n in range(4):
        await queue.add_job("wait", n, group="g")
    await working(queue, {"wait": wait}, group_concurrency=1, poll_interval=timedelta(milliseconds=20))
    await until(lambda: parked(queue), "the others are parked")
    await advance_clock(queue, days=1)
    await assert_in_order(queue)
    release.set()
    await until(lambda: all_completed(queue, 4), "all have run")


async def parked(queue: JobQueue) -> bool:
    backend = await queue.open()
    situations = [await backend.situation(job.id) for job in await queue.get_jobs(status="pending")]
    return len(situations) == 3 and all(item is not None and item.parked for item in situations[:-1])


async def all_completed(queue: JobQueue, count: int) -> bool:
    return len(await queue.get_jobs(status="completed")) == count


async def test_a_worker_of_this_process_finds_what_has_fallen_due(queue: JobQueue, working: Working) -> None:
    async def work(payload: int) -> int:
        return payload

    await working(queue, {"work": work}, poll_interval=timedelta(hours=1))
    job = await queue.add_job("work", 1, delay=timedelta(days=1))
    await until(queue.list_workers, "the worker is there")
    await advance_clock(queue, days=1)
    assert await job.result(timeout=30) == 1
    [worker] = await queue.list_workers()
    assert worker.alive


@pytest.mark.parametrize("by", [timedelta(0), timedelta(days=-1), timedelta(days=9999)])
async def test_time_does_not_go_back(queue: JobQueue, by: timedelta) -> None:
    with pytest.raises(ConfigError, match="needs a time from 1 ms"):
        await advance_clock(queue, by)


async def test_a_queue_with_workers_of_other_processes_is_left_alone(
    queue: JobQueue, store_url: str, tmp_path: Any
) -> None:
    job = await queue.add_job("work", 1, delay=timedelta(days=1))
    code = (
        "import asyncio, sys; from dataqueue import JobQueue\n"
        "async def work(payload): ...\n"
        "async def main():\n"
        "    processor = JobQueue.from_url(sys.argv[1]).create_processor({'work': work})\n"
        "    await processor.run()\n"
        "asyncio.run(main())\n"
    )
    worker = subprocess.Popen([sys.executable, "-c", code, store_url], cwd=tmp_path)
    try:
        await until(queue.list_workers, "the worker is there")
        with pytest.raises(ConfigError, match=f"pid {worker.pid} on .* Nothing was changed"):
            await advance_clock(queue, days=2)
        with pytest.raises(ConfigError, match="drain is for queues of a test's own"):
            await drain(queue, {"work": fail})
    finally:
        worker.kill()
        worker.wait()
    assert (await job.refresh()).status == "pending"


# -- blocking ---------------------------------------------------------------------------------------------


def test_they_block_for_a_blocking_queue(store_url: str) -> None:
    with SyncJobQueue.from_url(store_url) as queue:

        @queue.job(max_attempts=1)
        def thumbnail(payload: str) -> int:
            return len(payload)

        job = thumbnail.add("cat.png", delay=timedelta(days=1))
        assert_enqueued(queue, thumbnail, payload="cat.png", count=1)
        assert_not_enqueued(queue, thumbnail, payload="dog.png")
        assert drain(queue).jobs == ()
        advance_clock(queue, days=1)
        assert [done.output for done in drain(queue).completed] == [7]
        assert job.result(timeout=30) == 7
        assert [found.id for found in enqueued(queue, thumbnail)] == [job.id]


def test_an_async_queue_has_a_blocking_side(store_url: str) -> None:
    queue = JobQueue.from_url(store_url)

    @queue.job
    async def double(payload: int) -> int:
        return 2 * payload

    with blocking(queue) as sync:
        job = sync.add_job("double", 4)
        assert blocking(queue) is sync
        assert [done.output for done in drain(sync).completed] == [8]
        assert job.result(timeout=30) == 8


def test_only_a_queue_will_do() -> None:
    with pytest.raises(ConfigError, match="must be a JobQueue or a SyncJobQueue, not str"):
        drain("redis://localhost")  # type: ignore[call-overload]
