"""Pure rules: retry times and JSON, over all values."""

from __future__ import annotations

import json
import random
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataqueue import InvalidPayload
from dataqueue.events import Hook, HookEmitter
from dataqueue.jsonvalue import dumps, loads
from dataqueue.retry import LONGEST_DELAY, RetryPolicy, next_delay, retry_delay
from dataqueue.worker.attempt import storable

seconds = st.integers(0, 366 * 86_400)


@given(st.integers(1, 32_767))
def test_legacy_is_two_to_the_attempts_minutes(attempts: int) -> None:
    """D-RETRYMAXOVERFLOW: also after very many attempts."""
    exact = timedelta(minutes=2**attempts) if attempts < 30 else LONGEST_DELAY
    assert retry_delay(RetryPolicy(), attempts) == min(exact, LONGEST_DELAY)


@given(seconds, st.integers(1, 32_767), seconds | st.none())
def test_fixed_is_always_the_same_and_ignores_the_cap(delay: int, attempts: int, cap: int | None) -> None:
    assert retry_delay(RetryPolicy(delay, False, cap), attempts) == timedelta(seconds=delay)


@given(seconds | st.none(), st.integers(1, 32_767), seconds | st.none(), st.integers())
def test_exponential_stays_within_jitter_and_cap(delay: int | None, attempts: int, cap: int | None, seed: int) -> None:
    policy = RetryPolicy(delay, True, cap)
    got = retry_delay(policy, attempts, rng=random.Random(seed)).total_seconds()
    full = (60 if delay is None else delay) * 2 ** min(attempts, 60)
    full = full if cap is None else min(full, cap)
    longest = LONGEST_DELAY.total_seconds()
    assert min(full * 0.5, longest) - 1e-3 <= got <= min(full, longest) + 1e-3


@given(st.integers(1, 100), st.integers(1, 100))
def test_no_delay_once_the_attempts_are_used_up(attempts: int, most: int) -> None:
    assert (next_delay(RetryPolicy(), attempts, most) is None) == (attempts >= most)


json_values: Any = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(json_values)
def test_json_that_is_taken_comes_back_equal(value: Any) -> None:
    try:
        text = dumps(value)
    except InvalidPayload:
        return
    assert loads(text) == value and "\\u0000" not in json.dumps(text)
    text.encode()


@given(st.text(st.characters()))
def test_any_message_can_be_stored(text: str) -> None:
    stored = storable(text)
    assert "\x00" not in stored
    stored.encode()


@pytest.mark.parametrize("value", [float("nan"), -0.0, 1e23, {"a": {1: 2}}, {"a": ["\ud800"]}])
def test_what_is_refused_says_where(value: Any) -> None:
    with pytest.raises(InvalidPayload, match=r"payload\.deep\[0\]"):
        dumps({"deep": [value]})


def test_listeners_are_called_in_order_and_once_if_asked() -> None:
    emitter = HookEmitter()
    seen: list[int] = []
    emitter.on("job:added", lambda hook: seen.append(1))
    emitter.on("job:added", lambda hook: seen.append(2), once=True)
    for _ in range(2):
        emitter.emit(Hook("job:added"))
    emitter.remove_all("job:added")
    emitter.emit(Hook("job:added"))
    assert seen == [1, 2, 1]
