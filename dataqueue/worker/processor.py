"""The worker: claims jobs, runs them, and records what became of them."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Awaitable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Unpack

from dataqueue.backends.base import (
    Claimed,
    Cycle,
    Failed,
    Held,
    Outcome,
    Pulse,
    Released,
    Signal,
    Waiting,
)
from dataqueue.definitions import Handler
from dataqueue.errors import ConfigError, DataQueueError, StoreUnavailable
from dataqueue.events import Hook
from dataqueue.tasks import end_tasks
from dataqueue.worker.attempt import Attempt, no_handler
from dataqueue.worker.leases import BEATS_A_LEASE, RECLAIMS_A_LEASE, Heartbeat
from dataqueue.worker.options import ProcessorOptions, check_options
from dataqueue.worker.outbox import NotBegun, Outbox
from dataqueue.worker.pace import Idle, Prefetch
from dataqueue.worker.rescue import rescue, rescue_for_ever
from dataqueue.worker.scheduling import schedule_for_ever
from dataqueue.worker.signing_on import FIRST_BACKOFF, LAST_BACKOFF, sign_on

if TYPE_CHECKING:
    from dataqueue.queue import JobQueue
    from dataqueue.worker.isolation import ChildPool

logger = logging.getLogger("dataqueue.worker")

MAX_CLAIM = 500
_GATHER_SECONDS = 0.002
_LAST_WORDS = 10
"""Seconds for the store to hear of the last outcomes."""


@dataclass(frozen=True, slots=True)
class DrainResult:
    """What a drain came to: how many jobs ended, which were handed back (that costs no attempt), and
    whose handlers still run here although they were told to stop: ``left``. End the process.
    ``unrecorded`` are jobs about which the store could not be told, since it was away: they run again elsewhere
    when their lease is over."""

    finished: int = 0
    handed_back: list[int] = field(default_factory=list[int])
    left: list[int] = field(default_factory=list[int])
    unrecorded: list[int] = field(default_factory=list[int])


class Processor:
    """A worker in this process. Made by :meth:`dataqueue.JobQueue.create_processor`."""

    def __init__(self, queue: JobQueue, handlers: Mapping[str, Handler], **options: Unpack[ProcessorOptions]) -> None:
        self.queue = queue
        settings = check_options(handlers, options)
        self.handlers = settings.handlers
        self.concurrency = settings.concurrency
        self.group_concurrency = settings.group_concurrency
        self.batch_size = settings.batch_size
        self.poll_interval = settings.poll_interval
        self.lease = settings.lease
        self.grace = settings.grace
        self.max_loop_block = settings.max_loop_block
        self.worker_id = settings.worker_id
        self._fails_unknown = settings.fails_unknown
        self._prefetch = Prefetch(settings.prefetch)
        self._types = sorted(self.handlers)
        self._claimed_types = self._types
        self._inflight: dict[int, Attempt] = {}
        self._buffer: deque[tuple[float, Claimed]] = deque()
        self._abandoned: list[Attempt] = []
        self._outbox = Outbox(queue)
        self._wake = asyncio.Event()
        self._idle = Idle(self.poll_interval)
        self._listening_until = 0.0
        self._stopping = False
        self._finished_before = 0
        self._accepting = True
        self._suspect = False
        self._limited = False
        """Whether limits or groups decide about our types: then nothing is claimed ahead of a free slot."""
        self._main: asyncio.Task[int] | None = None
        self._executor: ThreadPoolExecutor | None = None
        self._heartbeat: Heartbeat | None = None
        self._lapses = 0
        self._children: ChildPool | None = None

    # -- life -----------------------------------------------------------------------------------------

    async def start(self) -> int:
        """Run one batch and return: for serverless functions and cron.

        Claims at most ``batch_size`` jobs in all, never more at a time than run at once, and waits for
        them. Returns how many it took.
        """
        if self.is_running():
            raise ConfigError("This processor runs already. Make another one, or stop_and_drain() this one first.")
        self._begin(self.batch_size)
        return await self._join()

    async def run(self) -> None:
        """Work until :meth:`stop` (or cancellation, which hands back what is unfinished)."""
        if not self.is_running():
            self._begin(None)
        await self._join()

    def start_in_background(self) -> None:
        """Work in a task of its own. Calling it again while it runs does nothing."""
        if not self.is_running():
            self._begin(None).add_done_callback(_log_death)

    def _begin(self, limit: int | None) -> asyncio.Task[int]:
        self._stopping, self._accepting = False, True
        self._idle = Idle(self.poll_interval)
        self._listening_until = 0.0
        self._outbox.handed_back.clear()
        self._outbox.forgotten.clear()
        self._main = asyncio.create_task(self._life(limit), name=f"dataqueue-worker {self.worker_id}")
        return self._main

    @property
    def is_stopping(self) -> bool:
        return self._stopping

    def is_running(self) -> bool:
        return self._main is not None and not self._main.done()

    def stop(self) -> None:
        """Claim nothing more; running jobs finish. Does not wait."""
        if not self._stopping:
            self._finished_before = self._outbox.finished
        self._accepting = False
        self._stopping = True
        self._wake.set()

    async def stop_and_drain(
        self, timeout: timedelta | float | None = 30.0, *, grace: timedelta | float | None = None
    ) -> DrainResult:
        """Claim nothing more and wait for the running jobs.

        Handlers that run longer than ``timeout`` (seconds or a timedelta; None waits for ever) are told
        to stop and, if they do so within the grace period, their jobs are handed back without costing
        an attempt. Jobs that were claimed but not begun are handed back at once. ``grace`` shortens that period.
        """
        seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
        patience = grace.total_seconds() if isinstance(grace, timedelta) else grace
        self.stop()
        if self._main is not None:
            done, _ = await asyncio.wait({self._main}, timeout=seconds)
            if not done:
                for attempt in list(self._inflight.values()):
                    attempt.stop("shutdown", patience)
                await asyncio.wait(
                    {self._main}, timeout=self.grace + _LAST_WORDS if patience is None else 2 * patience + 1
                )
        return DrainResult(
            self._outbox.finished - self._finished_before,
            list(self._outbox.handed_back),
            [*self._inflight, *self._left_behind()],
            [*self._outbox.forgotten, *(job_id for job_id, _ in self._outbox.held())],
        )

    def last_words(self) -> list[Outcome]:
        """What the store should be told if this worker ended now: what is over, and that the rest is handed back.

        May be called from another thread, when the event loop is blocked.
        """
        told = self._outbox.outcomes()
        over = {(outcome.id, outcome.lease_id) for outcome in told}
        return [*told, *(Released(*held) for held in self._held() if held not in over)]

    async def __aenter__(self) -> Processor:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop_and_drain()

    async def _join(self) -> int:
        assert self._main is not None
        try:
            return await asyncio.shield(self._main)
        except asyncio.CancelledError:
            # The caller gives up: hand back what runs, then go.
            self.stop()
            for attempt in list(self._inflight.values()):
                attempt.stop("shutdown")
            await asyncio.wait({self._main}, timeout=self.grace + _LAST_WORDS)
            raise

    async def _life(self, limit: int | None) -> int:
        backend, worker, registered_at = await sign_on(self, patient=limit is None)
        loop = asyncio.get_running_loop()
        heartbeat = self._heartbeat = Heartbeat(
            backend.heart(), worker, self.lease / BEATS_A_LEASE, self._held, self._on_pulse, loop,
            self.max_loop_block, registered_at,
        )  # fmt: skip
        self._lapses = 0
        heartbeat.start()
        aside: list[asyncio.Task[None]] = []
        if limit is None:
            looking = rescue_for_ever(self.queue, self.lease / RECLAIMS_A_LEASE)
            aside.append(asyncio.create_task(looking, name="dataqueue-reclaim"))
            aside.append(asyncio.create_task(schedule_for_ever(self.queue), name="dataqueue-schedules"))
            self.queue.signals.subscribe("work", self._on_work)
            self.queue.signals.subscribe("cancel", self._on_cancel)
        try:
            if limit is not None:
                await rescue(self.queue)
                await self.queue.sync_declarations()
                await self.queue.fire_due({})
            return await self._work(limit)
        finally:
            if aside:
                await end_tasks(*aside)
                self.queue.signals.unsubscribe("work", self._on_work)
                self.queue.signals.unsubscribe("cancel", self._on_cancel)
            await heartbeat.stop()
            if self._children is not None:
                await self._children.close()
                self._children = None
            if not self._inflight:
                try:
                    await backend.unregister_worker(self.worker_id)
                except DataQueueError as error:
                    logger.warning(
                        "Worker %s could not sign off (its row expires by itself): %s", self.worker_id, error
                    )
            if self._executor is not None:
                self._executor.shutdown(wait=False, cancel_futures=True)
                self._executor = None

    # -- the loop -------------------------------------------------------------------------------------

    async def _work(self, limit: int | None) -> int:
        taken = 0
        failures = 0
        while True:
            self._wake.clear()
            if not self._accepting:
                self._hand_back_buffer()
            want = self._want(limit, taken)
            if self._outbox or want:
                if 0 < len(self._outbox) < len(self._inflight) and not self._stopping:
                    await asyncio.sleep(_GATHER_SECONDS)
                looks = self._idle.looks
                try:
                    cycle = await self._cycle(want)
                    failures = 0
                except StoreUnavailable as error:
                    failures += 1
                    await self._back_off(failures, error)
                    continue
                taken += len(cycle.jobs)
                if want:
                    await self._pace(cycle, want, limit, looks)
                continue
            if self._is_done(limit, taken):
                return taken
            await self._sleep(self._room(limit, taken) > 0)

    def _want(self, limit: int | None, taken: int) -> int:
        """How many jobs to claim now."""
        if not self._may_claim() or not self._idle.may_claim():
            return 0
        return min(self._room(limit, taken), self.batch_size)

    def _may_claim(self) -> bool:
        return self._accepting and self._holds()

    def _holds(self) -> bool:
        return self._heartbeat is not None and self._heartbeat.holds()

    def _has_lapsed(self) -> bool:
        """Whether the lease has been over since the last claim was asked for."""
        return self._heartbeat is not None and self._heartbeat.lapses != self._lapses

    def _room(self, limit: int | None, taken: int) -> int:
        """How many jobs could be taken on."""
        room = self.concurrency - len(self._inflight) - len(self._buffer)
        if limit is None:
            room += 0 if self._limited else self._prefetch.size()
        else:
            room = min(room, limit - taken)
        return max(0, room)

    async def _cycle(self, want: int) -> Cycle:
        """One round trip: record what is over, claim what is free to run."""
        backend = self.queue.backend
        if self._suspect and want:
            await self._release_unknown()
        promote = want > 0 and self._idle.should_promote()
        if promote and self._fails_unknown:
            self._claimed_types = sorted({*self._types, *await backend.list_due_types()})
        if self._heartbeat is not None and self._has_lapsed():
            self._hand_back_buffer()
            self._lapses = self._heartbeat.lapses
        try:
            outcomes = self._outbox.take()
            cycle = await backend.cycle(self.worker_id, outcomes, self._claimed_types, want, promote)
        except StoreUnavailable:
            self._suspect = True
            self._outbox.not_sent()
            raise
        except Exception as error:
            self._suspect = True
            await self._outbox.record_one_by_one(self.worker_id, error)
            return Cycle([], [])
        self._outbox.recorded(cycle)
        self._limited = cycle.limited if want else self._limited
        if outcomes and self._limited and self._idle.is_drained:  # a single batch: its own job may have freed a place
            self._idle.look_now()
        if promote:
            self._idle.promoted(cycle.next_due_ms)
        if cycle.opens_in_ms is not None:
            self._idle.due_within(cycle.opens_in_ms)
        for outcome in outcomes:
            if isinstance(outcome, Failed) and outcome.retry_ms is not None:
                self._idle.due_within(outcome.retry_ms)
            elif isinstance(outcome, Waiting) and (wait_ms := _until(outcome)) is not None:
                self._idle.due_within(wait_ms)
        now = time.monotonic()
        for job in cycle.jobs:
            self._buffer.append((now, job))
        self._fill_slots()
        return cycle

    async def _release_unknown(self) -> None:
        """The answer to a claim was lost: the store may think that we hold jobs that we know nothing of."""
        held = await self.queue.backend.list_held(self.worker_id)
        known = set(self._held())
        for job_id, lease_id in held:
            if (job_id, lease_id) not in known:
                self._outbox.put(Released(job_id, lease_id))
        self._suspect = False

    async def _pace(self, cycle: Cycle, want: int, limit: int | None, looks: int) -> None:
        if len(cycle.jobs) >= want:
            self._idle.busy()
            if self._idle.is_saturated and self._listening_until:
                self._listening_until = 0.0
                await self._quietly(self.queue.backend.listen_no_more("work", self.worker_id))
            return
        if cycle.again and (limit is None or self._idle.may_pass_over):
            self._idle.passed_over(found=bool(cycle.jobs) or cycle.parked > 0)
            return
        if limit is not None:
            self._idle.drained()
            return
        now = time.monotonic()
        first = not self._listening_until
        if self._listening_until - now < 10:
            # Whoever adds from now on wakes us; what was added before is found by the next claim.
            await self._quietly(self.queue.backend.listen_for("work", self.worker_id, 30))
            self._listening_until = now + 30
        self._idle.came_short(look_again=first, looks=looks)

    async def _quietly(self, operation: Awaitable[None]) -> None:
        try:
            await operation
        except StoreUnavailable:
            self._listening_until = 0.0  # polling goes on

    async def _sleep(self, has_room: bool) -> None:
        """Until woken: by a signal, by an attempt that is over, or when it is time to claim."""
        wait = self._idle.seconds_to_next_claim() if has_room and self._may_claim() else None
        if self._buffer:
            wait = min(1.0 if wait is None else wait, 0.25)
        try:
            async with asyncio.timeout(wait):
                await self._wake.wait()
        except TimeoutError:
            pass
        self._hand_back_stale()

    async def _back_off(self, failures: int, error: StoreUnavailable) -> None:
        delay = min(FIRST_BACKOFF * 2 ** (failures - 1), LAST_BACKOFF) * random.uniform(0.75, 1.25)
        if failures == 1:
            logger.warning("The store is unavailable; running jobs go on and are recorded when it is back. %s", error)
            self.queue.hooks.emit(Hook("error", error=error))
        self._listening_until = 0.0
        self._idle.look_now()
        if self._stopping and failures > 5 and not self._inflight:
            self._outbox.forget()
        await asyncio.sleep(delay)

    def _is_done(self, limit: int | None, taken: int) -> bool:
        if self._inflight or self._outbox or self._buffer:
            return False
        return not self._accepting or (limit is not None and (taken == limit or self._idle.is_drained))

    # -- attempts -------------------------------------------------------------------------------------

    def _fill_slots(self) -> None:
        if self._buffer and (not self._holds() or self._has_lapsed()):  # they may run elsewhere by now
            self._hand_back_buffer()
            self._wake.set()
            return
        loop = asyncio.get_running_loop()
        announce = self.queue.hooks.wants("job:processing")
        while self._buffer and len(self._inflight) < self.concurrency and not (self._stopping and not self._accepting):
            _, job = self._buffer.popleft()
            if job.job_type not in self.handlers:
                self._outbox.put(no_handler(job, self._types), NotBegun(job))
                self._wake.set()
                continue
            handler = self.handlers[job.job_type]
            if handler.isolation is None:
                attempt = Attempt(job, handler, self.queue, self._threads, self.grace, self._on_over)
            else:
                attempt = self._isolated(job, handler)
            earlier = self._inflight.get(job.id)
            if earlier is not None:  # taken from us and claimed again, before a heartbeat could tell
                earlier.stop("lost")
            self._inflight[job.id] = attempt
            attempt.started = loop.time()
            attempt.start(loop)
            if announce:
                self.queue.hooks.emit(Hook("job:processing", job.id, job.job_type))

    def _isolated(self, job: Claimed, handler: Handler) -> Attempt:
        from dataqueue.worker.isolation import ChildPool, IsolatedAttempt

        if self._children is None:
            self._children = ChildPool(self.concurrency)
        return IsolatedAttempt(job, handler, self.queue, self._threads, self.grace, self._on_over, self._children)

    def _threads(self) -> Executor:
        if self._executor is None:
            self._executor = ThreadPoolExecutor(self.concurrency, thread_name_prefix="dataqueue-job")
        return self._executor

    def _on_over(self, attempt: Attempt, outcome: Outcome | None) -> None:
        if self._inflight.get(attempt.job.id) is attempt:
            del self._inflight[attempt.job.id]
        if attempt.is_running and outcome is not None and attempt.was_abandoned:
            self._abandoned = [one for one in self._abandoned if one.is_running] + [attempt]
        self._prefetch.observe(asyncio.get_running_loop().time() - attempt.started)
        if attempt.recorded is not None:
            self._outbox.was_recorded(attempt)
        elif outcome is None:
            logger.warning("Job %s (%s): lease lost, the attempt ends here.", attempt.job.id, attempt.job.job_type)
        else:
            if isinstance(outcome, Failed):
                logger.warning(
                    "Job %s (%s) failed, attempt %d of %d, %s: %s",
                    attempt.job.id, attempt.job.job_type, attempt.job.attempts, attempt.job.max_attempts,
                    _what_follows(outcome), outcome.message, exc_info=attempt.error if outcome.error_type else None,
                )  # fmt: skip
            self._outbox.put(outcome, attempt)
        if self._limited:
            self._idle.look_now()  # its end frees a place, whatever the last claim has found
        if self._buffer:
            self._fill_slots()
        self._wake.set()

    def _hand_back_buffer(self) -> None:
        while self._buffer:
            _, job = self._buffer.popleft()
            self._outbox.put(Released(job.id, job.lease_id))

    def _hand_back_stale(self) -> None:
        """What waits for a slot here could be running elsewhere."""
        limit = time.monotonic() - self._prefetch.max_wait
        if self._buffer and self._buffer[0][0] < limit:
            self._prefetch.misjudged()
            self._hand_back_buffer()

    def _left_behind(self) -> list[int]:
        return [attempt.job.id for attempt in self._abandoned if attempt.is_running]

    # -- leases ---------------------------------------------------------------------------------------

    def _held(self) -> list[Held]:
        """All that this worker owns. Also read from the heartbeat's thread: copies, no iteration."""
        return [
            *((attempt.job.id, attempt.job.lease_id) for attempt in list(self._inflight.values())),
            *((job.id, job.lease_id) for _, job in list(self._buffer)),
            *self._outbox.held(),
        ]

    def _on_pulse(self, pulse: Pulse) -> None:
        for job_id, lease_id in pulse.lost:
            self._stop_attempt(job_id, lease_id, lost=True)
        for job_id, lease_id in pulse.cancelled:
            self._stop_attempt(job_id, lease_id, lost=False)
        self._wake.set()  # it may have waited for its lease

    def _stop_attempt(self, job_id: int, lease_id: int, *, lost: bool) -> None:
        attempt = self._inflight.get(job_id)
        if attempt is not None and attempt.job.lease_id == lease_id:
            attempt.stop("lost" if lost else "cancel")

    def _on_work(self, signal: Signal) -> None:
        self._idle.look_now()
        self._wake.set()

    def _on_cancel(self, signal: Signal) -> None:
        for job_id in signal.ids:
            attempt = self._inflight.get(job_id)
            if attempt is not None:
                attempt.stop("cancel")


def _until(wait: Waiting) -> float | None:
    """The milliseconds of a wait for a time."""
    if wait.delay_ms is not None or wait.wait.until is None:
        return wait.delay_ms
    return max(0.0, (wait.wait.until - datetime.now(UTC)) / timedelta(milliseconds=1))


def _what_follows(outcome: Failed) -> str:
    if outcome.retry_ms is None:
        return "for good"
    return f"next attempt in {timedelta(seconds=round(outcome.retry_ms / 1000))}"


def _log_death(task: asyncio.Task[int]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.critical("The worker stopped: %s", error, exc_info=None if isinstance(error, DataQueueError) else error)
