"""Tools for schedules: one that looks, and one that pauses or resumes (only with ``--allow-writes``)."""

# No postponed annotations: the SDK reads those of functions that are defined inside of another.
from typing import Annotated, Any, Literal

from dataqueue.mcp_server.queue_tools import answers
from dataqueue.mcp_server.safety import Reply, one_line
from dataqueue.mcp_server.server import Server, read_only_hints, write_hints
from dataqueue.mcp_server.view import MAX_ROWS, moment
from dataqueue.mcp_server.write_tools import Approval, Confirm, DryRun, decision, is_approved, refusal
from mcp.server.elicitation import ElicitationResult
from mcp.server.mcpserver import Context, Elicit, Resolve
from pydantic import Field

from dataqueue.cron_jobs import CronSchedule

Name = Annotated[str, Field(min_length=1, max_length=255)]


def register_reading(server: Server) -> None:
    queues, options = server.queues, server.options

    @answers
    async def list_schedules(
        name: Annotated[str | None, Field(min_length=1, max_length=255)] = None,
        status: Literal["active", "paused"] | None = None,
    ) -> str:
        """Cron schedules in words, with their next fires, last job, and why one was skipped or cannot fire."""
        found = await queues.reader.list_cron_jobs(status)
        chosen = [schedule for schedule in found if name in (None, schedule.name)]
        answer = Reply(options.max_output)
        answer.total = len(chosen)
        answer.say(f"schedules: {len(chosen):,}")
        for schedule in chosen[:MAX_ROWS]:
            show_schedule(answer, schedule)
        answer.truncated |= len(chosen) > MAX_ROWS
        return answer.text()

    server.register(list_schedules, read_only_hints("List schedules"))


def show_schedule(answer: Reply, schedule: CronSchedule) -> None:
    words = schedule.description
    answer.show(
        f"\n{one_line(schedule.name, 120)} (id {schedule.id}, {schedule.status}): type {one_line(schedule.job_type, 120)}"
    )
    answer.show(
        f"  fires: {one_line(schedule.expression, 120)} ({one_line(words, 200)}), {one_line(schedule.timezone, 60)}"
    )
    fires = ", ".join(str(moment(fire)) for fire in schedule.next_fires(3))
    answer.show(f"  next: {fires or ('paused' if schedule.status == 'paused' else 'never')}")
    if schedule.last_enqueued_at is not None:
        answer.show(f"  last job: {schedule.last_job_id}, added {moment(schedule.last_enqueued_at)}")
    if schedule.last_skipped_at is not None:
        answer.show(f"  last skipped: {moment(schedule.last_skipped_at)}, {one_line(schedule.last_skip_reason, 40)}")
    if schedule.problem:
        answer.show(f"  cannot fire: {one_line(schedule.problem, 300)}")


def register_writing(server: Server) -> None:
    queues, options = server.queues, server.options

    async def agree_to_change(
        name: str, status: str, dry_run: bool, confirm: bool, ctx: Context[Any, Any]
    ) -> Approval | Elicit[Approval]:
        known = await queues.reader.get_cron_job_by_name(name)
        shown = one_line(name, 100)
        then = "Jobs that it has added go on." if status == "paused" else "It goes on with its next fire."
        question = f"{'Pause' if status == 'paused' else 'Resume'} the schedule {shown}? {then}"
        return decision(dry_run, confirm, None if known is None else question, ctx)

    @answers
    async def set_schedule_status(
        approval: Annotated[ElicitationResult[Approval], Resolve(agree_to_change)],
        ctx: Context[Any, Any],
        name: Name,
        status: Literal["active", "paused"],
        dry_run: DryRun = True,
        confirm: Confirm = False,
    ) -> str:
        """Pause a schedule or let it go on. Its jobs are not touched; missed fires are not made up for."""
        answer = Reply(options.max_output)
        known = await queues.reader.get_cron_job_by_name(name)
        if known is None:
            answer.say("There is no schedule of this name: nothing was done.")
            return answer.text()
        if not is_approved(approval):
            why, following = refusal(dry_run, confirm, ctx)
            answer.say(f"{why} To become {status}: as below.")
            show_schedule(answer, known)
            answer.advise(following)
            return answer.text()
        writer = queues.writer
        changed = await (writer.pause_cron_job(known.id) if status == "paused" else writer.resume_cron_job(known.id))
        answer.say(f"{status}." if changed else f"Nothing was changed: it is {status} already.")
        show_schedule(answer, await queues.reader.get_cron_job(known.id))
        return answer.text()

    server.register(set_schedule_status, write_hints("Pause or resume a schedule", destructive=False, idempotent=True))
