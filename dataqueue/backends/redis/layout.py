"""Keys and records of the Redis store: one description for Python and Lua.

All keys of a queue share one hash tag, so that every script may touch all of them in a cluster. Their
number is constant; jobs, types and tags are fields and members inside them:

====  =====  ===================================================================================
 key  kind   content
====  =====  ===================================================================================
 m    hash   counters ``id``, ``lease``, ``type``, ``event``; ``layout`` version
 h    hash   id6 → head: the fields below, then the worker's name, then the events
 s    hash   id6 → spec: JSON of the options that never change, a newline, the payload's JSON
 o    hash   id6 → output (JSON)
 er   hash   id6 → error history: JSON lines
 ev   hash   id6 → events that no longer fit the head
 rd   zset   type2 priority4 due6 id6: ready, in the order of claiming
 dl   zset   due6 type2 priority4 id6: delayed, or failed with a retry
 ix   zset   type2 status1 id6: lists and counts
 tg   zset   tag NUL id6
 id   hash   idempotency key → id6
 ty   hash   type name → number
 tn   hash   number → type name
 wk   hash   worker → JSON about it
 wl   zset   worker, by the end of its lease (ms)
 ls   zset   worker NUL id6: what each holds
 lw   zset   who waits for work, by until when (ms)
 lf   zset   who waits for results, likewise
 sig  (pub/sub channel)
====  =====  ===================================================================================

Every score in rd, dl, ix, tg and ls is 0: members are compared as bytes, and numbers are big-endian,
so ranges are exact for every priority, millisecond and id. Priorities are stored as 2^31-1-priority.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

KEYS: Final = (
    "m", "h", "s", "o", "er", "ev", "rd", "dl", "ix", "tg", "id", "ty", "tn", "wk", "wl", "ls", "lw", "lf",
)  # fmt: skip
CHANNEL: Final = "sig"
LAYOUT: Final = 1

STATUS_CODES: Final = {"pending": 1, "processing": 2, "completed": 3, "failed": 4, "cancelled": 5, "waiting": 6}
REASON_CODES: Final = {None: 0, "timeout": 1, "handler_error": 2, "no_handler": 3, "worker_lost": 4}
EVENT_CODES: Final = {
    "added": 1,
    "processing": 2,
    "completed": 3,
    "failed": 4,
    "cancelled": 5,
    "retried": 6,
    "reclaimed": 7,
    "released": 8,
}
NO_PROGRESS: Final = 255

HEAD: Final = (
    ("status", 1),
    ("reason", 1),
    ("progress", 1),
    ("type", 2),
    ("attempts", 2),
    ("max", 2),
    ("prio", 4),
    ("lease", 6),
    ("run_at", 6),
    ("next_at", 6),
    ("created", 6),
    ("updated", 6),
    ("started", 6),
    ("completed", 6),
    ("failed", 6),
    ("retried", 6),
    ("cancelled", 6),
    ("locked", 6),
    ("cancel_req", 6),
)
"""Fixed fields of a head, in order, with their bytes. Times are milliseconds, 0 for never."""

HEAD_BYTES: Final = sum(size for _, size in HEAD)


def key_prefix(prefix: str) -> str:
    """``dq`` → ``{dq}:``. A prefix with a hash tag of its own is kept."""
    return f"{prefix}:" if "{" in prefix else f"{{{prefix}}}:"


def pack_int(number: int, size: int) -> bytes:
    return number.to_bytes(size, "big")


def pack_id(job_id: int) -> bytes:
    return job_id.to_bytes(6, "big")


def unpack_int(data: bytes) -> int:
    return int.from_bytes(data, "big")


@dataclass(slots=True)
class Head:
    """A decoded head."""

    fields: dict[str, int]
    worker: str | None
    events: bytes


def decode_head(data: bytes) -> Head:
    fields: dict[str, int] = {}
    at = 0
    for name, size in HEAD:
        fields[name] = int.from_bytes(data[at : at + size], "big")
        at += size
    length = data[at]
    worker = data[at + 1 : at + 1 + length].decode() if length else None
    return Head(fields, worker, data[at + 1 + length :])


def decode_events(log: bytes) -> list[tuple[int, int, bytes]]:
    """``(kind, ms, metadata JSON)`` of each event: kind1 time6 length2 metadata."""
    events: list[tuple[int, int, bytes]] = []
    at = 0
    while at < len(log):
        length = int.from_bytes(log[at + 7 : at + 9], "big")
        events.append((log[at], int.from_bytes(log[at + 1 : at + 7], "big"), log[at + 9 : at + 9 + length]))
        at += 9 + length
    return events


def lua_prelude() -> str:
    """The same description as Lua: key names, codes, and the codec of the head."""
    keys = "\n".join(f"local K_{name} = KEYS[{number}]" for number, name in enumerate(KEYS, 1))
    codes = "\n".join(
        f"local {prefix}_{name.upper()} = {code}"
        for prefix, table in (("S", STATUS_CODES), ("E", EVENT_CODES))
        for name, code in table.items()
    )
    names = ", ".join(f"h.{name}" for name, _ in HEAD)
    form = ">" + "".join(f"I{size}" for _, size in HEAD)
    return f"""
{keys}
{codes}
local R_WORKER_LOST = {REASON_CODES["worker_lost"]}
local NO_PROGRESS = {NO_PROGRESS}
local function decode(data)
  local h, at = {{}}
  {names}, at = struct.unpack('{form}', data)
  local length = string.byte(data, at)
  h.worker = string.sub(data, at + 1, at + length)
  h.events = string.sub(data, at + 1 + length)
  return h
end
local function encode(h)
  return struct.pack('{form}', {names}) .. string.char(#h.worker) .. h.worker .. h.events
end
"""
