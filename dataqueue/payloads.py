"""Payloads and results as typed Python values on our side, JSON text on the store's side."""

from __future__ import annotations

import sys
import typing
from functools import cached_property
from typing import Any, Generic, TypeVar

from dataqueue.errors import ConfigError, InvalidPayload
from dataqueue.jsonvalue import dumps, loads

if typing.TYPE_CHECKING:
    from pydantic import TypeAdapter

T = TypeVar("T")

_UNTYPED = (Any, object, None, type(None))


class Codec(Generic[T]):
    """Turns values of one annotated type into JSON text and back.

    An annotation of ``Any`` or ``object`` (or none) means plain JSON: no validation beyond
    ``dataqueue.jsonvalue``, and pydantic is not even imported.
    """

    def __init__(self, annotation: Any, what: str = "payload") -> None:
        self.annotation = annotation
        self.what = what
        self.typed = not any(annotation is plain for plain in _UNTYPED)

    @cached_property
    def _adapter(self) -> TypeAdapter[Any]:
        from pydantic import PydanticUserError, TypeAdapter

        annotation = self.annotation
        if sys.version_info < (3, 12) and isinstance(annotation, typing._TypedDictMeta):  # type: ignore[attr-defined]
            annotation = _modern_typed_dict(annotation)
        try:
            return TypeAdapter(annotation)
        except PydanticUserError as error:
            raise ConfigError(
                f"The {self.what} type {self.annotation!r} cannot be validated: {error.message}"
            ) from error

    def check(self) -> None:
        """Build the validator now, so that an impossible annotation is an error where it stands."""
        if self.typed:
            _ = self._adapter

    def encode(self, value: object) -> str:
        """JSON text that :meth:`decode` is known to accept.

        Errors have no cause: pydantic's would print the value into every log.

        Raises:
            InvalidPayload: the value does not validate or is not JSON.
        """
        if not self.typed:
            return dumps(value, self.what)
        from pydantic import ValidationError
        from pydantic_core import PydanticSerializationError

        adapter = self._adapter
        try:
            if _is_plain(value):
                value = self._from_plain(value)
            plain = adapter.dump_python(value, mode="json", by_alias=True, round_trip=True, warnings="error")
            text = dumps(plain, self.what)
            adapter.validate_json(text)
        except ValidationError as error:
            raise InvalidPayload(self._explain(error)) from None
        except PydanticSerializationError:
            raise InvalidPayload(self._find_wrong(value)) from None
        return text

    def _find_wrong(self, value: object) -> str:
        """Which field of an object that was never validated does not fit."""
        from pydantic import ValidationError

        try:
            self._adapter.validate_python(dict(vars(value)))
        except ValidationError as error:
            return self._explain(error)
        except TypeError:
            pass
        return f"{self.what} is not a valid {self._name}: a value has the wrong type."

    def _from_plain(self, value: object) -> Any:
        from pydantic import ValidationError

        try:
            return self._adapter.validate_python(value)
        except ValidationError:  # a strict model takes "2026-01-01" for a date from JSON only
            return self._adapter.validate_json(dumps(value, self.what))

    def decode(self, text: str | bytes) -> T:
        """The typed value of JSON text from the store.

        Raises:
            InvalidPayload: the text does not validate (another program, or an older version, wrote it).
        """
        if not self.typed:
            return loads(text)
        from pydantic import ValidationError

        try:
            return self._adapter.validate_json(text)
        except ValidationError as error:
            raise InvalidPayload(self._explain(error)) from None

    @property
    def _name(self) -> str:
        return getattr(self.annotation, "__name__", None) or str(self.annotation)

    def _explain(self, error: Any) -> str:
        # The input is left out on purpose: payloads may hold secrets, and errors reach logs.
        problems = "; ".join(
            f"{'.'.join(str(step) for step in item['loc']) or '(root)'}: {item['msg']}"
            for item in error.errors(include_input=False, include_url=False)[:5]
        )
        return f"{self.what} is not a valid {self._name}: {problems}."


def _is_plain(value: object) -> bool:
    return value is None or type(value) in (dict, list, tuple, str, int, float, bool)


def _modern_typed_dict(old: Any) -> Any:
    """pydantic reads only typing_extensions' TypedDict before Python 3.12; give it the same fields."""
    import typing_extensions

    hints = typing.get_type_hints(old, include_extras=True)
    fields: dict[str, Any] = {}
    for name, hint in hints.items():
        origin = typing.get_origin(hint)
        if origin in (typing.Required, typing.NotRequired):
            hint = typing.get_args(hint)[0]
        if isinstance(hint, typing._TypedDictMeta):  # type: ignore[attr-defined]
            hint = _modern_typed_dict(hint)
        required = name in old.__required_keys__
        fields[name] = hint if required else typing_extensions.NotRequired[hint]
    return typing_extensions.TypedDict(old.__name__, fields)  # type: ignore[misc]
