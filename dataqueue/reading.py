"""What a queue tells: jobs, events, counts, explanations, and the end of a job."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, TypeVar

from dataqueue.backends.base import Finding, JobFilter, Stats, WorkerRecord
from dataqueue.checks import (
    check_statuses,
    check_tag_mode,
    check_window,
    may_exist,
    seconds_or_none,
    several,
)
from dataqueue.connected import ConnectedQueue
from dataqueue.errors import JobCancelled, JobFailed, JobNotFound
from dataqueue.jobs import Job, JobEvent, JobPage, JobStatus, TagMode
from dataqueue.options import INT4_MAX, INT4_MIN, check_aware, check_integer, check_job_type, check_name, check_tags
from dataqueue.payloads import Codec
from dataqueue.waiting import FinishWatch

if TYPE_CHECKING:
    from dataqueue.explain import Explanation
    from dataqueue.failures import FailureSummary
    from dataqueue.status import QueueStatus

R = TypeVar("R")

MAX_PAGE = 1000
_DAY = timedelta(days=1)


class ReadingQueue(ConnectedQueue):
    """The reading methods of :class:`dataqueue.JobQueue`."""

    # -- reading ------------------------------------------------------------------------------------

    async def get_job(self, job_id: int) -> Job | None:
        """The job, or None if there is none with this id."""
        backend = await self.open()
        return await backend.get_job(job_id) if may_exist(job_id) else None

    async def require_job(self, job_id: int) -> Job:
        """The job.

        Raises:
            JobNotFound: no such job.
        """
        job = await self.get_job(job_id)
        if job is None:
            raise JobNotFound(job_id)
        return job

    async def get_jobs(
        self,
        *,
        status: JobStatus | Iterable[JobStatus] | None = None,
        job_type: str | Iterable[str] | None = None,
        priority: int | None = None,
        tags: Iterable[str] | None = None,
        tag_mode: TagMode = "all",
        run_after: datetime | None = None,
        run_before: datetime | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        error_contains: str | None = None,
        group: str | None = None,
        limit: int = 100,
        cursor: int | None = None,
        offset: int = 0,
        values: bool = True,
    ) -> JobPage:
        """Jobs that meet all conditions, highest id first.

        Args:
            status: one, or several of which any will do.
            job_type: likewise.
            priority: exactly this one.
            tags: labels, to which ``tag_mode`` applies.
            tag_mode: ``all`` of them (the default), ``any``, ``exact`` (the same set), ``none``.
            run_after: due at or after this moment.
            run_before: due before it.
            created_after: added at or after this moment.
            created_before: added before it.
            error_contains: part of the message of any of its errors, whatever its case.
            group: exactly this one.
            limit: jobs a page, at most 1,000.
            values: False leaves payloads and outputs out (they are None then), which may be large.
            cursor: the ``next_cursor`` of the page before; fast however deep.
            offset: jobs to leave out, for small lists.

        Raises:
            InvalidJob: a condition of the wrong type or range.
        """
        check_integer(limit, "limit", 1, MAX_PAGE)
        check_integer(offset, "offset", 0, INT4_MAX)
        where = JobFilter(
            statuses=check_statuses(status),
            job_types=tuple(check_job_type(name) for name in several(job_type, "job_type")),
            priority=None if priority is None else check_integer(priority, "priority", INT4_MIN, INT4_MAX),
            tags=None if tags is None else check_tags(tags) or (),
            tag_mode=check_tag_mode(tag_mode),
            run_after=run_after and check_aware(run_after, "run_after"),
            run_before=run_before and check_aware(run_before, "run_before"),
            created_after=created_after and check_aware(created_after, "created_after"),
            created_before=created_before and check_aware(created_before, "created_before"),
            error_contains=None if error_contains is None else check_name(error_contains, "error_contains"),
            group=None if group is None else check_name(group, "group"),
        )
        backend = await self.open()
        before = None if cursor is None else check_integer(cursor, "cursor", 1, 2**63 - 1)
        jobs = await backend.list_jobs(where, limit + 1, before, offset, values)
        more = len(jobs) > limit
        return JobPage(jobs[:limit], jobs[limit - 1].id if more else None)

    async def get_jobs_by_status(
        self, status: JobStatus, *, limit: int = 100, cursor: int | None = None, offset: int = 0
    ) -> JobPage:
        """Jobs in one status, highest id first."""
        return await self.get_jobs(status=status, limit=limit, cursor=cursor, offset=offset)

    async def get_jobs_by_tags(
        self,
        tags: Iterable[str],
        mode: TagMode = "all",
        *,
        limit: int = 100,
        cursor: int | None = None,
        offset: int = 0,
    ) -> JobPage:
        """Jobs with these tags (see :meth:`get_jobs` for the modes), highest id first.

        No tags at all: ``all`` and ``none`` hold for every job, ``any`` for none, ``exact`` for untagged ones.
        """
        return await self.get_jobs(tags=tags, tag_mode=mode, limit=limit, cursor=cursor, offset=offset)

    async def get_all_jobs(self, *, limit: int = 100, cursor: int | None = None, offset: int = 0) -> JobPage:
        """All jobs, highest id first."""
        return await self.get_jobs(limit=limit, cursor=cursor, offset=offset)

    async def get_job_events(self, job_id: int) -> list[JobEvent]:
        """What happened to a job, oldest first; empty for an unknown id."""
        backend = await self.open()
        return await backend.list_events(job_id) if may_exist(job_id) else []

    async def stats(self) -> Stats:
        """Counts by type and status, the age of the oldest due job, and the workers."""
        return await (await self.open()).stats()

    async def list_workers(self) -> list[WorkerRecord]:
        """The workers that the store knows, silent ones included."""
        return await (await self.open()).list_workers()

    # -- explaining ---------------------------------------------------------------------------------

    async def explain_job(self, job_id: int) -> Explanation:
        """Why a job runs, or does not, and what to do about it. An unknown id is explained, too."""
        from dataqueue.explain import SAMPLE, explain, not_found, prolonged_until

        backend = await self.open()
        situation = await backend.situation(job_id) if may_exist(job_id) else None
        if situation is None:
            return not_found(job_id, await backend.now())
        recent = await backend.sample_finished(situation.job.job_type, SAMPLE) if situation.ahead else []
        if situation.job.status == "processing":
            events = await backend.list_events(job_id)
            situation = replace(situation, prolonged_until=prolonged_until(situation.job, events))
        return explain(situation, recent)

    async def summarize_failures(
        self, *, window: timedelta = _DAY, job_type: str | None = None, limit: int = 10
    ) -> FailureSummary:
        """Jobs whose status is ``failed``, grouped by cause, the most common first.

        Args:
            window: how long ago their last attempt may have failed; any positive time.
            job_type: only jobs of this type.
            limit: groups, at most 100. The newest 10,000 failed jobs are looked at.
        """
        from dataqueue.failures import MAX_READ, summarize

        check_integer(limit, "limit", 1, 100)
        seconds = check_window(window).total_seconds()
        name = None if job_type is None else check_job_type(job_type)
        failures = await (await self.open()).list_failures(name, seconds, MAX_READ + 1)
        return summarize(failures[:MAX_READ], limit, len(failures) > MAX_READ)

    async def status(self, *, window: timedelta = _DAY, job_type: str | None = None) -> QueueStatus:
        """How the queue (or one type of job) is: a verdict, the evidence for it, and what to look at next."""
        from dataqueue.status import SAMPLE, judge

        name = None if job_type is None else check_job_type(job_type)
        backend = await self.open()
        failures = await self.summarize_failures(window=window, job_type=name)
        recent = await backend.sample_finished(name, SAMPLE)
        limits = await backend.list_limits()
        return judge(await backend.stats(), recent, failures, await backend.now(), window, name, limits)

    async def doctor(self, *, deep: bool = False) -> list[Finding]:
        """What is wrong with the store, and how to mend it.

        Args:
            deep: also compare every record with every index; reads everything, in bounded steps.
        """
        return await (await self.open()).doctor(deep)

    # -- waiting ------------------------------------------------------------------------------------

    async def wait_for_job(self, job_id: int, *, timeout: float | timedelta | None = None) -> Job:
        """The finished job. See :meth:`JobHandle.wait`."""
        backend = await self.open()
        if self._watch is None:
            self._watch = FinishWatch(backend, self.signals)
        if not may_exist(job_id):
            raise JobNotFound(job_id)
        await self._watch.wait(job_id, seconds_or_none(timeout))
        return await self.require_job(job_id)

    async def wait_for_result(self, job_id: int, codec: Codec[R], *, timeout: float | timedelta | None = None) -> R:
        """The result of a job, decoded. See :meth:`JobHandle.result`."""
        from dataqueue.jsonvalue import dumps

        job = await self.wait_for_job(job_id, timeout=timeout)
        if job.status == "cancelled":
            raise JobCancelled(job.id, job.job_type)
        if job.status == "failed":
            message = job.last_error or "no error was recorded"
            raise JobFailed(job.id, job.job_type, message, job.failure_reason, job.attempts)
        return codec.decode(dumps(job.output, "result")) if codec.typed else job.output
