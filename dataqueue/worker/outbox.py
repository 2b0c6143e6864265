"""Outcomes on their way to the store: gathered, sent in batches, and announced once they are recorded."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple

from dataqueue.backends.base import Claimed, Completed, Cycle, Failed, Held, Outcome, Released, Waiting
from dataqueue.errors import StoreUnavailable
from dataqueue.events import Hook
from dataqueue.worker.attempt import Attempt, storable

if TYPE_CHECKING:
    from dataqueue.queue import JobQueue

logger = logging.getLogger("dataqueue.worker")


class NotBegun(NamedTuple):
    """A job that this worker took and could not begin."""

    job: Claimed
    error: BaseException | None = None


Entry = tuple[Outcome, Attempt | NotBegun | None]
"""An outcome, and the attempt that it ends (None for a job that is only handed back)."""


class Outbox:
    """Nothing leaves it before the store has answered: a failed send is sent again."""

    def __init__(self, queue: JobQueue) -> None:
        self._queue = queue
        self._pending: list[Entry] = []
        self._sending: list[Entry] = []
        self._resent = False
        self.finished = 0
        self.handed_back: list[int] = []
        self.forgotten: list[int] = []

    def __len__(self) -> int:
        return len(self._pending)

    def put(self, outcome: Outcome, attempt: Attempt | NotBegun | None = None) -> None:
        self._pending.append((outcome, attempt))

    def take(self) -> list[Outcome]:
        """What is to be sent now; until :meth:`recorded` or :meth:`not_sent` it counts as held."""
        self._sending, self._pending = self._pending, []
        return [outcome for outcome, _ in self._sending]

    def not_sent(self) -> None:
        """The store did not answer. It may have recorded everything all the same: see ``_resent``."""
        self._pending[:0] = self._sending
        self._sending = []
        self._resent = True

    def was_recorded(self, attempt: Attempt) -> None:
        """A transaction of its handler's has completed it."""
        self.finished += 1
        self._queue.hooks.emit(Hook("job:completed", attempt.job.id, attempt.job.job_type))
        for job_id in attempt.recorded or ():
            self._queue.hooks.emit(Hook("job:cancelled", job_id))

    def recorded(self, cycle: Cycle) -> None:
        sent, self._sending = self._sending, []
        resent, self._resent = self._resent, False
        self._settle(sent, cycle, resent)
        self._announce_cascade(cycle)

    def forget(self) -> None:
        """Nobody will be there to record it: the leases run out."""
        self.forgotten += [outcome.id for outcome, _ in self._pending]
        self._pending.clear()

    def outcomes(self) -> list[Outcome]:
        """What the store has not recorded yet. Also read from other threads, hence the copies."""
        return [outcome for outcome, _ in [*self._pending, *self._sending]]

    def held(self) -> list[Held]:
        """What the store still has as ours. Also read from the heartbeat's thread."""
        return [(outcome.id, outcome.lease_id) for outcome in self.outcomes()]

    async def record_one_by_one(self, worker_id: str, error: Exception) -> None:
        """Something in the batch is poison to the store. Record the rest, and fail that one, saying why."""
        entries, self._sending = self._sending, []
        if not entries:
            raise error
        logger.error("A batch of outcomes was refused (%s); recording them one by one.", error)
        for outcome, attempt in entries:
            try:
                cycle = await self._queue.backend.cycle(worker_id, [outcome], [], 0, False)
            except StoreUnavailable:
                self.put(outcome, attempt)
            except Exception as refusal:
                if isinstance(outcome, Failed):
                    logger.exception("The failure of job %s cannot be recorded; its lease will run out.", outcome.id)
                    continue
                message = storable(f"The outcome could not be stored: {refusal}")
                self.put(Failed(outcome.id, outcome.lease_id, message, "handler_error", None), attempt)
            else:
                self._settle([(outcome, attempt)], cycle, resent=False)
                self._announce_cascade(cycle)

    def _settle(self, entries: list[Entry], cycle: Cycle, resent: bool) -> None:
        lost, cancelled = set(cycle.lost), set(cycle.cancelled)
        for outcome, attempt in entries:
            held = outcome.id, outcome.lease_id
            if held in lost:
                if not resent:  # else: recorded by the first sending, whose answer did not reach us
                    logger.warning(
                        "Job %s: the lease was lost before its outcome (%s) could be recorded; nothing was changed.",
                        outcome.id,
                        type(outcome).__name__.lower(),
                    )
            elif held in cancelled:
                self.finished += 1
                self._queue.hooks.emit(Hook("job:cancelled", outcome.id, attempt.job.job_type if attempt else None))
            elif isinstance(outcome, Released):
                self.handed_back.append(outcome.id)
            elif isinstance(outcome, Waiting):
                if attempt is not None:
                    self._queue.hooks.emit(Hook("job:waiting", outcome.id, attempt.job.job_type))
            else:
                self.finished += 1
                if attempt is not None:
                    self._announce(outcome, attempt)

    def _announce_cascade(self, cycle: Cycle) -> None:
        for job_id in cycle.cascaded:
            self._queue.hooks.emit(Hook("job:cancelled", job_id))

    def _announce(self, outcome: Outcome, attempt: Attempt | NotBegun) -> None:
        hooks, job = self._queue.hooks, attempt.job
        if isinstance(outcome, Completed):
            if hooks.wants("job:completed"):
                hooks.emit(Hook("job:completed", job.id, job.job_type))
        elif isinstance(outcome, Failed):
            will_retry = outcome.retry_ms is not None
            hooks.emit(Hook("job:failed", job.id, job.job_type, error=attempt.error, will_retry=will_retry))
        else:
            hooks.emit(Hook("job:cancelled", job.id, job.job_type))
