"""When a failed job runs again: pure rules, no I/O.

The formulas are those of the TypeScript library, so that both give a job the same future:

- *legacy* (no retry setting at all): ``2 ** attempts`` minutes, no jitter;
- *exponential* (``retry_backoff`` true, or unset beside another setting):
  ``min(retry_delay_max, retry_delay * 2 ** attempts)`` seconds, times a random factor in [0.5, 1.0);
- *fixed* (``retry_backoff`` false): exactly ``retry_delay`` seconds.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import timedelta

DEFAULT_DELAY_SECONDS = 60
LONGEST_DELAY = timedelta(days=366)
"""No retry is put off longer: beyond it the powers of two overflow every store's clock."""

_LARGEST_EXPONENT = 40  # 2**40 seconds is 34,000 years: any base is past LONGEST_DELAY by then


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """A job's retry settings. ``delay`` and ``delay_max`` are whole seconds; all None means *legacy*."""

    delay: int | None = None
    backoff: bool | None = None
    delay_max: int | None = None

    @property
    def is_legacy(self) -> bool:
        return self.delay is None and self.backoff is None and self.delay_max is None


def retry_delay(policy: RetryPolicy, attempts: int, *, rng: random.Random | None = None) -> timedelta:
    """How long to wait before the next attempt.

    Args:
        policy: the job's retry settings.
        attempts: attempts made so far, the failed one included (1 after the first failure).
        rng: source of the jitter; the module's own when None.
    """
    growth = 2 ** min(attempts, _LARGEST_EXPONENT)
    if policy.is_legacy:
        seconds = growth * 60.0
    elif policy.backoff is False:
        seconds = float(DEFAULT_DELAY_SECONDS if policy.delay is None else policy.delay)
    else:
        base = DEFAULT_DELAY_SECONDS if policy.delay is None else policy.delay
        seconds = float(base * growth)
        if policy.delay_max is not None:
            seconds = min(float(policy.delay_max), seconds)
        seconds *= 0.5 + (rng or random).random() / 2
    return timedelta(seconds=min(seconds, LONGEST_DELAY.total_seconds()))


def next_delay(
    policy: RetryPolicy, attempts: int, max_attempts: int, *, rng: random.Random | None = None
) -> timedelta | None:
    """The delay before the next attempt, or None when the job is exhausted."""
    if attempts >= max_attempts:
        return None
    return retry_delay(policy, attempts, rng=rng)
