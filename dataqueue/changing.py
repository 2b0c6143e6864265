"""What people do to jobs that are there: edit, cancel, retry, pause."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Unpack

from dataqueue.backends.base import CANCELLABLE, MOST_CHANGES, RETRYABLE, ChangeResult, JobFilter
from dataqueue.checks import check_by, may_exist
from dataqueue.dead_letters import DeadLetter, read_letter
from dataqueue.errors import InvalidJob, JobNotFound, UnknownJobType
from dataqueue.events import Hook, HookName
from dataqueue.filters import JobFilters, make_filter
from dataqueue.jobs import ANY_JSON, JobHandle, JobStatus
from dataqueue.limits import LimitState
from dataqueue.options import JobChanges, check_integer, check_job_type, make_edit
from dataqueue.payloads import Codec
from dataqueue.reading import ReadingQueue

_PLAIN: Codec[Any] = Codec(Any)
MAX_REDRIVEN = 10_000

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

    # -- dead letters -------------------------------------------------------------------------------

    async def redrive(self, job_id: int, *, by: str | None = None) -> JobHandle[Any]:
        """Run the job again that a dead letter tells of; the letter is then settled (cancelled, if nobody has handled it).

        The same job runs, with its id and its history, and at least one more attempt; where it has been cleaned up
        since, one like it is added.

        Args:
            job_id: of the dead letter; a job's is its ``dead_letter_job_id``.
            by: who wants it, for the event log.

        Returns:
            What runs now; ``created`` is True if it had to be added.

        Raises:
            JobNotFound: no such job.
            InvalidJob: it is no dead letter, it is running or settled already, or its job is not finished.
        """
        job = await self.require_job(job_id)
        letter = read_letter(job)
        if letter is None:
            raise InvalidJob(
                f"Job {job_id} ({job.job_type}) is no dead letter: its payload does not tell of a failed job. "
                "Nothing was changed."
            )
        redriven = await self._redrive(letter, by)
        if redriven is None:
            raise InvalidJob(
                f"Job {job_id} was not redriven: it is running or has been redriven already, or the job that it tells of, "
                f"{letter.source_id}, is not finished, or has a newer dead letter. Nothing was changed."
            )
        return redriven

    async def redrive_all(
        self, job_type: str, *, limit: int = 1000, dry_run: bool = False, by: str | None = None
    ) -> list[JobHandle[Any]]:
        """Redrive the dead letters of this type that nobody has handled, oldest first; see :meth:`redrive`.

        Args:
            job_type: the type of the dead letters.
            limit: how many at most, from 1 to 10,000.
            dry_run: change nothing; the handles are those of the letters.
            by: who wants it, for the event log.

        Returns:
            What runs now. Letters that could not be redriven are left out.
        """
        check_integer(limit, "limit", 1, MAX_REDRIVEN)
        name = check_job_type(job_type)
        letters: list[DeadLetter] = []
        cursor: int | None = None
        while True:
            page = await self.get_jobs(status=["pending", "failed"], job_type=name, cursor=cursor, limit=1000)
            letters += [letter for job in page if (letter := read_letter(job)) is not None]
            cursor = page.next_cursor
            if cursor is None:
                break
        oldest = letters[::-1][:limit]
        if dry_run:
            handles: list[JobHandle[Any]] = [JobHandle(letter.id, False, self) for letter in oldest]
            return handles
        done = [await self._redrive(letter, by) for letter in oldest]
        return [handle for handle in done if handle is not None]

    async def _redrive(self, letter: DeadLetter, by: str | None) -> JobHandle[Any] | None:
        backend = await self.open()
        job_id = await backend.redrive(letter, check_by(by))
        if job_id is None:
            return None
        was_there = job_id == letter.source_id
        self.hooks.emit(Hook("job:retried" if was_there else "job:added", job_id, letter.spec.job_type))
        definition = self.definitions.get(letter.spec.job_type)
        return JobHandle(job_id, not was_there, self, definition.handler.result if definition else ANY_JSON)

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
                if result in ("changed", "cascaded"):
                    self.hooks.emit(Hook(hook, job_id))
        return {job_id: results[job_id] for job_id in ids}

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
