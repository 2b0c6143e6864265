"""Tokens: what a job waits for until somebody outside answers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, get_args
from uuid import uuid4

from dataqueue.errors import DataQueueError, InvalidJob
from dataqueue.options import check_duration, check_name, check_tags

TokenStatus = Literal["waiting", "completed", "failed", "timed_out"]
TOKEN_STATUSES: tuple[TokenStatus, ...] = get_args(TokenStatus)
MAX_TIMEOUT = timedelta(days=365)
MAX_ERROR = 10_000
TIMED_OUT = "Token timed out"
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A token as the store has it. ``output`` is what it was completed with, ``error`` why it failed."""

    id: str
    status: TokenStatus
    created_at: datetime
    job_id: int | None = None
    output: Any = None
    error: str | None = None
    timeout_at: datetime | None = None
    completed_at: datetime | None = None
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TokenResult:
    """What a job that waited for a token is told: ``ok`` and its ``output``, or the ``error``."""

    ok: bool
    output: Any = None
    error: str | None = None

    def unwrap(self) -> Any:
        """The output.

        Raises:
            TokenFailed: it timed out, or somebody has let it fail.
        """
        if not self.ok:
            raise TokenFailed(self.error or TIMED_OUT)
        return self.output


class TokenFailed(DataQueueError):
    """A token timed out, or somebody has let it fail. Raised by ``TokenResult.unwrap()``."""


class TokenNotFound(DataQueueError, LookupError):
    """There is no token with this id."""

    def __init__(self, token_id: str) -> None:
        super().__init__(f"There is no token {token_id!r:.80}: it was never made in this queue, or went with its job.")
        self.token_id = token_id


class TokenCompleted(DataQueueError):
    """A token was completed, failed or timed out before; ``token`` tells how. Nothing was changed."""

    def __init__(self, token: Token) -> None:
        what = {"completed": f"was completed with {token.output!r:.200}", "failed": f"failed: {token.error}"}.get(
            token.status, "timed out"
        )
        when = f" at {token.completed_at:%Y-%m-%d %H:%M:%S} UTC" if token.completed_at else ""
        super().__init__(f"The token {token.id} {what}{when}. The first answer stands; nothing was changed.")
        self.token = token


@dataclass(frozen=True, slots=True)
class TokenSpec:
    """A checked token to be made. ``timeout_ms`` counts from its making, by the store's clock."""

    id: str
    timeout_ms: int | None
    tags: tuple[str, ...]


def make_token(timeout: object, tags: object) -> TokenSpec:
    """A token with an id that nobody can guess.

    Args:
        timeout: a timedelta, or a text such as ``10m`` or ``7d``; None for none.

    Raises:
        InvalidJob: not such a time, or over 365 days.
    """
    return TokenSpec(f"wp_{uuid4()}", check_timeout(timeout), check_tags(tags) or ())


def check_timeout(timeout: object) -> int | None:
    if timeout is None or timeout == "":
        return None
    if isinstance(timeout, str):
        match = re.fullmatch(r"(\d{1,9})([smhd])", timeout)
        if match is None:
            raise InvalidJob(
                f"timeout is {timeout!r:.80}; write a timedelta, or a number and s, m, h or d, such as 10m or 7d."
            )
        timeout = timedelta(**{_UNITS[match[2]]: int(match[1])})
    return check_duration(timeout, "timeout", timedelta(0), MAX_TIMEOUT)


def check_token_id(token_id: object) -> str:
    return check_name(token_id, "token_id")


def result_of(token: Token) -> TokenResult | None:
    """None while it waits."""
    match token.status:
        case "waiting":
            return None
        case "completed":
            return TokenResult(True, token.output)
        case "failed":
            return TokenResult(False, error=token.error)
        case "timed_out":
            return TokenResult(False, error=TIMED_OUT)
