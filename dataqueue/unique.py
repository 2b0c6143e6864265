"""Jobs of which there shall be one at a time, or one within a time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from dataqueue.errors import InvalidJob
from dataqueue.jsonvalue import check_text

if TYPE_CHECKING:
    from dataqueue.options import JobSpec

_LONGEST = timedelta(days=366)


@dataclass(frozen=True, slots=True)
class Unique:
    """Let there be one such job of its type: ``unique=Unique("user-17")``, or ``unique=True`` for its payload.

    A second one is not added while the first is unfinished (or, with a ``window``, for so long from when the first was
    added, whatever became of it); the handle then names the first, with ``created`` False.

    Args:
        key: what must not occur twice; the payload by default. Keys of different job types have nothing to do with
            each other.
        window: how long it holds, by the store's clock, up to 366 days; while the job is unfinished by default.
        replace: debounce: where the first is still pending, it takes the payload and the time (``run_at``, ``delay``)
            of the second. Where it runs already, the second is added. Not together with ``window``.

    Raises:
        InvalidJob: a key that is no text of 1 to 255 characters, a window out of its range, or both of the last two.
    """

    key: str | None = None
    window: timedelta | None = None
    replace: bool = False

    def __post_init__(self) -> None:
        if self.key is not None:
            if not isinstance(self.key, str) or not 0 < len(self.key) <= 255:  # pyright: ignore[reportUnnecessaryIsInstance]
                raise InvalidJob(f"The key of Unique must be a text of 1 to 255 characters, not {self.key!r:.80}.")
            check_text(self.key, "the key of Unique")
        if self.window is not None:
            if not isinstance(self.window, timedelta) or not timedelta(0) < self.window <= _LONGEST:  # pyright: ignore[reportUnnecessaryIsInstance]
                raise InvalidJob(f"window must be a timedelta above 0, up to 366 days, not {self.window!r:.80}.")
            if self.replace:
                raise InvalidJob("Unique takes window= or replace=True, not both.")


@dataclass(frozen=True, slots=True)
class UniqueKey:
    """Checked: the key with its type, the window in milliseconds."""

    key: str
    window_ms: int | None
    replace: bool


def check_unique(value: object, job_type: str, payload: str) -> UniqueKey | None:
    """What the option ``unique`` means for this job. ``payload``: its JSON text.

    Raises:
        InvalidJob: neither a Unique nor a bool.
    """
    if value is None or value is False:
        return None
    unique = Unique() if value is True else value
    if not isinstance(unique, Unique):
        raise InvalidJob(f'unique must be True or Unique("key", …), not {value!r:.80}. Nothing was stored.')
    key = f"={unique.key}" if unique.key is not None else f"#{_digest(payload)}"
    window_ms = None if unique.window is None else -(-unique.window // timedelta(milliseconds=1))
    return UniqueKey(f"{job_type}{key}", window_ms, unique.replace)


def _digest(payload: str) -> str:
    """Of the value, however its members are ordered."""
    canonical = json.dumps(json.loads(payload), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def latest_of_replaced(specs: Sequence[JobSpec]) -> list[JobSpec]:
    """The same jobs; of those that replace each other within one call, each as the last one is."""
    last = {spec.unique.key: spec for spec in specs if spec.unique is not None and spec.unique.replace}
    return [last.get(spec.unique.key, spec) if spec.unique is not None else spec for spec in specs]
