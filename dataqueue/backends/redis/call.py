"""Running the scripts, and errors that say where and why."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Generator
from functools import cache
from importlib import resources
from typing import Any, NamedTuple

import redis.exceptions as failures

from dataqueue.backends.redis.layout import CHANNEL, lua_prelude
from dataqueue.dependencies import no_such_prerequisite
from dataqueue.errors import DataQueueError, ReadOnlyQueue, StoreUnavailable

AnyClient = Any
"""``redis.asyncio.Redis`` or ``RedisCluster``: their stubs have no common base."""


class Script(NamedTuple):
    text: str
    digest: str
    keys: tuple[str, ...]


@cache
def script(name: str) -> Script:
    """A script as the server gets it. Its file begins with its shebang (what it may do when memory is full)
    and the keys that it uses: only those are sent, and are checked to be of their kind."""
    folder = resources.files("dataqueue.backends.redis.scripts")
    shebang, keys_line, text = (folder / f"{name}.lua").read_text("utf-8").split("\n", 2)
    keys = tuple(keys_line.removeprefix("-- KEYS ").split())
    common = lua_prelude(keys) + (folder / "_prelude.lua").read_text("utf-8")
    # Each call defines its functions anew, so only those that are used are taken; they use only earlier ones.
    for block in reversed(common.split("\n\n")):
        names = re.findall(r"^local (?:function )?(\w+)", block, re.MULTILINE)
        if any(re.search(rf"\b{name}\b", text) for name in names):
            text = f"{block}\n{text}"
    text = f"{shebang}\n{text}"
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest(), keys)


class Scripts:
    """Calls a script by its digest; a server that has forgotten it is given the text again."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self.channel = f"{prefix}{CHANNEL}"
        self._first_arguments: dict[str, tuple[Any, ...]] = {}

    async def call(self, client: AnyClient, name: str, *arguments: Any) -> Any:
        first = self._first(name)
        try:
            return await client.evalsha(script(name).digest, *first, *arguments)
        except failures.NoScriptError:  # nothing ran
            return await client.eval(script(name).text, *first, *arguments)

    def call_sync(self, client: Any, name: str, *arguments: Any) -> Any:
        first = self._first(name)
        try:
            return client.evalsha(script(name).digest, *first, *arguments)
        except failures.NoScriptError:
            return client.eval(script(name).text, *first, *arguments)

    def _first(self, name: str) -> tuple[Any, ...]:
        """The number of keys, the keys, the channel."""
        first = self._first_arguments.get(name)
        if first is None:
            keys = [f"{self._prefix}{key}".encode() for key in script(name).keys]
            first = self._first_arguments[name] = (len(keys), *keys, self.channel.encode())
        return first


_FOR_A_WHILE = ("MISCONF", "NOREPLICAS", "MASTERDOWN", "BUSY", "LOADING", "CLUSTERDOWN", "TRYAGAIN")


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
    except (failures.ConnectionError, failures.TimeoutError, failures.ReadOnlyError, failures.ClusterDownError, failures.RedisClusterException,
            failures.TryAgainError, failures.MovedError, failures.AskError, OSError) as error:  # fmt: skip
        reason = str(error).rstrip(".") or type(error).__name__
        # "Error 111 connecting to …": nothing was sent.
        doubt = (
            "" if "connecting to" in reason else " An operation that was under way may or may not have taken effect."
        )
        raise StoreUnavailable(
            f"Redis at {where} cannot be reached or does not take writes now: {reason}.{doubt}"
        ) from error
    except failures.ResponseError as error:
        if str(error).startswith("NOJOB "):
            raise no_such_prerequisite(str(error).removeprefix("NOJOB ")) from error
        if "not allowed from read-only scripts" in str(error):
            raise ReadOnlyQueue(where) from error
        if str(error).startswith(_FOR_A_WHILE):
            raise StoreUnavailable(
                f"Redis at {where} does not take writes now: {error}. Nothing was changed."
            ) from error
        raise DataQueueError(f"Redis at {where} refused a command: {error}. Nothing was changed.") from error
