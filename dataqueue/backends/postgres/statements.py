"""The texts of ``queries/``, with the schema's name put in."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import LiteralString, cast

from dataqueue.errors import ConfigError

_PARTS = ("buried", "chosen", "claimed", "deleted", "left_waits", "schedule", "settings")
"""Texts that several statements have in common: ``_NAME.sql``, put in for ``{NAME}``."""
MAX_SCHEMA_BYTES = 50
"""So that ``dataqueue:`` and the name fit the 63 bytes of a NOTIFY channel."""


@cache
def _text(name: str) -> str:
    return (resources.files("dataqueue.backends.postgres.queries") / f"{name}.sql").read_text("utf-8")


def quote_identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def check_schema(name: str) -> str:
    """Refuse a schema name that does not fit; any other may be as odd as Postgres allows.

    Raises:
        ConfigError: empty, too long, or with a character that has a meaning here.
    """
    if not 0 < len(name.encode(errors="replace")) <= MAX_SCHEMA_BYTES or set(name) & set("%{}\x00") or "$body$" in name:
        raise ConfigError(
            f"The schema name {name!r:.80} does not fit: 1 to {MAX_SCHEMA_BYTES} bytes, without % {{ }} $body$ and NUL."
        )
    return name


def fill(text: str, schema: str) -> str:
    """Put the schema into a statement or migration. The only text that is ever put into SQL: a quoted name."""
    channel = channel_of(schema).replace("'", "''")
    quoted = quote_identifier(schema)
    within_text = "'" + quoted.replace("'", "''")  # in 'schema.table'::regclass and nextval('schema.sequence')
    return text.replace("'{schema}", within_text).replace("{schema}", quoted).replace("{channel}", channel)


def channel_of(schema: str) -> str:
    return f"dataqueue:{schema}"


class Statements:
    """``statements("add_job")`` gives that statement's text for one schema."""

    def __init__(self, schema: str) -> None:
        self.schema = schema
        self.channel = channel_of(schema)
        self._texts: dict[tuple[str, int], str] = {}

    def __call__(self, name: str) -> LiteralString:
        return self._get(name, 0)

    def claim(self, name: str, limit: int) -> LiteralString:
        """A statement of the claim, with its two inner limits as literals of a few sizes (each size is planned once)."""
        size = next((size for size in (1, 8, 32, 128, 512) if limit <= size), limit)
        return self._get(name, size)

    def _get(self, name: str, size: int) -> LiteralString:
        text = self._texts.get((name, size))
        if text is None:
            text = _text(name)
            for part in _PARTS:
                text = text.replace(f"{{{part}}}", _text(f"_{part}").rstrip())
            text = fill(text, self.schema)
            if size:
                text = text.replace("{each}", str(size + 32)).replace("{all}", str(2 * size + 32))
            self._texts[name, size] = text
        # Not literally literal: but nothing except a quoted identifier was put into it.
        return cast(LiteralString, text)
