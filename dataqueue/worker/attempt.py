"""One attempt at one job: from the claimed record to its outcome."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import inspect
import logging
import os
import threading
import traceback
from collections.abc import AsyncGenerator, Awaitable, Callable
from concurrent.futures import Executor
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from dataqueue.backends.base import Cancelled, Claimed, Completed, Failed, Outcome, Released, Waiting
from dataqueue.definitions import Handler
from dataqueue.errors import InvalidJob, LeaseLost, StoreUnavailable, Suspend
from dataqueue.events import Hook
from dataqueue.jobs import FailureReason
from dataqueue.jsonvalue import dumps
from dataqueue.options import MAX_TIMEOUT, check_duration
from dataqueue.retry import RetryPolicy, next_delay
from dataqueue.worker.context import JobContext, SyncJobContext
from dataqueue.worker.keeper import StoreKeeper
from dataqueue.worker.progress import Progress
from dataqueue.worker.steps import Steps, refuse_within_a_transaction, suspended_by

if TYPE_CHECKING:
    from psycopg import AsyncConnection

    from dataqueue.queue import JobQueue

logger = logging.getLogger("dataqueue.worker")

OnTimeout = Callable[[], "Awaitable[timedelta | None] | timedelta | None"]
StopReason = Literal["timeout", "cancel", "lost", "shutdown"]
MAX_MESSAGE = 10_000

_MILLISECOND = 1 / 1000


class Attempt:
    """Runs the handler of a claimed job and reports one outcome, or none when the lease was lost.

    ``on_over`` is called exactly once, on the event loop.
    """

    __slots__ = (
        "_asking",
        "_deadline",
        "_executor",
        "_grace",
        "_loop",
        "_on_over",
        "_progress",
        "_steps",
        "_stopped_event",
        "_task",
        "error",
        "handler",
        "is_over",
        "job",
        "noticed",
        "on_timeout",
        "output_set",
        "queue",
        "recorded",
        "started",
        "stop_reason",
        "was_abandoned",
    )

    def __init__(
        self,
        job: Claimed,
        handler: Handler,
        queue: JobQueue,
        executor: Callable[[], Executor],
        grace: float,
        on_over: Callable[[Attempt, Outcome | None], None],
    ) -> None:
        self.job = job
        self.handler = handler
        self.queue = queue
        self.is_over = False
        self.stop_reason: StopReason | None = None
        self.output_set = False
        self.started = 0.0
        self.was_abandoned = False
        self.noticed = False
        """Whether a handler in a thread has seen that it shall stop: else its return is a real end."""
        self.error: BaseException | None = None
        self.recorded: list[int] | None = None
        """Completed in a transaction of the handler's, and which jobs that has cancelled."""
        self._steps: Steps | None = None
        self._executor = executor
        self._grace = grace
        self._on_over = on_over
        self._task: asyncio.Task[None] | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._progress: Progress | None = None
        self.on_timeout: OnTimeout | None = None
        self._asking: asyncio.Task[None] | None = None
        self._stopped_event: threading.Event | None = None

    # -- running --------------------------------------------------------------------------------------

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        if not self.handler.is_async:
            self._stopped_event = threading.Event()
        if self.job.timeout_ms is not None:
            self._deadline = loop.call_later(self.job.timeout_ms * _MILLISECOND, self._time_is_over)
        self._task = loop.create_task(self._run())

    async def _run(self) -> None:
        outcome: Outcome | None
        try:
            payload = self.handler.payload.decode(self.job.payload)
            result = await self._call(payload)
            outcome = self._ended(result)
        except LeaseLost:
            self.stop_reason = "lost"
            outcome = None
        except asyncio.CancelledError as error:
            outcome = self._interrupted(error)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            outcome = self._raised(error)
        await self._conclude(outcome)

    async def _conclude(self, outcome: Outcome | None) -> None:
        if self._progress is not None and outcome is not None:
            with contextlib.suppress(asyncio.CancelledError):  # told to stop after it had ended: the outcome stands
                await self._progress.flush()
        self._finish(outcome)

    @property
    def steps(self) -> Steps:
        if self._steps is None:
            self._steps = Steps(StoreKeeper(self))
        return self._steps

    async def _call(self, payload: Any) -> Any:
        handler = self.handler
        if handler.is_async:
            if handler.takes_context:
                return await handler.function(payload, JobContext(self))
            return await handler.function(payload)
        if handler.takes_context:
            call = functools.partial(_in_thread, handler, payload, SyncJobContext(self, self._loop))
        else:
            call = functools.partial(handler.function, payload)
        context = contextvars.copy_context()
        return await self._loop.run_in_executor(self._executor(), context.run, call)

    def _ended(self, result: Any) -> Outcome | None:
        if self._steps is not None:
            if self._steps.suspended is not None:
                return self._raised(swallowed(self.job))
            if self.recorded is not None:
                return None
            self._steps.check_end()
        if self.stop_reason is not None and self._heeded():
            return self._stopped_outcome()
        if self.output_set:
            return Completed(self.job.id, self.job.lease_id)
        try:
            output = encode_result(self.handler, result)
        except InvalidJob as error:
            return self._raised(error)
        return Completed(self.job.id, self.job.lease_id, output)

    def _heeded(self) -> bool:
        """Told to stop, it may have ended early for that: then the reason decides, not what it returned."""
        unaware = not self.handler.is_async and not self.noticed
        return not (unaware and self.stop_reason in ("shutdown", "cancel"))

    def _interrupted(self, error: BaseException) -> Outcome | None:
        if self.recorded is not None or self.stop_reason is None:
            return self._raised(error)  # something inside the handler was cancelled, not the attempt
        return self._stopped_outcome()

    def _raised(self, error: BaseException) -> Outcome | None:
        if self.recorded is not None:
            logger.error(
                "Job %s (%s) was completed, and then its handler raised: %r", self.job.id, self.job.job_type, error
            )
            return None
        if contains_lease_lost(error):
            self.stop_reason = "lost"
        suspension = suspended_by(error)
        if suspension is not None and self.stop_reason != "lost":
            return waits(self.job, suspension)
        if self.stop_reason is not None:
            return self._stopped_outcome()
        self.error = error
        return self._failed(str(error) or type(error).__name__, "handler_error", error)

    def _stopped_outcome(self) -> Outcome | None:
        job = self.job
        if self.recorded is not None:
            return None
        if self.stop_reason == "timeout":
            message = self._timeout_message()
            self.error = TimeoutError(message)
            return self._failed(message, "timeout", None)
        if self.stop_reason == "cancel":
            return Cancelled(job.id, job.lease_id)
        if self.stop_reason == "shutdown":
            return Released(job.id, job.lease_id)
        return None

    def _timeout_message(self) -> str:
        return f"Job timed out after {self.job.timeout_ms} ms"

    def _failed(self, message: str, reason: FailureReason, error: BaseException | None) -> Failed:
        return failed(self.job, message, reason, error)

    # -- stopping -------------------------------------------------------------------------------------

    @property
    def stopped_event(self) -> threading.Event:
        assert self._stopped_event is not None
        return self._stopped_event

    def stop(self, reason: StopReason, grace: float | None = None) -> None:
        """Tell the handler to stop. One that does not within the grace period is left behind: its
        outcome is recorded, and whatever it still writes is refused. ``grace`` shortens the period, also
        of one that has been told already."""
        if self.is_over or (reason == "lost" and self.recorded is not None):
            return
        if grace is not None:
            self._grace = min(grace, self._grace)
            self._loop.call_later(self._grace, self._abandon)
        if self.stop_reason is not None:
            return
        self.stop_reason = reason
        if self._stopped_event is not None:
            self._stopped_event.set()
        elif self._task is not None:
            self._task.cancel()
        self._loop.call_later(self._grace, self._abandon)

    # -- more time ------------------------------------------------------------------------------------

    async def prolong(self, by: object) -> None:
        """Let the attempt run until ``by`` from now; without it, its whole timeout anew."""
        milliseconds = self.job.timeout_ms if by is None else check_prolonging(by)
        if milliseconds is None:
            return  # there is no limit that could be put off
        if self.is_over or self.stop_reason is not None:
            return  # too late: it has been told to stop
        self._rearm(milliseconds)
        self._check_lease(await self.queue.backend.prolong(self.job.id, self.job.lease_id, milliseconds))

    def _rearm(self, milliseconds: int) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self._loop.call_later(milliseconds * _MILLISECOND, self._time_is_over)

    def _time_is_over(self) -> None:
        if self.on_timeout is None or self.is_over or self.stop_reason is not None:
            self.stop("timeout")
        else:
            self._asking = self._loop.create_task(self._ask_for_more(self.on_timeout))

    async def _ask_for_more(self, on_timeout: OnTimeout) -> None:
        """The handler's own callback decides: a duration lets it run on, anything else ends it."""
        try:
            answer = on_timeout()
            if inspect.isawaitable(answer):
                answer = await answer
            if answer is not None:
                await self.prolong(answer)
                return
        except LeaseLost:
            self.stop("lost")
            return
        except StoreUnavailable as error:
            logger.warning("Job %s runs on; that could not be recorded: %s", self.job.id, error)
            return
        except Exception:
            logger.exception("The on_timeout callback of job %s (%s) failed.", self.job.id, self.job.job_type)
        self.stop("timeout")

    def _abandon(self) -> None:
        if self.is_over:
            return
        logger.warning(
            "The handler of job %s (%s) did not stop within %g s of its %s; it is left behind, and its writes "
            "are refused. Let it end on CancelledError, or look at ctx.aborted.",
            self.job.id, self.job.job_type, self._grace, self.stop_reason,
        )  # fmt: skip
        self.was_abandoned = True
        self._finish(self._stopped_outcome())

    @property
    def is_running(self) -> bool:
        """Whether the handler has not come to an end, even if the attempt is over."""
        return self._task is not None and not self._task.done()

    def _finish(self, outcome: Outcome | None) -> None:
        if self.is_over:
            return
        self.is_over = True
        if self._deadline is not None:
            self._deadline.cancel()
        if self._asking is not None:
            self._asking.cancel()
        self._on_over(self, outcome)

    # -- what the handler writes ----------------------------------------------------------------------

    async def set_progress(self, percent: object) -> None:
        whole = check_percent(percent)
        if self._progress is None:
            self._progress = Progress(self._store_progress, functools.partial(self.stop, "lost"))
        if self.is_over:  # what a handler that was left behind writes is refused, and it is to know
            await self._store_progress(whole)
        else:
            await self._progress.set(whole)

    async def _store_progress(self, whole: int) -> None:
        self._check_lease(await self.queue.backend.set_progress(self.job.id, self.job.lease_id, whole))
        self.queue.hooks.emit(Hook("job:progress", self.job.id, self.job.job_type, progress=whole))

    async def set_output(self, output: object) -> None:
        await self._store_output(encode_output(self.handler, output), output)

    async def _store_output(self, text: str, output: object) -> None:
        self._check_lease(await self.queue.backend.set_output(self.job.id, self.job.lease_id, text))
        self.output_set = True
        self.queue.hooks.emit(Hook("job:output", self.job.id, self.job.job_type, output=output))

    # -- transactions -----------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncGenerator[AsyncConnection[Any]]:
        refuse_within_a_transaction()  # before it waits for a connection that the outer one may hold
        async with self.queue.backend.transaction() as opened, self.steps.within(opened) as here:
            yield opened.connection
        if here.completed is not None:
            self.recorded = opened.cascaded

    async def complete(self, output: object) -> None:
        await self.steps.complete(None if self.output_set else encode_result(self.handler, output))

    def _check_lease(self, stored: bool) -> None:
        if not stored:
            raise LeaseLost(self.job.id)


def _in_thread(handler: Handler, payload: Any, context: SyncJobContext) -> Any:
    context.begins()
    return handler.function(payload, context)


def check_prolonging(by: object) -> int:
    """The milliseconds of ``ctx.prolong(by)``."""
    return check_duration(by, "by", timedelta(milliseconds=1), MAX_TIMEOUT) or 1


def check_percent(percent: object) -> int:
    if isinstance(percent, bool) or not isinstance(percent, int | float) or not 0 <= percent <= 100:
        raise InvalidJob(f"progress must be a number from 0 to 100, not {percent!r:.40}.")
    return int(percent + 0.5)


def encode_output(handler: Handler, output: object) -> str:
    codec = handler.result
    return codec.encode(output) if codec.typed else dumps(output, "output")


def encode_result(handler: Handler, result: object) -> str | None:
    """What a handler returned as JSON text; None, which leaves the stored output as it is, for nothing."""
    codec = handler.result
    if codec.typed:
        return codec.encode(result)
    return None if result is None else dumps(result, "the handler's result")


def failed(job: Claimed, message: str, reason: FailureReason, error: BaseException | None) -> Failed:
    """The failure of this attempt, with the time of the next one by the job's own policy."""
    policy = RetryPolicy(job.retry_delay, job.retry_backoff, job.retry_delay_max)
    delay = next_delay(policy, job.attempts, job.max_attempts)
    return Failed(
        job.id,
        job.lease_id,
        storable(message),
        reason,
        None if delay is None else int(delay.total_seconds() * 1000),
        None if error is None else storable(type(error).__qualname__),
        None if error is None else raised_at(error),
    )


def no_handler(job: Claimed, handled: list[str]) -> Failed:
    """The failure of a job that a worker took although it cannot run it (``on_unknown_type="fail"``)."""
    message = f"No handler for job type {job.job_type!r}. This worker handles: {', '.join(handled)}."
    logger.warning("Job %s: %s", job.id, message)
    return failed(job, message, "no_handler", None)


def waits(job: Claimed, suspension: Suspend) -> Waiting:
    return Waiting(job.id, job.lease_id, suspension.wait, suspension.delay_ms)


def swallowed(job: Claimed) -> InvalidJob:
    return InvalidJob(
        f"The handler of {job.job_type!r} waits, but has caught the BaseException (Suspend) that ends its attempt, and gone "
        "on. Write `except Exception`, or raise what is none; the wait was not begun."
    )


def contains_lease_lost(error: BaseException) -> bool:
    """A TaskGroup wraps what its tasks raise."""
    if isinstance(error, LeaseLost):
        return True
    if isinstance(error, BaseExceptionGroup):
        inner = cast("BaseExceptionGroup[BaseException]", error)
        return inner.subgroup(LeaseLost) is not None
    return False


def storable(text: str) -> str:
    """A message that every store can hold: no NUL, no lone surrogates, not endless."""
    if len(text) > MAX_MESSAGE:
        text = f"{text[:MAX_MESSAGE]}… (+{len(text) - MAX_MESSAGE:,} characters)"
    return text.replace("\x00", "\\x00").encode("utf-8", "backslashreplace").decode("utf-8")


_OURS = str(Path(__file__).parents[1]) + os.sep


def raised_at(error: BaseException) -> str | None:
    """The innermost frame that is not ours: where to look first."""
    frames = traceback.extract_tb(error.__traceback__)
    for frame in reversed(frames):
        if not frame.filename.startswith(_OURS):
            name = frame.filename.replace("\\", "/").rsplit("/", 1)[-1]
            return storable(f"{name}:{frame.lineno} {frame.name}")[:255]
    return None
