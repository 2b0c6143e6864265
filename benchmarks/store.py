"""What a store has to offer to be measured: empty places, the raw reference, and a look at the result."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

from benchmarks.report import Limit


class Store(Protocol):
    """The same tables twice: ours are worked through the library, the raw ones by the driver alone.

    A *place* is the URL of an empty, migrated corner of the store. Rates are jobs a second; whatever
    they start from (connections, jobs added beforehand) is there before the clock starts.
    """

    limits: dict[str, tuple[Limit, Limit]]
    """Of each ratio: what it must reach now, and in the end."""

    def describe(self) -> dict[str, str]:
        """Versions and settings that the figures depend on."""
        ...

    def fresh(self) -> AbstractContextManager[str]:
        """A place of its own, gone afterwards."""
        ...

    def settle(self, place: str) -> None:
        """Let the store do now what it would do while the clock runs: checkpoints, statistics."""
        ...

    def add_history(self, place: str, jobs: int) -> None:
        """Finished jobs that lie in the way."""
        ...

    def check_added(self, place: str, jobs: int) -> None:
        """Raise if this many jobs with their events are not there."""
        ...

    def check_drained(self, place: str, jobs: int) -> None:
        """Raise if this many fresh jobs are not completed, with all their events. Then forget them."""
        ...

    # -- the reference ------------------------------------------------------------------------------

    def raw_single(self, place: str, jobs: int) -> float:
        """Jobs a second, one awaited insert (with its event) at a time."""
        ...

    def raw_bulk(self, place: str, jobs: int) -> float:
        """Jobs a second by the plain bulk form of the store, with events."""
        ...

    def raw_drain(self, place: str, jobs: int, settle: Callable[[], None]) -> float:
        """Jobs a second: claim a batch, complete it, with events; nothing else. ``settle`` before the clock."""
        ...

    def raw_latencies(self, place: str, jobs: int, gap: float) -> list[float]:
        """Seconds from an insert to its claim by a listener in a process of its own."""
        ...
