"""JSON text from Python values, refusing whatever would not come back equal from either store."""

from __future__ import annotations

import json
import math
from decimal import Decimal
from typing import Any, cast

from dataqueue.errors import InvalidPayload

MAX_DEPTH = 200
MAX_BYTES = 64 * 1024 * 1024
_EXACT_FLOATS_BELOW = 1e16

_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def dumps(value: object, what: str = "payload") -> str:
    """Compact JSON text of ``value``.

    Refused, with the place in the value: NaN and infinities; negative zero and floats from 1e16 that
    are not whole to the last digit (jsonb would change them); keys that are not strings; NUL
    characters and lone surrogates (Postgres has no room for them); more than ``MAX_DEPTH`` levels;
    more than ``MAX_BYTES`` of text; anything that is not a JSON value.

    Raises:
        InvalidPayload: with the path of what was refused. ``what`` names the value in the message.
    """
    _check(value, what, 0)
    try:
        text = _encode(value)
    except (TypeError, ValueError) as error:  # an int of over 4,300 digits, a subclass with a surprise
        raise InvalidPayload(f"{what} is not a JSON value: {error}. Nothing was stored.") from error
    if len(text) > MAX_BYTES:
        raise InvalidPayload(
            f"{what} is {len(text):,} characters of JSON; the limit is {MAX_BYTES:,}. Nothing was stored. "
            "Keep large data elsewhere and put a reference into the job."
        )
    return text


def loads(text: str | bytes) -> Any:
    """The Python value of JSON text that came from a store."""
    return json.loads(text)


_Place = tuple["_Place", str | int] | str
"""Where in the value we are: a chain that costs nothing until an error has to spell it."""


def _spell(place: _Place) -> str:
    if isinstance(place, str):
        return place
    parent, step = place
    spelled = _spell(parent)
    return f"{spelled}[{step}]" if isinstance(step, int) else f"{spelled}.{step}"


def check_text(text: str, place: _Place) -> None:
    """Refuse characters that Postgres cannot hold in text, on every backend alike."""
    if "\x00" in text:
        raise InvalidPayload(
            f"{_spell(place)} has a NUL character (\\x00), which Postgres cannot store. Nothing was stored. "
            "Remove it first."
        )
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InvalidPayload(
                f"{_spell(place)} has a lone surrogate (position {error.start}), which is not Unicode text. "
                "Nothing was stored. Decode the text with errors='replace' first."
            ) from None


def _check(value: object, place: _Place, depth: int) -> None:
    if isinstance(value, str):
        check_text(value, place)
    elif value is None or isinstance(value, int):
        pass
    elif isinstance(value, float):
        _check_float(value, place)
    elif isinstance(value, dict):
        _check_depth(place, depth)
        for key, item in cast("dict[object, object]", value).items():
            if not isinstance(key, str):
                raise InvalidPayload(
                    f"{_spell(place)} has the key {key!r} of type {type(key).__name__}; JSON keys are "
                    "strings. Nothing was stored."
                )
            check_text(key, (place, "(key)"))
            _check(item, (place, key), depth + 1)
    elif isinstance(value, list | tuple):
        _check_depth(place, depth)
        for index, item in enumerate(cast("list[object]", value)):
            _check(item, (place, index), depth + 1)
    else:
        kind = type(value)
        raise InvalidPayload(
            f"{_spell(place)} is a {kind.__module__}.{kind.__qualname__}, which is not a JSON value. Nothing "
            "was stored. Give the job a typed payload (pydantic model, dataclass) or convert it first."
        )


def _check_depth(place: _Place, depth: int) -> None:
    if depth >= MAX_DEPTH:
        raise InvalidPayload(
            f"{_spell(place)[:80]}… is nested deeper than {MAX_DEPTH} levels. Nothing was stored. Flatten the value."
        )


def _check_float(number: float, place: _Place) -> None:
    if not math.isfinite(number):
        raise InvalidPayload(
            f"{_spell(place)} is {number}, which JSON does not have. Nothing was stored. Send None instead."
        )
    if number == 0.0 and math.copysign(1, number) < 0:
        raise InvalidPayload(
            f"{_spell(place)} is -0.0, and jsonb would make it 0. Nothing was stored. Send 0.0 or a string."
        )
    if abs(number) >= _EXACT_FLOATS_BELOW and Decimal(repr(number)) != Decimal(number):
        raise InvalidPayload(
            f"{_spell(place)} is {number!r}, which jsonb would read as another number. Nothing was stored. "
            "Send an integer or a string."
        )
