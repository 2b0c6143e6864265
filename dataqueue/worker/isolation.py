"""``isolation="process"``, the worker's side: a pool of warm child processes, and attempts that run in them."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from concurrent.futures import Executor
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from dataqueue.backends.base import Claimed, Completed, Failed, Outcome
from dataqueue.definitions import Handler
from dataqueue.errors import LeaseLost, ProcessDied, RemoteError, Suspend
from dataqueue.isolation import Isolation
from dataqueue.jobs import FailureReason
from dataqueue.jsonvalue import loads
from dataqueue.steps import StepRecord
from dataqueue.tokens import Token
from dataqueue.worker.attempt import Attempt, StopReason, storable
from dataqueue.worker.keeper import StoreKeeper
from dataqueue.worker.link import LOADED, SAVED, Link, Message, pack, pack_job, unpack

if TYPE_CHECKING:
    from dataqueue.queue import JobQueue

logger = logging.getLogger("dataqueue.worker")

MAX_JOBS = 100
"""Jobs that a child runs before another takes its place: what handlers leak goes with it."""
START_SECONDS = 120.0
END_SECONDS = 5.0
_EOF_SECONDS = 1.0

_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from dataqueue.worker.child import main; main(int(sys.argv[2]), int(sys.argv[3]))"
)


class Child:
    """A process that runs one handler, one job at a time. Made by :meth:`spawn`, then :meth:`prepare`."""

    def __init__(
        self, isolation: Isolation, handler: Handler, process: asyncio.subprocess.Process, link: Link, life: int
    ) -> None:
        self.isolation = isolation
        self.handler = handler
        self.jobs = 0
        self.is_spoiled = False
        self.link = link
        self._process = process
        self._life = life
        self._attempt: IsolatedAttempt | None = None
        self._report: asyncio.Future[Message] | None = None
        self._answering: set[asyncio.Task[None]] = set()
        self._listening = asyncio.create_task(self._listen())
        self.gone = asyncio.create_task(self._wait(), name=f"dataqueue-child {process.pid}")
        """Done when the process is dead, and all of its group has been killed."""

    @classmethod
    async def spawn(cls, handler: Handler) -> Child:
        assert handler.isolation is not None
        ours, theirs = socket.socketpair()
        life, life_end = os.pipe()  # the kernel closes our end when we are gone, however we go
        with theirs:
            link = Link(*await asyncio.open_connection(sock=ours))
            try:
                process = await asyncio.create_subprocess_exec(
                    sys.executable, "-c", _BOOT, json.dumps(sys.path),
                    str(theirs.fileno()), str(life), handler.isolation.job_type,
                    stdin=asyncio.subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(), life),
                    start_new_session=True,  # a group to kill; and Ctrl-C in the terminal is for the worker
                )  # fmt: skip
            except BaseException:
                link.close()
                os.close(life_end)
                raise
            finally:
                os.close(life)
        return cls(handler.isolation, handler, process, link, life_end)

    async def prepare(self) -> None:
        """Let it import the handler.

        Raises:
            ProcessDied: it ended, or was not ready in time.
            RemoteError: the import failed.
        """
        place = self.isolation
        start = {
            "op": "start",
            "module": place.module,
            "script": place.script,
            "function": place.function,
            "job_type": place.job_type,
            "memory_limit": place.memory_limit,
            "argv": sys.argv,
            "levels": _log_levels(),
        }
        try:
            async with asyncio.timeout(START_SECONDS):
                report = await self._converse(start)
        except TimeoutError:
            raise ProcessDied(
                f"The process for {place.job_type!r} was not ready within {START_SECONDS:g} s. Importing "
                f"{place.script or place.module} takes too long, or waits for something."
            ) from None
        if (raised := report.get("raised")) is not None:
            raise _remote(raised, f"A process for {place.job_type!r} cannot import its handler: ")

    async def run(self, attempt: IsolatedAttempt) -> Message:
        """Run one job, and give its report.

        Raises:
            ProcessDied: it ended before the handler had.
        """
        self.jobs += 1
        self._attempt = attempt
        return await self._converse({"op": "run", "job": pack_job(attempt.job)})

    async def _converse(self, message: Message) -> Message:
        if self._process.returncode is not None:
            raise ProcessDied(_how_it_ended(self._process.returncode))
        self._report = asyncio.get_running_loop().create_future()
        self.link.post(message)
        return await self._report

    @property
    def is_busy(self) -> bool:
        if self._report is None:
            return False
        # Cancelled: who waited has given up, and the process goes on.
        return self._report.cancelled() or not self._report.done()

    @property
    def is_fit(self) -> bool:
        """Whether it may run another job."""
        alive = self._process.returncode is None and not self._listening.done()
        return alive and not self.is_spoiled and not self.is_busy and self.jobs < MAX_JOBS

    def kill(self) -> None:
        """End it at once, and what it has started."""
        self.is_spoiled = True
        if self._process.returncode is None:
            self._kill_group()

    def _kill_group(self) -> None:
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):  # nobody is left in it (macOS: only the dead)
            pass

    async def end(self) -> None:
        """Let it exit by itself, with its exit handlers; kill it if that takes long."""
        self.is_spoiled = True
        self.link.post({"op": "end"})
        await asyncio.wait({self.gone}, timeout=END_SECONDS)
        self.kill()
        await asyncio.wait({self.gone})

    async def _wait(self) -> None:
        code = await self._process.wait()
        self._kill_group()
        # What it sent before its end is still to be read.
        await asyncio.wait({self._listening}, timeout=_EOF_SECONDS)
        self._listening.cancel()
        self.link.close()
        os.close(self._life)
        if self._report is not None and not self._report.done():
            self._report.set_exception(ProcessDied(_how_it_ended(code)))

    # -- what it says -----------------------------------------------------------------------------------

    async def _listen(self) -> None:
        async for message in self.link.messages():
            operation = message["op"]
            if operation == "log":
                _emit(message["record"])
            elif operation == "over":
                if self._report is not None and not self._report.done():
                    self._report.set_result(message)
            elif operation == "on_timeout":
                if (attempt := self._attempt_of(message)) is not None:
                    attempt.will_be_asked()
            else:
                answering = asyncio.create_task(self._answer(message))
                self._answering.add(answering)
                answering.add_done_callback(self._answering.discard)
        # It has closed its end: it is ending, or a handler has closed files that are not its own.
        asyncio.get_running_loop().call_later(_EOF_SECONDS, self.kill)

    async def _answer(self, question: Message) -> None:
        try:
            attempt = self._attempt_of(question)
            if attempt is None:  # asked by something that an earlier job has left running there
                raise LeaseLost(question["job"])
            self.link.answer(question, await attempt.serve(question["op"], question["value"]))
        except (Exception, LeaseLost) as error:
            self.link.answer_error(question, error)

    def _attempt_of(self, message: Message) -> IsolatedAttempt | None:
        attempt = self._attempt
        return attempt if attempt is not None and attempt.job.lease_id == message["lease"] else None


class ChildPool:
    """The child processes of a worker: at most as many as it runs jobs at once, kept warm between jobs."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._children: set[Child] = set()
        self._idle: list[Child] = []
        self._retiring: set[asyncio.Task[None]] = set()

    async def take(self, handler: Handler) -> Child:
        """A child for this handler, the most recently used one if one is idle.

        Raises:
            ProcessDied, RemoteError: a new one does not start; OSError: there can be no new process.
        """
        for child in reversed(self._idle):
            if child.handler is handler:
                self._idle.remove(child)
                return child
        if self._idle and len(self._children) >= self._size:
            self._retire(self._idle.pop(0))
        child = await Child.spawn(handler)
        self._children.add(child)
        child.gone.add_done_callback(lambda _: self._forget(child))
        try:
            await child.prepare()
        except BaseException:
            child.kill()
            await asyncio.wait({child.gone})
            raise
        return child

    def give_back(self, child: Child) -> None:
        if child.is_fit:
            self._idle.append(child)
        else:
            self._dismiss(child)

    async def close(self) -> None:
        """End all of them; those that still run a job at once."""
        self._idle.clear()
        children = list(self._children)
        for child in children:
            self._dismiss(child)
        if children:
            await asyncio.wait({child.gone for child in children})

    def _dismiss(self, child: Child) -> None:
        if child.is_busy:
            child.kill()
        else:
            self._retire(child)

    def _retire(self, child: Child) -> None:
        ending = asyncio.create_task(child.end())
        self._retiring.add(ending)
        ending.add_done_callback(self._retiring.discard)

    def _forget(self, child: Child) -> None:
        self._children.discard(child)
        if child in self._idle:
            self._idle.remove(child)


class IsolatedAttempt(Attempt):
    """An attempt whose handler runs in a child process. Its outcome is recorded after the handler's end, or after
    the process's, never while something could still write."""

    __slots__ = ("_child", "_keeper", "_pool", "_was_killed")

    def __init__(
        self,
        job: Claimed,
        handler: Handler,
        queue: JobQueue,
        executor: Callable[[], Executor],
        grace: float,
        on_over: Callable[[Attempt, Outcome | None], None],
        pool: ChildPool,
    ) -> None:
        super().__init__(job, handler, queue, executor, grace, on_over)
        self._pool = pool
        self._child: Child | None = None
        self._was_killed = False
        self._keeper = StoreKeeper(self)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._task = loop.create_task(self._run())

    async def _run(self) -> None:
        outcome: Outcome | None
        try:
            self._child = await self._pool.take(self.handler)
            if self.job.timeout_ms is not None:
                self._rearm(self.job.timeout_ms)  # from here: starting a process is not the handler's time
            outcome = self._reported(await self._child.run(self))
        except asyncio.CancelledError as error:
            outcome = self._interrupted(error)
        except (ProcessDied, RemoteError) as error:
            outcome = self._raised(error.with_traceback(None))  # our own frames explain nothing
        except Exception as error:
            outcome = self._raised(error)
        if self._child is not None:
            self._pool.give_back(self._child)
        await self._conclude(outcome)

    def _reported(self, report: Message) -> Outcome | None:
        assert self._child is not None
        self.noticed = report.get("noticed", False)
        if (wait := report.get("suspended")) is not None:
            return self._raised(Suspend(unpack(StepRecord, wait), report["delay_ms"]))
        if (raised := report.get("raised")) is not None:
            if raised["lease_lost"] is not None:
                self.stop_reason = "lost"
            error = _remote(raised)
            limit = self._child.isolation.memory_limit
            if error.error_type == "MemoryError":
                self._child.is_spoiled = True
                if limit is not None:
                    error.args = (f"{error} (its process may use {limit:,} bytes: memory_limit)",)
            return self._raised(error)
        if self.stop_reason is not None and self._heeded():
            return self._stopped_outcome()
        return Completed(self.job.id, self.job.lease_id, report["output"])

    def _failed(self, message: str, reason: FailureReason, error: BaseException | None) -> Failed:
        failure = super()._failed(message, reason, error)
        if isinstance(error, RemoteError):
            failure.error_type, failure.frame = storable(error.error_type), error.frame
        return failure

    def _timeout_message(self) -> str:
        message = super()._timeout_message()
        return f"{message} and its process was killed" if self._was_killed else message

    # -- stopping -------------------------------------------------------------------------------------

    def stop(self, reason: StopReason, grace: float | None = None) -> None:
        """Tell the handler to stop. After the grace period its process is killed; at once if the lease is lost."""
        if self.is_over:
            return
        if grace is not None:
            self._grace = min(grace, self._grace)
            self._loop.call_later(self._grace, self._kill)
        if self.stop_reason is not None and reason != "lost":
            return
        self.stop_reason = reason
        if self._child is None:
            assert self._task is not None
            self._task.cancel()  # the process is being started
        elif reason == "lost":
            self._kill()
        else:
            self._child.link.post({"op": "stop", "reason": reason})
            self._loop.call_later(self._grace, self._kill)

    def _kill(self) -> None:
        if self.is_over or self._child is None or self._was_killed:
            return
        self._was_killed = True
        log = logger.info if self.stop_reason == "lost" else logger.warning
        log("Killing the process of job %s (%s): %s.", self.job.id, self.job.job_type, self.stop_reason)
        self._child.kill()

    # -- what the handler asks ------------------------------------------------------------------------

    def will_be_asked(self) -> None:
        self.on_timeout = self._ask_child

    async def _ask_child(self) -> timedelta | None:
        assert self._child is not None
        async with asyncio.timeout(self._grace):
            milliseconds = await self._child.link.ask({"op": "on_timeout"})
        return None if milliseconds is None else timedelta(milliseconds=milliseconds)

    async def serve(self, operation: str, value: Any) -> Any:
        """Do what the context in the child asks for; its arguments were checked there."""
        if operation == "prolong":
            await self.prolong(None if value is None else timedelta(milliseconds=value))
        elif operation == "set_progress":
            await self.set_progress(value)
        elif operation == "set_output":
            await self._store_output(value, loads(value))
        elif operation == "load_steps":
            return pack(LOADED, await self._keeper.load_steps())
        elif operation == "save_step":
            await self._keeper.save_step(*unpack(SAVED, value))
        elif operation == "read_token":
            return pack(Token | None, await self.queue.backend.get_token(value))
        elif operation == "read_jobs":
            return await self._keeper.read_jobs(value)
        elif operation == "store_now":
            return (await self._keeper.store_now()).isoformat()
        return None


def _remote(raised: Message, before: str = "") -> RemoteError:
    return RemoteError(before + raised["message"], raised["type"], raised["frame"], raised["traceback"])


def _how_it_ended(code: int) -> str:
    if code >= 0:
        return (
            f"The handler's process ended by itself with exit code {code}. Something called os._exit, or Python could "
            "not go on: look at the worker's standard error."
        )
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = "a signal"
    where = (
        "The kernel's out-of-memory killer does that, as does kill -9: look at dmesg and the container's memory."
        if -code == signal.SIGKILL
        else "C code has crashed, or somebody sent it: the stack is on the worker's standard error."
    )
    return f"The handler's process was ended by {name} ({-code}). {where}"


def _log_levels() -> dict[str, int]:
    """What the loggers of this process let through, so that a child sends no more than that."""
    loggers = {name: one for name, one in logging.root.manager.loggerDict.items() if isinstance(one, logging.Logger)}
    return {"": logging.root.level, **{name: one.level for name, one in loggers.items() if one.level}}


def _emit(fields: Message) -> None:
    record = logging.makeLogRecord(fields)
    receiver = logging.getLogger(record.name)
    if receiver.isEnabledFor(record.levelno):
        receiver.handle(record)
