"""``isolation="process"``: where a fresh process finds a handler, and what it may use. No processes here."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataqueue.errors import ConfigError
from dataqueue.options import DefinitionOptions, check_integer

if TYPE_CHECKING:
    from dataqueue.definitions import Handler

SCRIPT_MODULE = "__dataqueue_script__"
"""What the script that the worker runs is called in a child, so that its ``__main__`` block does not run there."""
MIN_MEMORY, MAX_MEMORY = 64 * 2**20, 2**50


@dataclass(frozen=True, slots=True)
class Isolation:
    """The module (and, for a script, its file) that defines a handler, its name there, and the process's limit."""

    module: str
    script: str | None
    function: str
    job_type: str
    memory_limit: int | None


_defined: dict[tuple[str, str, str], Handler] = {}


def isolate(function: Callable[..., Any], job_type: str, options: DefinitionOptions) -> Isolation | None:
    """Check the options, and that a fresh process can import the function.

    Raises:
        ConfigError: a wrong kind of isolation or function, or a limit that cannot be set here.
        InvalidJob: ``memory_limit`` is no number of bytes from 64 MiB.
    """
    kind, limit = options.get("isolation"), options.get("memory_limit")
    if kind is None:
        if limit is not None:
            raise ConfigError(f'memory_limit of {job_type!r} needs a process of its own: add isolation="process".')
        return None
    if kind != "process":
        raise ConfigError(f'isolation must be "process" or None, not {kind!r:.80}.')
    if limit is not None:
        check_integer(limit, "memory_limit", MIN_MEMORY, MAX_MEMORY)
        _check_can_limit()
    module, script = _place(function, job_type)
    return Isolation(module, script, function.__qualname__, job_type, limit)


def remember(isolation: Isolation, handler: Handler) -> None:
    """Keep a handler for :func:`find_handler`: the module's attribute of its name may be something else."""
    _defined[isolation.module, isolation.function, isolation.job_type] = handler


def find_handler(module: str, function: str, job_type: str) -> Handler | None:
    """The handler that importing the module has defined."""
    return _defined.get((module, function, job_type))


def _check_can_limit() -> None:
    try:
        import resource

        resource.RLIMIT_AS  # noqa: B018
    except (ImportError, AttributeError):
        raise ConfigError(
            f"memory_limit cannot be set on {sys.platform}, which has no RLIMIT_AS. Leave it out here, and limit the "
            "memory of the container instead."
        ) from None


def _place(function: Callable[..., Any], job_type: str) -> tuple[str, str | None]:
    if not isinstance(function, types.FunctionType):
        raise _cannot_import(job_type, f"{function!r:.100} is a bound method, a partial or another object")
    if function.__name__ == "<lambda>":
        raise _cannot_import(job_type, "it is a lambda")
    if "<locals>" in function.__qualname__:
        raise _cannot_import(job_type, f"{function.__qualname__} is made inside another function")
    module = sys.modules.get(function.__module__)
    if module is None or vars(module) is not function.__globals__:
        raise _cannot_import(job_type, f"there is no module {function.__module__!r} that it is defined in")
    if function.__module__ != "__main__":
        return function.__module__, None
    if module.__spec__ is not None:  # python -m package.module
        return module.__spec__.name, None
    file = getattr(module, "__file__", None)
    if file is None or not Path(file).is_file():
        raise _cannot_import(job_type, "it is typed into a console, or read from standard input")
    return SCRIPT_MODULE, str(Path(file).absolute())


def _cannot_import(job_type: str, why: str) -> ConfigError:
    return ConfigError(
        f'The handler of {job_type!r} has isolation="process", but a fresh process cannot import it: {why}. Decorate a '
        "function at the top level of a module."
    )
