"""Running the scripts, and errors that say where and why."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Generator
from functools import cache
from importlib import resources
from typing import Any

import redis.exceptions as failures

from dataqueue.backends.redis.layout import CHANNEL, KEYS, lua_prelude
from dataqueue.errors import DataQueueError, StoreUnavailable

AnyClient = Any
"""``redis.asyncio.Redis`` or ``RedisCluster``: their stubs have no common base."""


@cache
def script_text(name: str) -> str:
    folder = resources.files("dataqueue.backends.redis.scripts")
    own = (folder / f"{name}.lua").read_text("utf-8")
    common = (folder / "_prelude.lua").read_text("utf-8")
    return f"local CHANNEL = ARGV[1]\n{lua_prelude()}{common}{own}"


@cache
def _digest(name: str) -> str:
    return hashlib.sha1(script_text(name).encode(), usedforsecurity=False).hexdigest()


class Scripts:
    """Calls a script by its digest; a server that has forgotten it is given the text again."""

    def __init__(self, prefix: str) -> None:
        self.keys = [f"{prefix}{name}" for name in KEYS]
        self.channel = f"{prefix}{CHANNEL}"
        self._tail = [len(self.keys), *self.keys, self.channel]

    async def call(self, client: AnyClient, name: str, *arguments: Any) -> Any:
        try:
            return await client.evalsha(_digest(name), *self._tail, *arguments)
        except failures.NoScriptError:  # nothing ran
            return await client.eval(script_text(name), *self._tail, *arguments)

    def call_sync(self, client: Any, name: str, *arguments: Any) -> Any:
        try:
            return client.evalsha(_digest(name), *self._tail, *arguments)
        except failures.NoScriptError:
            return client.eval(script_text(name), *self._tail, *arguments)


@contextlib.contextmanager
def store_errors(where: str) -> Generator[None]:
    """Turn the client's errors into ours."""
    try:
        yield
    except (failures.AuthenticationError, failures.NoPermissionError) as error:
        raise StoreUnavailable(
            f"Redis at {where} refused: {error}. Check user and password, and that its ACL allows this queue's keys, "
            "channel and scripts."
        ) from error
    except failures.OutOfMemoryError as error:
        raise StoreUnavailable(
            f"Redis at {where} is out of memory and stores nothing new ({error}). What is in it is safe; jobs can "
            "still be worked. Give it memory, or clean up finished jobs."
        ) from error
    except (failures.ConnectionError, failures.TimeoutError, failures.ReadOnlyError, failures.ClusterDownError,
            failures.TryAgainError, failures.MovedError, failures.AskError, OSError) as error:  # fmt: skip
        raise StoreUnavailable(
            f"Redis at {where} cannot be reached or does not take writes now: {error or type(error).__name__}. An "
            "operation that was under way may or may not have taken effect."
        ) from error
    except failures.ResponseError as error:
        raise DataQueueError(f"Redis at {where} refused a script: {error}. Nothing was changed.") from error
