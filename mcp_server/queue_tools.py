"""Tools that look at the queue."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import wraps
from typing import Annotated, Literal, ParamSpec, TypeVar

from dataqueue.mcp_server import view
from dataqueue.mcp_server.options import Values
from dataqueue.mcp_server.safety import Reply, may_be_sought, shown, shows
from dataqueue.mcp_server.server import Server, read_only_hints, tool_error
from mcp.server.mcpserver.exceptions import ResourceError, ResourceNotFoundError, ToolError
from pydantic import BeforeValidator, Field

import dataqueue
from dataqueue.backends.base import Finding
from dataqueue.errors import DataQueueError
from dataqueue.explain import parse_window
from dataqueue.jobs import Job, JobStatus

P = ParamSpec("P")
T = TypeVar("T")

JobId = Annotated[int, Field(ge=1, le=2**63 - 1)]
Window = Annotated[str, Field(description="such as 15m, 24h, 7d")]
TypeFilter = Annotated[str | None, Field(description="only this job type")]
ONE = BeforeValidator(lambda value: [value] if isinstance(value, str) else value)
"""A list is meant; a model that gives one name means that one."""
Statuses = Annotated[list[JobStatus] | None, ONE, Field(description="any of")]
Names = Annotated[list[str] | None, ONE, Field(description="any of")]
Tags = Annotated[list[str] | None, ONE, Field(description="all of")]
When = Annotated[str | None, Field(description="ISO 8601")]
Include = Literal["events", "errors", "payload", "output", "steps"]

_HELD_SHOWN = 200


def answers(function: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
    """Our own errors become the tool's answer; others stay hidden."""

    @wraps(function)
    async def tool(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await function(*args, **kwargs)
        except DataQueueError as error:
            raise tool_error(error) from error

    return tool


def register(server: Server) -> None:
    options, queues = server.options, server.queues

    def reply() -> Reply:
        return Reply(options.max_output)

    @answers
    async def queue_status(job_type: TypeFilter = None, window: Window = "24h") -> str:
        """How the queue is: a verdict (healthy, backlog, failing, stuck, no_workers) with evidence, counts, rates,
        waits and run times, paused types and limits, and what to call next."""
        answer = reply()
        view.show_status(answer, await queues.reader.status(window=parse_window(window), job_type=job_type))
        return answer.text()

    @answers
    async def list_jobs(
        status: Statuses = None,
        job_type: Names = None,
        tags: Tags = None,
        group_id: Annotated[str | None, Field(description="only this group (tenant, customer)")] = None,
        error_contains: str | None = None,
        created_after: When = None,
        created_before: When = None,
        limit: Annotated[int, Field(ge=1, le=100)] = 20,
        cursor: Annotated[str | None, Field(description="next_cursor of the answer before")] = None,
    ) -> str:
        """Jobs, newest first, without payloads."""
        check_sought(*(job_type or ()), *(tags or ()), group_id or "")
        page = await queues.reader.get_jobs(
            status=status,
            job_type=job_type,
            tags=tags,
            group=group_id,
            error_contains=error_contains,
            created_after=parse_moment(created_after, "created_after"),
            created_before=parse_moment(created_before, "created_before"),
            limit=limit,
            cursor=parse_cursor(cursor),
            values=False,
        )
        if not (tags or group_id or error_contains or created_after or created_before):
            total = await _total(status, job_type)
        elif page.next_cursor is None and cursor is None and not error_contains:
            total = len(page)
        else:
            total = "not counted for these conditions"
        rows, next_cursor = [job for job in page if has_shown_error(job, error_contains)], page.next_cursor
        while True:
            answer = reply()
            answer.total, answer.truncated = total, next_cursor is not None
            answer.next_cursor = None if next_cursor is None else str(next_cursor)
            view.show_jobs(answer, rows)
            text = answer.text()
            if not answer.was_cut or len(rows) < 2:
                return text
            rows = rows[: max(1, len(rows) * 3 // 4)]  # fewer rows, and a cursor that goes on behind them
            next_cursor = rows[-1].id

    async def _total(statuses: list[JobStatus] | None, types: list[str] | None) -> int | str:
        stats = await queues.reader.stats()
        rows = {name: counts for name, counts in stats.by_type.items() if not types or name in types}
        total = sum(
            count for counts in rows.values() for name, count in counts.items() if not statuses or name in statuses
        )
        if stats.estimated_completed is not None and (not statuses or "completed" in statuses):
            return "unknown" if types else f"about {total + stats.estimated_completed:,}"
        return total

    @answers
    async def get_job(
        job_id: JobId,
        include: Annotated[list[Include] | None, Field(description="default: errors, events, payload")] = None,
        values: Annotated[Values | None, Field(description="how payload and output are shown")] = None,
    ) -> str:
        """One job: its times, errors and events newest first, payload and output as their shape (keys and types),
        or redacted."""
        if values == "full" and options.values != "full":
            raise ToolError("Full values need a server that was started with --payloads full. Ask for redacted.")
        wanted = ["errors", "events", "payload"] if include is None else list(include)
        job = await queues.reader.get_job(job_id)
        if job is None:
            raise ToolError(f"There is no job {job_id} in this store. list_jobs shows which there are.")
        events = await queues.reader.get_job_events(job_id) if "events" in wanted else None
        answer = reply()
        view.show_job(answer, job, events, wanted, values or options.values)
        if "steps" in wanted:
            view.show_steps(answer, await queues.reader.get_job_steps(job_id), values or options.values)
        return answer.text()

    @answers
    async def explain_job(job_id: JobId) -> str:
        """Why a job runs or does not, what happened to it, when it will run, and what to do about it."""
        answer = reply()
        view.show_explanation(answer, await queues.reader.explain_job(job_id))
        return answer.text()

    @answers
    async def summarize_failures(
        window: Window = "24h", job_type: TypeFilter = None, limit: Annotated[int, Field(ge=1, le=50)] = 10
    ) -> str:
        """Failed jobs grouped by cause, most common first: counts, times, message, sample ids."""
        span = parse_window(window)
        summary = await queues.reader.summarize_failures(window=span, job_type=job_type, limit=limit)
        answer = reply()
        view.show_failures(answer, summary, span)
        answer.total, answer.truncated = summary.group_count, summary.group_count > len(summary.groups)
        if answer.truncated:
            answer.advise(f"next: more causes with limit={min(50, summary.group_count)}")
        return answer.text()

    @answers
    async def list_workers() -> str:
        """The workers: alive or lost, their job types and slots, and which jobs each one holds since when."""
        workers = await queues.reader.list_workers()
        running = await queues.reader.get_jobs(status="processing", limit=_HELD_SHOWN, values=False)
        held: dict[str, list[Job]] = {}
        for job in running:
            held.setdefault(job.locked_by or "", []).append(job)
        answer = reply()
        view.show_workers(answer, workers, held, await (await queues.reader.open()).now())
        return answer.text()

    @answers
    async def check_setup() -> str:
        """Whether store and package fit: versions, tables, indexes, durability, what this connection may do."""
        backend = await queues.reader.open()
        answer = reply()
        writes = "tools that change jobs are offered" if options.allow_writes else "nothing can be changed"
        answer.say(f"dataqueue {dataqueue.__version__}; {writes} here")
        view.show_findings(
            answer,
            [
                *await queues.reader.doctor(),
                _clock(await backend.now()),
                Finding("this connection", "ok", "reads only: the store refuses changes"),
            ],
        )
        return answer.text()

    for function, title in (
        (queue_status, "Queue status"),
        (list_jobs, "List jobs"),
        (get_job, "Get a job"),
        (explain_job, "Explain a job"),
        (summarize_failures, "Failures by cause"),
        (list_workers, "List workers"),
        (check_setup, "Check the set-up"),
    ):
        server.register(function, read_only_hints(title))

    async def job_resource(id: str) -> str:
        if not id.isdecimal():
            raise ResourceNotFoundError(f"{shown(id, 40)!r} is no job id.")
        try:
            return await explain_job(job_id=int(id))
        except ToolError as error:
            raise ResourceError(str(error)) from error

    server.resource("dataqueue://jobs/{id}", name="job", mime_type="text/markdown", description="A job, explained.")(
        job_resource
    )


def check_sought(*names: str) -> None:
    """Refuse to look for what would be hidden: else it could be guessed.

    Raises:
        ToolError: one of the names looks like a secret or an address.
    """
    if not all(map(may_be_sought, names)):
        raise ToolError("Types and tags that look like secrets or addresses are hidden, and cannot be searched for.")


def has_shown_error(job: Job, part: str | None) -> bool:
    """Whether a part of an error is in what may be shown of the job's errors: what is hidden cannot be found."""
    return part is None or any(shows(entry.message, part) for entry in job.error_history)


def _clock(now: datetime) -> Finding:
    skew = abs((now - datetime.now(UTC)).total_seconds())
    if skew > 5:
        return Finding(
            "clock",
            "warning",
            f"The store's clock and this machine's differ by {skew:.0f} s.",
            "The store's clock is what counts. Set both by NTP.",
        )
    return Finding("clock", "ok", "the store's clock and this machine's agree within 5 s")


def parse_moment(text: str | None, name: str) -> datetime | None:
    """An ISO 8601 time; without an offset it is taken for UTC.

    Raises:
        ToolError: not such a time.
    """
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ToolError(f"{name} must be a time in ISO 8601, such as 2026-01-31T08:00:00Z.") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def parse_cursor(text: str | None) -> int | None:
    if text is None:
        return None
    if not text.isdecimal() or len(text) > 18:
        raise ToolError("cursor must be the next_cursor of an answer of list_jobs, as it was given.")
    return int(text)
