"""What a queue tells: jobs, events, counts, explanations, and the end of a job."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar, Unpack

from dataqueue.backends.base import Finding, Stats, WorkerRecord
from dataqueue.checks import check_window, may_exist, seconds_or_none
from dataqueue.connected import ConnectedQueue
from dataqueue.errors import JobCancelled, JobFailed, JobNotFound
from dataqueue.filters import JobFilters, make_filter
from dataqueue.jobs import Job, JobEvent, JobPage, JobStatus, TagMode
from dataqueue.options import INT4_MAX, check_integer, check_job_type
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
        limit: int = 100,
        cursor: int | None = None,
        offset: int = 0,
        values: bool = True,
        **filters: Unpack[JobFilters],
    ) -> JobPage:
        """Jobs that meet all conditions, highest id first.

        Args:
            limit: jobs a page, at most 1,000.
            values: False leaves payloads and outputs out (they are None then), which may be large.
            cursor: the ``next_cursor`` of the page before; fast however deep.
            offset: jobs to leave out, for small lists.
            filters: see :class:`dataqueue.JobFilters`.

        Raises:
            InvalidJob: a condition of the wrong type or range.
        """
        check_integer(limit, "limit", 1, MAX_PAGE)
        check_integer(offset, "offset", 0, INT4_MAX)
        where = make_filter(filters)
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
        from dataqueue.explain import SAMPLE, explain, not_found, prolonged_until, schedule_of

        backend = await self.open()
        situation = await backend.situation(job_id) if may_exist(job_id) else None
        if situation is None:
            return not_found(job_id, await backend.now())
        recent = await backend.sample_finished(situation.job.job_type, SAMPLE) if situation.ahead else []
        events = await backend.list_events(job_id)
        if situation.job.status == "processing":
            situation = replace(situation, prolonged_until=prolonged_until(situation.job, events))
        if situation.job.status == "waiting":
            records, tokens, _ = await backend.load_steps(job_id)
            wait = next((record for record in reversed(records) if not record.done), None)
            token = tokens.get(wait.token_id) if wait is not None and wait.token_id else None
            situation = replace(situation, wait=wait, token=token)
        return replace(explain(situation, recent), schedule=schedule_of(events))

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
