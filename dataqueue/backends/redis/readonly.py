"""A client through which nothing can be changed: the server itself refuses.

Redis knows no read-only connections. It does refuse writes in scripts that are run by EVAL_RO, so every command
that names keys is sent inside of one. A user whose ACL has no ``+eval_ro`` sends plain commands, if its ACL
refuses writes by itself: that is tried once, with a write that would change nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from redis.exceptions import NoPermissionError

from dataqueue.errors import ConfigError

_RUN = "return redis.call(unpack(ARGV))"
# They name no keys and change no data: most are not allowed in a script.
_PLAIN = frozenset({"PING", "TIME", "INFO", "CONFIG GET", "CLUSTER INFO", "CLUSTER", "EVAL_RO"})


def _pairs(flat: list[Any]) -> list[tuple[Any, Any]]:
    return list(zip(flat[::2], flat[1::2], strict=True))


def _scores(flat: list[Any]) -> list[tuple[Any, float]]:
    return [(member, float(score)) for member, score in _pairs(flat)]


# What the client makes of a command's answer, which comes as plain lists and texts here.
_CONVERT: dict[str, Callable[[Any], Any]] = {
    "HGETALL": lambda reply: dict(_pairs(reply)),
    "HSCAN": lambda reply: (int(reply[0]), dict(_pairs(reply[1]))),
    "ZSCAN": lambda reply: (int(reply[0]), _scores(reply[1])),
    "ZSCORE": lambda reply: None if reply is None else float(reply),
    "ZMSCORE": lambda reply: [None if score is None else float(score) for score in reply],
}


def read_only(client: Any) -> Any:
    """Change a client so that all its commands go through EVAL_RO; it must be :func:`check`\\ ed before use."""
    execute, make_pipeline = client.execute_command, client.pipeline
    client.plain_reads = False

    async def execute_command(*arguments: Any, **options: Any) -> Any:
        name = str(arguments[0]).upper()
        if client.plain_reads or name in _PLAIN:
            return await execute(*arguments, **options)
        keys = arguments[1:2]
        reply = await execute("EVAL_RO", _RUN, len(keys), *keys, *arguments)
        if "WITHSCORES" in arguments:
            return _scores(reply)
        return _CONVERT[name](reply) if name in _CONVERT else reply

    def pipeline(**options: Any) -> Any:
        # A cluster's pipeline takes no scripts; side by side the commands cost little more.
        pipe = make_pipeline(**options)
        queued: list[tuple[Any, ...]] = []

        def queue(*arguments: Any, **_: Any) -> Any:
            queued.append(arguments)
            return pipe

        async def execute_all() -> list[Any]:
            return await asyncio.gather(*(execute_command(*arguments) for arguments in queued))

        pipe.execute_command, pipe.execute = queue, execute_all
        return pipe

    client.execute_command, client.pipeline = execute_command, pipeline
    return client


async def check(client: Any, key: str, where: str) -> None:
    """See to it that this client cannot change anything.

    Raises:
        ConfigError: the user may write, but not use EVAL_RO.
    """
    try:
        await client.execute_command("EVAL_RO", "return 1", 1, key)
        return
    except NoPermissionError:
        client.plain_reads = True
    try:
        await client.hdel(key, "no such field")
    except NoPermissionError:
        return
    raise ConfigError(
        f"The user at {where} may write, but not run EVAL_RO, by which reading is kept from writing. "
        "Allow it +eval_ro, or give it read commands only (+@read +ping +time)."
    )
