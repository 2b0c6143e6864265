"""What people do to jobs that are there: cancel, retry, pause."""

from __future__ import annotations

from typing import Any

from dataqueue.checks import check_by, may_exist
from dataqueue.dead_letters import DeadLetter, read_letter
from dataqueue.errors import InvalidJob, JobNotFound
from dataqueue.events import Hook
from dataqueue.jobs import ANY_JSON, JobHandle
from dataqueue.limits import LimitState
from dataqueue.options import check_integer, check_job_type
from dataqueue.reading import ReadingQueue

MAX_REDRIVEN = 10_000


class ChangingQueue(ReadingQueue):
    """The changing methods of :class:`dataqueue.JobQueue`."""

    # -- changing -----------------------------------------------------------------------------------

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
        backend = await self.open()
        result = await backend.cancel(job_id, check_by(by)) if may_exist(job_id) else "missing"
        if result == "missing":
            raise JobNotFound(job_id)
        if result == "changed":
            self.hooks.emit(Hook("job:cancelled", job_id))
        return result in ("changed", "requested")

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
        backend = await self.open()
        result = await backend.retry(job_id, force, check_by(by)) if may_exist(job_id) else "missing"
        if result == "missing":
            raise JobNotFound(job_id)
        if result == "changed":
            self.hooks.emit(Hook("job:retried", job_id))
        return result == "changed"

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
