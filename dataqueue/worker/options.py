"""Options of a worker, each with its type and its range."""

from __future__ import annotations

import os
import socket
import sys
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal, TypedDict, cast

from dataqueue.definitions import Handler
from dataqueue.errors import ConfigError
from dataqueue.options import check_integer, check_job_type, check_name

MAX_CLAIM = 500


class ProcessorOptions(TypedDict, total=False):
    """Options of a worker."""

    concurrency: int
    """Jobs that run at the same time, 10 by default."""
    group_concurrency: int | None
    """Jobs of one group that run at the same time, over all workers; no limit by default. While workers that live ask
    for different numbers, the smallest holds for all."""
    batch_size: int
    """Jobs claimed in one statement at most, 100 by default; for ``start()``, jobs run in all."""
    poll_interval: timedelta
    """How often to look for work when no notification came, 5 s by default."""
    job_types: Iterable[str]
    """Take only these of the handlers' types."""
    worker_id: str
    """Its name in the store; by default made of host and process id. A name that a live worker
    has already gets a suffix."""
    lease: timedelta
    """Within this long after a worker was lost, its jobs run elsewhere; 30 s by default."""
    grace: timedelta
    """How long a handler that was told to stop may take, 5 s by default."""
    prefetch: int
    """Jobs claimed ahead of a free slot while jobs are short; up to ``concurrency`` by default."""
    on_unknown_type: Literal["leave", "fail"]
    """``leave`` (the default): jobs of types without a handler here are left to other workers. ``fail``: this
    worker claims them as well and fails them with reason ``no_handler``. Only where it is the only kind of worker."""
    max_loop_block: timedelta
    """A blocked event loop is given up (and the process exits) after this long, 5 min by default."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The checked options; durations in seconds."""

    handlers: dict[str, Handler]
    concurrency: int
    group_concurrency: int | None
    batch_size: int
    poll_interval: float
    lease: float
    grace: float
    max_loop_block: float
    prefetch: int
    worker_id: str
    fails_unknown: bool


def check_options(handlers: Mapping[str, Handler], options: ProcessorOptions) -> Settings:
    """Check every option of a worker.

    Raises:
        ConfigError, InvalidJob: no handlers, an unknown option, or one of the wrong type or range.
    """
    _refuse_unknown(options)
    chosen = _chosen(handlers, options.get("job_types"))
    _check_platform(chosen)
    concurrency = check_integer(options.get("concurrency", 10), "concurrency", 1, 10_000)
    return Settings(
        handlers=chosen,
        concurrency=concurrency,
        group_concurrency=_group_concurrency(options.get("group_concurrency")),
        batch_size=check_integer(options.get("batch_size", 100), "batch_size", 1, MAX_CLAIM),
        poll_interval=_seconds(options.get("poll_interval", timedelta(seconds=5)), "poll_interval", 0.01, 3600),
        lease=_seconds(options.get("lease", timedelta(seconds=30)), "lease", 1, 3600),
        grace=_seconds(options.get("grace", timedelta(seconds=5)), "grace", 0, 3600),
        max_loop_block=_seconds(options.get("max_loop_block", timedelta(minutes=5)), "max_loop_block", 1, 86_400),
        prefetch=check_integer(options.get("prefetch", concurrency), "prefetch", 0, 10_000),
        worker_id=check_name(options.get("worker_id", _own_name()), "worker_id"),
        fails_unknown=_fails_unknown(options.get("on_unknown_type", "leave")),
    )


def _own_name() -> str:
    return f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"


def _chosen(handlers: Mapping[str, Handler], job_types: object) -> dict[str, Handler]:
    if not handlers:
        raise ConfigError(
            "This worker has no handlers. Define jobs with @queue.job before creating the processor (import "
            "their module), or pass a mapping: create_processor({'send_email': send_email})."
        )
    if job_types is None:
        return dict(handlers)
    if isinstance(job_types, str):
        raise ConfigError(f"job_types must be a list of texts. Write job_types=[{job_types!r}].")
    wanted = [check_job_type(name) for name in cast("Iterable[str]", job_types)]
    unknown = sorted(set(wanted) - set(handlers))
    if unknown or not wanted:
        raise ConfigError(
            f"job_types names {', '.join(unknown) or 'nothing'}; there are handlers for {', '.join(sorted(handlers))}."
        )
    return {name: handlers[name] for name in wanted}


def _group_concurrency(value: object) -> int | None:
    return None if value is None else check_integer(value, "group_concurrency", 1, 10_000)


def _check_platform(handlers: Mapping[str, Handler]) -> None:
    isolated = sorted(name for name, handler in handlers.items() if handler.isolation is not None)
    if isolated and sys.platform == "win32":
        raise ConfigError(
            f'{", ".join(isolated)}: isolation="process" needs the process groups of Linux or macOS. Run this worker '
            "there (WSL will do), or give it other job_types; jobs can be added from Windows."
        )


def _fails_unknown(choice: object) -> bool:
    if choice not in ("leave", "fail"):
        raise ConfigError(f"on_unknown_type must be 'leave' or 'fail', not {choice!r:.80}.")
    return choice == "fail"


def _seconds(value: object, what: str, low: float, high: float) -> float:
    if not isinstance(value, timedelta):
        raise ConfigError(f"{what} must be a timedelta, not {value!r:.80}. Write timedelta(seconds=…).")
    if not low <= value.total_seconds() <= high:
        raise ConfigError(f"{what} is {value.total_seconds():g} s; it must be from {low:g} to {high:g} s.")
    return value.total_seconds()


def _refuse_unknown(options: Mapping[str, object]) -> None:
    unknown = sorted(set(options) - set(ProcessorOptions.__annotations__))
    if unknown:
        raise ConfigError(
            f"Unknown option {', '.join(unknown)}. Known options: {', '.join(sorted(ProcessorOptions.__annotations__))}."
        )
