"""What people do to jobs that are there: cancel, retry, pause."""

from __future__ import annotations

from dataqueue.checks import check_by, may_exist
from dataqueue.errors import JobNotFound
from dataqueue.events import Hook
from dataqueue.limits import LimitState
from dataqueue.options import check_job_type
from dataqueue.reading import ReadingQueue


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
