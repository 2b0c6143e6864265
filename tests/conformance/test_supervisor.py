"""What is deleted when, and what is not; who does it of many."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from support import until

from dataqueue import DependsOn, Hook, InvalidJob, JobQueue, NewJob, SyncJobQueue, Unique
from dataqueue.backends.base import Completed, Failed, Outcome, WorkerInfo
from dataqueue.backends.redis.layout import KEYS, SORTED_SETS, pack_id
from dataqueue.testing import advance_clock

NOW = timedelta(0)
LONG = timedelta(days=1)


async def _claim(queue: JobQueue, worker: str = "w", limit: int = 100, lease: float = 60.0) -> list[Any]:
    backend = await queue.open()
    await backend.register_worker(WorkerInfo(worker, "h", 1, ("t",), 100, "0", lease))
    return (await backend.cycle(worker, [], ["t"], limit, True)).jobs


async def _end(queue: JobQueue, *outcomes: Outcome) -> None:
    backend = await queue.open()
    assert (await backend.cycle("w", outcomes, [], 0, False)).lost == []


async def _sound(queue: JobQueue) -> None:
    bad = [finding for finding in await queue.doctor(deep=True) if finding.check in ("consistency", "indexes")]
    assert [finding.level for finding in bad] == ["ok"] * len(bad), bad


async def _all_states(queue: JobQueue) -> dict[str, int]:
    """A job in each state that it may be in."""
    handles = await queue.add_jobs(NewJob("t", n, {"tags": ["x", f"n{n}"]}) for n in range(6))
    ids = handles.ids
    jobs = {job.id: job.lease_id for job in await _claim(queue, limit=4)}
    await _end(
        queue,
        Completed(ids[0], jobs[ids[0]], '{"a": 1}'),
        Failed(ids[1], jobs[ids[1]], "for good", "handler_error", None),
        Failed(ids[2], jobs[ids[2]], "again", "handler_error", 3_600_000),
    )
    await queue.cancel_job(ids[4])
    names = ("completed", "failed", "failed with retry", "running", "cancelled", "pending")
    return dict(zip(names, ids, strict=True))


async def _left(queue: JobQueue, ids: dict[str, int]) -> set[str]:
    there = {job.id for job in await queue.get_jobs(limit=1000)}
    return {name for name, job_id in ids.items() if job_id in there}


# -- jobs -----------------------------------------------------------------------------------------------


async def test_only_finished_jobs_of_the_asked_states_are_deleted(queue: JobQueue) -> None:
    ids = await _all_states(queue)
    everything = set(ids)
    assert await queue.cleanup_old_jobs(LONG, status=["completed", "failed", "cancelled"]) == 0
    assert await queue.cleanup_old_jobs() == 0
    assert await _left(queue, ids) == everything, "they ended just now"
    gone: set[str] = set()
    for status in ("completed", "failed", "cancelled"):
        assert await queue.cleanup_old_jobs(NOW, status=status, dry_run=True) == 1
        assert await _left(queue, ids) == everything - gone
        assert await queue.cleanup_old_jobs(NOW, status=status) == 1
        gone.add(status)
        assert await _left(queue, ids) == everything - gone
        assert await queue.get_job_events(ids[status]) == []
        await _sound(queue)
    assert await queue.cleanup_old_jobs(NOW, status=("completed", "failed", "cancelled")) == 0
    for name in everything - gone:
        assert (await queue.get_job_events(ids[name]))[0].event_type == "added"
    assert {job.id for job in await queue.get_jobs_by_tags(["x"])} == {ids[name] for name in everything - gone}
    assert await queue.cleanup_old_jobs(NOW, status="cancelled") == 0
    assert await queue.retry_job(ids["failed with retry"]), "it works on"


async def test_several_states_at_once_and_defaults(queue: JobQueue) -> None:
    ids = await _all_states(queue)
    assert await queue.cleanup_old_jobs(NOW) == 1, "completed ones"
    assert await queue.cleanup_old_jobs(NOW, status=["failed", "cancelled", "failed"]) == 2
    assert await _left(queue, ids) == {"failed with retry", "running", "pending"}


@pytest.mark.parametrize("batch_size", [1, 7, 100])
async def test_many_in_bounded_steps(queue: JobQueue, batch_size: int) -> None:
    handles = await queue.add_jobs(NewJob("t", n) for n in range(30))
    jobs = await _claim(queue)
    kept = set(handles.ids[::3])
    outcomes: list[Outcome] = [Completed(job.id, job.lease_id) for job in jobs if job.id not in kept]
    await _end(queue, *outcomes)
    backend, before = await queue.open(), await (await queue.open()).now()
    steps = [count async for count in backend.delete_jobs("completed", before, batch_size)]
    assert sum(steps) == 20 and max(steps) <= batch_size
    assert {job.id for job in await queue.get_all_jobs()} == kept
    await _sound(queue)


async def test_a_long_walk_finds_the_old_ones_behind_others(queue: JobQueue) -> None:
    """More jobs than one statement looks at, of which few are to go."""
    await queue.add_jobs(NewJob("t", n, {"priority": int(n in (3, 5_200))}) for n in range(5_300))
    await _end(queue, *[Completed(job.id, job.lease_id) for job in await _claim(queue, limit=2)])
    assert await queue.cleanup_old_jobs(NOW) == 2
    assert (await queue.stats()).by_status == {"pending": 5_298}
    cancelled = await queue.cancel_all_upcoming_jobs(job_type="t")
    assert cancelled == 5_298
    assert await queue.cleanup_old_jobs(NOW, status="cancelled", batch_size=5_000) == 5_298
    assert (await queue.stats()).by_status == {}


async def test_keys_are_free_when_their_job_is_deleted(queue: JobQueue) -> None:
    key: Any = {"idempotency_key": "k"}
    unique: Any = {"unique": Unique("u", window=timedelta(days=1))}
    handles = [await queue.add_job("t", 1, **key), await queue.add_job("t", 1, **unique)]
    await _end(queue, *[Completed(job.id, job.lease_id) for job in await _claim(queue)])
    assert not (await queue.add_job("t", 2, **key)).created
    assert not (await queue.add_job("t", 2, **unique)).created
    assert await queue.cleanup_old_jobs(NOW) == 2
    again = [await queue.add_job("t", 3, **key), await queue.add_job("t", 3, **unique)]
    assert (
        all(handle.created for handle in again) and {handle.id for handle in handles} & {h.id for h in again} == set()
    )
    await _sound(queue)


async def test_nothing_of_a_deleted_job_is_left_on_redis(queue: JobQueue) -> None:
    backend: Any = await queue.open()
    if backend.name != "redis":
        pytest.skip("the keys of Redis")
    options: Any = {"tags": ["a", "ü"], "group": "g", "dead_letter": "dead"}
    first = await queue.add_job("t", 1, unique=Unique("u"), **options)
    second = await queue.add_job("t", 2, depends_on=DependsOn(jobs=[first.id]), **options)
    third = await queue.add_job("t", {"big": "x" * 3_000}, max_attempts=1, idempotency_key="k", **options)
    await second.cancel()
    await queue.edit_job(third.id, payload={"big": "y" * 3_000})
    held = {job.id: job.lease_id for job in await _claim(queue)}
    await backend.set_progress(first.id, held[first.id], 50)
    await _end(
        queue,
        Completed(first.id, held[first.id], '"out"'),
        Failed(third.id, held[third.id], "m", "handler_error", None),
    )
    letter = (await third.refresh()).dead_letter_job_id
    assert letter is not None and await queue.cancel_job(letter)
    assert await queue.cleanup_old_jobs(NOW, status=["completed", "failed", "cancelled"]) == 4
    for name in set(KEYS) - {"m", "ty", "tn", "wk", "wl", "gl", "cf"}:
        key = backend.key(name)
        if name in SORTED_SETS:
            entries = await backend.client.zrange(key, 0, -1)
        else:
            entries = await backend.client.hgetall(key)
        assert not entries, name
    assert pack_id(1) not in await backend.client.hgetall(backend.key("h"))
    await _sound(queue)


async def test_who_waits_for_a_deleted_job_is_not_harmed(queue: JobQueue) -> None:
    first = await queue.add_job("t", 1)
    other = await queue.add_job("t", 2, delay=timedelta(hours=1))
    waiting = await queue.add_job("t", 3, depends_on=DependsOn(jobs=[first.id, other.id]))
    given_up = await queue.add_job("t", 4, depends_on=DependsOn(jobs=[other.id]))
    await given_up.cancel()
    await _end(queue, *[Completed(job.id, job.lease_id) for job in await _claim(queue)])
    assert await queue.cleanup_old_jobs(NOW, status=["completed", "cancelled"]) == 2
    assert (await waiting.refresh()).blocked
    await queue.edit_job(other.id, run_at=None)
    await _end(queue, *[Completed(job.id, job.lease_id) for job in await _claim(queue)])
    assert not (await waiting.refresh()).blocked
    assert [job.id for job in await _claim(queue)] == [waiting.id]
    await _sound(queue)


async def test_work_goes_on_while_jobs_are_deleted(queue: JobQueue) -> None:
    """Retries race with the deletion: each job is either deleted or runs again."""
    handles = await queue.add_jobs(NewJob("t", n, {"max_attempts": 1}) for n in range(40))
    outcomes: list[Outcome] = [Failed(job.id, job.lease_id, "m", "handler_error", None) for job in await _claim(queue)]
    await _end(queue, *outcomes)

    async def retry(job_id: int) -> bool:
        try:
            return await queue.retry_job(job_id)
        except Exception:
            return False

    deleted, *retried = await asyncio.gather(
        queue.cleanup_old_jobs(NOW, status="failed", batch_size=3), *(retry(job_id) for job_id in handles.ids)
    )
    left = await queue.get_jobs(limit=100)
    assert deleted + len(left) == 40
    assert {job.id for job in left if job.status == "pending"} == {
        job_id for job_id, again in zip(handles.ids, retried, strict=True) if again
    }
    await _sound(queue)


async def test_what_is_asked_for_is_checked(queue: JobQueue) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: queue.cleanup_old_jobs(30),  # type: ignore[arg-type]
        lambda: queue.cleanup_old_jobs(timedelta(days=-1)),
        lambda: queue.cleanup_old_jobs(timedelta.max),
        lambda: queue.cleanup_old_jobs(NOW, status="pending"),  # type: ignore[arg-type]
        lambda: queue.cleanup_old_jobs(NOW, status=["completed", "processing"]),  # type: ignore[list-item]
        lambda: queue.cleanup_old_jobs(NOW, status=[]),
        lambda: queue.cleanup_old_jobs(NOW, batch_size=0),
        lambda: queue.cleanup_old_job_events(timedelta(days=-1)),
        lambda: queue.release_idempotency_keys(1.5),  # type: ignore[arg-type]
    ]
    for call in calls:
        with pytest.raises(InvalidJob):
            await call()


async def test_what_ended_since_stays(queue: JobQueue) -> None:
    backend = await queue.open()
    handles = await queue.add_jobs(NewJob("t", n, {"idempotency_key": f"k{n}"}) for n in range(4))
    first, *rest = await _claim(queue)
    await _end(queue, Completed(first.id, first.lease_id))
    await asyncio.sleep(0.01)
    before = await backend.now()
    await asyncio.sleep(0.01)
    late: list[Outcome] = [Completed(rest[0].id, rest[0].lease_id)]
    late.append(Failed(rest[1].id, rest[1].lease_id, "m", "handler_error", None))
    await _end(queue, *late)
    assert [n async for n in backend.release_keys(before, 100) if n] == [1]
    for status, count in (("completed", 1), ("failed", 0), ("cancelled", 0)):
        assert sum([n async for n in backend.delete_jobs(status, before, 100)]) == count
    assert [job.id for job in await queue.get_all_jobs()] == handles.ids[:0:-1]
    await _sound(queue)


async def test_the_defaults_are_30_and_90_days(queue: JobQueue) -> None:
    ids = await _all_states(queue)
    backend, supervisor = await queue.open(), queue.create_supervisor()
    await backend.unregister_worker("w")
    for days, gone in ((29, set[str]()), (31, {"completed"}), (89, set[str]()), (91, {"failed", "cancelled"})):
        there = await _left(queue, ids)
        passed = days - {29: 0, 31: 29, 89: 31, 91: 89}[days]
        await advance_clock(queue, timedelta(days=passed))
        result = await supervisor.start()
        assert there - await _left(queue, ids) == gone, f"after {days} days"
        assert (result.cleaned_up_jobs, result.errors) == (len(gone), {})
        assert (result.cleaned_up_events > 0) == (days == 91)
    assert await _left(queue, ids) == {"failed with retry", "running", "pending"}
    assert await queue.get_job_events(ids["pending"]) == []
    await _sound(queue)


# -- events and keys ------------------------------------------------------------------------------------


async def test_old_events_go_and_their_jobs_stay(queue: JobQueue) -> None:
    ids = await _all_states(queue)
    before = {name: await queue.get_job(job_id) for name, job_id in ids.items()}
    assert await queue.cleanup_old_job_events() == 0
    events = {name: len(await queue.get_job_events(job_id)) for name, job_id in ids.items()}
    assert await queue.cleanup_old_job_events(NOW, batch_size=3) == sum(events.values())
    assert {name: await queue.get_job(job_id) for name, job_id in ids.items()} == before
    for job_id in ids.values():
        assert await queue.get_job_events(job_id) == []
    await _sound(queue)
    assert await queue.retry_job(ids["failed"])
    assert [event.event_type for event in await queue.get_job_events(ids["failed"])] == ["retried"]
    assert (await queue.get_job_events(ids["failed"]))[0].metadata is None


async def test_of_a_long_log_only_the_old_part_goes(queue: JobQueue) -> None:
    handle = await queue.add_job("t", 1)
    for n in range(60):  # more than fits the head of a job on Redis
        await queue.edit_job(handle.id, payload={"n": n, "text": "x" * 100})
    backend = await queue.open()
    middle = (await queue.get_job_events(handle.id))[40].created_at
    await asyncio.sleep(0.01)
    await queue.edit_job(handle.id, payload=1)
    before = await queue.get_job_events(handle.id)
    deleted = [count async for count in backend.delete_events(middle, 1000)]
    after = await queue.get_job_events(handle.id)
    assert sum(deleted) == len(before) - len(after) > 20
    assert [event.created_at for event in after] == [event.created_at for event in before if event.created_at > middle]
    assert [event.metadata for event in after] == [event.metadata for event in before][-len(after) :]
    await _sound(queue)


async def test_keys_of_jobs_that_ended_are_free_again(queue: JobQueue) -> None:
    handles = await queue.add_jobs(NewJob("t", n, {"idempotency_key": f"k{n}", "tags": ["a"]}) for n in range(4))
    await queue.cancel_job(handles[1].id)
    done = (await _claim(queue, limit=1))[0]
    await _end(queue, Completed(done.id, done.lease_id, "7"))
    assert await queue.release_idempotency_keys(LONG) == 0
    assert not (await queue.add_job("t", 9, idempotency_key="k0")).created
    assert await queue.release_idempotency_keys(NOW, batch_size=1) == 2
    assert await queue.release_idempotency_keys(NOW) == 0
    jobs = [await handle.refresh() for handle in handles]
    assert [job.idempotency_key for job in jobs] == [None, None, "k2", "k3"]
    assert (jobs[0].output, jobs[0].tags, jobs[0].payload) == (7, ("a",), 0), "the rest is as it was"
    again = [await queue.add_job("t", 9, idempotency_key=f"k{n}") for n in range(4)]
    assert [handle.created for handle in again] == [True, True, False, False]
    await _sound(queue)
    assert await queue.cleanup_old_jobs(NOW, status=["completed", "cancelled"]) == 2
    assert not (await queue.add_job("t", 9, idempotency_key="k0")).created, "the key has another job now"
    await _sound(queue)


# -- lost jobs ------------------------------------------------------------------------------------------


async def test_stuck_is_who_lost_their_worker_however_long_others_run(queue: JobQueue) -> None:
    heard: list[tuple[str, int | None]] = []
    for name in ("job:reclaimed", "job:failed", "job:cancelled"):
        queue.on(name, lambda hook: heard.append((hook.name, hook.job_id)))  # type: ignore[arg-type]
    handles = await queue.add_jobs(NewJob("t", n) for n in range(4))
    last = await queue.add_job("t", 4, max_attempts=1)
    await _claim(queue, "healthy", 2)
    await _claim(queue, "gone", lease=0.0)
    assert await queue.reclaim_stuck_jobs() == 3
    statuses = [(await handle.refresh()).status for handle in (*handles, last)]
    assert statuses == ["processing", "processing", "pending", "pending", "failed"]
    assert sorted(heard) == [
        ("job:failed", last.id), ("job:reclaimed", handles[2].id), ("job:reclaimed", handles[3].id),
    ]  # fmt: skip
    assert await queue.reclaim_stuck_jobs() == 0


async def test_all_stuck_jobs_are_taken_back_at_once(queue: JobQueue) -> None:
    await queue.add_jobs(NewJob("t", n) for n in range(250))
    assert len(await _claim(queue, "gone", 250, lease=0.0)) == 250
    assert await queue.reclaim_stuck_jobs() == 250


# -- the supervisor -------------------------------------------------------------------------------------


async def test_one_run_does_it_all(queue: JobQueue) -> None:
    ids = await _all_states(queue)
    await queue.add_job("t", 7, idempotency_key="k", delay=LONG)
    gone = await queue.add_job("t", 8)
    assert gone.id in [job.id for job in await _claim(queue, "gone", lease=0.0)]
    nothing = await queue.create_supervisor().start()
    assert (nothing.cleaned_up_jobs, nothing.cleaned_up_events, nothing.released_keys, nothing.errors) == (0, 0, 0, {})
    assert nothing.reclaimed_jobs == 2, "and the pending one"
    supervisor = queue.create_supervisor(
        keep_completed=NOW, keep_failed=NOW, keep_cancelled=NOW, keep_events=NOW, idempotency_ttl=NOW, batch_size=2
    )
    result = await supervisor.start()
    assert (result.reclaimed_jobs, result.cleaned_up_jobs, result.released_keys, result.errors) == (0, 3, 0, {})
    assert result.cleaned_up_events > 5
    assert await _left(queue, ids) == {"failed with retry", "running", "pending"}
    assert not supervisor.is_running()


async def test_tokens_that_are_over_are_deleted(queue: JobQueue) -> None:
    open_one = await queue.create_token()
    ended = [await queue.create_token() for _ in range(5)]
    for token in ended[:3]:
        await queue.complete_token(token.id, 1)
    await queue.fail_token(ended[3].id, "no")
    timed_out = await queue.create_token(timeout=timedelta(milliseconds=1))
    await asyncio.sleep(0.01)
    kept = await queue.create_supervisor(keep_tokens=None).start()
    assert (kept.expired_tokens, kept.cleaned_up_tokens) == (1, 0)
    assert (await queue.create_supervisor().start()).cleaned_up_tokens == 0
    with pytest.raises(InvalidJob):
        await queue.cleanup_old_tokens(-NOW - timedelta(1))
    assert await queue.cleanup_old_tokens(LONG) == 0
    assert (await queue.create_supervisor(keep_tokens=NOW, batch_size=2).start()).cleaned_up_tokens == 5
    left = [token for token in (open_one, *ended, timed_out) if await queue.get_token(token.id)]
    assert left == [open_one, ended[4]]


async def test_none_keeps_for_ever(queue: JobQueue) -> None:
    ids = await _all_states(queue)
    await _claim(queue, "gone", lease=0.0)
    supervisor = queue.create_supervisor(
        reclaim=False,
        keep_completed=None,
        keep_failed=None,
        keep_cancelled=None,
        keep_events=None,
        idempotency_ttl=None,
    )
    result = await supervisor.start()
    assert (result.reclaimed_jobs, result.cleaned_up_jobs, result.cleaned_up_events, result.released_keys) == (0,) * 4
    assert await _left(queue, ids) == set(ids)


async def _break_rescue(queue: JobQueue, store_url: str) -> None:
    """What rescue needs is gone, and what the other tasks need is not."""
    backend: Any = await queue.open()
    if backend.name == "redis":
        await backend.client.delete(backend.key("gl"))
        await backend.client.set(backend.key("gl"), "not a sorted set")
    else:
        async with await psycopg.AsyncConnection.connect(store_url, autocommit=True) as conn:
            await conn.execute("ALTER TABLE dataqueue_workers RENAME TO elsewhere")


@pytest.mark.parametrize("listening", [False, True])
async def test_d_supervisor_a_task_that_fails_keeps_no_other_from_running(
    queue: JobQueue, store_url: str, listening: bool
) -> None:
    """D-SUPERVISOR: also where nobody listens to ``error``."""
    ids = await _all_states(queue)
    heard: list[BaseException | None] = []
    told: list[Exception] = []
    if listening:
        queue.on("error", lambda hook: heard.append(hook.error))
    await _break_rescue(queue, store_url)

    async def on_error(error: Exception) -> None:
        told.append(error)
        raise RuntimeError("a listener that fails itself")

    supervisor = queue.create_supervisor(keep_completed=NOW, on_error=on_error)
    result = await supervisor.start()
    assert list(result.errors) == ["reclaim"] and result.cleaned_up_jobs == 1 and result.reclaimed_jobs == 0
    assert told == list(result.errors.values()) and heard == (told if listening else [])
    assert "completed" not in await _left(queue, ids)


async def test_in_the_background_it_runs_at_once_and_again(queue: JobQueue) -> None:
    async with queue.create_supervisor(interval=timedelta(seconds=1), keep_completed=NOW) as supervisor:
        supervisor.start_in_background()
        for _ in range(2):
            handle = await queue.add_job("t")
            await _end(queue, *[Completed(job.id, job.lease_id) for job in await _claim(queue)])
            await until(lambda handle=handle: _is_gone(queue, handle.id), "the cleanup")
        assert supervisor.is_running()
    assert not supervisor.is_running()


async def _is_gone(queue: JobQueue, job_id: int) -> bool:
    return await queue.get_job(job_id) is None


async def test_d_timerleak_nothing_outlives_a_stopped_supervisor(queue: JobQueue) -> None:
    """D-TIMERLEAK, D-STOPSTART: stopping leaves no task behind; restarting at once gives one loop, not two."""
    await queue.open()
    await queue.stats()
    before = asyncio.all_tasks()
    supervisor = queue.create_supervisor(interval=timedelta(hours=1))

    def loops() -> list[str]:
        new = asyncio.all_tasks() - before
        return sorted(task.get_name().split()[0] for task in new if task.get_name().startswith("dataqueue-"))

    supervisor.start_in_background()
    supervisor.start_in_background()
    await until(lambda: loops() == ["dataqueue-election", "dataqueue-supervisor"])
    for _ in range(3):
        supervisor.stop()
        supervisor.start_in_background()
    await until(lambda: loops() == ["dataqueue-election", "dataqueue-supervisor"])
    assert supervisor.is_running()
    assert await supervisor.stop_and_drain()
    assert not supervisor.is_running() and loops() == []
    assert asyncio.all_tasks() - before == set()
    backend = await queue.open()
    assert await backend.elect("supervisor", "another", 60.0), "the role is free"
    supervisor.start_in_background()
    running = asyncio.create_task(supervisor.run())
    await until(lambda: loops() == ["dataqueue-election", "dataqueue-supervisor"])
    running.cancel()
    await asyncio.wait({running})
    assert loops() == []


async def test_one_works_and_another_takes_over(make_queue: Callable[..., JobQueue]) -> None:
    first_queue, second_queue = make_queue(), make_queue()
    options: Any = {"interval": timedelta(seconds=1), "keep_completed": NOW}
    first, second = first_queue.create_supervisor(**options), second_queue.create_supervisor(**options)
    backend = await first_queue.open()
    assert await backend.elect("supervisor", "a killed one", 2.0), "its process has gone without a word"
    first.start_in_background()
    done = await _finished(first_queue)
    await until(lambda: _is_gone(first_queue, done), "taking over from who was lost")
    assert not await backend.elect("supervisor", "a killed one", 2.0)

    second.start_in_background()
    assert not await (await second_queue.open()).elect("supervisor", second.holder, 2.0), "first has it"
    assert await first.stop_and_drain()
    done = await _finished(second_queue)
    await until(lambda: _is_gone(second_queue, done), "taking over from who resigned")
    await second.stop_and_drain()


async def _finished(queue: JobQueue) -> int:
    handle = await queue.add_job("t")
    await _end(queue, *[Completed(job.id, job.lease_id) for job in await _claim(queue)])
    return handle.id


async def test_a_role_has_one_holder(queue: JobQueue) -> None:
    backend = await queue.open()
    assert await backend.elect("r", "a", 60.0)
    assert not await backend.elect("r", "b b", 60.0)
    assert await backend.elect("other", "b b", 60.0)
    assert await backend.elect("r", "a", 0.0), "renewed, to end now"
    assert await backend.elect("r", "b b", 60.0), "lapsed"
    assert not await backend.elect("r", "a", 60.0)
    await backend.resign("r", "a")
    assert not await backend.elect("r", "a", 60.0), "not its own to give up"
    await backend.resign("r", "b b")
    won = await asyncio.gather(*(backend.elect("r", f"h{n}", 60.0) for n in range(8)))
    assert sum(won) == 1


async def test_options_are_checked(queue: JobQueue) -> None:
    wrong: list[dict[str, Any]] = [
        {"keep": NOW}, {"interval": 60}, {"interval": NOW}, {"keep_completed": 30}, {"keep_failed": -LONG},
        {"batch_size": 0}, {"idempotency_ttl": 1},
    ]  # fmt: skip
    for options in wrong:
        with pytest.raises(ValueError, match=next(iter(options))):
            queue.create_supervisor(**options)


def test_without_an_event_loop(store_url: str) -> None:
    with SyncJobQueue.from_url(store_url) as queue:
        heard: list[Hook] = []
        queue.on("job:cancelled", heard.append)
        handle = queue.add_job("t", 1, idempotency_key="k")
        handle.cancel()
        assert queue.cleanup_old_job_events(NOW) == 2
        assert queue.release_idempotency_keys(NOW) == 1
        assert queue.cleanup_old_jobs(NOW, status="cancelled", dry_run=True) == 1
        assert queue.reclaim_stuck_jobs() == 0
        result = queue.create_supervisor(keep_cancelled=NOW).start()
        assert (result.cleaned_up_jobs, result.errors) == (1, {})
        assert queue.get_job(handle.id) is None
