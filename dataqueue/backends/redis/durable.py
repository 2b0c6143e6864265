"""Steps, waits and tokens on Redis."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, cast

from dataqueue.backends.base import Waiting
from dataqueue.backends.redis.call import store_errors
from dataqueue.backends.redis.layout import TOKEN_CODES, pack_id, pack_int, unpack_int
from dataqueue.backends.redis.records import floor_ms, milliseconds_of, moment, moment_or_none
from dataqueue.steps import StepRecord
from dataqueue.tokens import Token, TokenSpec, TokenStatus

if TYPE_CHECKING:
    from dataqueue.backends.redis.backend import RedisBackend

_PAGE = 1000
_STATUSES: dict[int, TokenStatus] = {code: cast(TokenStatus, name) for name, code in TOKEN_CODES.items()}
_TOKEN_TIMES = 25


def _record(step: StepRecord) -> str:
    """What of a record never changes."""
    fields: dict[str, Any] = {"name": step.name, "kind": step.kind, "place": step.place, "attempts": step.attempts}
    if step.kind == "token":
        fields["token_id"] = step.token_id
    elif step.kind == "jobs":
        fields["job_ids"] = step.job_ids
    return json.dumps(fields)


def _record_from(seq: int, data: bytes) -> StepRecord:
    until, started, done = (unpack_int(data[at : at + 6]) for at in (0, 6, 12))
    text, _, result = data[18:].partition(b"\n")
    fields: dict[str, Any] = json.loads(text)
    return StepRecord(
        seq,
        fields["name"],
        fields["kind"],
        result.decode() or None,
        done > 0,
        moment_or_none(until),
        fields.get("token_id"),
        tuple(fields.get("job_ids", ())),
        fields["place"],
        fields["attempts"],
        moment_or_none(started),
        moment_or_none(done),
    )


def token_from(token_id: str, data: bytes) -> Token:
    job_id, created, timeout, completed = (unpack_int(data[at : at + 6]) for at in (1, 7, 13, 19))
    tags, _, text = data[_TOKEN_TIMES:].partition(b"\n")
    status = _STATUSES[data[0]]
    return Token(
        id=token_id,
        status=status,
        created_at=moment(created),
        job_id=job_id or None,
        output=json.loads(text) if status == "completed" else None,
        error=text.decode() if status == "failed" else None,
        timeout_at=moment_or_none(timeout),
        completed_at=moment_or_none(completed),
        tags=tuple(json.loads(tags)),
    )


def describe_wait(outcome: Waiting) -> tuple[Any, ...]:
    """The letter of a wait for cycle.lua, and its three details."""
    wait = outcome.wait
    until = 0 if wait.until is None else max(1, milliseconds_of(wait.until))
    told: dict[str, Any] = {"waitTokenId": wait.token_id}
    if wait.kind == "jobs":
        told["jobIds"] = list(wait.job_ids)
    times = pack_int(wait.seq, 4) + pack_int(until, 6) + pack_int(outcome.delay_ms or 0, 6)
    return ("W", times, _record(wait), json.dumps(told))


async def load_steps(backend: RedisBackend, job_id: int) -> tuple[list[StepRecord], dict[str, Token], datetime]:
    records: list[StepRecord] = []
    if not 0 < job_id < 2**48:
        return [], {}, await backend.now()
    packed = pack_id(job_id)
    with store_errors(backend.location()):
        counts = await backend.client.hget(backend.key("sn"), packed)
        last = unpack_int(counts[:4]) if counts else 0
        for first in range(1, last + 1, _PAGE):
            numbers = range(first, min(first + _PAGE, last + 1))
            stored = await backend.client.hmget(backend.key("st"), [packed + pack_int(seq, 4) for seq in numbers])
            records += [_record_from(seq, data) for seq, data in zip(numbers, stored, strict=True) if data is not None]
        names = [
            record.token_id for record in records if record.kind == "token" and not record.done and record.token_id
        ]
        found: list[bytes | None] = await backend.client.hmget(backend.key("tk"), names) if names else []
    tokens = {name: token_from(name, data) for name, data in zip(names, found, strict=True) if data is not None}
    return records, tokens, await backend.now()


async def save_step(
    backend: RedisBackend, job_id: int, lease_id: int, step: StepRecord, token: TokenSpec | None
) -> bool:
    text = f"{_record(step)}\n{step.result or ''}"
    made = ("", "", "") if token is None else _token_arguments(token)
    return bool(await backend.call("save_step", pack_id(job_id), lease_id, step.seq, step.took_ms, text, *made))


def _token_arguments(token: TokenSpec) -> tuple[Any, ...]:
    return (token.id, "" if token.timeout_ms is None else token.timeout_ms, json.dumps(token.tags))


async def create_token(backend: RedisBackend, token: TokenSpec) -> Token:
    return token_from(token.id, await backend.call("create_token", *_token_arguments(token)))


async def get_token(backend: RedisBackend, token_id: str) -> Token | None:
    with store_errors(backend.location()):
        data = await backend.client.hget(backend.key("tk"), token_id)
    return None if data is None else token_from(token_id, data)


async def end_token(
    backend: RedisBackend, token_id: str, output: str | None, error: str | None
) -> tuple[Token | None, bool]:
    status, text = ("completed", output) if error is None else ("failed", error)
    data, ended = await backend.call("end_token", token_id, TOKEN_CODES[status], text or "null")
    return (token_from(token_id, data), bool(ended)) if data else (None, False)


async def delete_tokens(backend: RedisBackend, before: datetime, limit: int) -> int:
    return int(await backend.call("delete_tokens", floor_ms(before), limit))


async def open_waits(backend: RedisBackend, ids: Sequence[bytes]) -> Mapping[bytes, StepRecord]:
    """What jobs (six bytes an id) wait for."""
    with store_errors(backend.location()):
        counts: list[bytes | None] = await backend.client.hmget(backend.key("sn"), ids)
        fields = [packed + stored[4:8] for packed, stored in zip(ids, counts, strict=True) if stored]
        found: list[bytes | None] = await backend.client.hmget(backend.key("st"), fields) if fields else []
    return {
        field[:6]: _record_from(unpack_int(field[6:]), data)
        for field, data in zip(fields, found, strict=True)
        if data is not None
    }
