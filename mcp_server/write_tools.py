"""Tools that change jobs; they exist only where the server was started with ``--allow-writes``.

Each says first exactly what it would do. Then the person is asked, where the client can ask; elsewhere the call
must say ``confirm``. What was done stands in the job's event log (of a pause: in the limits), by ``mcp``.
"""

# No postponed annotations: the SDK reads those of functions that are defined inside of another.
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal, cast

from dataqueue.mcp_server import safety, view
from dataqueue.mcp_server.queue_tools import ONE, Names, Tags, answers, check_sought, has_shown_error
from dataqueue.mcp_server.safety import Reply, one_line
from dataqueue.mcp_server.server import Server, write_hints
from mcp.server.elicitation import AcceptedElicitation, ElicitationResult
from mcp.server.mcpserver import Context, Elicit, Resolve
from mcp.server.mcpserver.exceptions import ToolError
from pydantic import BaseModel, Field

from dataqueue.backends.base import ChangeResult
from dataqueue.errors import DataQueueError
from dataqueue.jobs import Job, JobStatus
from dataqueue.jsonvalue import dumps
from dataqueue.options import JobChanges, JobOptions, NewJob, make_edit, make_spec

BY = "mcp"
MOST_IDS = 50
MOST_MATCHES = 1000

Ids = Annotated[list[int] | None, Field(max_length=MOST_IDS, description="these jobs; or a filter")]
Expected = Annotated[int | None, Field(ge=0, description="how many must match; required with a filter")]
DryRun = Annotated[bool, Field(description="only show it")]
Confirm = Annotated[bool, Field(description="a person agreed")]


class Approval(BaseModel):
    """The person's answer."""

    approve: bool = Field(description="Do it?")


@dataclass(frozen=True)
class Selection:
    """The jobs that a call can change, those whose state is in the way, and ids that do not exist."""

    jobs: Sequence[Job]
    unfit: Sequence[int] = ()
    missing: Sequence[int] = ()


@dataclass(frozen=True)
class Edit:
    """A job, and what is to be changed of it."""

    job: Job
    changes: JobChanges


def can_ask(context: Context[Any, Any]) -> bool:
    capabilities = context.client_capabilities
    return capabilities is not None and capabilities.elicitation is not None


def decision(
    dry_run: bool, confirm: bool, question: str | None, context: Context[Any, Any]
) -> Approval | Elicit[Approval]:
    """Ask the person, where there is something to ask and a client that can."""
    if dry_run or question is None:
        return Approval(approve=False)
    return Elicit(question, Approval) if can_ask(context) else Approval(approve=confirm)


def is_approved(answer: ElicitationResult[Approval]) -> bool:
    return isinstance(answer, AcceptedElicitation) and answer.data.approve


def refusal(dry_run: bool, confirm: bool, context: Context[Any, Any], then: str = "") -> tuple[str, str]:
    """Why nothing was done, and what comes next."""
    if dry_run:
        return "Dry run: nothing was done.", f"next: show this to the person; then call again with dry_run=false{then}"
    if can_ask(context):
        return "The person said no: nothing was done.", "next: do not ask again; say what was not done."
    return (
        "Nothing was done: this client cannot ask the person.",
        f"next: show this to the person; if they agree, call again with dry_run=false and confirm=true{then}",
    )


def question_about(what: str, selection: Selection) -> str | None:
    """What the person is asked: which jobs, of which types, in their own words; None for no job at all."""
    jobs = selection.jobs
    if not jobs:
        return None
    types = sorted({one_line(job.job_type, 60) for job in jobs})
    shown_types = ", ".join(types[:5]) + (", …" if len(types) > 5 else "")
    ids = _some([job.id for job in jobs])
    named = f"job {ids}" if len(jobs) == 1 else f"{len(jobs):,} jobs ({ids})"
    return what.replace("{jobs}", f"{named} of type {shown_types}")


def register(server: Server) -> None:
    queues, options = server.queues, server.options

    @answers
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
            raise ToolError("Give either ids or a filter, not both and not neither. Nothing was done.")
        check_sought(*(job_type or ()), *(tags or ()))
        if ids:
            found = [await queues.reader.get_job(job_id) for job_id in dict.fromkeys(ids)]
            missing = [job_id for job_id, job in zip(dict.fromkeys(ids), found, strict=True) if job is None]
            chosen = [job for job in found if job is not None]
        else:
            missing = []
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
            chosen = [job for job in page if has_shown_error(job, error_contains)]
        fitting = [job for job in chosen if _fits(job, statuses)]
        wanted = expected_count is not None or not ids
        if not dry_run and wanted and expected_count != len(fitting):
            raise ToolError(
                f"{len(fitting):,} jobs match, but expected_count is {expected_count}. Look again with dry_run, then "
                "give the number that it shows. Nothing was done."
            )
        return Selection(fitting, [job.id for job in chosen if not _fits(job, statuses)], missing)

    async def change(
        what: str,
        selection: Selection,
        approval: ElicitationResult[Approval],
        refused: tuple[str, str],
        many: Callable[[Sequence[int]], Awaitable[dict[int, ChangeResult]]],
    ) -> str:
        answer = Reply(options.max_output)
        answer.total = len(selection.jobs)
        if selection.missing:
            answer.say(f"There are no jobs with these ids: {_some(selection.missing)}.")
        if selection.unfit:
            answer.say(f"Left alone, because their state does not allow it: jobs {_some(selection.unfit)}.")
        if not selection.jobs:
            answer.say(f"No job is to be {what}: nothing was done.")
            return answer.text()
        if not is_approved(approval):
            why, following = refused
            answer.say(f"{why} To be {what}: {len(selection.jobs):,} jobs, as below.")
            view.show_jobs(answer, selection.jobs[: view.MAX_ROWS])
            answer.truncated |= len(selection.jobs) > view.MAX_ROWS
            answer.advise(following)
            return answer.text()
        results = await many([job.id for job in selection.jobs])
        changed = [job_id for job_id, result in results.items() if result in ("changed", "requested")]
        unchanged = [job_id for job_id, result in results.items() if result in ("unchanged", "missing")]
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
        return await select(
            ids, status, job_type, tags, error_contains, expected_count, dry_run, ("failed", "cancelled")
        )

    async def agree_to_retry(
        selection: Annotated[Selection, Resolve(to_retry)], dry_run: bool, confirm: bool, ctx: Context[Any, Any]
    ) -> Approval | Elicit[Approval]:
        return decision(dry_run, confirm, question_about("Run {jobs} again, now?", selection), ctx)

    @answers
    async def retry_jobs(
        selection: Annotated[Selection, Resolve(to_retry)],
        approval: Annotated[ElicitationResult[Approval], Resolve(agree_to_retry)],
        ctx: Context[Any, Any],
        ids: Ids = None,
        status: Annotated[
            list[Literal["failed", "cancelled"]] | None, ONE, Field(description="any of; default both")
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
            approval,
            refusal(dry_run, confirm, ctx, count_note(ids, selection)),
            lambda chosen: queues.writer.retry_jobs(chosen, by=BY),
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
        return await select(
            ids, status, job_type, tags, None, expected_count, dry_run, ("pending", "processing", "waiting")
        )

    async def agree_to_cancel(
        selection: Annotated[Selection, Resolve(to_cancel)], dry_run: bool, confirm: bool, ctx: Context[Any, Any]
    ) -> Approval | Elicit[Approval]:
        return decision(dry_run, confirm, question_about("Cancel {jobs}, running ones too?", selection), ctx)

    @answers
    async def cancel_jobs(
        selection: Annotated[Selection, Resolve(to_cancel)],
        approval: Annotated[ElicitationResult[Approval], Resolve(agree_to_cancel)],
        ctx: Context[Any, Any],
        ids: Ids = None,
        status: Annotated[
            list[Literal["pending", "processing", "waiting", "failed"]] | None,
            ONE,
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
            approval,
            refusal(dry_run, confirm, ctx, count_note(ids, selection)),
            lambda chosen: queues.writer.cancel_jobs(chosen, by=BY),
        )

    # -- edit -------------------------------------------------------------------------------------

    @answers
    async def to_edit(job_id: int, changes: dict[str, Any]) -> Edit:
        job = await queues.reader.require_job(job_id)
        if not changes:
            raise ToolError("Name what to change. Nothing was done.")
        wanted = dict(changes)
        if "run_at" in wanted:
            wanted["run_at"] = _moment(wanted["run_at"])
        if "timeout_seconds" in wanted:
            wanted["timeout"] = _seconds(wanted.pop("timeout_seconds"))
        if "payload" in wanted:
            dumps(wanted["payload"], "payload")
        make_edit(None, wanted)
        return Edit(job, cast("JobChanges", wanted))

    async def agree_to_edit(
        edit: Annotated[Edit, Resolve(to_edit)], dry_run: bool, confirm: bool, ctx: Context[Any, Any]
    ) -> Approval | Elicit[Approval]:
        what = f"Change job {edit.job.id} of type {one_line(edit.job.job_type, 100)}? {'; '.join(_told(edit, 600))}"
        return decision(dry_run, confirm, what if edit.job.status == "pending" else None, ctx)

    @answers
    async def edit_job(
        edit: Annotated[Edit, Resolve(to_edit)],
        approval: Annotated[ElicitationResult[Approval], Resolve(agree_to_edit)],
        ctx: Context[Any, Any],
        job_id: Annotated[int, Field(ge=1)],
        changes: Annotated[
            dict[str, Any],
            Field(
                description="priority, run_at (ISO 8601 or now), max_attempts, timeout_seconds, tags, payload; null clears"
            ),
        ],
        dry_run: DryRun = True,
        confirm: Confirm = False,
    ) -> str:
        """Change one pending job. A payload is not checked here."""
        answer = Reply(options.max_output)
        if edit.job.status != "pending":
            answer.say(f"Job {job_id} is {edit.job.status}: only pending jobs can be changed. Nothing was done.")
            return answer.text()
        for line in _told(edit, 4000):
            answer.show(line)
        if not is_approved(approval):
            why, following = refusal(dry_run, confirm, ctx)
            answer.say(f"{why} To be changed: job {job_id}, as below.")
            answer.advise(following)
            return answer.text()
        changed = await queues.writer.edit_job(job_id, by=BY, **edit.changes)
        answer.say(f"changed: job {job_id}" if changed else f"Job {job_id} is no longer pending: nothing was changed.")
        return answer.text()

    # -- add --------------------------------------------------------------------------------------

    async def to_add(
        job_type: str,
        payload: Any,
        priority: int,
        delay_seconds: float,
        max_attempts: int | None,
        tags: list[str] | None,
        idempotency_key: str | None,
    ) -> NewJob:
        chosen: JobOptions = {"priority": priority, "tags": [*(tags or ()), BY], "idempotency_key": idempotency_key}
        try:
            if delay_seconds:
                chosen["delay"] = timedelta(seconds=delay_seconds)
            if max_attempts is not None:
                chosen["max_attempts"] = max_attempts
            make_spec(job_type, dumps(payload, "payload"), chosen)
        except (DataQueueError, OverflowError) as error:
            raise ToolError(f"{error} Nothing was added.") from error
        return NewJob(job_type, payload, chosen)

    async def agree_to_add(
        new: Annotated[NewJob, Resolve(to_add)], dry_run: bool, confirm: bool, ctx: Context[Any, Any]
    ) -> Approval | Elicit[Approval]:
        question = f"Add one job of type {one_line(new.job_type, 100)}, with this payload? {_preview(new.payload, 600)}"
        return decision(dry_run, confirm, question, ctx)

    @answers
    async def add_job(
        new: Annotated[NewJob, Resolve(to_add)],
        approval: Annotated[ElicitationResult[Approval], Resolve(agree_to_add)],
        ctx: Context[Any, Any],
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
            why, following = refusal(dry_run, confirm, ctx)
            answer.say(why)
            given = {
                "type": one_line(job_type),
                "delay_seconds": delay_seconds,
                **{name: safety.redacted(value) for name, value in new.options.items() if name != "delay"},
                "payload": _preview(payload, 4000),
            }
            answer.show("\n".join(f"{name}: {value}" for name, value in given.items() if value is not None))
            answer.advise(following)
            return answer.text()
        handle = await queues.writer.add_job(new.job_type, new.payload, **new.options)
        answer.say(f"{'added' if handle.created else 'there already, by its idempotency key'}: job {handle.id}")
        return answer.text()

    # -- pause and resume -------------------------------------------------------------------------

    async def agree_to_pause(
        job_type: str | None, paused: bool, dry_run: bool, confirm: bool, ctx: Context[Any, Any]
    ) -> Approval | Elicit[Approval]:
        return decision(dry_run, confirm, _question_to_pause(job_type, paused), ctx)

    @answers
    async def set_paused(
        approval: Annotated[ElicitationResult[Approval], Resolve(agree_to_pause)],
        ctx: Context[Any, Any],
        paused: Annotated[bool, Field(description="false: resume")],
        job_type: Annotated[
            str | None, Field(min_length=1, max_length=255, description="default: the whole queue")
        ] = None,
        reason: Annotated[str | None, Field(max_length=200, description="shown with the pause")] = None,
        dry_run: DryRun = True,
        confirm: Confirm = False,
    ) -> str:
        """Pause a job type or the whole queue, or resume it. A pause stops claims; running jobs go on, adds too."""
        answer = Reply(options.max_output)
        answer.show(f"{'whole queue' if job_type is None else f'type: {one_line(job_type)}'}")
        if job_type is not None and job_type not in (await queues.reader.stats()).by_type:
            answer.say("Take care: there is no job of this type.")
        if not is_approved(approval):
            why, following = refusal(dry_run, confirm, ctx)
            answer.say(f"{why} To be {'paused' if paused else 'resumed'}: as below.")
            answer.advise(following)
            return answer.text()
        if paused:
            changed = await queues.writer.pause(job_type, by=f"{BY}: {reason}" if reason else BY)
        else:
            changed = await queues.writer.resume(job_type)
        word = "paused" if paused else "resumed"
        answer.say(f"{word}." if changed else f"Nothing was changed: it was {'paused' if paused else 'not paused'}.")
        still = [state.job_type for state in await queues.reader.list_limits() if state.paused_at is not None]
        if still and not paused:
            names = ["(whole queue)" if name is None else one_line(name, 60) for name in still]
            answer.show(f"still paused: {', '.join(names[:20])}")
        return answer.text()

    server.register(retry_jobs, write_hints("Retry jobs", destructive=False, idempotent=False))
    server.register(cancel_jobs, write_hints("Cancel jobs", destructive=True, idempotent=True))
    server.register(edit_job, write_hints("Edit a job", destructive=True, idempotent=True))
    server.register(add_job, write_hints("Add a job", destructive=False, idempotent=False))
    server.register(set_paused, write_hints("Pause or resume", destructive=False, idempotent=True))


def _told(edit: Edit, most: int) -> list[str]:
    """Each change, with what it was before; data from the queue, made safe."""
    lines: list[str] = []
    for name, new in edit.changes.items():
        old = getattr(edit.job, name)
        if name == "run_at":
            lines.append(f"run_at: {old.isoformat()} → {'now' if new is None else cast('datetime', new).isoformat()}")
        elif name == "timeout":
            lines.append(f"timeout: {old} → {new}")
        else:
            lines.append(f"{name}: {_preview(old, most // 2)} → {_preview(new, most // 2)}")
    return lines


def _moment(text: object) -> datetime | None:
    try:
        return None if text in (None, "now") else datetime.fromisoformat(str(text))
    except ValueError as error:
        shown = one_line(str(text), 60)
        raise ToolError(f"run_at is {shown!r}; write 2026-01-31T09:00:00+01:00, or now. Nothing was done.") from error


def _seconds(seconds: Any) -> timedelta | None:
    try:
        return None if seconds is None else timedelta(seconds=seconds)
    except (TypeError, ValueError, OverflowError) as error:
        shown = one_line(str(seconds), 60)
        raise ToolError(f"timeout_seconds is {shown}, which is no usable time. Nothing was done.") from error


def _question_to_pause(job_type: str | None, paused: bool) -> str:
    what = "the whole queue" if job_type is None else f"jobs of type {one_line(job_type, 100)}"
    if paused:
        return f"Pause {what}? No worker takes more of it until it is resumed; running jobs go on."
    return f"Resume {what}? Workers take its jobs at once."


def _fits(job: Job, statuses: tuple[JobStatus, ...]) -> bool:
    """Whether a job in this state can be changed: to cancel a failed one, a retry must be due."""
    if "pending" in statuses and job.status == "failed":
        return job.next_attempt_at is not None
    return job.status in statuses


def count_note(ids: list[int] | None, selection: Selection) -> str:
    return "" if ids else f" and expected_count={len(selection.jobs)}"


def _preview(payload: Any, most: int) -> str:
    return safety.as_json(safety.redacted(payload), most)


def _some(ids: Sequence[int]) -> str:
    return ", ".join(map(str, ids[:20])) + (", …" if len(ids) > 20 else "")
