"""The child process of ``isolation="process"``: imports one handler, and runs one job after the other.

The handler has the main thread. A second thread talks to the worker, so that a handler that blocks is told to
stop all the same. A second process, the warden, kills all of the group when the worker is gone: a thread could
not, while C code in the handler holds the interpreter's lock.
"""

from __future__ import annotations

import asyncio
import contextvars
import faulthandler
import importlib
import importlib.util
import inspect
import logging
import os
import queue
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from importlib.machinery import SourceFileLoader
from typing import TYPE_CHECKING, Any

from dataqueue.errors import ConfigError
from dataqueue.isolation import SCRIPT_MODULE, find_handler
from dataqueue.steps import StepRecord
from dataqueue.tokens import Token, TokenNotFound, TokenSpec
from dataqueue.worker.attempt import check_percent, check_prolonging, encode_output, encode_result, swallowed
from dataqueue.worker.context import JobContext, SyncJobContext
from dataqueue.worker.link import LOADED, SAVED, Link, Message, describe, pack, unpack, unpack_job
from dataqueue.worker.steps import Steps, suspended_by

if TYPE_CHECKING:
    from dataqueue.backends.base import Claimed
    from dataqueue.definitions import Handler
    from dataqueue.worker.attempt import OnTimeout, StopReason

BROKEN_EXIT_CODE = 70
"""Of a child that could not go on for a reason of its own: the worker is gone, no memory for a report."""


def main(connection: int, life: int) -> None:
    """Serve the worker at the other end of ``connection``; ``life`` is a pipe that closes when it is gone."""
    _start_warden(connection, life)
    faulthandler.enable()  # a crash in C code: its stack is on standard error
    _ignore_signals()
    try:
        Child(socket.socket(fileno=connection)).serve()
    except BaseException:
        traceback.print_exc()
        os._exit(BROKEN_EXIT_CODE)  # an ordinary exit would wait for threads of the handler


def _start_warden(connection: int, life: int) -> None:
    if os.fork():
        os.close(life)
        return
    try:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        os.close(connection)
        os.read(life, 1)
        os.killpg(0, signal.SIGKILL)
    finally:
        os._exit(BROKEN_EXIT_CODE)


def _ignore_signals() -> None:
    """A service manager sends SIGTERM to every process at once; when this one ends is for the worker to say.

    Not SIG_IGN, which programs that the handler starts would inherit.
    """

    def ignore(number: int, frame: object) -> None: ...

    def restore() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    signal.signal(signal.SIGTERM, ignore)
    signal.signal(signal.SIGINT, ignore)
    os.register_at_fork(after_in_child=restore)


class Wire:
    """The connection to the worker, for all threads of this process."""

    def __init__(self, connection: socket.socket, received: Callable[[Message], None]) -> None:
        self._connection = connection
        self._received = received
        self.loop = asyncio.new_event_loop()
        self._link: Link | None = None
        self._thread = threading.Thread(target=self._run, name="dataqueue-wire", daemon=True)
        self._thread.start()

    @property
    def link(self) -> Link:
        assert self._link is not None
        return self._link

    def _run(self) -> None:
        try:
            self.loop.run_until_complete(self._listen())
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(BROKEN_EXIT_CODE)  # nobody is there to tell what to do, and to report to

    async def _listen(self) -> None:
        reader, writer = await asyncio.open_connection(sock=self._connection)
        self._link = Link(reader, writer)
        async for message in self.link.messages():
            self._received(message)

    def send(self, message: Message) -> None:
        """From any thread. Waits while the worker is behind."""
        if threading.current_thread() is self._thread:
            self.link.post(message)
        else:
            asyncio.run_coroutine_threadsafe(self.link.send(message), self.loop).result()

    async def ask(self, message: Message) -> Any:
        """On any event loop."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self.link.ask(message), self.loop))


class Run:
    """One attempt, as its handler reaches it from here (:class:`dataqueue.worker.context.Running`)."""

    def __init__(self, wire: Wire, handler: Handler, job: Claimed) -> None:
        self.job = job
        self.noticed = False
        self.stop_reason: StopReason | None = None
        self.stopped_event = threading.Event()
        self.output_set = False
        self.task: asyncio.Task[None] | None = None
        self._wire = wire
        self._handler = handler
        self._steps: Steps | None = None
        self._on_timeout: OnTimeout | None = None

    @property
    def on_timeout(self) -> OnTimeout | None:
        return self._on_timeout

    @on_timeout.setter
    def on_timeout(self, callback: OnTimeout | None) -> None:
        self._on_timeout = callback
        self._wire.send(self._message("on_timeout", None))

    async def prolong(self, by: object) -> None:
        await self._ask("prolong", None if by is None else check_prolonging(by))

    async def set_progress(self, percent: object) -> None:
        await self._ask("set_progress", check_percent(percent))

    async def set_output(self, output: object) -> None:
        await self._ask("set_output", encode_output(self._handler, output))
        self.output_set = True

    @property
    def used_steps(self) -> Steps | None:
        return self._steps

    @property
    def steps(self) -> Steps:
        if self._steps is None:
            self._steps = Steps(WireKeeper(self))
        return self._steps

    def transaction(self) -> AbstractAsyncContextManager[Any]:
        raise ConfigError(
            'A handler with isolation="process" has no connection to the store: it cannot commit with it. Open a '
            "connection of your own, or take the isolation away."
        )

    async def complete(self, output: object) -> None:
        await self.steps.complete(None)

    async def ask(self, operation: str, value: object) -> Any:
        return await self._wire.ask(self._message(operation, value))

    async def _ask(self, operation: str, value: object) -> None:
        await self.ask(operation, value)

    def _message(self, operation: str, value: object) -> Message:
        return {"op": operation, "value": value, "job": self.job.id, "lease": self.job.lease_id}

    def cancel(self) -> None:
        """On the handler's loop. One that has not begun looks by itself."""
        if self.task is not None and not self.task.done():
            self.task.cancel()


class WireKeeper:
    """The steps of an attempt, kept by the worker at the other end (:class:`dataqueue.worker.steps.Keeper`)."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self.job = run.job

    async def load_steps(self) -> tuple[list[StepRecord], dict[str, Token], datetime]:
        return unpack(LOADED, await self._run.ask("load_steps", None))

    async def save_step(self, step: StepRecord, token: TokenSpec | None = None) -> None:
        await self._run.ask("save_step", pack(SAVED, (step, token)))

    async def read_token(self, token_id: str) -> Token:
        found = unpack(Token | None, await self._run.ask("read_token", token_id))
        if found is None:
            raise TokenNotFound(token_id)
        return found

    async def read_jobs(self, job_ids: Sequence[int]) -> list[dict[str, Any]]:
        return await self._run.ask("read_jobs", list(job_ids))

    async def store_now(self) -> datetime:
        return datetime.fromisoformat(await self._run.ask("store_now", None))


class Child:
    def __init__(self, connection: socket.socket) -> None:
        self._first: Future[Message] = Future()
        self._handler: Handler | None = None
        self._run: Run | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        """The loop of an async handler; None for a blocking one."""
        self._runs: queue.SimpleQueue[Run | None] = queue.SimpleQueue()
        self._asking: set[asyncio.Task[None]] = set()
        self.wire = Wire(connection, self._received)

    @property
    def handler(self) -> Handler:
        assert self._handler is not None
        return self._handler

    def serve(self) -> None:
        start = self._first.result()
        _forward_logs(self.wire, start["levels"])
        try:
            self._handler = _load(start)
        except BaseException as error:
            self.wire.send({"op": "over", "raised": describe(error)})
            return
        if not self._handler.is_async:
            self.wire.send({"op": "over"})
            while (run := self._runs.get()) is not None:
                self._work(run)
            return
        with asyncio.Runner() as runner:
            self._loop = runner.get_loop()
            self.wire.send({"op": "over"})
            self._loop.run_forever()

    # -- one job --------------------------------------------------------------------------------------

    def _work(self, run: Run) -> None:
        handler = self.handler
        try:
            payload = handler.payload.decode(run.job.payload)
            arguments: tuple[Any, ...] = (payload,)
            if handler.takes_context:
                context = SyncJobContext(run, self.wire.loop)
                context.begins()
                arguments = (payload, context)
            result = contextvars.copy_context().run(handler.function, *arguments)
            report = self._returned(run, result)
        except BaseException as error:
            report = _raised(error)
        self.wire.send({"op": "over", "noticed": run.noticed, **report})

    async def _work_async(self, run: Run) -> None:
        run.task = asyncio.current_task()
        handler = self.handler
        try:
            if run.stop_reason is not None:
                raise asyncio.CancelledError
            payload = handler.payload.decode(run.job.payload)
            arguments = (payload, JobContext(run)) if handler.takes_context else (payload,)
            report = self._returned(run, await handler.function(*arguments))
        except BaseException as error:
            report = _raised(error)
        self.wire.send({"op": "over", **report})

    def _returned(self, run: Run, result: object) -> Message:
        if run.used_steps is not None:
            if run.used_steps.suspended is not None:
                raise swallowed(run.job)
            run.used_steps.check_end()
        return {"output": None if run.output_set else encode_result(self.handler, result)}

    # -- what the worker says (in the wire's thread) ----------------------------------------------------

    def _received(self, message: Message) -> None:
        operation = message["op"]
        if operation == "start":
            self._first.set_result(message)
        elif operation == "run":
            self._begin(Run(self.wire, self.handler, unpack_job(message["job"])))
        elif operation == "stop":
            self._stop(message["reason"])
        elif operation == "on_timeout":
            asking = self.wire.loop.create_task(self._answer(message))
            self._asking.add(asking)
            asking.add_done_callback(self._asking.discard)
        elif self._loop is not None:  # end
            self._loop.call_soon_threadsafe(self._loop.stop)
        else:
            self._runs.put(None)

    def _begin(self, run: Run) -> None:
        self._run = run
        if self._loop is not None:
            asyncio.run_coroutine_threadsafe(self._work_async(run), self._loop)
        else:
            self._runs.put(run)

    def _stop(self, reason: StopReason) -> None:
        run = self._run
        if run is None:
            return
        run.stop_reason = reason
        run.stopped_event.set()
        if self._loop is not None:
            self._loop.call_soon_threadsafe(run.cancel)

    async def _answer(self, question: Message) -> None:
        """Ask the handler's ``on_timeout`` callback: on its loop, or on ours if it has none."""
        try:
            assert self._run is not None and self._run.on_timeout is not None
            asking = _ask_callback(self._run.on_timeout)
            if self._loop is not None:
                answer = await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(asking, self._loop))
            else:
                answer = await asking
        except BaseException as error:
            self.wire.link.answer_error(question, error)
        else:
            self.wire.link.answer(question, answer)


def _raised(error: BaseException) -> Message:
    suspension = suspended_by(error)
    if suspension is not None:
        return {"suspended": pack(StepRecord, suspension.wait), "delay_ms": suspension.delay_ms}
    return {"raised": describe(error)}


async def _ask_callback(callback: OnTimeout) -> int | None:
    answer = callback()
    if inspect.isawaitable(answer):
        answer = await answer
    return None if answer is None else check_prolonging(answer)


# -- loading the handler ----------------------------------------------------------------------------------


def _load(start: Message) -> Handler:
    sys.argv[:] = start["argv"]
    if start["memory_limit"] is not None:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (start["memory_limit"], start["memory_limit"]))
    if start["script"] is not None:
        _import_script(start["script"])
    else:
        importlib.import_module(start["module"])
    handler = find_handler(start["module"], start["function"], start["job_type"])
    if handler is None:
        raise ConfigError(
            f"Importing {start['script'] or start['module']} does not define the job type {start['job_type']!r} with "
            f"the function {start['function']}. Define it at the top level of the module, not under a condition such "
            "as `if __name__ == '__main__'`."
        )
    return handler


def _import_script(file: str) -> None:
    loader = SourceFileLoader(SCRIPT_MODULE, file)
    spec = importlib.util.spec_from_file_location(SCRIPT_MODULE, file, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[SCRIPT_MODULE] = module
    loader.exec_module(module)


# -- logs -------------------------------------------------------------------------------------------------


class _Forward(logging.Handler):
    """Hands records to the worker, whose own loggers emit them."""

    def __init__(self, wire: Wire) -> None:
        super().__init__()
        self._wire = wire

    def createLock(self) -> None:
        self.lock = None  # the wire's thread logs, too, and must not wait for a thread that waits for it

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if record.exc_info and not record.exc_text:
                record.exc_text = logging.Formatter().formatException(record.exc_info)
            fields = {name: getattr(record, name) for name in _RECORD}
            self._wire.send({"op": "log", "record": {**fields, "msg": record.getMessage()}})
        except Exception:
            self.handleError(record)


_RECORD = (
    "name", "levelno", "levelname", "pathname", "filename", "module", "lineno", "funcName", "created", "msecs",
    "process", "processName", "thread", "threadName", "exc_text", "stack_info",
)  # fmt: skip


def _forward_logs(wire: Wire, levels: dict[str, int]) -> None:
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    logging.getLogger().addHandler(_Forward(wire))
