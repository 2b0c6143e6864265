"""What a job has done so far: its steps and waits, recorded one by one, and the rules of reading them again.

Pure rules. A handler runs from its top each time that it is taken up again; what stands in the records is not done
again, but its result is given.
"""

from __future__ import annotations

import calendar
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, get_args

from dataqueue.errors import InvalidJob, StepsChanged
from dataqueue.jsonvalue import check_text

StepKind = Literal["step", "sleep", "token", "jobs"]
KINDS: tuple[StepKind, ...] = get_args(StepKind)
MAX_NAME = 255
MAX_WAIT = timedelta(days=36_500)


@dataclass(slots=True)
class StepRecord:
    """One step or wait of a job, as it is stored. ``result`` is JSON text. Not ``done``: a wait that goes on.

    ``until`` is when a wait ends at the latest, ``token_id`` and ``job_ids`` are what it waits for; ``place`` is the line
    of the handler.
    """

    seq: int
    name: str
    kind: StepKind
    result: str | None = None
    done: bool = True
    until: datetime | None = None
    token_id: str | None = None
    job_ids: tuple[int, ...] = ()
    place: str | None = None
    attempts: int = 1
    started_at: datetime | None = None
    done_at: datetime | None = None

    @property
    def took_ms(self) -> float:
        """How long it took by the worker's clock, which may have been set back meanwhile; 0 where that is not known."""
        if self.started_at is None or self.done_at is None:
            return 0.0
        return max(0.0, (self.done_at - self.started_at).total_seconds() * 1000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A step or wait of a job's journal, as ``get_job_steps`` gives it. ``result`` is its JSON value.

    ``kind`` is ``step`` (also of a token that was made), or what was waited for: ``sleep`` (time), ``token``, ``jobs``.
    """

    seq: int
    name: str
    kind: StepKind
    done: bool
    result: object
    attempts: int
    started_at: datetime
    done_at: datetime | None
    until: datetime | None
    token_id: str | None
    job_ids: tuple[int, ...]
    place: str | None

    @property
    def duration(self) -> timedelta | None:
        """How long it took; None while it goes on."""
        return None if self.done_at is None else self.done_at - self.started_at


def check_name(name: object) -> str:
    """
    Raises:
        InvalidJob: no text of 1 to 255 characters, or one that begins with two underscores, which are ours.
    """
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME:
        raise InvalidJob(f"A step needs a name of 1 to {MAX_NAME} characters, not {name!r:.80}.")
    if name.startswith("__"):
        raise InvalidJob(f"The step name {name!r:.80} begins with two underscores; those are for dataqueue itself.")
    check_text(name, "the name of a step")
    return name


class Journal:
    """The records of one job during one attempt: what was there, what was visited, what comes next."""

    def __init__(self, records: Sequence[StepRecord]) -> None:
        self._records = {record.name: record for record in records}
        self._next_seq = 1 + max((record.seq for record in records), default=0)
        self._visited: dict[str, str] = {}
        self._waits = 0

    def visit(self, name: str, kind: StepKind, place: str) -> StepRecord | None:
        """The record of what the handler is about to do, if it is there already.

        Raises:
            InvalidJob: the handler has used this name before.
            StepsChanged: something else stands under it.
        """
        earlier = self._visited.get(name)
        if earlier is not None:
            raise InvalidJob(
                f"The step name {name!r} is used twice: at {earlier} and at {place}. Give each step of a handler a name "
                "of its own, with a number in a loop: the second would be given the first one's result."
            )
        self._visited[name] = place
        record = self._records.get(name)
        if record is not None and record.kind != kind:
            raise StepsChanged(
                f"{place}: the handler is at {_what(kind)} {name!r}, but in an earlier run it was {_what(record.kind)} "
                f"(at {record.place or 'an unknown line'}). Its code has changed while the job was under way. Let the old "
                "code finish such jobs, or cancel this one and add it again; new steps and waits belong behind the old ones."
            )
        return record

    def next_wait(self) -> str:
        """The name of a wait without one, by its number in this run."""
        self._waits += 1
        return f"__wait_{self._waits - 1}"

    def next_seq(self) -> int:
        self._next_seq += 1
        return self._next_seq - 1

    def keep(self, record: StepRecord) -> None:
        self._records[record.name] = record

    def forget(self, names: Sequence[str]) -> None:
        """These steps were rolled back: the handler may do them again."""
        for name in names:
            self._records.pop(name, None)
            self._visited.pop(name, None)

    def not_visited(self) -> list[StepRecord]:
        """What earlier runs have recorded and this one has not come by: the handler has changed, or does not always do
        the same."""
        return sorted((r for name, r in self._records.items() if name not in self._visited), key=lambda r: r.seq)

    def check_wait(self, place: str) -> None:
        """Before a new wait begins, nothing may be left over.

        Raises:
            StepsChanged: an earlier run has already waited for something further down.
        """
        later = next((record for record in self.not_visited() if record.kind != "step"), None)
        if later is not None:
            raise StepsChanged(
                f"{place}: the handler is about to wait for something new, but an earlier run has recorded "
                f"{_what(later.kind)} {later.name!r} (at {later.place or 'an unknown line'}), which this one has not come by. "
                "Its code has changed while the job was under way, or it does not always take the same way: what decides "
                "about it must come from the payload or from a step."
            )


def _what(kind: StepKind) -> str:
    return {
        "step": "the step",
        "sleep": "the wait for a time",
        "token": "the wait for a token",
        "jobs": "the wait for jobs",
    }[kind]


def add_calendar(moment: datetime, *, years: int, months: int, rest: timedelta) -> datetime:
    """So many calendar years and months later, on the same day or the last one that the month has, and then the rest.

    Raises:
        InvalidJob: it does not lie ahead, or too far.
    """
    index = moment.year * 12 + moment.month - 1 + years * 12 + months
    year, month = divmod(index, 12)
    if not 1 <= year <= 9998:
        raise InvalidJob(f"{years} years and {months} months from now is out of range.")
    day = min(moment.day, calendar.monthrange(year, month + 1)[1])
    return moment.replace(year=year, month=month + 1, day=day) + rest
