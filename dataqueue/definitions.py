"""Typed job definitions: what ``@queue.job`` makes of a function."""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Generic, TypeVar, Unpack, cast

from dataqueue.errors import ConfigError, InvalidJob
from dataqueue.jobs import AddedJobs, JobHandle
from dataqueue.limits import TypeLimits
from dataqueue.options import DefinitionOptions, JobOptions, NewJob, check_definition, check_job_type
from dataqueue.payloads import Codec
from dataqueue.unique import Unique

if TYPE_CHECKING:
    from dataqueue.isolation import Isolation
    from dataqueue.queue import JobQueue

P = TypeVar("P")
R = TypeVar("R")

AnyHandler = Callable[..., Any]


class Handler:
    """A function as the worker calls it: its shape, and how to read its payload and write its result."""

    __slots__ = ("function", "is_async", "isolation", "payload", "result", "takes_context")

    def __init__(self, function: AnyHandler, what: str) -> None:
        parameters = _positional(function, what)
        hints = hints_of(function, (parameters[0].name, "return"))
        self.function = function
        self.isolation: Isolation | None = None
        self.is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
            getattr(function, "__call__", None)  # noqa: B004 - an object with an async __call__
        )
        self.takes_context = _takes_context(parameters, self.is_async, what)
        self.payload: Codec[Any] = Codec(hints.get(parameters[0].name, Any))
        self.result: Codec[Any] = Codec(hints.get("return", Any), "result")
        self.payload.check()
        self.result.check()


def _positional(function: AnyHandler, what: str) -> list[inspect.Parameter]:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"The handler of {what} is not a function: {function!r:.100}") from error
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    accepted = [p for p in signature.parameters.values() if p.kind in kinds]
    required = [p for p in signature.parameters.values() if p.default is p.empty and p.kind is p.KEYWORD_ONLY]
    if not 1 <= len(accepted) <= 2 or required:
        raise ConfigError(
            f"The handler of {what} must take (payload) or (payload, ctx); it is declared as "
            f"{getattr(function, '__name__', 'handler')}{signature}."
        )
    return accepted


def _takes_context(parameters: list[inspect.Parameter], is_async: bool, what: str) -> bool:
    """Whether the second parameter is the context; mistakes that would show only in the worker are refused."""
    first, *rest = parameters
    if first.name in ("self", "cls"):
        raise ConfigError(f"The handler of {what} takes {first.name!r} first. Decorate a function, or a bound method.")
    if "JobContext" in _spelled(first):
        raise ConfigError(f"The handler of {what} takes the context first. The payload comes first: (payload, ctx).")
    if not rest:
        return False
    spelled = _spelled(rest[0])
    wrong = "SyncJobContext" in spelled if is_async else "JobContext" in spelled and "SyncJobContext" not in spelled
    if wrong:
        right = "JobContext" if is_async else "SyncJobContext"
        kind = "an `async def`" if is_async else "a `def`"
        raise ConfigError(f"The handler of {what} is {kind} function: its context is a {right}.")
    return "JobContext" in spelled or rest[0].default is inspect.Parameter.empty


def _spelled(parameter: inspect.Parameter) -> str:
    annotation = parameter.annotation
    return annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))


def hints_of(function: AnyHandler, names: Iterable[str]) -> dict[str, Any]:
    """The annotations of these parameters; those of others need not exist at run time (``ctx``)."""
    target: Any = function
    if not inspect.isroutine(function) and not isinstance(function, functools.partial):
        target = type(function).__call__
    while isinstance(target, functools.partial):
        target = cast("Any", target).func
    target = inspect.unwrap(target)
    annotations = {name: hint for name, hint in inspect.get_annotations(target).items() if name in names}
    holder = types.SimpleNamespace(__annotations__=annotations)
    try:
        return typing.get_type_hints(holder, getattr(target, "__globals__", {}), include_extras=True)
    except NameError as error:
        # A name of a local scope or of an `if TYPE_CHECKING:` block: better said here than in the worker.
        raise ConfigError(
            f"The annotations of {getattr(target, '__qualname__', target)!r} cannot be resolved: {error}. "
            "Define the payload and result types at module level and import them at run time."
        ) from error


class JobDefinition(Generic[P, R]):
    """A job type with its handler, payload type, result type and default options.

    Calling it calls the function, as if it were not decorated. ``add`` puts a job into the queue.
    """

    def __init__(self, queue: JobQueue, name: str, function: AnyHandler, options: DefinitionOptions) -> None:
        check_job_type(name)
        self.defaults = check_definition(options)
        self.limits = TypeLimits.of(options)
        self.queue = queue
        self.name = name
        self.handler = Handler(function, repr(name))
        if "isolation" in options or "memory_limit" in options:
            self._isolate(options)
        self.__wrapped__ = function
        self.__doc__ = function.__doc__

    def _isolate(self, options: DefinitionOptions) -> None:
        from dataqueue.isolation import isolate, remember

        isolation = self.handler.isolation = isolate(self.handler.function, self.name, options)
        if isolation is not None:
            remember(isolation, self.handler)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.handler.function(*args, **kwargs)

    async def add(self, payload: P, *, conn: object | None = None, **options: Unpack[JobOptions]) -> JobHandle[R]:
        """Add one job of this type. See :meth:`dataqueue.JobQueue.add_job`."""
        handle = await self.queue.add_job(self.name, payload, conn=cast("Any", conn), **options)
        return cast("JobHandle[R]", handle)

    async def add_many(
        self, payloads: Iterable[P], *, conn: object | None = None, **options: Unpack[JobOptions]
    ) -> AddedJobs[R]:
        """Add many jobs of this type with the same options. See :meth:`dataqueue.JobQueue.add_jobs`.

        Raises:
            InvalidJob: an ``idempotency_key`` or a key of ``unique``, which would be the same for all; use ``new`` for
                each.
        """
        unique = options.get("unique")
        for name, same in (
            ("idempotency_key", options.get("idempotency_key")),
            ("unique", unique.key if isinstance(unique, Unique) else None),
        ):
            if same is not None:
                raise InvalidJob(
                    f"add_many would give all jobs the same key, so that one is added. Nothing was stored. "
                    f"Give each its own: queue.add_jobs(definition.new(payload, {name}=…) for …)."
                )
        jobs = (NewJob(self.name, payload, options) for payload in payloads)
        return await self.queue._add_all(jobs, conn, self.handler.result)  # pyright: ignore[reportPrivateUsage]

    def new(self, payload: P, **options: Unpack[JobOptions]) -> NewJob:
        """A job of this type for ``queue.add_jobs``, beside jobs of other types."""
        return NewJob(self.name, payload, options)

    def __repr__(self) -> str:
        return f"<job type {self.name!r}>"
