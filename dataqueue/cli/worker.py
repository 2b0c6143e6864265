"""``dataqueue worker``: works a queue of yours until it is told to stop."""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import sys
import threading
import traceback
from datetime import timedelta
from operator import attrgetter
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dataqueue.cli import logs
from dataqueue.cli.common import OK, PROBLEM, EnvFile, exit_code, finish, load_environment, reports_errors, run_async
from dataqueue.cli.stopping import HURRIED_GRACE, Stopping
from dataqueue.cli.supervisor import (
    FOR_EVER,
    IdempotencyTtl,
    KeepCancelled,
    KeepCompleted,
    KeepEvents,
    KeepFailed,
    KeepTokens,
    retention,
)
from dataqueue.errors import ConfigError, DataQueueError

if TYPE_CHECKING:
    from dataqueue.events import Hook
    from dataqueue.queue import JobQueue
    from dataqueue.worker.processor import DrainResult, Processor, ProcessorOptions
    from dataqueue.worker.supervisor import Supervisor

logger = logging.getLogger("dataqueue.cli")

_LEAVE_SECONDS = 2.0
"""How long what was told to end may take before the process ends without it."""


@reports_errors
def worker(
    target: Annotated[str, typer.Argument(metavar="MODULE:QUEUE", show_default=False)],
    concurrency: Annotated[int, typer.Option(help="Jobs that run at the same time.")] = 10,
    group_concurrency: Annotated[
        int | None,
        typer.Option(help="Jobs of one group that run at the same time, over all workers; no limit by default."),
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Jobs claimed at once, at most.")] = 100,
    job_types: Annotated[
        str | None, typer.Option(metavar="A,B", help="Take only these types; all that the queue defines by default.")
    ] = None,
    poll_interval: Annotated[
        float, typer.Option(metavar="SECONDS", help="How often to look for work when no notification came.")
    ] = 5.0,
    worker_id: Annotated[
        str | None, typer.Option(metavar="NAME", help="Its name in the store; by default made of host and process id.")
    ] = None,
    lease: Annotated[
        float, typer.Option(metavar="SECONDS", help="Within this long after this worker is lost, others run its jobs.")
    ] = 30.0,
    drain_timeout: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="How long running jobs may go on after SIGTERM or Ctrl-C.")
    ] = 30.0,
    log_level: Annotated[str, typer.Option(help=", ".join(logs.LEVELS) + ".")] = "info",
    log_json: Annotated[bool, typer.Option("--log-json", help="Log JSON objects, one a line.")] = False,
    burst: Annotated[bool, typer.Option("--burst", help="Work until nothing is due, then exit.")] = False,
    no_supervisor: Annotated[
        bool, typer.Option("--no-supervisor", help="Delete nothing: leave that to others, or to nobody.")
    ] = False,
    keep_completed: KeepCompleted = "30",
    keep_failed: KeepFailed = "90",
    keep_cancelled: KeepCancelled = "90",
    keep_events: KeepEvents = "90",
    keep_tokens: KeepTokens = "90",
    idempotency_ttl: IdempotencyTtl = FOR_EVER,
    env_file: EnvFile = None,
) -> None:
    """Work the jobs of a queue: MODULE:QUEUE names a JobQueue or SyncJobQueue, such as app.jobs:queue.

    SIGTERM or Ctrl-C drains: nothing new is taken, running jobs may finish. A second one hands them back
    at once, without costing an attempt. Beside its jobs, one worker of all deletes what is over and old (not with
    --burst). Exit code 0 after a clean drain, 1 if handlers had to be left behind or the
    store could not be told.
    """
    if log_level.lower() not in logs.LEVELS:
        raise ConfigError(f"There is no log level {log_level!r}. Levels: {', '.join(logs.LEVELS)}.")
    logs.configure(log_level, as_json=log_json)
    load_environment(env_file)
    queue = load_queue(target)
    options: ProcessorOptions = {
        "concurrency": concurrency,
        "group_concurrency": group_concurrency,
        "batch_size": batch_size,
        "poll_interval": timedelta(seconds=poll_interval),
        "lease": timedelta(seconds=lease),
    }
    if job_types is not None:
        options["job_types"] = [name.strip() for name in job_types.split(",") if name.strip()]
    if worker_id is not None:
        options["worker_id"] = worker_id
    if logger.isEnabledFor(logging.DEBUG):
        _log_each_job(queue)
    kept = retention(keep_completed, keep_failed, keep_cancelled, keep_events, keep_tokens, idempotency_ttl)
    kept["reclaim"] = False  # the worker itself does
    supervisor = queue.create_supervisor(**kept)
    beside = None if burst or no_supervisor else supervisor
    finish(run_async(lambda: _work(queue, queue.create_processor(**options), beside, drain_timeout, burst)))


def _log_each_job(queue: JobQueue) -> None:
    def log(hook: Hook) -> None:
        logger.debug("Job %s (%s): %s", hook.job_id, hook.job_type, hook.name.removeprefix("job:"))

    for name in ("job:processing", "job:completed", "job:cancelled"):
        queue.on(name, log)


# -- finding the queue ----------------------------------------------------------------------------------


def load_queue(target: str) -> JobQueue:
    """The queue that ``MODULE:QUEUE`` names, looked for in the current directory first.

    Raises:
        ConfigError: no such module or attribute, or it is not a queue; the message says what to write.
    """
    module_name, _, attribute = target.partition(":")
    if "/" in module_name or "\\" in module_name or module_name.endswith(".py"):
        guess = ".".join(Path(module_name).with_suffix("").parts)
        raise ConfigError(f"{module_name!r} is a file. Name the module instead: {guess}:{attribute or 'queue'}.")
    module = _import(module_name, target)
    if not attribute:
        raise ConfigError(f"Which queue of {module_name}? {_suggestion(module)}")
    try:
        found = attrgetter(attribute)(module)
    except AttributeError:
        raise ConfigError(f"{module_name} has no {attribute!r}. {_suggestion(module)}") from None
    queue = _as_queue(found)
    if queue is None:
        raise ConfigError(
            f"{target} is of type {type(found).__name__}, not a JobQueue or SyncJobQueue. {_suggestion(module)}"
        )
    if not queue.definitions:
        raise ConfigError(
            f"{target} defines no jobs, so a worker could run none. Decorate functions with @queue.job, and import "
            f"the modules that hold them in {module_name}."
        )
    return queue


def _import(name: str, target: str) -> ModuleType:
    sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            raise ConfigError(
                f"There is no module {error.name!r} to take {target!r} from. Looked in {Path.cwd()} and Python's own "
                "path: change to the directory that holds it, or install the package."
            ) from None
        raise _broken(name, error) from error
    except ConfigError:
        raise
    except Exception as error:
        raise _broken(name, error) from error


def _broken(name: str, error: Exception) -> ConfigError:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
    trace = "".join(traceback.format_list(frames[1:]) + traceback.format_exception_only(error))
    return ConfigError(f"{name} could not be imported:\n{trace.rstrip()}")


def _as_queue(found: object) -> JobQueue | None:
    from dataqueue.queue import JobQueue
    from dataqueue.sync import SyncJobQueue

    if isinstance(found, SyncJobQueue):
        return found.queue
    return found if isinstance(found, JobQueue) else None


def _suggestion(module: ModuleType) -> str:
    names = [f"{module.__name__}:{name}" for name, value in vars(module).items() if _as_queue(value) is not None]
    if names:
        return f"Write {' or '.join(names)}."
    return f"There is no queue in {module.__name__}; make one: queue = JobQueue.from_url()."


# -- working --------------------------------------------------------------------------------------------


async def _work(
    queue: JobQueue, processor: Processor, supervisor: Supervisor | None, drain_timeout: float, burst: bool
) -> int:
    logger.info(
        "Worker %s on %s runs %s at a time: %s",
        processor.worker_id, queue.backend.location(), processor.concurrency, ", ".join(sorted(processor.handlers)),
    )  # fmt: skip
    told = Stopping(processor, drain_timeout)
    told.watch()
    stopping = asyncio.Event()
    working = asyncio.create_task(_burst(processor, stopping) if burst else processor.run())
    if supervisor is not None:
        supervisor.start_in_background()
    signalled = asyncio.create_task(told.signals.get())
    await asyncio.wait({working, signalled}, return_when=asyncio.FIRST_COMPLETED)
    result = None
    if supervisor is not None:
        supervisor.stop()
    if signalled.done():
        stopping.set()
        result = await _drain(processor, told, signalled.result(), drain_timeout)
    code = await _outcome(working, processor, result)
    if supervisor is not None:
        await supervisor.stop_and_drain(_LEAVE_SECONDS)
    if not processor.is_running():
        await queue.close()
    if not await _nothing_left():
        logger.warning("Handlers run on that were told to stop; the process ends without them.")
        logging.shutdown()
        os._exit(PROBLEM)
    return code


async def _burst(processor: Processor, stopping: asyncio.Event) -> None:
    total = 0
    while not stopping.is_set() and (taken := await processor.start()):
        total += taken
    logger.info(
        "Ran %d job%s; %s.",
        total,
        "" if total == 1 else "s",
        "told to stop" if stopping.is_set() else "nothing more is due",
    )


async def _drain(processor: Processor, told: Stopping, signal: tuple[str, float], timeout: float) -> DrainResult:
    name, at = signal
    logger.info("%s: draining. Running jobs may take %g s more; a second signal hands them back.", name, timeout)
    draining = asyncio.create_task(processor.stop_and_drain(timeout))
    again = asyncio.create_task(told.again(at))
    await asyncio.wait({draining, again}, return_when=asyncio.FIRST_COMPLETED)
    if draining.done():
        return await draining
    logger.info("%s again: handing back what still runs.", again.result())
    return await processor.stop_and_drain(0, grace=HURRIED_GRACE)


async def _outcome(working: asyncio.Task[None], processor: Processor, result: DrainResult | None) -> int:
    """The exit code, once the processor is over (or will not be)."""
    if result is not None:
        logger.info(
            "Drained: %d finished, %d handed back%s, %d left behind%s.",
            result.finished, len(result.handed_back), _named(result.handed_back),
            len(result.left), _named(result.left),
        )  # fmt: skip
        if result.unrecorded:
            logger.error(
                "The store could not be told about %d%s: they run again when their lease is over.",
                len(result.unrecorded), _named(result.unrecorded),
            )  # fmt: skip
        if result.left or result.unrecorded or processor.is_running():
            return PROBLEM
    try:
        await working
    except DataQueueError as error:
        logger.critical("The worker ends: %s", error)
        return exit_code(error)
    except Exception:
        logger.critical("The worker ends.", exc_info=True)
        return PROBLEM
    return OK


def _named(job_ids: list[int]) -> str:
    shown = ", ".join(str(job_id) for job_id in job_ids[:10])
    return f" ({shown}{', …' if len(job_ids) > 10 else ''})" if shown else ""


async def _nothing_left() -> bool:
    """Whether nothing keeps the process from ending: a task that swallows its cancel, a thread that runs on."""
    loop = asyncio.get_running_loop()
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    ending: set[asyncio.Future[Any]] = {*tasks, loop.create_task(loop.shutdown_default_executor())}
    _, unfinished = await asyncio.wait(ending, timeout=_LEAVE_SECONDS)
    if unfinished:
        return False
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("dataqueue-job")]
    for thread in threads:
        thread.join(_LEAVE_SECONDS / len(threads))
    return not any(thread.is_alive() for thread in threads)
