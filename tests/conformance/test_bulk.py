"""Editing, cancelling and retrying, one job and many."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from support import Working, until

from dataqueue import Hook, InvalidJob, InvalidPayload, Job, JobNotFound, JobQueue, NewJob, UnknownJobType
from dataqueue.backends.base import Claimed, Completed, Failed, WorkerInfo
from dataqueue.retry import RetryPolicy

HOUR = timedelta(hours=1)
TOMORROW = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)


async def worker(queue: JobQueue, group_concurrency: int | None = None) -> None:
    await queue.open()
    await queue.backend.register_worker(WorkerInfo("w", "h", 1, ("t", "u"), 9, "0", 3600, group_concurrency))


async def claim(queue: JobQueue, limit: int = 100, job_type: str = "t") -> list[Claimed]:
    found: list[Claimed] = []
    while len(found) < limit:
        answer = await queue.backend.cycle("w", [], [job_type], limit - len(found), True)
        found += answer.jobs
        if not answer.jobs and not answer.again:
            break
    return found


async def job(queue: JobQueue, job_id: int) -> Job:
    return await queue.require_job(job_id)


async def told(queue: JobQueue, job_id: int) -> list[tuple[str, Any]]:
    return [(event.event_type, event.metadata) for event in await queue.get_job_events(job_id)]


async def statuses(queue: JobQueue) -> dict[int, str]:
    return {job.id: job.status for job in await queue.get_all_jobs(limit=1000)}


# -- editing one ----------------------------------------------------------------------------------------


async def test_every_option_can_be_edited_and_the_event_says_exactly_what_was(queue: JobQueue) -> None:
    """D-PAYLOADTYPES."""
    hooks: list[int | None] = []
    queue.on("job:edited", lambda hook: hooks.append(hook.job_id))
    handle = await queue.add_job("t", {"n": 1}, tags=["a", "b"], idempotency_key="k/ü\n", group="g")
    before = await handle.refresh()
    assert await handle.edit(
        by="ada",
        payload={"n": [1.5, 2**60, "é\n"], "empty": {}, "list": []},
        priority=-5,
        max_attempts=7,
        run_at=TOMORROW,
        timeout=timedelta(minutes=2),
        tags=["c/ж", "a", "c/ж"],
        retry_delay=timedelta(seconds=5),
        retry_backoff=False,
        retry_delay_max=timedelta(seconds=60),
    )
    found = await handle.refresh()
    assert found.payload == {"n": [1.5, 2**60, "é\n"], "empty": {}, "list": []}
    assert (found.priority, found.max_attempts, found.run_at) == (-5, 7, TOMORROW)
    assert (found.timeout, found.tags) == (timedelta(minutes=2), ("c/ж", "a"))
    assert found.retry == RetryPolicy(5, False, 60)
    assert (found.idempotency_key, found.group, found.status) == ("k/ü\n", "g", "pending")
    assert found.created_at == before.created_at and found.updated_at >= before.updated_at
    (kind, metadata) = (await told(queue, handle.id))[-1]
    assert datetime.fromisoformat(metadata.pop("runAt")) == TOMORROW
    assert (kind, metadata) == (
        "edited",
        {
            "payload": {"n": [1.5, 2**60, "é\n"], "empty": {}, "list": []},
            "priority": -5,
            "maxAttempts": 7,
            "timeoutMs": 120_000,
            "tags": ["c/ж", "a"],
            "retryDelay": 5,
            "retryBackoff": False,
            "retryDelayMax": 60,
            "by": "ada",
        },
    )
    assert hooks == [handle.id]
    assert not (await queue.add_job("t", idempotency_key="k/ü\n")).created


async def test_what_is_left_out_stays_and_none_clears(queue: JobQueue) -> None:
    """D-EDITIGNORED: tags, timeout and the retry settings go; the rest is as it was."""
    handle = await queue.add_job(
        "t", {"x": 1}, priority=3, timeout=HOUR, tags=["a"], retry_delay=timedelta(seconds=9), retry_backoff=True
    )
    assert await handle.edit(retry_delay=None)
    found = await handle.refresh()
    assert (found.retry, found.timeout, found.tags, found.payload) == (RetryPolicy(None, True), HOUR, ("a",), {"x": 1})
    assert await handle.edit(timeout=None, tags=None, retry_backoff=None)
    found = await handle.refresh()
    assert (found.retry, found.timeout, found.tags, found.priority) == (RetryPolicy(), None, (), 3)
    assert [item.id for item in await queue.get_jobs_by_tags([], "exact")] == [handle.id]
    assert await handle.edit(tags=[]) and await handle.edit(payload=None)
    found = await handle.refresh()
    assert (found.tags, found.payload) == ((), None)
    assert [metadata for _, metadata in (await told(queue, handle.id))[1:]] == [
        {"retryDelay": None},
        {"timeoutMs": None, "tags": None, "retryBackoff": None},
        {"tags": None},
        {"payload": None},
    ]


async def test_edited_tags_are_found_and_the_old_ones_are_not(queue: JobQueue) -> None:
    handle = await queue.add_job("t", tags=["old", "both"])
    await handle.edit(tags=["both", "new"])
    for tag, wanted in (("old", []), ("both", [handle.id]), ("new", [handle.id])):
        assert [item.id for item in await queue.get_jobs_by_tags([tag])] == wanted, tag


async def test_an_earlier_time_takes_effect_at_once(queue: JobQueue, working: Working) -> None:
    """R-EDITRUNAT: for a worker that sleeps, too."""
    ran: list[Any] = []

    async def note(payload: Any) -> None:
        ran.append(payload)

    await working(queue, {"t": note}, poll_interval=HOUR)
    first = await queue.add_job("t", "first", delay=HOUR)
    second = await queue.add_job("t", "second", run_at=TOMORROW)
    await asyncio.sleep(0.2)
    assert await first.edit(run_at=None)
    await until(lambda: ran == ["first"])
    assert await second.edit(delay=timedelta(0))
    await until(lambda: ran == ["first", "second"])


async def test_a_later_time_takes_effect_at_once(queue: JobQueue) -> None:
    """R-EDITRUNAT: a job that was due is claimed no more; moved back, it is."""
    await worker(queue)
    due, other = await queue.add_job("t"), await queue.add_job("t", delay=HOUR)
    assert await due.edit(run_at=TOMORROW) and await other.edit(delay=2 * HOUR)
    assert await claim(queue) == []
    assert (await queue.explain_job(due.id)).state == "scheduled"
    assert await due.edit(run_at=datetime(2020, 1, 1, tzinfo=UTC))
    (claimed,) = await claim(queue)
    assert (claimed.id, claimed.run_at) == (due.id, datetime(2020, 1, 1, tzinfo=UTC))


async def test_priority_decides_anew(queue: JobQueue) -> None:
    """D-PRIORDER: within what one claim takes, too."""
    await worker(queue)
    first, second, third = [handle.id for handle in await queue.add_jobs([NewJob("t")] * 3)]
    await queue.edit_job(third, priority=2**31 - 1)
    await queue.edit_job(first, priority=-(2**31))
    assert [item.id for item in await claim(queue)] == [third, second, first]


async def test_one_attempt_is_left_whatever_is_asked_for(queue: JobQueue) -> None:
    await worker(queue)
    handle = await queue.add_job("t", max_attempts=9)
    for _ in range(2):
        (claimed,) = await claim(queue)
        failed = Failed(claimed.id, claimed.lease_id, "m", "handler_error", 0)
        await queue.backend.cycle("w", [failed], [], 0, False)
        assert await queue.retry_job(handle.id)
    assert await handle.edit(max_attempts=1)
    assert ((await handle.refresh()).attempts, (await handle.refresh()).max_attempts) == (2, 3)
    assert [item.id for item in await claim(queue)] == [handle.id]


async def test_only_pending_jobs_are_edited(queue: JobQueue) -> None:
    """D-FALSEEVENTS: nothing changed, so nothing is told."""
    hooks: list[Hook] = []
    queue.on("job:edited", hooks.append)
    await worker(queue)
    running, failed, done = [handle.id for handle in await queue.add_jobs([NewJob("t")] * 3)]
    leases = {item.id: item.lease_id for item in await claim(queue)}
    outcomes = [Failed(failed, leases[failed], "m", "handler_error", 60_000), Completed(done, leases[done])]
    await queue.backend.cycle("w", outcomes, [], 0, False)
    cancelled = (await queue.add_job("t")).id
    await queue.cancel_job(cancelled)
    for job_id in (running, failed, done, cancelled):
        before = await job(queue, job_id)
        assert not await queue.edit_job(job_id, priority=5, payload=1)
        assert await job(queue, job_id) == before
        assert "edited" not in [kind for kind, _ in await told(queue, job_id)]
    assert await queue.edit_all_pending_jobs({"priority": 5}) == 0
    assert hooks == []
    with pytest.raises(JobNotFound):
        await queue.edit_job(4711, priority=5)
    with pytest.raises(JobNotFound):
        await queue.edit_job(4711, payload=5)


async def test_nothing_given_changes_nothing(queue: JobQueue) -> None:
    handle = await queue.add_job("t")
    before = await handle.refresh()
    assert not await handle.edit()
    assert await queue.edit_all_pending_jobs({}) == 0
    assert await handle.refresh() == before and len(await told(queue, handle.id)) == 1


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"idempotency_key": "k"}, "idempotency_key cannot be changed"),
    ({"group": None}, "group cannot be changed"),
    ({"job_type": "u", "priority": 1}, "job_type cannot be changed"),
    ({"status": "completed"}, "status cannot be changed"),
    ({"priority": None}, "priority cannot be None"),
    ({"max_attempts": None}, "max_attempts cannot be None"),
    ({"delay": None}, "delay cannot be None"),
    ({"priority": 2**31}, "priority is"),
    ({"max_attempts": 0}, "max_attempts is"),
    ({"run_at": datetime(2030, 1, 1)}, "time zone"),  # noqa: DTZ001
    ({"run_at": None, "delay": HOUR}, "Give one of them"),
    ({"delay": -HOUR}, "delay is"),
    ({"timeout": timedelta(0)}, "timeout is"),
    ({"tags": "a"}, "tags must be a list"),
    ({"retry_delay": timedelta(seconds=0.5)}, "whole seconds"),
    ({"retry_backoff": "yes"}, "retry_backoff must be"),
    ({"payload": {1, 2}}, "not a JSON value"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG, ids=[str(changes) for changes, _ in WRONG])
async def test_a_wrong_change_changes_nothing(queue: JobQueue, changes: Any, message: str) -> None:
    """D-EDITIGNORED: what cannot be changed is said to be so, not ignored."""
    handle = await queue.add_job("t", 1)
    before = await handle.refresh()
    with pytest.raises(InvalidJob, match=message):
        await handle.edit(**changes)
    with pytest.raises(InvalidJob, match=message):
        await queue.edit_all_pending_jobs(changes, job_type="t")
    assert await handle.refresh() == before and len(await told(queue, handle.id)) == 1


@dataclass
class Mail:
    to: str


async def test_payloads_are_checked_by_the_definition_of_their_type(make_queue: Callable[..., JobQueue]) -> None:
    queue, plain = make_queue(), make_queue()

    @queue.job
    async def mail(payload: Mail) -> None: ...

    handle, stranger = await mail.add(Mail("a@b")), await plain.add_job("other")
    assert await queue.edit_job(handle.id, payload=Mail("c@d"))
    assert (await handle.refresh()).payload == {"to": "c@d"}
    for wrong in ({"to": 5}, {}, None):
        with pytest.raises(InvalidPayload):
            await queue.edit_job(handle.id, payload=wrong)
        with pytest.raises(InvalidPayload):
            await queue.edit_all_pending_jobs({"payload": wrong}, job_type="mail")
    with pytest.raises(UnknownJobType):
        await queue.edit_job(stranger.id, payload=1)
    assert await queue.edit_job(stranger.id, priority=1)
    for types in (None, ["mail", "other"]):
        with pytest.raises(InvalidJob, match="exactly one job_type"):
            await queue.edit_all_pending_jobs({"payload": Mail("x")}, job_type=types)
    assert await queue.edit_all_pending_jobs({"payload": Mail("x")}, job_type="mail") == 1
    assert (await handle.refresh()).payload == {"to": "x"}


# -- groups ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["moved", "all moved", "cancelled", "all cancelled"])
async def test_a_place_in_line_that_is_left_goes_to_the_next(queue: JobQueue, how: str) -> None:
    await worker(queue, group_concurrency=1)
    running, next_one, last = [
        handle.id for handle in await queue.add_jobs([NewJob("t", n, {"group": "g"}) for n in range(3)])
    ]
    (held,) = await claim(queue)
    assert held.id == running
    assert await claim(queue) == []  # the two others are parked
    await queue.backend.cycle("w", [Completed(held.id, held.lease_id)], [], 0, False)  # the next one is in line again
    await queue.edit_job(next_one, tags=["next"])
    match how:
        case "moved":
            assert await queue.edit_job(next_one, delay=HOUR)
        case "all moved":
            assert await queue.edit_all_pending_jobs({"delay": HOUR}, tags=["next"]) == 1
        case "cancelled":
            assert await queue.cancel_job(next_one)
        case _:
            assert await queue.cancel_all_upcoming_jobs(tags=["next"]) == 1
    assert [item.id for item in await claim(queue)] == [last]


async def test_parked_jobs_are_edited_where_they_are(queue: JobQueue) -> None:
    await worker(queue, group_concurrency=1)
    ids = [handle.id for handle in await queue.add_jobs([NewJob("t", n, {"group": "g"}) for n in range(4)])]
    (held,) = await claim(queue)
    assert await claim(queue) == []
    await queue.edit_job(ids[2], priority=5, payload="best")
    await queue.edit_job(ids[1], run_at=TOMORROW)
    await queue.edit_job(ids[3], run_at=None)
    order: list[int] = []
    while True:
        await queue.backend.cycle("w", [Completed(held.id, held.lease_id)], [], 0, False)
        found = await claim(queue)
        if not found:
            break
        (held,) = found
        order.append(held.id)
    assert sorted(order) == [ids[2], ids[3]]
    assert await queue.edit_job(ids[1], run_at=None)
    assert [item.id for item in await claim(queue)] == [ids[1]]


# -- many -----------------------------------------------------------------------------------------------


async def test_many_are_changed_in_pages_and_counted(queue: JobQueue) -> None:
    """D-CANCELALL: with events and hooks, and when it was."""
    hooks: list[tuple[str, int | None]] = []
    for name in ("job:edited", "job:cancelled", "job:retried"):
        queue.on(name, lambda hook: hooks.append((hook.name, hook.job_id)))
    ids = (await queue.add_jobs(NewJob("t", n, {"tags": ["x"]}) for n in range(1_100))).ids
    other = await queue.add_job("u")
    assert await queue.edit_all_pending_jobs({"priority": 4, "tags": ["y"]}, job_type="t", by="ada") == 1_100
    assert await queue.cancel_all_upcoming_jobs(tags=["y"], by="ada") == 1_100
    assert await queue.retry_all_failed_jobs(tags=["y"]) == 0
    assert await queue.retry_all_failed_jobs(status="cancelled", tags=["y"], by="bob") == 1_100
    for number, name in enumerate(("job:edited", "job:cancelled", "job:retried")):
        part = hooks[number * 1_100 : (number + 1) * 1_100]
        assert sorted(part) == [(name, job_id) for job_id in ids]
    assert len(hooks) == 3_300
    for job_id in (ids[0], ids[550], ids[-1]):
        found = await job(queue, job_id)
        assert (found.status, found.priority, found.tags) == ("pending", 4, ("y",))
        assert found.last_cancelled_at is not None and found.last_retried_at is not None
        assert (await told(queue, job_id))[1:] == [
            ("edited", {"priority": 4, "tags": ["y"], "by": "ada"}),
            ("cancelled", {"by": "ada"}),
            ("retried", {"by": "bob"}),
        ]
    assert len(await told(queue, other.id)) == 1


async def mixed(queue: JobQueue) -> dict[str, int]:
    """A job in each state that there is without waits, by what it is."""
    await worker(queue)
    names = ("running", "again", "dead", "done")
    ids = dict(zip(names, (await queue.add_jobs(NewJob("t", name) for name in names)).ids, strict=True))
    leases = {item.id: item.lease_id for item in await claim(queue)}
    await queue.backend.cycle(
        "w",
        [
            Failed(ids["again"], leases[ids["again"]], "boom", "handler_error", 3_600_000),
            Failed(ids["dead"], leases[ids["dead"]], "boom", "handler_error", None),
            Completed(ids["done"], leases[ids["done"]]),
        ],
        [],
        0,
        False,
    )
    ids["pending"] = (await queue.add_job("t", tags=["p"])).id
    ids["later"] = (await queue.add_job("t", delay=HOUR)).id
    ids["cancelled"] = (await queue.add_job("t")).id
    await queue.cancel_job(ids["cancelled"])
    return ids


CHANGES: list[tuple[str, dict[str, Any], set[str]]] = [
    ("cancel", {}, {"pending", "later", "again"}),
    ("cancel", {"status": "failed"}, {"again"}),
    ("cancel", {"status": ["pending", "processing"]}, {"pending", "later", "running"}),
    ("cancel", {"error_contains": "BOOM"}, {"again"}),
    ("cancel", {"tags": ["p"], "tag_mode": "none"}, {"later", "again"}),
    ("cancel", {"tags": [], "tag_mode": "exact"}, {"later", "again"}),
    ("retry", {}, {"dead"}),
    ("retry", {"status": "cancelled"}, {"cancelled"}),
    ("retry", {"status": ["failed", "cancelled"], "job_type": ["t"]}, {"dead", "cancelled"}),
    ("retry", {"job_type": "u"}, set()),
    ("edit", {}, {"pending", "later"}),
    ("edit", {"status": "pending", "tags": ["p"], "tag_mode": "exact"}, {"pending"}),
    ("edit", {"run_after": TOMORROW - timedelta(hours=23, minutes=50)}, {"later"}),
]


@pytest.mark.parametrize(
    ("what", "filters", "meant"), CHANGES, ids=[f"{what} {' '.join(where)}" for what, where, _ in CHANGES]
)
async def test_exactly_those_that_are_meant_change(
    queue: JobQueue, what: str, filters: dict[str, Any], meant: set[str]
) -> None:
    """D-CANCELALL, D-TAGMODES, D-FALSEEVENTS; and a dry run counts just those."""
    ids = await mixed(queue)
    before = {name: (await job(queue, job_id), await told(queue, job_id)) for name, job_id in ids.items()}

    async def do(dry_run: bool) -> int:
        match what:
            case "cancel":
                return await queue.cancel_all_upcoming_jobs(dry_run=dry_run, **filters)
            case "retry":
                return await queue.retry_all_failed_jobs(dry_run=dry_run, **filters)
            case _:
                return await queue.edit_all_pending_jobs({"priority": 7}, dry_run=dry_run, **filters)

    assert await do(True) == len(meant)
    for name, job_id in ids.items():
        assert (await job(queue, job_id), await told(queue, job_id)) == before[name]
    assert await do(False) == len(meant)
    for name, job_id in ids.items():
        found, events = await job(queue, job_id), await told(queue, job_id)
        if name not in meant:
            assert (found, events) == before[name], name
            continue
        assert len(events) == len(before[name][1]) + 1, name
        match what:
            case "cancel":
                wanted = ("processing", "cancel_requested") if name == "running" else ("cancelled", "cancelled")
                assert (found.status, events[-1][0]) == wanted
                assert found.next_attempt_at is None
            case "retry":
                assert (found.status, events[-1][0]) == ("pending", "retried")
                assert found.max_attempts > found.attempts
            case _:
                assert (found.priority, events[-1][0]) == (7, "edited")


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ({"status": "completed"}, "completed cannot be changed so"),
        ({"status": []}, "status: an empty list"),
        ({"job_type": []}, "job_type: an empty list"),
        ({"tags": []}, "tags: an empty list"),
        ({"tags": [], "tag_mode": "none"}, "tags: an empty list"),
        ({"kind": "t"}, "Unknown option kind"),
        ({"tag_mode": "some"}, "no tag mode"),
        ({"run_after": datetime(2030, 1, 1)}, "time zone"),  # noqa: DTZ001
    ],
)
async def test_a_wrong_filter_changes_nothing(queue: JobQueue, filters: Any, message: str) -> None:
    """An empty list would mean every job: whoever computed one did not mean that."""
    ids = await mixed(queue)
    before = await statuses(queue)
    for operation in (
        lambda: queue.cancel_all_upcoming_jobs(**filters),
        lambda: queue.retry_all_failed_jobs(**filters),
        lambda: queue.edit_all_pending_jobs({"priority": 1}, **filters),
    ):
        with pytest.raises(InvalidJob, match=message):
            await operation()
    assert await statuses(queue) == before and len(before) == len(ids)


async def test_a_bulk_retry_only_takes_failed_and_cancelled(queue: JobQueue) -> None:
    for status in ("pending", "processing", "waiting"):
        with pytest.raises(InvalidJob, match="cannot be changed so"):
            await queue.retry_all_failed_jobs(status=["failed", status])  # type: ignore[list-item]


async def test_these_jobs_by_their_ids(queue: JobQueue) -> None:
    ids = await mixed(queue)
    results = await queue.cancel_jobs([ids["done"], ids["running"], ids["pending"], 4711, 0, ids["pending"]], by="ada")
    assert results == {
        ids["done"]: "unchanged",
        ids["running"]: "requested",
        ids["pending"]: "changed",
        4711: "missing",
        0: "missing",
    }
    results = await queue.retry_jobs([ids["done"], ids["running"], ids["pending"], ids["again"]])
    assert list(results.values()) == ["unchanged", "unchanged", "changed", "changed"]
    assert await queue.retry_jobs([ids["done"]], force=True) == {ids["done"]: "changed"}
    assert await queue.cancel_jobs([]) == {}


async def test_jobs_that_are_added_meanwhile_are_left_alone(queue: JobQueue) -> None:
    """Each cancelled job adds another: the first thousand are cancelled, and there it ends."""
    await queue.add_jobs(NewJob("t", n) for n in range(1_000))
    added: list[asyncio.Task[Any]] = []
    queue.on("job:cancelled", lambda hook: added.append(asyncio.ensure_future(queue.add_job("t"))))
    assert await queue.cancel_all_upcoming_jobs() == 1_000
    await asyncio.gather(*added)
    assert (await queue.stats()).by_status == {"cancelled": 1_000, "pending": 1_000}


async def test_a_running_handler_is_stopped_by_a_bulk_cancel(queue: JobQueue, working: Working) -> None:
    began: list[Any] = []

    async def long(payload: Any) -> None:
        began.append(payload)
        await asyncio.sleep(60)

    await working(queue, {"long": long}, concurrency=4)
    handles = await queue.add_jobs(NewJob("long", n) for n in range(4))
    await until(lambda: len(began) == 4)
    assert await queue.cancel_all_upcoming_jobs(status="processing") == 4
    for handle in handles:
        assert (await handle.wait(timeout=20)).status == "cancelled"


# -- raced ----------------------------------------------------------------------------------------------


async def test_bulk_changes_raced_with_workers_and_each_other(
    make_queue: Callable[..., JobQueue], working: Working
) -> None:
    """No deadlock, no lost job; each count is that of the events."""
    queues = [make_queue() for _ in range(3)]
    queue = queues[0]

    async def note(payload: Any) -> None:
        if payload % 5 == 0:
            raise ValueError("five")

    await queue.add_jobs(NewJob("t", n, {"max_attempts": 1}) for n in range(900))
    for own in queues[:2]:
        await working(own, {"t": note}, concurrency=8)
    counts: Counter[str] = Counter()

    async def count(kind: str, changing: Coroutine[Any, Any, int]) -> None:
        number = await changing
        counts[kind] += number

    async def edits() -> None:
        for n in range(12):
            await count("edited", queues[2].edit_all_pending_jobs({"priority": n % 3, "tags": [str(n)]}))

    async def cancels() -> None:
        for n in range(12):
            await count("cancelled", queues[1].cancel_all_upcoming_jobs(priority=n % 3))

    async def retries() -> None:
        for _ in range(12):
            await count("retried", queues[0].retry_all_failed_jobs(status=["failed", "cancelled"]))

    await asyncio.gather(edits(), cancels(), retries(), edits(), cancels())
    jobs = [await queue.wait_for_job(item.id, timeout=60) for item in await queue.get_all_jobs(limit=1000)]
    assert len(jobs) == 900 and all(item.is_finished for item in jobs)
    kinds: Counter[str] = Counter()
    for item in jobs:
        kinds.update(kind for kind, _ in await told(queue, item.id))
    assert {kind: kinds[kind] for kind in ("edited", "cancelled", "retried")} == dict(counts)
    assert kinds["cancel_requested"] == 0
    assert (await queue.stats()).by_status.keys() <= {"completed", "failed", "cancelled"}
