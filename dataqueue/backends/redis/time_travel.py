"""For :func:`dataqueue.testing.advance_clock` alone: every stored time moves into the past."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dataqueue.backends.redis.layout import TIMES
from dataqueue.errors import ConfigError

if TYPE_CHECKING:
    from dataqueue.backends.redis.backend import RedisBackend

MOVED: Final = frozenset({"h", "s", "er", "ev", "rd", "dl", "pk", "cf", "st", "tk", "te", "to", "cr", "cd"})
"""The keys that hold times of jobs; a test sees to it that each key is in one of the two sets."""
TIMELESS: Final = frozenset(
    {
        "m",
        "o",
        "ix",
        "tg",
        "id",
        "ty",
        "tn",
        "wk",
        "wl",
        "ls",
        "gr",
        "gl",
        "dp",
        "un",
        "cq",
        "uq",
        "ul",
        "sn",
        "tj",
        "tw",
        "lw",
        "lf",
    }
)
"""Those that hold none, or times of processes (wk, wl, lw, lf), which go on."""
MOST = 100_000
"""Jobs that one script may rewrite: it blocks the server meanwhile."""


async def move_back(backend: RedisBackend, ms: int) -> None:
    """Subtract ``ms`` from every time of jobs, events and limits, in one script.

    Raises:
        ConfigError: these are more jobs than a test has. Nothing was changed.
    """
    answer = await backend.call("move_back", ms, MOST, *TIMES)
    if answer < 0:
        raise ConfigError(
            f"advance_clock is for tests; the queue at {backend.location()} has more than {MOST:,} jobs. Nothing was changed."
        )
