"""Steps and waits of a running attempt: done once, recorded, and given back when the handler runs again."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import sys
from collections.abc import AsyncGenerator, Generator, Sequence
from contextvars import ContextVar
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from dataqueue.backends.base import Completed
from dataqueue.errors import InvalidJob, JobCancelled, JobFailed, JobNotFound, LeaseLost, StepsChanged, Suspend
from dataqueue.jobs import ANY_JSON, Job, JobHandle
from dataqueue.jsonvalue import dumps, loads
from dataqueue.options import check_aware, check_duration, check_integer
from dataqueue.steps import MAX_WAIT, Journal, StepKind, StepRecord, add_calendar, check_name
from dataqueue.tokens import Token, TokenResult, TokenSpec, check_token_id, make_token, result_of

if TYPE_CHECKING:
    from dataqueue.backends.base import Claimed, Transaction
    from dataqueue.payloads import Codec

logger = logging.getLogger("dataqueue.worker")

_MILLISECOND = timedelta(milliseconds=1)
_OURS = str(Path(__file__).parents[1]) + os.sep
_step: ContextVar[str | None] = ContextVar("dataqueue_step", default=None)


class Keeper(Protocol):
    """Where steps are kept: the store, directly or over a wire. Each write is refused (``LeaseLost``) once the lease is
    lost."""

    job: Claimed

    async def load_steps(self) -> tuple[list[StepRecord], dict[str, Token], datetime]: ...
    async def save_step(self, step: StepRecord, token: TokenSpec | None = None) -> None: ...
    async def read_token(self, token_id: str) -> Token: ...
    async def read_jobs(self, job_ids: Sequence[int]) -> list[dict[str, Any]]: ...
    async def store_now(self) -> datetime: ...


class InTransaction:
    """A transaction of the handler's that is open, and the steps that become true with its commit."""

    def __init__(self, transaction: Transaction) -> None:
        self.transaction = transaction
        self.names: list[str] = []
        self.completed: Completed | None = None


_transaction: ContextVar[InTransaction | None] = ContextVar("dataqueue_transaction", default=None)


class Steps:
    """The steps of one attempt."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self._loading: asyncio.Future[Journal] | None = None
        self._tokens: dict[str, Token] = {}
        self._loaded_at: datetime | None = None
        self.suspended: Suspend | None = None
        """The wait that ends this attempt: nothing more is done in it."""

    async def journal(self) -> Journal:
        if self.suspended is not None:
            raise self.suspended
        if self._loading is None or (self._loading.done() and self._loading.exception() is not None):
            self._loading = asyncio.ensure_future(self._load())
        return await asyncio.shield(self._loading)

    async def _load(self) -> Journal:
        if not self._keeper.job.has_steps:
            return Journal([])
        records, self._tokens, self._loaded_at = await self._keeper.load_steps()
        return Journal(records)

    # -- steps ----------------------------------------------------------------------------------------

    async def begin(self, name: object, place: str) -> StepRecord | None:
        """The record of a step that an earlier run has done, None if it is to be done now."""
        checked = check_name(name)
        _refuse_within_a_step(checked, "Another step")
        return (await self.journal()).visit(checked, "step", place)

    async def finish(
        self, name: str, result: str, place: str, started: datetime, attempts: int, token: TokenSpec | None = None
    ) -> StepRecord:
        """Record a step that was done; with the handler's transaction if one is open here."""
        journal = await self.journal()
        record = StepRecord(
            journal.next_seq(),
            name,
            "step",
            result,
            place=place,
            attempts=attempts,
            started_at=started,
            done_at=datetime.now(UTC),
        )
        open_here = _transaction.get()
        if open_here is None:
            await self._keeper.save_step(record, token)
        else:
            job = self._keeper.job
            if not await open_here.transaction.save_step(job.id, job.lease_id, record, token):
                raise LeaseLost(job.id)
            open_here.names.append(name)
        journal.keep(record)
        return record

    async def create_token(self, name: object, timeout: object, tags: object, place: str) -> Token:
        spec = make_token(timeout, tags)
        record = await self.begin(name, place)
        if record is None:
            now = datetime.now(UTC)
            record = await self.finish(cast(str, name), json.dumps({"token": spec.id}), place, now, 1, spec)
        made = loads(record.result or "{}")
        if not isinstance(made, dict) or "token" not in made:
            raise StepsChanged(f"{place}: the step {name!r} has made no token in an earlier run. Its code has changed.")
        started = record.started_at or datetime.now(UTC)
        token_id = cast("dict[str, str]", made)["token"]
        return Token(id=token_id, status="waiting", created_at=started, job_id=self._keeper.job.id, tags=spec.tags)

    # -- transactions ---------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def within(self, transaction: Transaction) -> AsyncGenerator[InTransaction]:
        """Steps that are done in this block belong to the transaction."""
        opened = InTransaction(transaction)
        token = _transaction.set(opened)
        try:
            yield opened
        except BaseException:
            if opened.names:
                (await self.journal()).forget(opened.names)
            raise
        finally:
            _transaction.reset(token)

    async def complete(self, output: str | None) -> None:
        """Complete the job with the transaction that is open here."""
        opened = _transaction.get()
        if opened is None:
            raise InvalidJob(
                "ctx.complete() belongs into `async with ctx.transaction()`: elsewhere, return the result."
            )
        job = self._keeper.job
        outcome = Completed(job.id, job.lease_id, output)
        if not await opened.transaction.complete(outcome):
            raise LeaseLost(job.id)
        opened.completed = outcome

    # -- waits ----------------------------------------------------------------------------------------

    async def sleep(
        self, name: str | None, place: str, by: timedelta | None, until: datetime | None, calendar: tuple[int, int]
    ) -> None:
        """Wait for a time; ``calendar`` are years and months."""
        record, name = await self._visit_wait(name, "sleep", place)
        if record is not None:
            if record.until is not None and self._loaded_at is not None and record.until <= self._loaded_at:
                return
            raise self._suspend(record, None)
        delay_ms = None
        if by is not None and calendar == (0, 0):
            delay_ms = check_duration(by, "the wait", _MILLISECOND, MAX_WAIT)
        elif by is not None:
            until = add_calendar(await self._keeper.store_now(), years=calendar[0], months=calendar[1], rest=by)
        if until is not None and until <= datetime.now(UTC):
            if by is not None:
                raise InvalidJob("A wait must lie ahead: it came out as none, or as one in the past.")
            return
        raise self._suspend(await self._new_wait(name, "sleep", place, until=until), delay_ms)

    async def wait_for_token(self, token: object, name: str | None, place: str) -> TokenResult:
        token_id = check_token_id(token.id if isinstance(token, Token) else token)
        record, name = await self._visit_wait(name, "token", place)
        if record is not None and record.done:
            return TokenResult(**json.loads(record.result or "{}"))
        if record is not None and record.token_id is not None:
            token_id = record.token_id
        found = self._tokens.get(token_id) or await self._keeper.read_token(token_id)
        answer = result_of(found)
        if answer is None:
            if record is None:
                record = await self._new_wait(name, "token", place, token_id=token_id)
            raise self._suspend(record, None)
        text = dumps({"ok": answer.ok, "output": answer.output, "error": answer.error}, "the answer")
        await self._end_wait(record, name, "token", place, text, token_id=token_id)
        return answer

    async def wait_for_jobs(
        self, jobs: Sequence[JobHandle[Any] | int], return_exceptions: bool, name: str | None, place: str
    ) -> list[Any]:
        ids = tuple(_id_of(job) for job in jobs)
        if self._keeper.job.id in ids:
            raise InvalidJob("A job cannot wait for itself.")
        record, name = await self._visit_wait(name, "jobs", place)
        if record is not None and record.done:
            return _results(jobs, json.loads(record.result or "[]"), return_exceptions)
        if record is not None and set(record.job_ids) != set(ids):
            ids = record.job_ids
        found = {job["id"]: job for job in await self._keeper.read_jobs(ids)}
        missing = next((job_id for job_id in ids if job_id not in found), None)
        if missing is not None:
            raise JobNotFound(missing)
        if not all(job.pop("finished") for job in found.values()):
            if record is None:
                record = await self._new_wait(name, "jobs", place, job_ids=tuple(dict.fromkeys(ids)))
            raise self._suspend(record, None)
        told = [found[job_id] for job_id in ids]
        await self._end_wait(record, name, "jobs", place, dumps(told, "the results"), job_ids=ids)
        return _results(jobs, told, return_exceptions)

    def _suspend(self, wait: StepRecord, delay_ms: int | None) -> Suspend:
        self.suspended = Suspend(wait, delay_ms)
        return self.suspended

    async def _visit_wait(self, name: str | None, kind: StepKind, place: str) -> tuple[StepRecord | None, str]:
        if name is not None:
            check_name(name)
        _refuse_within_a_step(name or "a wait", "A wait")
        if _transaction.get() is not None:
            raise InvalidJob(f"{place}: a wait inside a transaction would roll it back. End the transaction before.")
        journal = await self.journal()
        name = name or journal.next_wait()
        return journal.visit(name, kind, place), name

    async def _new_wait(self, name: str, kind: StepKind, place: str, **what: Any) -> StepRecord:
        journal = await self.journal()
        journal.check_wait(place)
        return StepRecord(journal.next_seq(), name, kind, done=False, place=place, **what)

    async def _end_wait(
        self, record: StepRecord | None, name: str, kind: StepKind, place: str, result: str, **what: Any
    ) -> None:
        journal = await self.journal()
        now = datetime.now(UTC)
        if record is None:
            record = StepRecord(journal.next_seq(), name, kind, place=place, started_at=now, **what)
        record = replace(record, result=result, done=True, done_at=now)
        await self._keeper.save_step(record)
        journal.keep(record)

    def check_end(self) -> None:
        """The handler has returned: what an earlier run has recorded should have been come by."""
        if self._loading is None or not self._loading.done() or self._loading.exception() is not None:
            return
        left = self._loading.result().not_visited()
        if left:
            logger.warning(
                "Job %s (%s) has ended without coming by %s, which an earlier run has recorded. Its handler has changed, or "
                "does not always take the same way.",
                self._keeper.job.id, self._keeper.job.job_type, ", ".join(repr(record.name) for record in left[:5]),
            )  # fmt: skip


def refuse_within_a_transaction() -> None:
    if _transaction.get() is not None:
        raise InvalidJob("A transaction of this handler is open here already. Use its connection.")


def _refuse_within_a_step(name: str, what: str) -> None:
    outer = _step.get()
    if outer is not None:
        raise InvalidJob(
            f"{what} ({name!r}) inside the step {outer!r}: a step is done once, as a whole, and what is inside it would not be "
            "come by again. Take it out of the step."
        )


@contextlib.contextmanager
def within_step(name: str) -> Generator[None]:
    token = _step.set(name)
    try:
        yield
    finally:
        _step.reset(token)


def _id_of(job: object) -> int:
    found = getattr(job, "id", job)
    return check_integer(found, "a job to wait for", 1, 2**63 - 1)


def told(job: Job) -> dict[str, Any]:
    return {
        "id": job.id,
        "type": job.job_type,
        "status": job.status,
        "output": job.output,
        "error": job.last_error,
        "reason": job.failure_reason,
        "attempts": job.attempts,
        "finished": job.is_finished,
    }


def _results(jobs: Sequence[JobHandle[Any] | int], told: list[dict[str, Any]], return_exceptions: bool) -> list[Any]:
    by_id = {one["id"]: one for one in told}
    results: list[Any] = []
    for job in jobs:
        one = by_id.get(_id_of(job))
        if one is None:
            raise InvalidJob(
                f"The handler waits for job {_id_of(job)}, but an earlier run has waited for {sorted(by_id)}: which jobs it "
                "waits for must come from the payload or from a step."
            )
        error: Exception | None = None
        if one["status"] == "failed":
            error = JobFailed(
                one["id"], one["type"], one["error"] or "no error was recorded", one["reason"], one["attempts"]
            )
        elif one["status"] == "cancelled":
            error = JobCancelled(one["id"], one["type"])
        if error is not None and not return_exceptions:
            raise error
        codec = cast("Codec[Any]", getattr(job, "_codec", ANY_JSON))
        value = codec.decode(dumps(one["output"], "result")) if codec.typed else one["output"]
        results.append(value if error is None else error)
    return results


def place_of_caller() -> str:
    """``jobs.py:12``: the innermost line that is not ours."""
    frame = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_OURS):
        frame = frame.f_back
    return f"{frame.f_code.co_filename.replace(os.sep, '/').rsplit('/', 1)[-1]}:{frame.f_lineno}"


def check_wait_time(by: object, years: int, months: int, **parts: float) -> timedelta:
    """The part of ``ctx.wait_for`` that is not calendar years and months."""
    if by is not None and not isinstance(by, timedelta):
        raise InvalidJob(f"wait_for takes a timedelta, or days=…, hours=…, months=…; not {by!r:.80}.")
    check_integer(years, "years", -9999, 9999)
    check_integer(months, "months", -120_000, 120_000)
    try:
        whole = (by or timedelta(0)) + timedelta(**parts)
    except (OverflowError, TypeError, ValueError) as error:
        raise InvalidJob(f"This is no time to wait: {error}.") from error
    if not (years or months) and whole < _MILLISECOND:
        raise InvalidJob(f"A wait must be longer than nothing, not {whole}.")
    return whole


def check_until(until: object) -> datetime:
    return check_aware(until, "until")


def suspended_by(error: BaseException) -> Suspend | None:
    """The suspension that an error is, also one that a TaskGroup has wrapped, if there is nothing else in it."""
    if isinstance(error, Suspend):
        return error
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        found = [suspended_by(inner) for inner in group.exceptions]
        return found[0] if all(item is not None for item in found) else None
    return None
