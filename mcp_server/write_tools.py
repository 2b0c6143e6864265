"""Tools that change jobs; they exist only where the server was started with ``--allow-writes``.

Each says first exactly what it would do. Then the person is asked, where the client can ask; elsewhere the call
must say ``confirm``. What was done stands in the job's event log, by ``mcp``.
"""

# No postponed annotations: the SDK reads those of functions that are defined inside of another.
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any, Literal

from dataqueue.mcp_server import safety, view
from dataqueue.mcp_server.queue_tools import Names, Tags, answers
from dataqueue.mcp_server.safety import Reply, one_line
from dataqueue.mcp_server.server import Server, tool_error, write_hints
from mcp.server.elicitation import AcceptedElicitation, ElicitationResult
from mcp.server.mcpserver import Context, Elicit, Resolve
from mcp.server.mcpserver.exceptions import ToolError
from pydantic import BaseModel, Field

from dataqueue.errors import DataQueueError, JobNotFound
from dataqueue.jobs import Job, JobStatus
from dataqueue.options import JobOptions

BY = "mcp"
MOST_IDS = 50
MOST_MATCHES = 1000

Ids = Annotated[list[int] | None, Field(max_length=MOST_IDS, description="these jobs; or a filter")]
Expected = Annotated[int | None, Field(ge=0, description="with a filter: how many jobs must match")]
DryRun = Annotated[bool, Field(description="only show what would be done")]
Confirm = Annotated[bool, Field(description="a person agreed (for clients that cannot ask)")]


class Approval(BaseModel):
    """The person's answer."""

    approve: bool = Field(description="Do it?")


@dataclass(frozen=True)
class Selection:
    """The jobs that a call can change, those whose state is in the way, and ids that do not exist."""

    jobs: Sequence[Job]
    unfit: Sequence[int] = ()
    missing: Sequence[int] = ()


def can_ask(context: Context[Any, Any]) -> bool:
    capabilities = context.client_capabilities
    return capabilities is not None and capabilities.elicitation is not None


def decision(dry_run: bool, confirm: bool, question: str, context: Context[Any, Any]) -> Approval | Elicit[Approval]:
    if dry_run:
        return Approval(approve=False)
    return Elicit(question, Approval) if can_ask(context) else Approval(approve=confirm)


def is_approved(answer: ElicitationResult[Approval]) -> bool:
    return isinstance(answer, AcceptedElicitation) and answer.data.approve


def register(server: Server) -> None:
    queues, options = server.queues, server.options

    async def select(
        ids: list[int] | None,
        status: list[JobStatus] | None,
        job_type: list[str] | None,
        tags: list[str] | None,
        error_contains: str | None,
        expected_count: int | None,
        dry_run: bool,
        statuses: tuple[JobStatus, ...],
    ) -> Selection:
        given = bool(status or job_type or tags or error_contains)
        if bool(ids) == given:
            raise ToolError("Give either ids or a filter (status, job_type, tags, error_contains). Nothing was done.")
        if ids:
            found = [await queues.reader.get_job(job_id) for job_id in dict.fromkeys(ids)]
            missing = [job_id for job_id, job in zip(dict.fromkeys(ids), found, strict=True) if job is None]
            existing = [job for job in found if job is not None]
            unfit = [job.id for job in existing if not _fits(job, statuses)]
            return Selection([job for job in existing if _fits(job, statuses)], unfit, missing)
        page = await queues.reader.get_jobs(
            status=status or statuses,
            job_type=job_type,
            tags=tags,
            error_contains=error_contains,
            limit=MOST_MATCHES,
            values=False,
        )
        if page.next_cursor is not None:
            raise ToolError(f"More than {MOST_MATCHES:,} jobs match. Narrow the filter. Nothing was done.")
        count = sum(_fits(job, statuses) for job in page)
        if not dry_run and expected_count != count:
            raise ToolError(
                f"{count:,} jobs match, but expected_count is {expected_count}. Look again with dry_run, then give "
                "the number that it shows. Nothing was done."
            )
        fitting = [job for job in page if _fits(job, statuses)]
        return Selection(fitting, [job.id for job in page if not _fits(job, statuses)])

    async def change(
        what: str, selection: Selection, approved: bool, dry_run: bool, one: Callable[[int], Awaitable[bool]]
    ) -> str:
        answer = Reply(options.max_output)
        answer.total = len(selection.jobs)
        if selection.missing:
            answer.say(f"There are no jobs {_some(selection.missing)}.")
        if selection.unfit:
            answer.say(f"Left alone, because their state does not allow it: jobs {_some(selection.unfit)}.")
        if not approved:
            done = "Dry run: nothing was done." if dry_run else "Not approved: nothing was done."
            answer.say(f"{done} To be {what}: {len(selection.jobs):,} jobs, as below.")
            view.show_jobs(answer, selection.jobs[: view.MAX_ROWS])
            answer.truncated |= len(selection.jobs) > view.MAX_ROWS
            answer.advise(
                "next: show this to the person; then call again with dry_run=false (with a filter also "
                f"expected_count={len(selection.jobs)})"
                + ("." if dry_run else ", and confirm=true if the client cannot ask.")
            )
            return answer.text()
        changed: list[int] = []
        unchanged: list[int] = []
        for job in selection.jobs:
            try:
                (changed if await one(job.id) else unchanged).append(job.id)
            except JobNotFound:
                unchanged.append(job.id)
        answer.say(f"{what}: {len(changed):,} jobs" + (f" ({_some(changed)})" if changed else "") + ".")
        if unchanged:
            answer.say(f"unchanged, because of their state: {len(unchanged):,} ({_some(unchanged)}).")
        return answer.text()

    # -- retry ------------------------------------------------------------------------------------

    async def to_retry(
        ids: list[int] | None,
        status: list[JobStatus] | None,
        job_type: list[str] | None,
        tags: list[str] | None,
        error_contains: str | None,
        expected_count: int | None,
        dry_run: bool,
    ) -> Selection:
        try:
            return await select(
                ids, status, job_type, tags, error_contains, expected_count, dry_run, ("failed", "cancelled")
            )
        except DataQueueError as error:
            raise tool_error(error) from error

    async def agree_to_retry(
        selection: Annotated[Selection, Resolve(to_retry)], dry_run: bool, confirm: bool, ctx: Context[Any, Any]
    ) -> Approval | Elicit[Approval]:
        return decision(dry_run, confirm, f"Run {len(selection.jobs):,} failed or cancelled jobs again, now?", ctx)

    @answers
    async def retry_jobs(
        selection: Annotated[Selection, Resolve(to_retry)],
        approval: Annotated[ElicitationResult[Approval], Resolve(agree_to_retry)],
        ids: Ids = None,
        status: Annotated[
            list[Literal["failed", "cancelled"]] | None, Field(description="any of; default both")
        ] = None,
        job_type: Names = None,
        tags: Tags = None,
        error_contains: str | None = None,
        expected_count: Expected = None,
        dry_run: DryRun = True,
        confirm: Confirm = False,
    ) -> str:
        """Run failed or cancelled jobs again, by ids (at most 50) or by a filter. Shows first what it would do."""
        return await change(
            "retried",
            selection,
            is_approved(approval),
            dry_run,
            lambda job_id: queues.writer.retry_job(job_id, by=BY),
        )

    # -- cancel -----------------------------------------------------------------------------------

    async def to_cancel(
        ids: list[int] | None,
        status: list[JobStatus] | None,
        job_type: list[str] | None,
        tags: list[str] | None,
        expected_count: int | None,
        dry_run: bool,
    ) -> Selection:
        try:
            return await select(
                ids, status, job_type, tags, None, expected_count, dry_run, ("pending", "processing", "waiting")
            )
        except DataQueueError as error:
            raise tool_error(error) from error

    async def agree_to_cancel(
        selection: Annotated[Selection, Resolve(to_cancel)], dry_run: bool, confirm: bool, ctx: Context[Any, Any]
    ) -> Approval | Elicit[Approval]:
        return decision(dry_run, confirm, f"Cancel {len(selection.jobs):,} jobs, running ones too?", ctx)

    @answers
    async def cancel_jobs(
        selection: Annotated[Selection, Resolve(to_cancel)],
        approval: Annotated[ElicitationResult[Approval], Resolve(agree_to_cancel)],
        ids: Ids = None,
        status: Annotated[
            list[Literal["pending", "processing", "waiting", "failed"]] | None,
            Field(description="any of; default all but failed"),
        ] = None,
        job_type: Names = None,
        tags: Tags = None,
        expected_count: Expected = None,
        dry_run: DryRun = True,
        confirm: Confirm = False,
    ) -> str:
        """Cancel jobs that are not finished, by ids (at most 50) or by a filter. Shows first what it would do."""
        return await change(
            "cancelled",
            selection,
            is_approved(approval),
            dry_run,
            lambda job_id: queues.writer.cancel_job(job_id, by=BY),
        )

    # -- add --------------------------------------------------------------------------------------

    async def agree_to_add(dry_run: bool, confirm: bool, ctx: Context[Any, Any]) -> Approval | Elicit[Approval]:
        return decision(dry_run, confirm, "Add one job to the queue, as shown by the dry run?", ctx)

    @answers
    async def add_job(
        approval: Annotated[ElicitationResult[Approval], Resolve(agree_to_add)],
        job_type: Annotated[str, Field(min_length=1, max_length=255)],
        payload: Annotated[Any, Field(description="any JSON")] = None,
        priority: int = 0,
        delay_seconds: Annotated[float, Field(ge=0)] = 0,
        max_attempts: Annotated[int | None, Field(ge=1)] = None,
        tags: list[str] | None = None,
        idempotency_key: str | None = None,
        dry_run: DryRun = True,
        confirm: Confirm = False,
    ) -> str:
        """Add one job; it gets the tag mcp. The payload is not checked against the handler's model here."""
        answer = Reply(options.max_output)
        known = (await queues.reader.stats()).by_type
        takers = [w for w in await queues.reader.list_workers() if w.alive and job_type in w.job_types]
        if job_type not in known and not takers:
            answer.say("Take care: no job of this type has been added before, and no live worker takes it.")
        if not is_approved(approval):
            answer.say("Dry run: nothing was added." if dry_run else "Not approved: nothing was added.")
            given = {
                "type": one_line(job_type),
                "priority": priority,
                "delay_seconds": delay_seconds,
                "max_attempts": max_attempts,
                "tags": [one_line(tag, 80) for tag in (*(tags or ()), BY)],
                "idempotency_key": one_line(idempotency_key) or None,
                "payload": safety.as_json(safety.redacted(payload), 4000),
            }
            answer.show("\n".join(f"{name}: {value}" for name, value in given.items() if value is not None))
            answer.advise(
                "next: show this to the person; then call again with dry_run=false"
                + ("." if dry_run else ", and confirm=true if the client cannot ask.")
            )
            return answer.text()
        chosen: JobOptions = {"priority": priority, "tags": [*(tags or ()), BY], "idempotency_key": idempotency_key}
        if delay_seconds:
            chosen["delay"] = timedelta(seconds=delay_seconds)
        if max_attempts is not None:
            chosen["max_attempts"] = max_attempts
        handle = await queues.writer.add_job(job_type, payload, **chosen)
        answer.say(f"{'added' if handle.created else 'there already, by its idempotency key'}: job {handle.id}")
        return answer.text()

    server.register(retry_jobs, write_hints("Retry jobs", destructive=False, idempotent=False))
    server.register(cancel_jobs, write_hints("Cancel jobs", destructive=True, idempotent=True))
    server.register(add_job, write_hints("Add a job", destructive=False, idempotent=False))


def _fits(job: Job, statuses: tuple[JobStatus, ...]) -> bool:
    """Whether a job in this state can be changed: to cancel a failed one, a retry must be due."""
    if "pending" in statuses and job.status == "failed":
        return job.next_attempt_at is not None
    return job.status in statuses


def _some(ids: Sequence[int]) -> str:
    return ", ".join(map(str, ids[:20])) + (", …" if len(ids) > 20 else "")
