"""Jobs that wait for others: by id, by tag, within a batch, in chains; and what becomes of them when one ends badly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import pytest
from support import Working, until

from dataqueue import (
    BatchRef,
    DependsOn,
    Hook,
    InvalidJob,
    Job,
    JobHandle,
    JobQueue,
    NewJob,
    batch_ref,
)
from dataqueue.backends.base import Claimed, Completed, Failed, Outcome, Released, WorkerInfo


def _worker(name: str = "w", lease: float = 60.0) -> WorkerInfo:
    return WorkerInfo(name, "host", 1, ("t",), 10, "0", lease)


class Hand:
    """A worker, one step at a time."""

    def __init__(self, queue: JobQueue) -> None:
        self.queue = queue
        self.held: dict[int, Claimed] = {}
        self.cascaded: list[int] = []

    async def claim(self, limit: int = 100) -> list[int]:
        backend = await self.queue.open()
        await backend.register_worker(_worker())
        jobs = (await backend.cycle("w", [], ["t"], limit, True)).jobs
        self.held.update({job.id: job for job in jobs})
        return [job.id for job in jobs]

    async def end(self, *outcomes: Outcome) -> None:
        backend = await self.queue.open()
        cycle = await backend.cycle("w", outcomes, ["t"], 0, False)
        assert cycle.lost == []
        self.cascaded += cycle.cascaded

    async def complete(self, *handles: JobHandle[Any]) -> None:
        await self.end(*(Completed(handle.id, self.held[handle.id].lease_id) for handle in handles))

    async def fail(self, handle: JobHandle[Any], retry_ms: int | None = None) -> None:
        await self.end(Failed(handle.id, self.held[handle.id].lease_id, "boom", "handler_error", retry_ms))


@pytest.fixture
def hand(queue: JobQueue) -> Hand:
    return Hand(queue)


async def _statuses(handles: Sequence[JobHandle[Any]]) -> list[str]:
    return [(await handle.refresh()).status for handle in handles]


async def _events(handle: JobHandle[Any], queue: JobQueue) -> list[str]:
    return [event.event_type for event in await queue.get_job_events(handle.id)]


async def _sound(queue: JobQueue) -> None:
    """No index and no row contradicts another."""
    bad = [finding for finding in await queue.doctor(deep=True) if finding.check in ("consistency", "indexes")]
    assert [finding.level for finding in bad] == ["ok"] * len(bad), bad


async def test_a_job_waits_until_all_it_names_have_ended_well(queue: JobQueue, hand: Hand) -> None:
    """D-DEPEVENT: its log begins with its adding."""
    a, b = await queue.add_jobs([NewJob("t", "a"), NewJob("t", "b")])
    c = await queue.add_job("t", "c", depends_on=[a, b.id], priority=100)
    job = await c.refresh()
    assert (job.status, job.blocked, job.depends_on) == ("pending", True, (a.id, b.id))
    assert await hand.claim() == [a.id, b.id]
    await hand.complete(a)
    assert await hand.claim() == [] and (await c.refresh()).blocked
    await hand.complete(b)
    assert not (await c.refresh()).blocked
    assert await hand.claim() == [c.id]
    assert await _events(c, queue) == ["added", "unblocked", "processing"]
    await hand.complete(c)
    await _sound(queue)


async def test_a_retry_of_what_it_waits_for_does_not_cancel_it(queue: JobQueue, hand: Hand) -> None:
    """D-DEPFIRSTFAIL: only the last failure is one."""
    a = await queue.add_job("t", "a")
    b = await queue.add_job("t", "b", depends_on=a)
    await hand.claim()
    await hand.fail(a, retry_ms=0)
    assert await _statuses([a, b]) == ["failed", "pending"]
    assert await hand.claim() == [a.id]
    await hand.complete(a)
    assert await hand.claim() == [b.id]


async def test_a_final_failure_cancels_all_that_wait_for_it(queue: JobQueue, hand: Hand) -> None:
    a = await queue.add_job("t", "a")
    b = await queue.add_job("t", "b", depends_on=[a])
    c = await queue.add_job("t", "c", depends_on=[b])
    other = await queue.add_job("t", "other", depends_on=await queue.add_job("t", "fine"))
    await hand.claim()
    await hand.fail(a)
    assert await _statuses([a, b, c, other]) == ["failed", "cancelled", "cancelled", "pending"]
    assert sorted(hand.cascaded) == [b.id, c.id]
    last = (await queue.get_job_events(c.id))[-1]
    assert (last.event_type, last.metadata) == ("cancelled", {"rootJobId": a.id, "dependencyCascade": True})
    job = await c.refresh()
    assert job.pending_reason == f'{{"rootJobId":{a.id},"dependencyCascade":true}}'
    assert job.last_cancelled_at is not None and job.is_finished
    await _sound(queue)


async def test_a_cancel_cascades(queue: JobQueue, hand: Hand) -> None:
    """And frees what does not mind: on_failure="run"."""
    told: list[int] = []
    queue.on("job:cancelled", lambda hook: told.append(hook.job_id or 0))
    a = await queue.add_job("t", "a")
    b = await queue.add_job("t", "b", depends_on=DependsOn([a]))
    c = await queue.add_job("t", "c", depends_on=DependsOn([a], on_failure="run"))
    assert (await c.refresh()).runs_anyway
    assert await queue.cancel_job(a.id)
    assert await _statuses([a, b, c]) == ["cancelled", "cancelled", "pending"]
    assert await hand.claim() == [c.id]
    assert told[0] == a.id
    await _sound(queue)


async def test_a_cancel_that_reaches_a_running_job_cascades(queue: JobQueue, hand: Hand) -> None:
    a = await queue.add_job("t", "a")
    b = await queue.add_job("t", "b", depends_on=a)
    await hand.claim()
    assert await queue.cancel_job(a.id)
    assert await _statuses([b]) == ["pending"], "it is still running"
    await hand.end(Released(a.id, hand.held[a.id].lease_id))
    assert await _statuses([a, b]) == ["cancelled", "cancelled"]


async def test_a_lost_worker_cascades_with_the_last_attempt(queue: JobQueue) -> None:
    backend = await queue.open()
    a = await queue.add_job("t", "a", max_attempts=1)
    b = await queue.add_job("t", "b", depends_on=a)
    await backend.register_worker(_worker("gone", lease=0.0))
    await backend.cycle("gone", [], ["t"], 10, True)
    await backend.reclaim_expired(10)
    assert await _statuses([a, b]) == ["failed", "cancelled"]


async def test_what_has_ended_already_is_seen_when_a_job_is_added(queue: JobQueue, hand: Hand) -> None:
    """D-DEPLATE: a dependent of a job that has failed is not pending for ever."""
    good, bad, cancelled, retrying = await queue.add_jobs(NewJob("t", n) for n in range(4))
    await hand.claim()
    await hand.complete(good)
    await hand.fail(bad)
    await hand.fail(retrying, retry_ms=60_000)
    await queue.cancel_job(cancelled.id)
    await hand.end(Released(cancelled.id, hand.held[cancelled.id].lease_id))
    after_good = await queue.add_job("t", depends_on=good)
    after_bad = await queue.add_job("t", depends_on=[good, bad])
    after_cancelled = await queue.add_job("t", depends_on=cancelled)
    anyway = await queue.add_job("t", depends_on=DependsOn([bad, cancelled], on_failure="run"))
    after_retrying = await queue.add_job("t", depends_on=retrying)
    handles = [after_good, after_bad, after_cancelled, anyway, after_retrying]
    assert await _statuses(handles) == ["pending", "cancelled", "cancelled", "pending", "pending"]
    assert await hand.claim() == [after_good.id, anyway.id]
    assert (await after_retrying.refresh()).blocked
    await _sound(queue)


async def test_what_was_cleaned_up_is_not_waited_for(queue: JobQueue, hand: Hand) -> None:
    """D-DEPCLEAN: who waited for it has been told of its end, and who comes after is refused."""
    a, b = await queue.add_jobs(NewJob("t", n) for n in range(2))
    by_id = await queue.add_job("t", depends_on=[a, b])
    by_tag = await queue.add_job("t", tags=["x"], depends_on=a)
    after_tag = await queue.add_job("t", depends_on=DependsOn(tags=["x"]))
    assert await hand.claim() == [a.id, b.id]
    await hand.complete(a)
    assert await queue.cleanup_old_jobs(timedelta(0)) == 1
    with pytest.raises(InvalidJob, match="depends_on"):
        await queue.add_job("t", depends_on=a)
    assert await hand.claim() == [by_tag.id]
    await hand.complete(b, by_tag)
    assert await queue.cleanup_old_jobs(timedelta(0)) == 2
    assert await hand.claim() == [by_id.id, after_tag.id]
    await _sound(queue)


@pytest.mark.parametrize("wrong", [17, -1, 0, "x", True, [1.5], [None], {"a": 1}, 2**63])
async def test_only_jobs_that_exist_can_be_waited_for(queue: JobQueue, wrong: Any) -> None:
    """D-DEPLATE: an unknown id would be waited for without end."""
    await queue.add_job("t")
    with pytest.raises(InvalidJob, match="depends_on"):
        await queue.add_job("t", depends_on=wrong)
    with pytest.raises(InvalidJob, match="depends_on"):
        await queue.add_jobs([NewJob("t"), NewJob("t", None, {"depends_on": wrong})])
    assert len(await queue.get_jobs()) == 1, "nothing was stored"


async def test_within_a_batch_earlier_jobs_are_named_by_their_place(queue: JobQueue, hand: Hand) -> None:
    handles = await queue.add_jobs(
        [
            NewJob("t", 0),
            NewJob("t", 1, {"depends_on": [batch_ref(0)]}),
            NewJob("t", 2, {"depends_on": BatchRef(0)}),
            NewJob("t", 3, {"depends_on": DependsOn([batch_ref(1), batch_ref(2)])}),
        ]
    )
    assert (await handles[3].refresh()).depends_on == (handles[1].id, handles[2].id)
    for expected in ([0], [1, 2], [3]):
        assert await hand.claim() == [handles[n].id for n in expected]
        await hand.complete(*(handles[n] for n in expected))
    await _sound(queue)


@pytest.mark.parametrize("place", [1, 2, 9])
async def test_a_place_must_stand_before(queue: JobQueue, place: int) -> None:
    with pytest.raises(InvalidJob, match=r"jobs\[1\].*batch_ref"):
        await queue.add_jobs([NewJob("t"), NewJob("t", None, {"depends_on": batch_ref(place)}), NewJob("t")])
    with pytest.raises(InvalidJob, match="batch_ref"):
        await queue.add_job("t", depends_on=batch_ref(0))
    assert await queue.get_jobs() == []


async def test_a_place_whose_key_was_taken_names_the_job_that_has_it(queue: JobQueue, hand: Hand) -> None:
    first = await queue.add_job("t", "first", idempotency_key="k")
    again, after = await queue.add_jobs(
        [NewJob("t", "again", {"idempotency_key": "k"}), NewJob("t", "after", {"depends_on": batch_ref(0)})]
    )
    assert again.id == first.id and not again.created
    assert (await after.refresh()).depends_on == (first.id,)
    assert await hand.claim() == [first.id]


async def test_places_reach_over_thousands(queue: JobQueue) -> None:
    count = 2_500
    jobs = [NewJob("t", n, {"depends_on": batch_ref(n - 1)} if n else {}) for n in range(count)]
    handles = await queue.add_jobs(jobs)
    for n in (1, 999, 1000, 1001, count - 1):
        assert (await handles[n].refresh()).depends_on == (handles[n - 1].id,)
    await queue.cancel_job(handles[0].id)

    async def all_gone() -> bool:
        await (await queue.open()).reclaim_expired(1)  # on Redis a call settles so many only
        return (await queue.stats()).by_status == {"cancelled": count}

    await until(all_gone)
    await _sound(queue)


async def test_a_wide_fan_out_is_freed(queue: JobQueue, hand: Hand) -> None:
    source = await queue.add_job("t", "source")
    count = 2_500
    handles = await queue.add_jobs(NewJob("t", n, {"depends_on": source}) for n in range(count))
    last = await queue.add_job("t", "last", depends_on=list(handles))
    await hand.claim()
    await hand.complete(source)
    done = 0

    async def all_done() -> bool:
        nonlocal done
        ids = await hand.claim(1000)
        done += len([job_id for job_id in ids if job_id != last.id])
        await hand.end(*(Completed(job_id, hand.held[job_id].lease_id) for job_id in ids))
        return (await last.refresh()).status == "completed"

    await until(all_done)
    assert done == count
    await _sound(queue)


async def test_who_waits_for_a_second_run_is_not_freed_by_the_first(queue: JobQueue, hand: Hand) -> None:
    """However many the first has to free, which on Redis takes more than one call."""
    source = await queue.add_job("t", "source")
    await queue.add_jobs(NewJob("t", n, {"depends_on": source, "delay": timedelta(days=1)}) for n in range(2_500))
    await hand.claim()
    await hand.complete(source)
    await queue.retry_job(source.id, force=True)
    after = await queue.add_job("t", "after", depends_on=source)
    for _ in range(3):
        await (await queue.open()).reclaim_expired(1)
    assert (await after.refresh()).blocked
    assert await hand.claim() == [source.id]
    await hand.complete(source)
    assert await hand.claim() == [after.id]
    assert not [job for job in await queue.get_jobs(limit=1000) if job.blocked]
    await _sound(queue)


async def test_a_tag_stands_for_the_unfinished_jobs_that_were_added_before(queue: JobQueue, hand: Hand) -> None:
    """D-TAGDEADLOCK: neither the job itself nor later ones."""
    one, two, other = await queue.add_jobs(
        [NewJob("t", 1, {"tags": ["in", "x"]}), NewJob("t", 2, {"tags": ["in"]}), NewJob("t", 3, {"tags": ["x"]})]
    )
    after = await queue.add_job("t", "after", tags=["in"], depends_on=DependsOn(tags=["in"]))
    both = await queue.add_job("t", "both", depends_on=DependsOn(tags=["x", "in"]))
    later = await queue.add_job("t", "later", tags=["in"], depends_on=DependsOn(tags=["in"]))
    job = await after.refresh()
    assert (job.blocked, job.depends_on, job.depends_on_tags) == (True, (), ("in",))
    assert await hand.claim() == [one.id, two.id, other.id]
    await hand.complete(one)
    assert await hand.claim() == [both.id]
    await hand.complete(two, both)
    assert await hand.claim() == [after.id], "which the later one waits for"
    await hand.complete(after, other)
    assert await hand.claim() == [later.id]
    nobody = await queue.add_job("t", "nobody", depends_on=DependsOn(tags=["none such"], on_failure="run"))
    assert await hand.claim() == [nobody.id]
    assert (await nobody.refresh()).runs_anyway
    await _sound(queue)


async def test_a_tag_includes_earlier_jobs_of_the_batch(queue: JobQueue, hand: Hand) -> None:
    before = await queue.add_job("t", tags=["in"])
    handles = await queue.add_jobs(
        [NewJob("t", 0, {"tags": ["in"]}), NewJob("t", 1, {"depends_on": DependsOn(tags=["in"])})]
    )
    assert await hand.claim() == [before.id, handles[0].id]
    await hand.complete(before)
    assert await hand.claim() == []
    await hand.complete(handles[0])
    assert await hand.claim() == [handles[1].id]


async def test_a_tag_does_not_include_what_the_call_did_not_add(queue: JobQueue, hand: Hand) -> None:
    """The job that has the key already has no such tag, and has ended badly."""
    bad = await queue.add_job("t", idempotency_key="k")
    await queue.cancel_job(bad.id)
    again, after = await queue.add_jobs(
        [
            NewJob("t", 0, {"tags": ["in"], "idempotency_key": "k"}),
            NewJob("t", 1, {"depends_on": DependsOn(tags=["in"])}),
        ]
    )
    assert again.id == bad.id
    assert await hand.claim() == [after.id]
    await _sound(queue)


async def test_two_places_that_are_one_job_count_once(queue: JobQueue, hand: Hand) -> None:
    first = await queue.add_job("t", idempotency_key="k")
    _, after = await queue.add_jobs(
        [NewJob("t", 0, {"idempotency_key": "k"}), NewJob("t", 1, {"depends_on": [first, batch_ref(0)]})]
    )
    assert (await after.refresh()).depends_on == (first.id,)
    await hand.claim()
    await hand.complete(first)
    assert await hand.claim() == [after.id]


async def test_only_a_cancel_by_cascade_has_a_root(queue: JobQueue, hand: Hand) -> None:
    a = await queue.add_job("t", "a")
    b = await queue.add_job("t", "b", depends_on=a)
    await queue.cancel_job(a.id)
    assert (await b.refresh()).cascade_root == a.id
    await queue.retry_job(b.id)
    await queue.cancel_job(b.id)
    job = await b.refresh()
    assert (job.status, job.cascade_root, job.pending_reason) == ("cancelled", None, None)


async def test_the_root_of_a_cascade_is_known_after_a_long_story(queue: JobQueue) -> None:
    a = await queue.add_job("t", "a")
    b = await queue.add_job("t", "b", depends_on=a)
    for n in range(100):
        await queue.cancel_job(b.id, by=f"somebody, for the time {n}")
        await queue.retry_job(b.id)
        if n % 7 == 0:
            assert (await b.refresh()).blocked
    await queue.cancel_job(a.id)
    assert (await b.refresh()).cascade_root == a.id
    assert len(await queue.get_job_events(b.id)) == 202


async def test_a_failure_cancels_by_tag_too(queue: JobQueue, hand: Hand) -> None:
    a = await queue.add_job("t", tags=["in"])
    b = await queue.add_job("t", depends_on=DependsOn(tags=["in"]))
    await hand.claim()
    await hand.fail(a)
    assert await _statuses([b]) == ["cancelled"]


async def test_a_chain_runs_step_by_step(queue: JobQueue, hand: Hand) -> None:
    first, left, right, last = await queue.chain(
        NewJob("t", "first"), [NewJob("t", "left"), NewJob("t", "right")], NewJob("t", "last", {"priority": 5})
    )
    assert (await last.refresh()).depends_on == (left.id, right.id)
    for step in ([first], [left, right], [last]):
        assert await hand.claim() == [handle.id for handle in step]
        await hand.complete(*step)
    assert (await last.refresh()).status == "completed"


@pytest.mark.parametrize(
    "steps",
    [[], [[]], ["t"], [NewJob("t", None, {"depends_on": 1})], [NewJob("t"), NewJob("t", None, {"priority": "x"})]],
)
async def test_a_chain_that_is_none_is_refused(queue: JobQueue, steps: list[Any]) -> None:
    with pytest.raises(InvalidJob):
        await queue.chain(*steps)
    assert await queue.get_jobs() == []


async def test_a_job_that_is_run_again_waits_again(queue: JobQueue, hand: Hand) -> None:
    a = await queue.add_job("t", "a")
    b = await queue.add_job("t", "b", depends_on=a)
    await hand.claim()
    await hand.fail(a)
    assert await _statuses([b]) == ["cancelled"]
    assert await queue.retry_job(a.id)
    assert await queue.retry_job(b.id)
    assert (await b.refresh()).blocked
    assert await hand.claim() == [a.id]
    await hand.complete(a)
    assert await hand.claim() == [b.id]
    await _sound(queue)


async def test_run_again_alone_it_does_not_wait_for_what_will_not_come(queue: JobQueue, hand: Hand) -> None:
    a = await queue.add_job("t", "a")
    b = await queue.add_job("t", "b", depends_on=a)
    await queue.cancel_job(a.id)
    assert await queue.retry_job(b.id)
    assert await hand.claim() == [b.id]
    await _sound(queue)


async def test_cancelled_while_it_waits_it_stays_so(queue: JobQueue, hand: Hand) -> None:
    a = await queue.add_job("t", "a")
    b = await queue.add_job("t", "b", depends_on=a)
    await queue.cancel_job(b.id)
    assert await queue.retry_job(b.id), "it waits still"
    assert (await b.refresh()).blocked
    await queue.cancel_job(b.id)
    await hand.claim()
    await hand.complete(a)
    assert await _statuses([b]) == ["cancelled"]
    assert await hand.claim() == []
    await _sound(queue)


async def test_a_delay_holds_after_the_wait(queue: JobQueue, hand: Hand) -> None:
    a = await queue.add_job("t", "a")
    b = await queue.add_job("t", "b", depends_on=a, delay=timedelta(hours=1))
    await hand.claim()
    await hand.complete(a)
    job = await b.refresh()
    assert (job.status, job.blocked) == ("pending", False)
    assert await hand.claim() == []
    await _sound(queue)


async def test_sleeping_workers_are_woken_for_what_was_freed(
    make_queue: Callable[..., JobQueue], working: Working
) -> None:
    """D-LATENCY: nothing waits for the next poll, a minute away."""
    seen: list[Any] = []

    async def t(payload: Any) -> None:
        seen.append(payload)

    queue = make_queue()
    await working(make_queue(), {"t": t}, poll_interval=timedelta(seconds=60))
    handles = await queue.chain(*(NewJob("t", n) for n in range(5)))
    job: Job = await handles[-1].wait(30)
    assert job.status == "completed" and seen == [0, 1, 2, 3, 4]


async def test_a_worker_tells_of_what_it_has_cancelled(make_queue: Callable[..., JobQueue], working: Working) -> None:
    queue = make_queue()
    told: list[Hook] = []
    queue.on("job:cancelled", told.append)

    async def t(payload: Any) -> None:
        raise ValueError("no")

    await working(queue, {"t": t})
    first, second = await queue.chain(NewJob("t", 1, {"max_attempts": 1}), NewJob("t", 2))
    assert (await second.wait(30)).status == "cancelled"
    await until(lambda: [hook.job_id for hook in told] == [second.id])
    assert (await first.refresh()).status == "failed"


async def test_it_is_explained(queue: JobQueue, hand: Hand) -> None:
    a = await queue.add_job("t", "a", tags=["in"])
    b = await queue.add_job("t", "b", depends_on=DependsOn([a], tags=["in"]))
    c = await queue.add_job("t", "c", depends_on=b)
    found = await queue.explain_job(b.id)
    assert (found.state, found.will_run, found.reasons[0].code) == ("blocked", "later", "waits_for_jobs")
    assert found.reasons[0].evidence["jobs"] == [{"id": a.id, "status": "pending"}]
    assert f"explain {a.id}" in (found.reasons[0].fix or "")
    by_tag = await queue.explain_job((await queue.add_job("t", depends_on=DependsOn(tags=["in"]))).id)
    assert by_tag.reasons[0].evidence["jobs"] == [{"id": a.id, "status": "pending"}]
    await hand.claim()
    await hand.fail(a)
    found = await queue.explain_job(c.id)
    assert (found.state, found.will_run) == ("cancelled", "never")
    assert found.reasons[0].evidence["root_job_id"] == a.id == (await c.refresh()).cascade_root


async def test_run_again_together_they_keep_their_order(queue: JobQueue, hand: Hand) -> None:
    chain = await queue.chain(NewJob("t", 1), NewJob("t", 2), NewJob("t", 3))
    await hand.claim()
    await hand.fail(chain[0])
    assert set((await queue.retry_jobs(chain.ids)).values()) == {"changed"}
    for handle in chain:
        assert await hand.claim() == [handle.id]
        await hand.complete(handle)
    await _sound(queue)


async def test_a_bulk_cancel_cascades(queue: JobQueue) -> None:
    """D-CANCELALL: and all that it ends are told of."""
    told: list[int] = []
    queue.on("job:cancelled", lambda hook: told.append(hook.job_id or 0))
    first = await queue.add_jobs(NewJob("t", n, {"tags": ["first"]}) for n in range(3))
    second = await queue.add_jobs(NewJob("t", n, {"depends_on": handle}) for n, handle in enumerate(first))
    assert await queue.cancel_all_upcoming_jobs(tags=["first"]) == 3
    assert await _statuses(second) == ["cancelled"] * 3
    assert sorted(told) == [handle.id for handle in (*first, *second)]
    await _sound(queue)
