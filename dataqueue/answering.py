"""Tokens and journals: what a job waits for, answered from outside, and what it has done so far."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from dataqueue.checks import may_exist
from dataqueue.errors import InvalidJob
from dataqueue.jsonvalue import dumps, loads
from dataqueue.scheduling import SchedulingQueue
from dataqueue.steps import Step, StepRecord
from dataqueue.tokens import MAX_ERROR, Token, TokenCompleted, TokenNotFound, check_token_id, make_token

EXPIRE_BATCH = 500


class AnsweringQueue(SchedulingQueue):
    """The methods of :class:`dataqueue.JobQueue` about tokens and steps."""

    async def create_token(self, *, timeout: timedelta | str | None = None, tags: Iterable[str] | None = None) -> Token:
        """Make a token that belongs to no job; pass its ``id`` to the job that shall wait for it.

        A handler makes its own with ``ctx.create_token``, which a crash cannot make twice.

        Args:
            timeout: after which nobody can answer any more: a timedelta, or a text such as ``10m`` or ``7d``.
            tags: words to find it by.

        Raises:
            InvalidJob: an argument out of its range; nothing was made.
        """
        spec = make_token(timeout, tags)
        return await (await self.open()).create_token(spec)

    async def complete_token(self, token_id: str, output: object = None) -> Token:
        """Answer a token: the jobs that wait for it go on, with this output. The first answer stands.

        Args:
            output: any JSON value.

        Raises:
            TokenNotFound: no such token.
            TokenCompleted: it was answered before, or its time is over; its ``token`` tells how. Nothing was changed.
            InvalidPayload: not a JSON value; nothing was changed.
        """
        return await self._end_token(token_id, dumps(output, "output"), None)

    async def fail_token(self, token_id: str, error: str) -> Token:
        """Let a token fail: the jobs that wait for it go on and are told ``ok=False`` with this error.

        Raises:
            TokenNotFound, TokenCompleted: see :meth:`complete_token`.
        """
        if not isinstance(error, str) or not 0 < len(error) <= MAX_ERROR:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidJob(f"error must be a text of 1 to {MAX_ERROR:,} characters, not {error!r:.80}.")
        dumps(error, "error")
        return await self._end_token(token_id, None, error)

    async def _end_token(self, token_id: str, output: str | None, error: str | None) -> Token:
        token, ended = await (await self.open()).end_token(check_token_id(token_id), output, error)
        if token is None:
            raise TokenNotFound(token_id)
        if not ended:
            raise TokenCompleted(token)
        return token

    async def get_token(self, token_id: str) -> Token | None:
        """The token as the store has it; None for an unknown id."""
        return await (await self.open()).get_token(check_token_id(token_id))

    async def expire_timed_out_tokens(self) -> int:
        """End all tokens whose time is over, and wake the jobs that wait for them. Workers and supervisors do this by
        themselves.

        Returns:
            How many there were.
        """
        backend = await self.open()
        total = 0
        while count := await backend.expire_tokens(EXPIRE_BATCH):
            total += count
            if count < EXPIRE_BATCH:
                break
        return total

    async def get_job_steps(self, job_id: int) -> list[Step]:
        """What a job has done so far, in its order: steps, and what it waited for. Empty for an unknown id."""
        if not may_exist(job_id):
            return []
        records, _, now = await (await self.open()).load_steps(job_id)
        return [_step(record, now) for record in records]


def _step(record: StepRecord, now: datetime) -> Step:
    done_at = record.done_at
    if record.kind == "sleep" and record.until is not None and record.until <= now:
        done_at = record.until
    return Step(
        seq=record.seq,
        name=record.name,
        kind=record.kind,
        done=done_at is not None,
        result=None if record.result is None else loads(record.result),
        attempts=record.attempts,
        started_at=record.started_at or now,
        done_at=done_at,
        until=record.until,
        token_id=record.token_id,
        job_ids=record.job_ids,
        place=record.place,
    )
