"""Running everything that is due, here and now, with the real engine."""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Unpack, overload

from dataqueue.testing.calls import run_on
from dataqueue.testing.strangers import refuse_strangers

if TYPE_CHECKING:
    from collections.abc import Generator

    from dataqueue.definitions import AnyHandler
    from dataqueue.events import Hook
    from dataqueue.jobs import Job, JobStatus
    from dataqueue.queue import JobQueue
    from dataqueue.sync import SyncJobQueue
    from dataqueue.testing.calls import AnyQueue
    from dataqueue.worker.options import ProcessorOptions

_PAGE = 1000


@dataclass(frozen=True, slots=True)
class Drained:
    """What a drain has done.

    ``jobs`` are those of which an attempt ended, in that order, each once and as it is now. ``errors`` are what handlers
    raised, in their order, also of attempts that were followed by a better one.
    """

    jobs: tuple[Job, ...]
    errors: tuple[BaseException, ...]

    @property
    def completed(self) -> list[Job]:
        return self._with("completed")

    @property
    def failed(self) -> list[Job]:
        """Those that have failed; one with a ``next_attempt_at`` will be tried again."""
        return self._with("failed")

    @property
    def cancelled(self) -> list[Job]:
        return self._with("cancelled")

    def _with(self, status: JobStatus) -> list[Job]:
        return [job for job in self.jobs if job.status == status]


@overload
def drain(
    queue: JobQueue,
    handlers: Mapping[str, AnyHandler] | None = None,
    *,
    limit: int = 10_000,
    raise_on_error: bool = False,
    **options: Unpack[ProcessorOptions],
) -> Coroutine[Any, Any, Drained]: ...
@overload
def drain(
    queue: SyncJobQueue,
    handlers: Mapping[str, AnyHandler] | None = None,
    *,
    limit: int = 10_000,
    raise_on_error: bool = False,
    **options: Unpack[ProcessorOptions],
) -> Drained: ...
def drain(
    queue: AnyQueue,
    handlers: Mapping[str, AnyHandler] | None = None,
    *,
    limit: int = 10_000,
    raise_on_error: bool = False,
    **options: Unpack[ProcessorOptions],
) -> Any:
    """Run every job that is due, and those that they add, until none is due. A job that fails stops nothing.
    Tokens whose time is over end, and who waits for them is due.

    What is due later stays: delayed jobs, retries. :func:`dataqueue.testing.advance_clock` makes it due.

    Args:
        handlers: functions by job type, as for :meth:`dataqueue.JobQueue.create_processor`; by default the queue's own.
        limit: attempts at most, against jobs that add each other for ever.
        raise_on_error: in the end raise the first error of a handler, with its traceback.
        options: of the worker, such as ``concurrency=1`` to run one job after the other.

    Raises:
        AssertionError: so many attempts were made, and there is more to do.
        ConfigError: workers of other processes are at this queue, so it is none of a test's own; nothing was run.
    """
    return run_on(queue, lambda inner: _drain(inner, handlers, limit, raise_on_error, options))


async def _drain(
    queue: JobQueue,
    handlers: Mapping[str, AnyHandler] | None,
    limit: int,
    raise_on_error: bool,
    options: ProcessorOptions,
) -> Drained:
    from dataqueue.worker.options import MAX_CLAIM

    await refuse_strangers(queue, "drain")
    # A debugger in a handler blocks the loop for as long as somebody thinks.
    settings: ProcessorOptions = {"max_loop_block": timedelta(days=1), "batch_size": MAX_CLAIM, **options}
    most = settings.get("batch_size", MAX_CLAIM)
    ended: dict[int, None] = {}
    errors: list[BaseException] = []
    with _listening(queue, ended, errors):
        taken = 0
        while True:
            await queue.expire_timed_out_tokens()
            settings["batch_size"] = max(1, min(most, limit - taken))
            processor = queue.create_processor(handlers, **settings)
            if taken >= limit:
                await _refuse_more(queue, set(processor.handlers), limit)
                break
            count = await processor.start()
            if not count:
                break
            taken += count
    result = Drained(tuple(await _load(queue, list(ended))), tuple(errors))
    if raise_on_error and errors:
        raise errors[0]
    return result


@contextmanager
def _listening(queue: JobQueue, ended: dict[int, None], errors: list[BaseException]) -> Generator[None]:
    def note(hook: Hook) -> None:
        if hook.job_id is not None:
            ended.setdefault(hook.job_id)
        if hook.error is not None:
            errors.append(hook.error)

    names = ("job:completed", "job:failed", "job:cancelled", "job:waiting")
    for name in names:
        queue.on(name, note)
    try:
        yield
    finally:
        for name in names:
            queue.off(name, note)


async def _refuse_more(queue: JobQueue, types: set[str], limit: int) -> None:
    due = sorted(types & set((await queue.stats()).oldest_ready_by_type))
    __tracebackhide__ = True
    if due:
        raise AssertionError(
            f"drain has run {limit} attempts, and more is due, of {', '.join(due)}. Do jobs add each other for ever, "
            "or fail with retries that are due at once? What was run is recorded. If it is right, give a higher limit."
        )


async def _load(queue: JobQueue, job_ids: list[int]) -> list[Job]:
    found: dict[int, Job] = {}
    cursor: int | None = max(job_ids, default=0) + 1
    while job_ids and cursor is not None and cursor > min(job_ids):
        page = await queue.get_jobs(limit=_PAGE, cursor=cursor)
        found |= {job.id: job for job in page}
        cursor = page.next_cursor
    return [found[job_id] for job_id in job_ids if job_id in found]
