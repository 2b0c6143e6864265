"""The tool that answers a token for a person (only with ``--allow-writes``)."""

# No postponed annotations: the SDK reads those of functions that are defined inside of another.
from typing import Annotated, Any

from dataqueue.mcp_server.queue_tools import answers
from dataqueue.mcp_server.safety import Reply, as_json, one_line, redacted
from dataqueue.mcp_server.server import Server, write_hints
from dataqueue.mcp_server.view import moment
from dataqueue.mcp_server.write_tools import Approval, Confirm, DryRun, decision, is_approved, refusal
from mcp.server.elicitation import ElicitationResult
from mcp.server.mcpserver import Context, Elicit, Resolve
from pydantic import Field, JsonValue

from dataqueue.tokens import Token, TokenCompleted

TokenId = Annotated[str, Field(min_length=1, max_length=255)]


def register_writing(server: Server) -> None:
    queues, options = server.queues, server.options

    async def agree_to_answer(
        token_id: str, dry_run: bool, confirm: bool, ctx: Context[Any, Any], output: JsonValue = None
    ) -> Approval | Elicit[Approval]:
        known = await queues.reader.get_token(token_id)
        question = None
        if known is not None and known.status == "waiting":
            whose = f" of job {known.job_id}" if known.job_id else ""
            shown = one_line(as_json(redacted(output), 500), 500)
            question = f"Answer the token {one_line(token_id, 60)}{whose} with {shown}? The first answer stands."
        return decision(dry_run, confirm, question, ctx)

    @answers
    async def complete_token(
        approval: Annotated[ElicitationResult[Approval], Resolve(agree_to_answer)],
        ctx: Context[Any, Any],
        token_id: TokenId,
        output: JsonValue = None,
        dry_run: DryRun = True,
        confirm: Confirm = False,
    ) -> str:
        """Answer a token that a job waits for (an approval): the job goes on with this output."""
        answer = Reply(options.max_output)
        known = await queues.reader.get_token(token_id)
        if known is None:
            answer.say("There is no token of this id: nothing was done.")
            return answer.text()
        if known.status != "waiting":
            answer.say(f"It is {known.status} already: nothing was done. The first answer stands.")
            _show(answer, known)
            return answer.text()
        if not is_approved(approval):
            why, following = refusal(dry_run, confirm, ctx)
            answer.say(f"{why} To be answered: as below.")
            _show(answer, known)
            answer.advise(following)
            return answer.text()
        try:
            done = await queues.writer.complete_token(token_id, output)
        except TokenCompleted as error:
            answer.say("Somebody was first: nothing was done.")
            _show(answer, error.token)
            return answer.text()
        answer.say("completed: who waits for it goes on.")
        _show(answer, done)
        return answer.text()

    server.register(complete_token, write_hints("Answer a token", destructive=False, idempotent=True))


def _show(answer: Reply, token: Token) -> None:
    answer.show(f"token {one_line(token.id, 120)}: {token.status}, made {moment(token.created_at)}")
    if token.job_id is not None:
        answer.show(f"  made by job {token.job_id}")
    if token.tags:
        answer.show(f"  tags: {[one_line(tag, 80) for tag in token.tags]}")
    if token.timeout_at is not None and token.status == "waiting":
        answer.show(f"  can be answered until {moment(token.timeout_at)}")
