"""No key with times may be forgotten by advance_clock."""

from __future__ import annotations

from dataqueue.backends.redis.layout import HEAD, KEYS, TIMES
from dataqueue.backends.redis.time_travel import MOVED, TIMELESS


def test_every_key_is_moved_or_holds_no_times_of_jobs() -> None:
    assert set(KEYS) == MOVED | TIMELESS
    assert not MOVED & TIMELESS


def test_every_field_of_the_head_is_known() -> None:
    """A new one that is no time, yet as long as one, must be left out of TIMES."""
    assert set(TIMES) == {name for name, _ in HEAD} - {
        "status", "reason", "progress", "flags", "type", "attempts", "max", "prio", "lease",
    }  # fmt: skip
