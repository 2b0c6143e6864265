"""Jobs with steps, waits and tokens in plain Python, without time zones, concurrency or I/O: the model that
test_durable_machine.py compares with.

Time is counted in whole hours, which pass when the test says so; what lasts less is no time at all.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

from dataqueue.backends.base import Held


@dataclass
class Record:
    """A step or wait of a journal. ``until`` is the hour at which a wait for a time is over."""

    seq: int
    kind: str
    result: str | None = None
    done: bool = True
    until: int | None = None
    token_id: str | None = None
    job_ids: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        return f"s{self.seq}" if self.kind == "step" else f"wait{self.seq}"


@dataclass
class ModelToken:
    id: str
    owner: int | None
    ends: int | None
    status: str = "waiting"
    output: int | None = None
    error: str | None = None

    def __repr__(self) -> str:
        return f"<{self.status} token {self.id}>"


@dataclass
class ModelJob:
    """``due``: the hour from which it may be claimed, None for not by itself."""

    id: int
    max_attempts: int
    due: int | None
    status: Any = "pending"
    attempts: int = 0
    lease: int | None = None
    worker: str = ""
    asked: bool = False
    output: int | None = None
    journal: list[Record] = field(default_factory=list[Record])
    wait: Record | None = None
    """What a waiting job waits for, as its outcome said."""
    unmet: set[int] = field(default_factory=set[int])
    events: list[str] = field(default_factory=lambda: ["added"])

    def __repr__(self) -> str:
        return f"<{self.status} job {self.id}>"

    @property
    def finished(self) -> bool:
        return self.status in ("completed", "cancelled") or (self.status == "failed" and self.due is None)

    @property
    def next_seq(self) -> int:
        return 1 + max((record.seq for record in self.journal), default=0)

    @property
    def open(self) -> Record | None:
        """The wait for a token or for jobs that the handler has not come by yet."""
        last = self.journal[-1] if self.journal else None
        return last if last is not None and not last.done and last.kind != "sleep" else None


class Model:
    def __init__(self) -> None:
        self.clock = 0
        self.jobs: dict[int, ModelJob] = {}
        self.tokens: dict[str, ModelToken] = {}
        """In the order of their making."""
        self.lost: list[Held] = []
        """Leases that hold no more."""
        self.touched: set[int] = set()

    # -- what is so -------------------------------------------------------------------------------

    def of(self, *statuses: str) -> list[ModelJob]:
        return [job for job in self.jobs.values() if job.status in statuses]

    def ready(self) -> list[ModelJob]:
        return [job for job in self.jobs.values() if job.due is not None and job.due <= self.clock]

    def next_due(self) -> int | None:
        """In how many hours the next job that is not due falls due."""
        ahead = [job.due - self.clock for job in self.jobs.values() if job.due is not None and job.due > self.clock]
        return min(ahead, default=None)

    def waiting_for(self, token_id: str) -> list[ModelJob]:
        return [job for job in self.of("waiting") if job.due is None and job.wait and job.wait.token_id == token_id]

    def is_over(self, wait: Record) -> bool:
        """Whether a wait that begins now, or is looked at again, goes on."""
        match wait.kind:
            case "sleep":
                return wait.until is not None and wait.until <= self.clock
            case "token":
                token = self.tokens.get(wait.token_id or "")
                return token is None or token.status != "waiting"
            case _:
                return not self.unfinished(wait.job_ids)

    def unfinished(self, ids: Iterable[int]) -> set[int]:
        return {job_id for job_id in ids if job_id in self.jobs and not self.jobs[job_id].finished}

    def expiring(self) -> list[ModelToken]:
        """Tokens that wait beyond their time, the first to end first."""
        over = [
            t for t in self.tokens.values() if t.status == "waiting" and t.ends is not None and t.ends <= self.clock
        ]
        return sorted(over, key=lambda token: token.ends or 0)

    # -- producers and people ---------------------------------------------------------------------

    def add(self, job_id: int, max_attempts: int) -> None:
        assert job_id > max(self.jobs, default=0)
        self.jobs[job_id] = ModelJob(job_id, max_attempts, self.clock)
        self.touched.add(job_id)

    def cancel(self, job: ModelJob) -> bool:
        """Whether anything was changed."""
        if job.finished:
            return False
        if job.status == "processing":
            if not job.asked:
                self._log(job, "cancel_requested")
            job.asked = True
            return True
        if job.status == "waiting" and job.wait is not None:
            # It will begin its wait anew, but for a time that has come.
            job.journal = [r for r in job.journal if r.seq != job.wait.seq or r.done or self.has_passed(r)]
        self._cancelled(job)
        return True

    def has_passed(self, record: Record) -> bool:
        return record.kind == "sleep" and self.is_over(record)

    def retry(self, job: ModelJob) -> bool:
        if job.status not in ("failed", "cancelled"):
            return False
        job.status, job.due, job.output = "pending", self.clock, None
        job.max_attempts = max(job.max_attempts, job.attempts + 1)
        self._log(job, "retried")
        return True

    def delete(self, status: str) -> int:
        """Finished jobs of this status go, with their steps and tokens; who waits for one of these goes on."""
        gone = [job for job in self.of(status) if job.finished]
        for job in gone:
            del self.jobs[job.id]
        ids = {job.id for job in gone}
        for token in [token for token in self.tokens.values() if token.owner in ids]:
            self._wake(token.id)
            del self.tokens[token.id]
        return len(gone)

    # -- tokens -----------------------------------------------------------------------------------

    def make_token(self, token_id: str, owner: int | None, hours: int | None) -> None:
        self.tokens[token_id] = ModelToken(token_id, owner, None if hours is None else self.clock + hours)

    def answer(self, token: ModelToken, output: int | None, error: str | None) -> bool:
        """Whether this was its end."""
        if token.status != "waiting":
            return False
        late = token.ends is not None and token.ends <= self.clock
        if late:
            token.status = "timed_out"
        elif error is None:
            token.status, token.output = "completed", output
        else:
            token.status, token.error = "failed", error
        self._wake(token.id)
        return not late

    def expire(self, limit: int) -> int:
        over = self.expiring()[:limit]
        for token in over:
            self.answer(token, None, None)
        return len(over)

    def delete_tokens(self) -> int:
        """Those that are no job's and have ended."""
        gone = [token.id for token in self.tokens.values() if token.owner is None and token.status != "waiting"]
        for token_id in gone:
            del self.tokens[token_id]
        return len(gone)

    # -- workers ----------------------------------------------------------------------------------

    def start(self, job: ModelJob, worker: str, lease: int) -> None:
        assert lease not in [number for _, number in self.lost], "a lease is never given twice"
        if job.status != "waiting":
            job.attempts, job.output = job.attempts + 1, None
        job.status, job.due, job.lease, job.worker, job.wait = "processing", None, lease, worker, None
        self._log(job, "processing")

    def save(self, job: ModelJob, record: Record) -> None:
        """In place of the one with the same number."""
        job.journal = [*(known for known in job.journal if known.seq != record.seq), record]
        self.touched.add(job.id)

    def begin(self, job: ModelJob, wait: Record) -> None:
        """The attempt ends, and is not counted. A record that stands already stays as it is."""
        self._let_go(job)
        if job.asked:
            self._cancelled(job)
            return
        if all(known.seq != wait.seq for known in job.journal):
            job.journal.append(wait)
        job.status, job.wait = "waiting", wait
        job.unmet = self.unfinished(wait.job_ids)
        job.due = self.clock if self.is_over(wait) else wait.until
        self._log(job, "waiting")

    def complete(self, job: ModelJob, output: int | None) -> None:
        self._let_go(job)
        job.status, job.asked = "completed", False
        job.output = job.output if output is None else output
        self._log(job, "completed")
        self._ended(job)

    def fail(self, job: ModelJob, retry_hours: int | None) -> None:
        self._let_go(job)
        job.output = None
        if job.asked:
            self._cancelled(job)
            return
        job.status, job.due = "failed", None if retry_hours is None else self.clock + retry_hours
        self._log(job, "failed")
        self._ended(job)

    def give_back(self, job: ModelJob) -> None:
        self._let_go(job)
        job.attempts, job.output = job.attempts - 1, None
        if job.asked:
            self._cancelled(job)
            return
        job.status, job.due = "pending", self.clock
        self._log(job, "released")

    def obey(self, job: ModelJob) -> None:
        self._let_go(job)
        self._cancelled(job)

    def reclaim(self, lost_workers: Collection[str]) -> dict[int, str]:
        """What becomes of the jobs of workers that are silent."""
        found: dict[int, str] = {}
        for job in [job for job in self.of("processing") if job.worker in lost_workers]:
            self._let_go(job)
            job.output = None
            if job.asked:
                self._cancelled(job)
            elif job.attempts < job.max_attempts:
                job.status, job.due = "pending", self.clock
                self._log(job, "reclaimed")
            else:
                job.status = "failed"
                self._log(job, "failed")
                self._ended(job)
            found[job.id] = job.status
        return found

    # -- steps of several of these ----------------------------------------------------------------

    def _let_go(self, job: ModelJob) -> None:
        assert job.lease is not None
        self.lost.append((job.id, job.lease))
        job.lease = None

    def _cancelled(self, job: ModelJob) -> None:
        job.status, job.due, job.asked, job.output, job.wait = "cancelled", None, False, None, None
        job.unmet = set()
        self._log(job, "cancelled")
        self._ended(job)

    def _ended(self, job: ModelJob) -> None:
        if not job.finished:
            return
        for other in self.of("waiting"):
            if job.id in other.unmet:
                other.unmet.discard(job.id)
                if not other.unmet:
                    other.due = self.clock
                    self._log(other, "unblocked")

    def _wake(self, token_id: str) -> None:
        for job in self.waiting_for(token_id):
            job.due = self.clock
            self.touched.add(job.id)

    def _log(self, job: ModelJob, kind: str) -> None:
        job.events.append(kind)
        self.touched.add(job.id)
