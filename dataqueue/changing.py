"""What people do to jobs that are there: edit, cancel, retry, pause."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Unpack

from dataqueue.backends.base import CANCELLABLE, MOST_CHANGES, RETRYABLE, ChangeResult, JobFilter
from dataqueue.checks import check_by, may_exist
from dataqueue.errors import InvalidJob, JobNotFound, UnknownJobType
from dataqueue.events import Hook, HookName
from dataqueue.filters import JobFilters, make_filter
from dataqueue.jobs import JobStatus
from dataqueue.limits import LimitState
from dataqueue.options import JobChanges, check_job_type, make_edit
from dataqueue.payloads import Codec
from dataqueue.reading import ReadingQueue

_PLAIN: Codec[Any] = Codec(Any)

Change = Callable[[Sequence[int]], Awaitable[dict[int, ChangeResult]]]


class ChangingQueue(ReadingQueue):
    """The changing methods of :class:`dataqueue.JobQueue`."""

    # -- editing ------------------------------------------------------------------------------------

    async def edit_job(self, job_id: int, *, by: str | None = None, **changes: Unpack[JobChanges]) -> bool:
        """Change a job that is pending: ``await queue.edit_job(4711, priority=10, run_at=None)``.

        All is checked as when a job is added, and a payload by its type's definition. A new time holds at once,
        and a job with fewer ``max_attempts`` than it has used up keeps one.

        Args:
            by: who wants it, for the job's event log.
            changes: see :class:`dataqueue.JobChanges`; what is left out stays as it is.

        Returns:
            Whether anything changed: False if the job is not pending (any more), or nothing was given.

        Raises:
            JobNotFound: no such job.
            InvalidJob (UnknownJobType, InvalidPayload): a change of what cannot be changed, or to what a job cannot
                have; nothing was changed.
        """
        make_edit(None, changes)
        wish, payload = check_by(by), None
        backend = await self.open()
        if "payload" in changes or not changes:
            job = await self.require_job(job_id)
            payload = self.encode(job.job_type, changes["payload"]) if "payload" in changes else None
        if not changes:
            return False
        edit = make_edit(payload, changes)
        return await self._one(job_id, lambda ids: backend.edit(ids, edit, wish), "job:edited")

    async def edit_all_pending_jobs(
        self, changes: JobChanges, *, dry_run: bool = False, by: str | None = None, **filters: Unpack[JobFilters]
    ) -> int:
        """Change every pending job that meets all conditions.

        In bounded steps, each one change: workers take jobs meanwhile, and jobs that are added meanwhile stay as they
        are. To change payloads, name one ``job_type``.

        Args:
            changes: see :class:`dataqueue.JobChanges`.
            dry_run: only count.
            by: who wants it, for the jobs' event logs.
            filters: see :class:`dataqueue.JobFilters`; none for all pending jobs.

        Returns:
            How many were changed (or would be).

        Raises:
            InvalidJob (UnknownJobType, InvalidPayload): nothing was changed.
        """
        make_edit(None, changes)
        where, wish, payload = _where(filters, ("pending",), ("pending",)), check_by(by), None
        if "payload" in changes:
            if len(where.job_types) != 1:
                raise InvalidJob(
                    "To change payloads, name exactly one job_type: each type has a payload of its own kind. Nothing "
                    "was changed."
                )
            payload = self.encode(where.job_types[0], changes["payload"])
        edit = make_edit(payload, changes)
        backend = await self.open()
        if not changes:
            return 0
        return await self._all(where, lambda ids: backend.edit(ids, edit, wish), "job:edited", dry_run)

    def encode(self, job_type: str, payload: object) -> str:
        """The JSON text of a payload of this type, checked by its definition (for the methods of this queue).

        Raises:
            InvalidJob (UnknownJobType, InvalidPayload)
        """
        definition = self.definitions.get(check_job_type(job_type))
        if definition is not None:
            return definition.handler.payload.encode(payload)
        if self.definitions:
            raise UnknownJobType(
                f"This queue defines no job type {job_type!r}. Defined: {', '.join(sorted(self.definitions))}. "
                "Nothing was stored. Import the module that defines it, or use a queue without definitions."
            )
        return _PLAIN.encode(payload)

    # -- cancelling ---------------------------------------------------------------------------------

    async def cancel_job(self, job_id: int, *, by: str | None = None) -> bool:
        """Cancel a job that is not finished: pending, waiting, running, or failed with a retry due.

        A running one is asked to stop: its handler is cancelled (``ctx.aborted`` for a ``def``
        handler) at once where notifications work, else at its worker's next heartbeat.

        Args:
            by: who wants it, for the job's event log.

        Returns:
            Whether anything changed: False if it was finished already.

        Raises:
            JobNotFound: no such job.
        """
        backend, wish = await self.open(), check_by(by)
        return await self._one(job_id, lambda ids: backend.cancel(ids, wish), "job:cancelled")

    async def cancel_jobs(self, job_ids: Iterable[int], *, by: str | None = None) -> dict[int, ChangeResult]:
        """Cancel these jobs as :meth:`cancel_job` does, 500 at a time.

        Returns:
            What became of each: ``changed``; ``requested`` (it runs, and was asked to stop); ``unchanged`` (it was
            finished already); ``missing``.
        """
        backend, wish = await self.open(), check_by(by)
        return await self._each(job_ids, lambda ids: backend.cancel(ids, wish), "job:cancelled")

    async def cancel_all_upcoming_jobs(
        self, *, dry_run: bool = False, by: str | None = None, **filters: Unpack[JobFilters]
    ) -> int:
        """Cancel every job that meets all conditions and is yet to run: pending, waiting, or failed with a retry due.

        Running ones are asked to stop only if the filter names their status: ``status=["pending", "processing"]``.
        In bounded steps, each one change; jobs that are added meanwhile are left alone.

        Args:
            dry_run: only count.
            by: who wants it, for the jobs' event logs.
            filters: see :class:`dataqueue.JobFilters`; none for all upcoming jobs.

        Returns:
            How many were cancelled or asked to stop (or would be).

        Raises:
            InvalidJob: a condition of the wrong type or range, or a status that cannot be cancelled.
        """
        where = replace(_where(filters, CANCELLABLE, ("pending", "waiting", "failed")), retry_due=True)
        backend, wish = await self.open(), check_by(by)
        return await self._all(where, lambda ids: backend.cancel(ids, wish, where.statuses), "job:cancelled", dry_run)

    # -- retrying -----------------------------------------------------------------------------------

    async def retry_job(self, job_id: int, *, force: bool = False, by: str | None = None) -> bool:
        """Run a failed or cancelled job again, now; ``force`` also a completed one.

        At least one more attempt is granted: ``max_attempts`` is raised where it would be in the way.

        Args:
            by: who wants it, for the job's event log.

        Returns:
            Whether anything changed: False if the job is pending, running or waiting (or completed).

        Raises:
            JobNotFound: no such job.
        """
        backend, wish, statuses = await self.open(), check_by(by), _retryable(force)
        return await self._one(job_id, lambda ids: backend.retry(ids, wish, statuses), "job:retried")

    async def retry_jobs(
        self, job_ids: Iterable[int], *, force: bool = False, by: str | None = None
    ) -> dict[int, ChangeResult]:
        """Run these jobs again as :meth:`retry_job` does, 500 at a time.

        Returns:
            What became of each: ``changed``, ``unchanged`` or ``missing``.
        """
        backend, wish, statuses = await self.open(), check_by(by), _retryable(force)
        return await self._each(job_ids, lambda ids: backend.retry(ids, wish, statuses), "job:retried")

    async def retry_all_failed_jobs(
        self, *, dry_run: bool = False, by: str | None = None, **filters: Unpack[JobFilters]
    ) -> int:
        """Run every job again, now, that meets all conditions and has failed for good.

        Cancelled ones only if the filter names their status. In bounded steps, each one change; each job is retried
        once, even if it fails again meanwhile.

        Args:
            dry_run: only count.
            by: who wants it, for the jobs' event logs.
            filters: see :class:`dataqueue.JobFilters`; none for all that have failed for good.

        Returns:
            How many were retried (or would be).

        Raises:
            InvalidJob: a condition of the wrong type or range, or a status other than failed and cancelled.
        """
        where = replace(_where(filters, RETRYABLE, ("failed",)), retry_due=False)
        backend, wish = await self.open(), check_by(by)
        return await self._all(
            where, lambda ids: backend.retry(ids, wish, where.statuses, True), "job:retried", dry_run
        )

    # -- one, these, all ----------------------------------------------------------------------------

    async def _one(self, job_id: int, change: Change, hook: HookName) -> bool:
        """Whether anything changed.

        Raises:
            JobNotFound: no such job.
        """
        result = (await self._each([job_id], change, hook))[job_id]
        if result == "missing":
            raise JobNotFound(job_id)
        return result != "unchanged"

    async def _each(self, job_ids: Iterable[int], change: Change, hook: HookName) -> dict[int, ChangeResult]:
        wanted = list(job_ids)
        ids = sorted({job_id for job_id in wanted if may_exist(job_id)})
        results: dict[int, ChangeResult] = dict.fromkeys(wanted, "missing")
        for start in range(0, len(ids), MOST_CHANGES):
            results |= await self._change(ids[start : start + MOST_CHANGES], change, hook)
        return results

    async def _all(self, where: JobFilter, change: Change, hook: HookName, dry_run: bool) -> int:
        count = 0
        async for ids in self._pages(where):
            if dry_run:
                count += len(ids)
            else:
                results = (await self._change(ids, change, hook)).values()
                count += sum(result in ("changed", "requested") for result in results)
        return count

    async def _pages(self, where: JobFilter) -> AsyncIterator[list[int]]:
        """Ids of the jobs that meet these conditions, from the highest down: what is added meanwhile is higher."""
        backend, cursor = await self.open(), None
        while True:
            jobs = await backend.list_jobs(where, MOST_CHANGES, cursor, 0, values=False)
            if jobs:
                yield [job.id for job in reversed(jobs)]
            if len(jobs) < MOST_CHANGES:
                return
            cursor = jobs[-1].id

    async def _change(self, ids: Sequence[int], change: Change, hook: HookName) -> dict[int, ChangeResult]:
        results = await change(ids)
        if self.hooks.wants(hook):
            for job_id, result in results.items():
                if result == "changed":
                    self.hooks.emit(Hook(hook, job_id))
        return results

    # -- pausing ------------------------------------------------------------------------------------

    async def pause(self, job_type: str | None = None, *, by: str | None = None) -> bool:
        """Let no job of this type be claimed from now on, by any worker; without a type, no job at all.

        Jobs that run go on, and jobs can be added. It lasts until :meth:`resume`, whatever is restarted.

        Args:
            by: who wants it; ``explain_job`` and ``list_limits`` say so.

        Returns:
            Whether anything changed: False if it was paused already.
        """
        name = None if job_type is None else check_job_type(job_type)
        return await (await self.open()).pause(name, check_by(by))

    async def resume(self, job_type: str | None = None) -> bool:
        """End a :meth:`pause` of this type; without one, the pause of the whole queue (types that were paused by
        themselves stay so). Returns whether anything changed."""
        name = None if job_type is None else check_job_type(job_type)
        return await (await self.open()).resume(name)

    async def list_limits(self) -> list[LimitState]:
        """The types that are limited or paused, with what they use of their limits; first the whole queue, if it is
        paused."""
        return await (await self.open()).list_limits()


def _retryable(force: bool) -> tuple[JobStatus, ...]:
    return (*RETRYABLE, "completed") if force else RETRYABLE


def _where(filters: Mapping[str, Any], allowed: Sequence[JobStatus], default: tuple[JobStatus, ...]) -> JobFilter:
    """Check the conditions of a change of all jobs that meet them.

    Raises:
        InvalidJob: also for a status that cannot be changed so, and for an empty list, which a list of jobs takes for
            no condition: a list that came out empty must not change every job.
    """
    where = make_filter(filters)
    found = {"status": where.statuses, "job_type": where.job_types}
    empty = [name for name, values in found.items() if filters.get(name) is not None and not values]
    if where.tags == () and where.tag_mode in ("all", "none"):
        empty.append("tags")
    if empty:
        raise InvalidJob(f"{' and '.join(empty)}: an empty list. Leave it out to mean every job. Nothing was changed.")
    wrong = [status for status in where.statuses if status not in allowed]
    if wrong:
        raise InvalidJob(
            f"Jobs with status {', '.join(wrong)} cannot be changed so, only {', '.join(allowed)}. Nothing was changed."
        )
    return replace(where, statuses=where.statuses or default)
