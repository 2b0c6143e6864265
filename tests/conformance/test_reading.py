"""Reading jobs: lists, filters, pages, tags, events, counts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dataqueue import InvalidJob, JobNotFound, JobQueue, NewJob
from dataqueue.jobs import TagMode


async def test_an_unknown_id(queue: JobQueue) -> None:
    assert await queue.get_job(4711) is None
    assert await queue.get_job_events(4711) == []
    with pytest.raises(JobNotFound, match="4711"):
        await queue.require_job(4711)
    for wrong in ("1", True, 1.0):
        with pytest.raises(InvalidJob):
            await queue.get_job(wrong)  # type: ignore[arg-type]


async def test_pages_go_through_everything_once(queue: JobQueue) -> None:
    ids = (await queue.add_jobs(NewJob("t", n) for n in range(25))).ids
    seen: list[int] = []
    cursor = None
    pages = 0
    while True:
        page = await queue.get_jobs(limit=10, cursor=cursor)
        seen += [job.id for job in page]
        pages += 1
        cursor = page.next_cursor
        if cursor is None:
            break
        await queue.add_job("t")  # what is added meanwhile moves no page
    assert seen == ids[::-1] and pages == 3
    assert [job.id for job in await queue.get_all_jobs(limit=5, offset=5)] == [
        job.id for job in (await queue.get_all_jobs(limit=10))[5:]
    ]


async def test_filters_hold_together(queue: JobQueue) -> None:
    soon = datetime.now(UTC) + timedelta(hours=1)
    late = soon + timedelta(days=1)
    a = await queue.add_job("a", priority=1)
    b = await queue.add_job("b", priority=1, run_at=soon)
    c = await queue.add_job("b", priority=2, run_at=late)
    await queue.cancel_job(c.id)

    async def ids(**where: Any) -> list[int]:
        return [job.id for job in await queue.get_jobs(**where)]

    assert await ids(job_type="b") == [c.id, b.id]
    assert await ids(job_type=["a", "b"], priority=1) == [b.id, a.id]
    assert await ids(status="cancelled") == [c.id]
    assert await ids(status=["pending", "cancelled"], job_type="b") == [c.id, b.id]
    assert await ids(run_after=soon) == [c.id, b.id]
    assert await ids(run_after=soon, run_before=late) == [b.id]
    assert await ids(created_after=datetime.now(UTC) + timedelta(hours=1)) == []
    assert await ids(created_before=datetime.now(UTC) + timedelta(hours=1), priority=2) == [c.id]
    assert [job.id for job in await queue.get_jobs_by_status("pending")] == [b.id, a.id]


@pytest.mark.parametrize(
    "where",
    [
        {"status": "done"},
        {"limit": 0},
        {"limit": 1001},
        {"limit": "abc"},
        {"offset": -1},
        {"cursor": 0},
        {"job_type": 5},
        {"priority": "high"},
        {"tags": ["a"], "tag_mode": "some"},
        {"run_after": datetime(2026, 1, 1)},  # noqa: DTZ001
        {"created_before": "yesterday"},
    ],
    ids=str,
)
async def test_bad_filters_are_refused(queue: JobQueue, where: dict[str, Any]) -> None:
    with pytest.raises(InvalidJob):
        await queue.get_jobs(**where)


TAGGED: dict[str, list[str]] = {"none": [], "a": ["a"], "ab": ["a", "b"], "ba": ["b", "a"], "abc": ["a", "b", "c"]}


@pytest.mark.parametrize(
    ("tags", "mode", "expected"),
    [
        (["a"], "all", {"a", "ab", "ba", "abc"}),
        (["a", "b"], "all", {"ab", "ba", "abc"}),
        (["b", "a"], "exact", {"ab", "ba"}),
        (["a"], "exact", {"a"}),
        (["b", "c"], "any", {"ab", "ba", "abc"}),
        (["z"], "any", set()),
        (["b"], "none", {"none", "a"}),
        (["z"], "none", {"none", "a", "ab", "ba", "abc"}),
        ([], "all", {"none", "a", "ab", "ba", "abc"}),
        ([], "none", {"none", "a", "ab", "ba", "abc"}),
        ([], "any", set()),
        ([], "exact", {"none"}),
    ],
)
async def test_tags_by_mode(queue: JobQueue, tags: list[str], mode: TagMode, expected: set[str]) -> None:
    """D-TAGMODES, D-MISSINGTAGS: in any order, and jobs without tags count."""
    for name, own in TAGGED.items():
        await queue.add_job("t", name, tags=own)
    assert {job.payload for job in await queue.get_jobs_by_tags(tags, mode)} == expected
    found = await queue.get_jobs(tags=tags, tag_mode=mode, status="pending")
    assert {job.payload: list(job.tags) for job in found} == {name: TAGGED[name] for name in expected}


async def test_counts(queue: JobQueue) -> None:
    await queue.add_jobs([NewJob("a"), NewJob("a"), NewJob("b", None, {"delay": timedelta(hours=1)})])
    stats = await queue.stats()
    assert stats.by_type == {"a": {"pending": 2}, "b": {"pending": 1}}
    assert stats.by_status == {"pending": 3}
    assert stats.oldest_ready_seconds is not None and stats.oldest_ready_seconds >= 0
    assert stats.unhandled_types == ["a", "b"] and stats.workers == []


async def test_a_healthy_store_has_no_errors(queue: JobQueue) -> None:
    findings = await queue.doctor()
    assert findings and not [finding for finding in findings if finding.level == "error"]
