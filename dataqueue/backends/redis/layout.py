"""Keys and records of the Redis store: one description for Python and Lua.

All keys of a queue share one hash tag, so that every script may touch all of them in a cluster. Their
number is constant; jobs, types and tags are fields and members inside them:

====  =====  ===================================================================================
 key  kind   content
====  =====  ===================================================================================
 m    hash   counters ``id``, ``lease``, ``type``, ``event``; ``layout`` version; ``role:``name → ms and its holder
 h    hash   id6 → head: the fields below, lengths2 and names of worker and group, then the events
 s    hash   id6 → spec: JSON of the options that only an edit changes, a newline, the payload's JSON
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
 gr   zset   group NUL id6: what runs of each group
 pk   zset   group NUL type2 priority4 due6 id6: due, but parked since its group is full
 gl   zset   worker, by how many of a group it lets run
 cf   hash   limits of types (the empty name: the queue): ``p``type → ms and who paused it, ``m``type → most at
             a time, ``r``type → starts and ms of its rate, ``s``type → ms6 count4 of the starts that count
 dp   zset   prerequisite6 dependent6: who waits for whom, until the prerequisite has ended
 un   hash   dependent6 → for how many it still waits
 cq   zset   prerequisite6 root6 and 1 if it ended well: with more dependents than one script call settles
 uq   zset   unique key NUL id6: the unfinished jobs that have one
 ul   hash   unique key → id6 of the newest job that has it
 st   hash   id6 seq4 → until6 started6 done6 (ms) of a step or wait, its record (JSON), a newline, its result (JSON)
 sn   hash   id6 → highest seq4, seq4 of the wait that goes on
 tk   hash   token → status1 job6 created6 timeout6 completed6, its tags (JSON), a newline, its output (JSON) or error
 te   zset   token that has a time limit and waits, by its end (ms)
 to   zset   token of no job that was answered, by when (ms)
 tj   zset   id6 token: the tokens that a job has made
 tw   zset   token NUL id6: the jobs that wait for it
 cr   hash   schedules: ``n``name → number, ``d``number → its definition (JSON), ``s``number → its state (JSON)
 cd   zset   number of each active schedule, by its next run (ms)
 lw   zset   who waits for work, by until when (ms)
 lf   zset   who waits for results, likewise
 sig  (pub/sub channel)
====  =====  ===================================================================================

Every score in rd, dl, ix, tg, ls, gr, pk, dp, cq, uq, tj and tw is 0: members are compared as bytes, and numbers are big-endian,
so ranges are exact for every priority, millisecond and id. Priorities are stored as 2^31-1-priority.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Final

from dataqueue.backends.base import Outcome

KEYS: Final = (
    "m", "h", "s", "o", "er", "ev", "rd", "dl", "ix", "tg", "id", "ty", "tn", "wk", "wl", "ls", "gr", "pk", "gl", "cf",
    "dp", "un", "cq", "uq", "ul", "st", "sn", "tk", "te", "to", "tj", "tw", "cr", "cd", "lw", "lf",
)  # fmt: skip
SORTED_SETS: Final = frozenset(
    {"rd", "dl", "ix", "tg", "wl", "ls", "gr", "pk", "gl", "dp", "cq", "uq", "te", "to", "tj", "tw", "cd", "lw", "lf"}
)
"""All other keys are hashes."""
CHANNEL: Final = "sig"
LAYOUT: Final = 4

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
    "cancel_requested": 9,
    "prolonged": 10,
    "edited": 11,
    "unblocked": 12,
    "redriven": 13,
    "waiting": 14,
}
FLAGS: Final = {"blocked": 1, "dependants": 2, "dead": 4, "anyway": 8, "unique": 16, "depends": 32, "steps": 64}
"""What is special about a job: it waits for others, others wait for it, it has a dead-letter type, it runs after a
failed prerequisite too, it has a unique key, it waited for others when it was added (add.lua takes
this one for the highest), it has steps."""
TOKEN_CODES: Final = {"waiting": 1, "completed": 2, "failed": 3, "timed_out": 4}
NO_PROGRESS: Final = 255
NEVER: Final = 2**48 - 1
"""Later than every time."""

HEAD: Final = (
    ("status", 1),
    ("reason", 1),
    ("progress", 1),
    ("flags", 1),
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

TIMES: Final = tuple(name for name, size in HEAD if size == 6 and name != "lease")
"""Those that are times."""

HEAD_BYTES: Final = sum(size for _, size in HEAD)
_NAMES_AT: Final = HEAD_BYTES + 4


def key_prefix(prefix: str) -> str:
    """``dq`` → ``{dq}:``. A prefix with a hash tag of its own is kept."""
    return f"{prefix}:" if "{" in prefix else f"{{{prefix}}}:"


def pack_int(number: int, size: int) -> bytes:
    return number.to_bytes(size, "big")


def pack_id(job_id: int) -> bytes:
    return job_id.to_bytes(6, "big")


def pack_held(job: Outcome) -> bytes:
    """Id and lease."""
    return (job.id << 48 | job.lease_id).to_bytes(12, "big")


def unpack_int(data: bytes) -> int:
    return int.from_bytes(data, "big")


_SLICES: Final[dict[str, slice]] = {}
for _at, (_name, _size) in zip(accumulate((size for _, size in HEAD), initial=0), HEAD, strict=False):
    _SLICES[_name] = slice(_at, _at + _size)


class Head:
    """A head; its fields are decoded when they are asked for: most readers want a few."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data

    def __getitem__(self, field: str) -> int:
        return int.from_bytes(self.data[_SLICES[field]], "big")

    def has(self, flag: str) -> bool:
        return bool(self["flags"] & FLAGS[flag])

    @property
    def worker(self) -> str | None:
        return self.data[_NAMES_AT : self._group_at()].decode() or None

    @property
    def group(self) -> str | None:
        return self.data[self._group_at() : self._events_at()].decode() or None

    @property
    def events(self) -> bytes:
        return self.data[self._events_at() :]

    def _group_at(self) -> int:
        return _NAMES_AT + int.from_bytes(self.data[HEAD_BYTES : HEAD_BYTES + 2], "big")

    def _events_at(self) -> int:
        return self._group_at() + int.from_bytes(self.data[HEAD_BYTES + 2 : _NAMES_AT], "big")


def decode_events(log: bytes) -> list[tuple[int, int, bytes]]:
    """``(kind, ms, metadata JSON)`` of each event: kind1 time6 length3 metadata."""
    events: list[tuple[int, int, bytes]] = []
    at = 0
    while at < len(log):
        length = int.from_bytes(log[at + 7 : at + 10], "big")
        events.append((log[at], int.from_bytes(log[at + 1 : at + 7], "big"), log[at + 10 : at + 10 + length]))
        at += 10 + length
    return events


def lua_prelude(names: Sequence[str]) -> str:
    """The same description as Lua: key names, codes, and the codec of the head, in blocks with an empty line between
    them. ``names``: the script's keys."""
    keys = "\n".join(f"local K_{name} = KEYS[{number}]" for number, name in enumerate(names, 1))
    probes = ", ".join(f"'{'ZCARD' if name in SORTED_SETS else 'HLEN'}', K_{name}" for name in names)
    codes = "\n".join(
        f"local {prefix}_{name.upper()} = {code}"
        for prefix, table in (("S", STATUS_CODES), ("E", EVENT_CODES), ("T", TOKEN_CODES))
        for name, code in table.items()
    )
    fields = [name for name, _ in HEAD]
    form = ">" + "".join(f"I{size}" for _, size in HEAD) + "I2I2"
    fresh = {"status": "S_PENDING", "progress": NO_PROGRESS, "type": "type", "max": "max", "prio": "prio"}
    fresh |= {"run_at": "due", "created": "now", "updated": "now", "flags": "flags"}
    flags = "\n".join(f"local F_{name.upper()} = {code}" for name, code in FLAGS.items())
    return f"""
local CHANNEL = ARGV[1]
{keys}
{codes}
{flags}
local R_WORKER_LOST = {REASON_CODES["worker_lost"]}
local NO_PROGRESS = {NO_PROGRESS}
local NEVER = {NEVER}
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- A key of a wrong kind would stop a script half-way: find out before the first write.
local function probe()
  local probes = {{ {probes} }}
  for n = 1, #probes, 2 do
    if type(redis.pcall(probes[n], probes[n + 1])) == 'table' then
      return redis.error_reply('WRONGKEY ' .. probes[n + 1] .. ' is a ' .. redis.call('TYPE', probes[n + 1]).ok)
    end
  end
  return nil
end

local function decode(data)
  local {", ".join(fields)}, length, more, at = struct.unpack('{form}', data)
  local group = at + length
  return {{ {", ".join(f"{name} = {name}" for name in fields)},
    worker = string.sub(data, at, group - 1), group = string.sub(data, group, group + more - 1),
    events = string.sub(data, group + more) }}
end

local function encode(h)
  return struct.pack('{form}', {", ".join(f"h.{name}" for name in fields)}, #h.worker, #h.group)
    .. h.worker .. h.group .. h.events
end

-- The head of a job that was just added, with its event.
local function fresh_head(type, prio, max, due, group, flags, told)
  return struct.pack('{form}', {", ".join(str(fresh.get(name, 0)) for name in fields)}, 0, #group)
    .. group .. struct.pack('>I1I6I3', E_ADDED, now, #told) .. told
end

"""
