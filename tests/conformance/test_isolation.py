"""Handlers in child processes (``isolation="process"``): really killed, and as good as any other handler until then."""

from __future__ import annotations

import functools
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeAlias

import isolated_jobs
import pytest
from support import Working, take_away, until

from dataqueue import ConfigError, Hook, InvalidJob, JobQueue, ProcessDied, Processor, RemoteError

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs process groups")

HANDLERS = {**isolated_jobs.queue.definitions, **isolated_jobs.sync_queue.queue.definitions}
SHORT = timedelta(milliseconds=300)
Start: TypeAlias = Callable[..., Any]


@pytest.fixture
def start(queue: JobQueue, working: Working) -> Start:
    async def start(**options: Any) -> Processor:
        chosen = {"concurrency": 2, "grace": SHORT, **options}
        return await working(queue, HANDLERS, **chosen)

    return start


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "written"


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    try:
        return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def begun(file: Path) -> int:
    """The pid that a handler has written first."""
    await until(lambda: file.exists() and "\n" in file.read_text(), "the handler's start")
    return int(file.read_text().split()[0])


# -- killed -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["deaf", "deaf_async"])
async def test_d_forcekill_a_handler_that_ignores_its_timeout_is_dead(
    queue: JobQueue, start: Start, file: Path, name: str
) -> None:
    """D-FORCEKILL: async or not; it writes no more."""
    processor = await start()
    handle = await queue.add_job(name, str(file), timeout=SHORT, max_attempts=1)
    job = await handle.wait(timeout=30)
    size = file.stat().st_size
    assert not is_alive(await begun(file)), "it was dead before its end was recorded"
    assert (job.failure_reason, job.last_error) == ("timeout", "Job timed out after 300 ms and its process was killed")
    assert job.progress == 40, "its context worked"
    assert await (await queue.add_job("pid")).result(timeout=30)
    assert file.stat().st_size == size
    assert (await processor.stop_and_drain()).left == []


async def test_code_that_holds_the_interpreter_is_killed(queue: JobQueue, start: Start, file: Path) -> None:
    await start()
    handle = await queue.add_job("holds_the_interpreter", str(file), timeout=SHORT, max_attempts=1)
    assert "was killed" in ((await handle.wait(timeout=30)).last_error or "")
    assert not is_alive(await begun(file))


@pytest.mark.parametrize("name", ["deaf", "deaf_async"])
async def test_a_cancel_kills_what_does_not_listen(queue: JobQueue, start: Start, file: Path, name: str) -> None:
    await start()
    handle = await queue.add_job(name, str(file))
    pid = await begun(file)
    assert await handle.cancel()
    assert (await handle.wait(timeout=30)).status == "cancelled"
    assert not is_alive(pid)


@pytest.mark.parametrize("name", ["listens", "listens_async"])
async def test_what_listens_is_not_killed(queue: JobQueue, start: Start, file: Path, name: str) -> None:
    await start(grace=timedelta(minutes=5))
    timed = await queue.add_job(name, str(file), timeout=SHORT, max_attempts=1)
    assert (await timed.wait(timeout=30)).last_error == "Job timed out after 300 ms"
    pid = await begun(file)
    assert file.read_text().split() == [str(pid), "aborted"]
    file.unlink()
    handle = await queue.add_job(name, str(file))
    assert await begun(file) == pid, "the same process goes on with the next job"
    assert await handle.cancel()
    assert (await handle.wait(timeout=30)).status == "cancelled"


async def test_a_lost_lease_kills_at_once(queue: JobQueue, start: Start, file: Path) -> None:
    await start(lease=timedelta(seconds=1.5), grace=timedelta(minutes=5))
    handle = await queue.add_job("first_goes_on", str(file), max_attempts=20)  # it may be taken away again
    pid = await begun(file)
    await take_away(queue, handle.id)
    assert await handle.result(timeout=30) == "second"
    await until(lambda: not is_alive(pid), "the end of the first")


@pytest.mark.parametrize("name", ["deaf", "deaf_async"])
async def test_a_shutdown_kills_and_hands_back(queue: JobQueue, start: Start, file: Path, name: str) -> None:
    processor = await start()
    handle = await queue.add_job(name, str(file))
    pid = await begun(file)
    drained = await processor.stop_and_drain(0)
    assert (drained.handed_back, drained.left) == ([handle.id], [])
    assert not is_alive(pid)
    job = await handle.refresh()
    assert (job.status, job.attempts) == ("pending", 0)


async def test_what_a_handler_has_started_dies_with_it(queue: JobQueue, start: Start, file: Path) -> None:
    await start()
    handle = await queue.add_job("with_children", str(file), timeout=timedelta(seconds=2), max_attempts=1)
    assert "was killed" in ((await handle.wait(timeout=30)).last_error or "")
    for pid in Path(f"{file}.pids").read_text().split():
        await until(lambda: not is_alive(int(pid)), "its end")  # noqa: B023


# -- dying by itself --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "told"), [("exit", "exit code 3"), ("signal", "SIGKILL (9).*out-of-memory"), ("segfault", "SIGSEGV (11)")]
)
async def test_a_crash_fails_the_attempt_alone(queue: JobQueue, start: Start, how: str, told: str) -> None:
    errors: list[BaseException | None] = []
    queue.on("job:failed", lambda hook: errors.append(hook.error))
    await start()
    job = await (await queue.add_job("dies", how, max_attempts=1)).wait(timeout=30)
    assert job.status == "failed" and job.error_history[-1].error_type == "ProcessDied"
    for words in told.split(".*"):
        assert words in (job.last_error or "")
    assert await (await queue.add_job("pid")).result(timeout=30), "the worker goes on"
    assert [type(error) for error in errors] == [ProcessDied]


async def test_a_memory_limit(queue: JobQueue, start: Start) -> None:
    await start()
    small = await queue.add_job("hungry", 2**20, max_attempts=1)
    large = await queue.add_job("hungry", 2**30, max_attempts=1)
    assert await small.result(timeout=30) == 2**20
    job = await large.wait(timeout=30)
    assert job.error_history[-1].error_type == "MemoryError"
    assert "536,870,912 bytes: memory_limit" in (job.last_error or "")


async def test_children_are_kept_warm_and_replaced(queue: JobQueue, start: Start, file: Path) -> None:
    processor = await start(concurrency=1)

    async def run(name: str) -> int:
        return await (await queue.add_job(name)).result(timeout=30)

    first = await run("pid")
    assert [await run("pid") for _ in range(3)] == [first] * 3
    other = await run("other_pid")
    assert other != first
    await until(lambda: not is_alive(first), "the end of the idle one: one job runs at once, one process is kept")
    killed = await queue.add_job("deaf", str(file), timeout=SHORT, max_attempts=1)
    await killed.wait(timeout=30)
    last = await run("other_pid")
    os.kill(last, signal.SIGKILL)
    await until(lambda: not is_alive(last), "its end")

    async def replaced() -> bool:
        job = await (await queue.add_job("other_pid", max_attempts=1)).wait(timeout=30)
        return job.status == "completed" and job.output != last

    await until(replaced, "a job in another process")
    left = await run("other_pid")
    await processor.stop_and_drain()
    assert not is_alive(left)


async def test_a_child_is_replaced_after_a_number_of_jobs(
    queue: JobQueue, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dataqueue.worker.isolation.MAX_JOBS", 2)
    await start(concurrency=1)
    pids = [await (await queue.add_job("pid")).result(timeout=30) for _ in range(4)]
    assert pids[0] == pids[1] != pids[2] == pids[3]


# -- as good as any other ---------------------------------------------------------------------------------


async def test_logs_progress_and_output_come_back(
    queue: JobQueue, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    hooks: list[Hook] = []
    for name in ("job:progress", "job:output"):
        queue.on(name, hooks.append)
    caplog.set_level(logging.INFO)
    await start()
    job = await (await queue.add_job("talks", "Ada")).wait(timeout=30)
    assert (job.status, job.progress, job.output) == ("completed", 13, {"early": "Ada"})
    records = [record for record in caplog.records if record.name == "isolated"]
    assert [record.getMessage() for record in records] == ["hello Ada", "it happened"]
    assert "ValueError: for the log" in (records[1].exc_text or "") and records[1].process != os.getpid()
    assert [(hook.name, hook.progress, hook.output) for hook in hooks] == [
        ("job:progress", 13, None),
        ("job:output", None, {"early": "Ada"}),
    ]


async def test_payload_and_result_are_typed_in_the_child(queue: JobQueue, start: Start) -> None:
    await start()
    good = await queue.add_job("typed", {"number": 1, "name": "a"}, tags=["x"])
    assert await good.result(timeout=30) == {"number": 2, "name": "typed 1 ('x',)"}
    wrong = await (await queue.add_job("typed", {"number": "no"}, max_attempts=1)).wait(timeout=30)
    assert wrong.error_history[-1].error_type == "InvalidPayload"


@pytest.mark.parametrize(
    ("payload", "error_type", "message"),
    [
        ("key", "KeyError", "'key'"),
        ("progress", "InvalidJob", "progress must be a number from 0 to 100, not 101."),
        ("output", "InvalidPayload", "output is a builtins.object"),
    ],
)
async def test_an_exception_arrives_as_from_other_handlers(
    queue: JobQueue, start: Start, caplog: pytest.LogCaptureFixture, payload: str, error_type: str, message: str
) -> None:
    errors: list[BaseException | None] = []
    queue.on("job:failed", lambda hook: errors.append(hook.error))
    await start()
    job = await (await queue.add_job("raises", payload, max_attempts=1)).wait(timeout=30)
    entry = job.error_history[-1]
    assert (entry.error_type, job.failure_reason) == (error_type, "handler_error")
    assert entry.message.startswith(message)
    assert (entry.frame or "").startswith("isolated_jobs.py:") and (entry.frame or "").endswith(" raises")
    assert f"{error_type}: " in caplog.text and ", in raises" in caplog.text
    await until(lambda: errors, "the hook")
    assert isinstance(errors[0], RemoteError) and errors[0].error_type == error_type


async def test_a_job_of_a_sync_queue(queue: JobQueue, start: Start) -> None:
    await start()
    assert await (await queue.add_job("of_a_sync_queue", 1)).result(timeout=30) == 2


async def test_sys_exit_is_a_failure(queue: JobQueue, start: Start) -> None:
    await start()
    job = await (await queue.add_job("leaves", max_attempts=1)).wait(timeout=30)
    assert job.error_history[-1].error_type == "SystemExit"


async def test_the_handler_is_asked_for_more_time(queue: JobQueue, start: Start, file: Path) -> None:
    await start(grace=timedelta(seconds=20))
    asked = await queue.add_job("asks_async", str(file), timeout=SHORT, max_attempts=1)
    assert (await asked.wait(timeout=30)).failure_reason == "timeout"
    assert file.read_text().split() == ["3"]
    file.unlink()
    handle = await queue.add_job("asks", str(file), timeout=SHORT, max_attempts=1)

    async def prolonged() -> int:
        return [event.event_type for event in await queue.get_job_events(handle.id)].count("prolonged")

    await until(prolonged, "more time")
    Path(f"{file}.go").touch()
    assert await handle.result(timeout=30) == "done"
    assert await prolonged() == 2


async def test_what_an_earlier_job_has_left_running_writes_nothing(queue: JobQueue, start: Start) -> None:
    await start(concurrency=1)
    first = await queue.add_job("late_writer", "leave")
    assert await first.result(timeout=30) == "first"
    assert await (await queue.add_job("late_writer", "go")).result(timeout=30) == "refused"
    assert (await first.refresh()).output == "first"


# -- the worker is gone -----------------------------------------------------------------------------------


@pytest.fixture
def run_script(store_url: str, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def run(code: str, *arguments: str) -> subprocess.Popen[str]:
        script = tmp_path / "app.py"
        script.write_text(code)
        command = [sys.executable, str(script), *arguments]
        environment = {**os.environ, "DATAQUEUE_URL": store_url, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=tmp_path))
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.communicate()


WORKER = """
import asyncio, isolated_jobs
from dataqueue import JobQueue

async def main():
    await JobQueue.from_url().create_processor(isolated_jobs.queue.definitions).run()

asyncio.run(main())
"""


@pytest.mark.parametrize("name", ["deaf", "holds_the_interpreter", "with_children"])
async def test_a_child_does_not_outlive_its_worker(
    queue: JobQueue, run_script: Callable[..., subprocess.Popen[str]], file: Path, name: str
) -> None:
    worker = run_script(WORKER)
    await queue.add_job(name, str(file))
    pids = Path(f"{file}.pids") if name == "with_children" else file
    await begun(pids)
    running = [int(word) for word in pids.read_text().splitlines()[0].split()]
    assert all(is_alive(pid) for pid in running)
    worker.kill()
    for pid in running:
        await until(lambda: not is_alive(pid), "its end")  # noqa: B023


SCRIPT = """
import asyncio, os, sys
from dataqueue import JobQueue

queue = JobQueue.from_url()

def say(*words):  # in one piece: several processes do
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

say("imported as", __name__, "with", sys.argv[1])

@queue.job(isolation="process")
def work(payload: str) -> list[str]:
    return [payload, str(os.getpid()), __name__]

@queue.job(isolation="process")
async def work_async(payload: str) -> list[str]:
    return [payload, str(os.getpid()), __name__]

async def main():
    jobs = [await work.add("a"), await work_async.add("b")]
    async with queue.create_processor() as processor:
        await processor.start()
    for job in jobs:
        payload, pid, name = await job.result(timeout=30)
        say(payload, int(pid) != os.getpid(), name)
    await queue.close()

if __name__ == "__main__":
    say("main block")
    asyncio.run(main())
"""


async def test_a_script_that_is_run_works_as_a_module(
    queue: JobQueue, run_script: Callable[..., subprocess.Popen[str]]
) -> None:
    await queue.open()
    output, _ = run_script(SCRIPT, "argument").communicate(timeout=60)
    assert sorted(output.splitlines()) == [
        "a True __dataqueue_script__",
        "b True __dataqueue_script__",
        "imported as __dataqueue_script__ with argument",
        "imported as __dataqueue_script__ with argument",
        "imported as __main__ with argument",
        "main block",
    ]


HIDDEN = """
import asyncio
from dataqueue import JobQueue

queue = JobQueue.from_url()

async def main():
    job = await work.add(1, max_attempts=1)
    await queue.create_processor().start()
    print((await job.refresh()).last_error)
    await queue.close()

if __name__ == "__main__":
    @queue.job(isolation="process")
    def work(payload: int) -> None: ...

    asyncio.run(main())
"""


async def test_a_handler_that_the_import_does_not_define_is_named(
    queue: JobQueue, run_script: Callable[..., subprocess.Popen[str]]
) -> None:
    await queue.open()
    output, _ = run_script(HIDDEN).communicate(timeout=60)
    assert "A process for 'work' cannot import its handler" in output and "top level of the module" in output


# -- refused ----------------------------------------------------------------------------------------------


def module_level(payload: Any) -> None: ...


class Holder:
    def method(self, payload: Any) -> None: ...


def test_functions_that_no_process_can_import_are_refused() -> None:
    queue = JobQueue.from_url()

    def local(payload: Any) -> None: ...

    exec(compile("def typed_in(payload): ...", "<stdin>", "exec"), typed_in := {"__name__": "nowhere"})
    refused: list[tuple[Any, str]] = [
        (local, "inside another function"),
        (lambda payload: None, "a lambda"),  # type: ignore[misc]
        (functools.partial(module_level), "a partial"),
        (Holder().method, "a bound method"),
        (typed_in["typed_in"], "no module 'nowhere'"),
    ]
    for function, told in refused:
        with pytest.raises(ConfigError, match=f"cannot import it: .*{told}"):
            queue.job("t", isolation="process")(function)
    assert queue.definitions == {}
    queue.job("t", isolation="process")(module_level)


def test_a_function_of_the_console_is_refused() -> None:
    code = (
        "from dataqueue import ConfigError, JobQueue\n"
        "def f(payload): ...\n"
        "try: JobQueue.from_url().job(isolation='process')(f)\n"
        "except ConfigError as error: print(error)\n"
    )
    for command, given in ((["-c", code], None), (["-"], code)):
        ran = subprocess.run([sys.executable, *command], input=given, capture_output=True, text=True, timeout=60)
        assert "typed into a console" in ran.stdout, ran.stderr


def test_options_that_do_not_fit_are_refused() -> None:
    queue = JobQueue.from_url()
    with pytest.raises(ConfigError, match="isolation must be"):
        queue.job("t", isolation="thread")(module_level)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="needs a process of its own"):
        queue.job("t", memory_limit=2**30)(module_level)
    with pytest.raises(InvalidJob, match="memory_limit"):
        queue.job("t", isolation="process", memory_limit=1)(module_level)
    assert queue.job("t", isolation=None, memory_limit=None)(module_level).handler.isolation is None
