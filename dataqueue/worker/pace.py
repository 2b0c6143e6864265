"""When to claim and how far ahead: pure decisions of a worker, without I/O."""

from __future__ import annotations

import time

FOLLOW_UPS = (0.05, 0.25, 1.0)
"""Seconds after coming short at which to look again, for what was committed while we were going to sleep."""
PROMOTE_EVERY = 0.2
"""Seconds between looks for delayed jobs that have fallen due, while busy."""
SATURATED_AFTER = 3
PATIENCE = 8
PASSED_OVER = 0.002
"""Seconds after which to look again for jobs that were passed over; twice as long each time that none was found."""


class Idle:
    """Whether it makes sense to claim now, and when next."""

    def __init__(self, poll_interval: float) -> None:
        self._poll_interval = poll_interval
        self._follow_ups: list[float] = []
        self._next_claim = 0.0
        self._next_promote = 0.0
        self._next_due = float("inf")
        self._full_in_a_row = 0
        self._passed_over = 0
        self.looks = 0
        """How often somebody said that there is something to find."""

    def may_claim(self) -> bool:
        return time.monotonic() >= min(self._next_claim, self._next_due)

    def seconds_to_next_claim(self) -> float:
        return max(0.0, min(self._next_claim, self._next_due) - time.monotonic())

    def busy(self) -> None:
        """A claim came back full: there is more."""
        self._passed_over = 0
        self._full_in_a_row += 1
        self._next_claim = 0.0

    @property
    def is_saturated(self) -> bool:
        """Full claims in a row: nobody needs to wake this worker."""
        return self._full_in_a_row >= SATURATED_AFTER

    def came_short(self, *, look_again: bool, looks: int) -> None:
        """A claim found less than there was room for: sleep until woken, due, or the next poll.

        ``look_again``: at once, since something may have been added before we asked to be woken.
        ``looks`` is the count from before the claim: whoever spoke up since then may have meant what
        it did not see.
        """
        now = time.monotonic()
        self._full_in_a_row = self._passed_over = 0
        if looks != self.looks and not look_again:
            return
        if look_again:
            self._follow_ups = list(FOLLOW_UPS)
            self._next_claim = 0.0
            return
        wait = self._follow_ups.pop(0) if self._follow_ups else self._poll_interval
        self._next_claim = now + min(wait, self._poll_interval)
        self._next_promote = 0.0

    def passed_over(self, *, found: bool) -> None:
        """Jobs were passed over that others have in hand, or that limits kept back for a moment: look again soon, and
        less and less soon while nothing is found."""
        self._full_in_a_row = 0
        self._passed_over = 0 if found else self._passed_over + 1
        self._next_claim = time.monotonic() + min(PASSED_OVER * 2**self._passed_over, self._poll_interval, 1.0)

    @property
    def may_pass_over(self) -> bool:
        """Whether it makes sense, for a single batch, to look again for what was passed over."""
        return self._passed_over < PATIENCE

    @property
    def is_drained(self) -> bool:
        return self._next_claim == float("inf")

    def due_within(self, milliseconds: float) -> None:
        """A job falls due then: a retry that this worker has just put off, or one that a rate lets start."""
        if self._next_claim != float("inf"):
            self._next_due = min(self._next_due, time.monotonic() + milliseconds / 1000)

    def drained(self) -> None:
        """A single batch found no more: do not look again."""
        self._next_claim = self._next_due = float("inf")

    def look_now(self) -> None:
        self.looks += 1
        self._next_claim = 0.0
        self._next_promote = 0.0

    def should_promote(self) -> bool:
        return time.monotonic() >= min(self._next_promote, self._next_due)

    def promoted(self, next_due_ms: float | None) -> None:
        now = time.monotonic()
        self._next_promote = now + PROMOTE_EVERY
        self._next_due = float("inf") if next_due_ms is None else now + next_due_ms / 1000


class Prefetch:
    """How many jobs to claim ahead of a free slot.

    Ahead only while jobs are so short that a slot frees within ``SHORT``: then the next claim's round
    trip costs nothing. A job that waits here longer than ``max_wait`` is handed back.
    """

    SHORT = 0.05
    max_wait = 0.5

    def __init__(self, most: int) -> None:
        self._most = most
        self._average = 1.0

    def observe(self, seconds: float) -> None:
        self._average += (seconds - self._average) * 0.1

    def misjudged(self) -> None:
        self._average = 1.0

    def size(self) -> int:
        return self._most if self._average < self.SHORT else 0
