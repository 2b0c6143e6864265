"""What keeps a queue tidy: lost jobs taken back, old ones and their traces deleted."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, cast, get_args

from dataqueue.backends.base import Backend, EndStatus
from dataqueue.changing import ChangingQueue
from dataqueue.checks import check_age, check_statuses
from dataqueue.errors import InvalidJob
from dataqueue.options import check_integer

if TYPE_CHECKING:
    from dataqueue.queue import JobQueue

MAX_BATCH = 5_000
_ENDS: tuple[EndStatus, ...] = get_args(EndStatus)


class CleaningQueue(ChangingQueue):
    """The cleaning methods of :class:`dataqueue.JobQueue`."""

    async def reclaim_stuck_jobs(self) -> int:
        """Take all jobs back whose worker is lost: its lease is over. However long a job runs, it is not touched while
        its worker renews its lease.

        They run again, or fail if that was their last attempt (reason ``worker_lost``). Every worker and every
        supervisor does this by itself.

        Returns:
            How many were taken back.
        """
        from dataqueue.worker.rescue import rescue

        await self.open()
        total = 0
        while count := await rescue(cast("JobQueue", self)):
            total += count
        return total

    async def cleanup_old_jobs(
        self,
        older_than: timedelta = timedelta(days=30),
        *,
        status: EndStatus | Iterable[EndStatus] = "completed",
        batch_size: int = 1000,
        dry_run: bool = False,
    ) -> int:
        """Delete finished jobs that ended longer ago than this, with their events, outputs and errors.

        A failed job is finished when no retry is due. An idempotency key is free again when its job is deleted.

        Args:
            older_than: since a job ended, by the store's clock; ``timedelta(0)`` for all that are finished now.
            status: ``completed``, ``failed``, ``cancelled``, or several of them.
            batch_size: jobs in one statement or script at most, from 1 to 5,000.
            dry_run: only count.

        Returns:
            How many were deleted (or would be). A job that somebody has in hand at that moment is left for the next time.

        Raises:
            InvalidJob: an argument out of its range; nothing was deleted.
        """
        statuses = _check_ends(status)
        age, size = check_age(older_than, "older_than"), check_integer(batch_size, "batch_size", 1, MAX_BATCH)
        backend = await self.open()
        before = await _ago(backend, age)
        counts = [await _sum(backend.delete_jobs(name, before, size, dry_run)) for name in statuses]
        return sum(counts)

    async def cleanup_old_job_events(
        self, older_than: timedelta = timedelta(days=90), *, batch_size: int = 1000
    ) -> int:
        """Delete recorded events that are older than this, of jobs that stay.

        Args:
            older_than: since the event, by the store's clock.
            batch_size: events in one statement or script at most (on Redis about so many), from 1 to 5,000.

        Returns:
            How many events were deleted.

        Raises:
            InvalidJob: an argument out of its range; nothing was deleted.
        """
        age, size = check_age(older_than, "older_than"), check_integer(batch_size, "batch_size", 1, MAX_BATCH)
        backend = await self.open()
        return await _sum(backend.delete_events(await _ago(backend, age), size))

    async def cleanup_old_tokens(self, older_than: timedelta = timedelta(days=90), *, batch_size: int = 1000) -> int:
        """Delete tokens that no job made and that ended longer ago than this. Those that a job made go with it, and
        open ones stay.

        Args:
            older_than: since a token was completed, failed or timed out, by the store's clock.
            batch_size: tokens in one statement or script at most, from 1 to 5,000.

        Returns:
            How many were deleted.

        Raises:
            InvalidJob: an argument out of its range; nothing was deleted.
        """
        age, size = check_age(older_than, "older_than"), check_integer(batch_size, "batch_size", 1, MAX_BATCH)
        backend = await self.open()
        before = await _ago(backend, age)
        total = 0
        while count := await backend.delete_tokens(before, size):
            total += count
        return total

    async def release_idempotency_keys(self, older_than: timedelta, *, batch_size: int = 1000) -> int:
        """Free the idempotency keys of finished jobs that ended longer ago than this; the jobs stay.

        Args:
            older_than: since a job ended, by the store's clock.
            batch_size: jobs in one statement or script at most, from 1 to 5,000.

        Returns:
            How many keys can be used again.

        Raises:
            InvalidJob: an argument out of its range; nothing was changed.
        """
        age, size = check_age(older_than, "older_than"), check_integer(batch_size, "batch_size", 1, MAX_BATCH)
        backend = await self.open()
        return await _sum(backend.release_keys(await _ago(backend, age), size))


def _check_ends(status: object) -> tuple[EndStatus, ...]:
    statuses = tuple(dict.fromkeys(check_statuses(status)))
    unfit = [name for name in statuses if name not in _ENDS]
    if unfit or not statuses:
        raise InvalidJob(
            f"Only finished jobs can be deleted: status must be of {', '.join(_ENDS)}, not {', '.join(unfit) or 'nothing'}. "
            "Nothing was deleted. To be rid of others, cancel them first."
        )
    return cast("tuple[EndStatus, ...]", statuses)


async def _ago(backend: Backend, age: timedelta) -> datetime:
    return await backend.now() - age


async def _sum(counts: AsyncIterator[int]) -> int:
    return sum([count async for count in counts])
