"""JSON messages between a worker and its child processes, each with its length before it; never pickle."""

from __future__ import annotations

import asyncio
import functools
import itertools
import json
import struct
import traceback
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

from dataqueue import errors
from dataqueue.backends.base import Claimed
from dataqueue.errors import DataQueueError, LeaseLost, RemoteError
from dataqueue.steps import StepRecord
from dataqueue.tokens import Token, TokenSpec
from dataqueue.worker.attempt import contains_lease_lost, raised_at

Message = dict[str, Any]

LOADED = tuple[list[StepRecord], dict[str, Token], datetime]
"""What :meth:`dataqueue.backends.base.Backend.load_steps` gives."""
SAVED = tuple[StepRecord, TokenSpec | None]

_LENGTH = struct.Struct("!Q")
_PLAIN_ERRORS = frozenset(
    {"ConfigError", "InvalidJob", "InvalidPayload", "StoreUnavailable", "SchemaError", "DataQueueError"}
)
"""Errors that are made of a message alone, so that the other side can raise them again."""


class Link:
    """One end of the connection. Both ends may ask and answer. Use from one event loop."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._numbers = itertools.count(1)
        self._asked: dict[int, asyncio.Future[Any]] = {}

    def post(self, message: Message) -> None:
        """Send without waiting. To an end that is gone, nothing is sent."""
        if not self._writer.is_closing():
            text = json.dumps(message).encode()
            self._writer.write(_LENGTH.pack(len(text)) + text)

    async def send(self, message: Message) -> None:
        """Send, and wait while the other end is behind."""
        self.post(message)
        await self._writer.drain()

    async def ask(self, message: Message) -> Any:
        """Send, and wait for the answer.

        Raises:
            Exception: what the other end answered with (:func:`rebuild`).
        """
        number = next(self._numbers)
        answer = self._asked[number] = asyncio.get_running_loop().create_future()
        try:
            await self.send({**message, "ask": number})
            return await answer
        finally:
            del self._asked[number]

    def answer(self, question: Message, value: object) -> None:
        self.post({"op": "answer", "ask": question["ask"], "value": value})

    def answer_error(self, question: Message, error: BaseException) -> None:
        self.post({"op": "answer", "ask": question["ask"], "error": describe(error)})

    async def messages(self) -> AsyncIterator[Message]:
        """What the other end sends, until it is gone. Answers are not among them."""
        try:
            while True:
                (length,) = _LENGTH.unpack(await self._reader.readexactly(_LENGTH.size))
                message: Message = json.loads(await self._reader.readexactly(length))
                if message["op"] == "answer":
                    self._settle(message)
                else:
                    yield message
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            for answer in self._asked.values():
                answer.cancel()

    def close(self) -> None:
        self._writer.close()

    def _settle(self, message: Message) -> None:
        answer = self._asked.get(message["ask"])
        if answer is None or answer.done():
            return  # who asked has given up
        if (error := message.get("error")) is not None:
            answer.set_exception(rebuild(error))
        else:
            answer.set_result(message["value"])


def pack_job(job: Claimed) -> Message:
    fields = {name: getattr(job, name) for name in Claimed.__slots__}
    return {**fields, "created_at": job.created_at.isoformat(), "run_at": job.run_at.isoformat()}


def unpack_job(fields: Message) -> Claimed:
    moments: Message = {name: datetime.fromisoformat(fields[name]) for name in ("created_at", "run_at")}
    return Claimed(**{**fields, **moments})


@functools.cache
def _adapter(kind: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def pack(kind: Any, value: object) -> Any:
    """A dataclass of ours (or a type that is made of them) as JSON values."""
    return _adapter(kind).dump_python(value, mode="json")


def unpack(kind: Any, value: object) -> Any:
    return _adapter(kind).validate_python(value)


def describe(error: BaseException) -> Message:
    """An exception as texts: what a worker records and logs of it."""
    try:
        message = str(error)
    except Exception as second:
        message = f"(its message cannot be read: {second!r:.200})"
    name = type(error).__qualname__
    return {
        "type": name,
        "message": message or name,
        "frame": raised_at(error),
        "traceback": "".join(traceback.format_exception(error)),
        "lease_lost": getattr(error, "job_id", 0) if contains_lease_lost(error) else None,
    }


def rebuild(described: Message) -> BaseException:
    """The exception itself if it is one of ours, else one that says what it was."""
    if described["lease_lost"] is not None:
        return LeaseLost(described["lease_lost"])
    name, message = described["type"], described["message"]
    if name in _PLAIN_ERRORS:
        known: type[DataQueueError] = getattr(errors, name)
        return known(message)
    return RemoteError(message, name, described["frame"], described["traceback"])
