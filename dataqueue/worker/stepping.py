"""How a step is done: in a thread or on the loop, again after an error, its result as JSON and back."""

from __future__ import annotations

import asyncio
import functools
import inspect
import time
import typing
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from dataqueue.definitions import hints_of
from dataqueue.errors import ConfigError, InvalidJob
from dataqueue.jsonvalue import dumps
from dataqueue.options import check_duration, check_integer
from dataqueue.payloads import Codec
from dataqueue.steps import StepRecord
from dataqueue.worker.steps import Steps, within_step

_MILLISECOND = timedelta(milliseconds=1)


class Tries:
    """How often a step is tried within one attempt, and how long each may take."""

    def __init__(self, retries: object = 0, retry_delay: object = timedelta(seconds=1), timeout: object = None) -> None:
        self.retries = check_integer(retries, "retries", 0, 1000)
        self._delay = (check_duration(retry_delay, "retry_delay", timedelta(0), timedelta(hours=1)) or 0) / 1000
        limit = check_duration(timeout, "timeout", _MILLISECOND, timedelta(days=24))
        self.seconds = None if limit is None else limit / 1000

    def pause(self, tried: int) -> float:
        """Seconds before the next try: twice as long each time, up to an hour."""
        return min(self._delay * 2 ** min(tried - 1, 30), 3600.0)


ONCE = Tries()


async def do_step(
    steps: Steps,
    name: str,
    function: Callable[..., Any],
    args: Sequence[Any],
    kwargs: dict[str, Any],
    tries: Tries,
    place: str,
) -> Any:
    """A step of an ``async def`` handler: its result, from its record if an earlier run has done it."""
    codec = _result_codec(function, name)
    record = await steps.begin(name, place)
    if record is not None:
        return _decode(codec, record)
    started = datetime.now(UTC)
    tried = 0
    while True:
        tried += 1
        try:
            with within_step(name):
                value = await _call_within(tries.seconds, name, function, args, kwargs)
            break
        except InvalidJob:
            raise
        except Exception:
            if tried > tries.retries:
                raise
            await asyncio.sleep(tries.pause(tried))
    return _decode(codec, await steps.finish(name, _encode(codec, value, name), place, started, tried))


class Bridge(Protocol):
    """From a handler's thread to the loop of its steps, and its sleep."""

    def __call__(self, operation: Coroutine[Any, Any, Any], /) -> Any: ...


def do_step_in_thread(
    steps: Steps,
    run: Bridge,
    sleep: Callable[[float], object],
    name: str,
    function: Callable[..., Any],
    args: Sequence[Any],
    kwargs: dict[str, Any],
    tries: Tries,
    place: str,
) -> Any:
    """A step of a ``def`` handler, in its own thread."""
    if inspect.iscoroutinefunction(function):
        raise InvalidJob(f"{place}: the step {name!r} is an async function; a `def` handler takes ordinary ones.")
    codec = _result_codec(function, name)
    record = run(steps.begin(name, place))
    if record is not None:
        return _decode(codec, record)
    started = datetime.now(UTC)
    tried = 0
    while True:
        tried += 1
        begun = time.monotonic()
        try:
            with within_step(name):
                value = function(*args, **kwargs)
            if tries.seconds is not None and time.monotonic() - begun > tries.seconds:
                raise _too_long(name, tries.seconds)
            break
        except InvalidJob:
            raise
        except Exception:
            if tried > tries.retries:
                raise
            sleep(tries.pause(tried))
    return _decode(codec, run(steps.finish(name, _encode(codec, value, name), place, started, tried)))


async def _call_within(
    seconds: float | None, name: str, function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]
) -> Any:
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            return await _call(function, args, kwargs)
    except TimeoutError as error:
        if seconds is None or not limit.expired():
            raise
        raise _too_long(name, seconds) from error


def _too_long(name: str, seconds: float) -> TimeoutError:
    return TimeoutError(f"The step {name!r} took longer than {seconds:g} s.")


async def _call(function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """On the loop, or in a thread if it is an ordinary function."""
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None)):  # noqa: B004
        return await function(*args, **kwargs)
    result = await asyncio.to_thread(function, *args, **kwargs)
    return await result if inspect.isawaitable(result) else result


def _result_codec(function: Callable[..., Any], name: str) -> Codec[Any]:
    """By the function's return annotation."""
    if not callable(function):
        raise InvalidJob(f"The step {name!r} needs a function, not {function!r:.80}. Write run({name!r}, function, …).")
    try:
        hint = hints_of(function, ("return",)).get("return", Any)
    except (ConfigError, TypeError):  # a name of a local scope: plain JSON then
        return _PLAIN
    if typing.get_origin(hint) in (Awaitable, Coroutine, typing.Awaitable, typing.Coroutine):
        hint = typing.get_args(hint)[-1]
    try:
        return _codec(hint)
    except TypeError:  # an annotation that is not hashable
        return Codec(hint, "the step's result")


@functools.lru_cache(maxsize=500)
def _codec(annotation: Any) -> Codec[Any]:
    return Codec(annotation, "the step's result")


_PLAIN: Codec[Any] = Codec(Any, "the step's result")


def _encode(codec: Codec[Any], value: object, name: str) -> str:
    return codec.encode(value) if codec.typed else dumps(value, f"the result of step {name!r}")


def _decode(codec: Codec[Any], record: StepRecord) -> Any:
    return None if record.result is None else codec.decode(record.result)
