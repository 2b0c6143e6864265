"""What is wrong with a Redis store, and how to mend it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from redis.exceptions import ResponseError

from dataqueue.backends.base import Finding
from dataqueue.backends.redis.layout import STATUS_CODES, Head, pack_int, unpack_int
from dataqueue.backends.redis.records import decode_spec

if TYPE_CHECKING:
    from dataqueue.backends.redis.backend import RedisBackend

_EXAMPLES = 5


async def examine(backend: RedisBackend, deep: bool = False) -> list[Finding]:
    """All checks; one that is not allowed here says so instead of hiding the others."""
    try:
        info = await _info(backend)
    except ResponseError as error:
        info = {}
        findings = [
            Finding(
                "server",
                "warning",
                f"The server cannot be examined: INFO was refused ({error}).",
                "Allow the user +info, and see yourself that it has maxmemory-policy noeviction and appendonly yes.",
            )
        ]
    else:
        findings = [_server(backend, info), await _eviction(backend, info), *_persistence(info), *_state(info)]
    if info.get("cluster_enabled"):
        findings.append(await _cluster(backend))
    return [*findings, *await examine_deep(backend)] if deep else findings


async def _info(backend: RedisBackend) -> dict[str, Any]:
    """INFO of the node that has the keys."""
    node = getattr(backend.client, "get_node_from_key", None)
    if node is None:
        return await backend.client.info()
    return await backend.client.info(target_nodes=node(backend.key("m")))


def _server(backend: RedisBackend, info: dict[str, Any]) -> Finding:
    valkey = info.get("valkey_version")
    version = str(valkey or info.get("redis_version", "0"))
    major = int(version.split(".")[0])
    name = "Valkey" if valkey else "Redis"
    if major < (8 if valkey else 7):
        return Finding("server", "error", f"{name} {version} is not supported.", "Use Redis 7.0, Valkey 8 or newer.")
    return Finding("server", "ok", f"{name} {version} at {backend.location()}")


async def _eviction(backend: RedisBackend, info: dict[str, Any]) -> Finding:
    policy = info.get("maxmemory_policy")
    if policy is None:
        try:
            policy = (await backend.client.config_get("maxmemory-policy")).get("maxmemory-policy")
        except ResponseError:
            return Finding("memory", "warning", "The eviction policy cannot be read here.", "It must be noeviction.")
    limit = int(info.get("maxmemory") or 0)
    if policy != "noeviction":
        return Finding(
            "memory",
            "error" if limit else "warning",
            f"The eviction policy is {policy}: when memory runs out, Redis would drop the queue itself.",
            "CONFIG SET maxmemory-policy noeviction, and keep caches in another Redis.",
        )
    used = int(info.get("used_memory") or 0)
    if limit and used > 0.9 * limit:
        return Finding(
            "memory",
            "warning",
            f"{100 * used // limit} % of maxmemory is in use: when it is full, no job can be added.",
            "Clean up finished jobs, or raise maxmemory.",
        )
    return Finding("memory", "ok", f"eviction policy noeviction, {info.get('used_memory_human', '?')} in use")


def _persistence(info: dict[str, Any]) -> list[Finding]:
    failing = [
        Finding(
            "durability",
            "error",
            f"Redis cannot write to its disk ({name} is {info[name]}): a crash loses jobs, and writes may be refused.",
            "Look at the server's log, its disk and its permissions.",
        )
        for name in ("aof_last_write_status", "aof_last_bgrewrite_status", "rdb_last_bgsave_status")
        if info.get(name, "ok") != "ok"
    ]
    if failing:
        return failing
    if info.get("aof_enabled"):
        return [Finding("durability", "ok", "append-only file on: a crash loses at most what appendfsync allows")]
    # Whether snapshots are planned is in the configuration, which may be out of reach; that there were some is here.
    if info.get("rdb_saves") or info.get("rdb_bgsave_in_progress"):
        return [
            Finding(
                "durability",
                "warning",
                "Only snapshots are kept: a crash loses all jobs since the last one.",
                "CONFIG SET appendonly yes (appendfsync everysec loses at most about a second).",
            )
        ]
    return [
        Finding(
            "durability",
            "warning",
            "No append-only file is written, and no snapshot was: a restart loses all jobs.",
            "CONFIG SET appendonly yes.",
        )
    ]


def _state(info: dict[str, Any]) -> list[Finding]:
    if info.get("loading"):
        return [Finding("state", "error", "The server still loads its data.", "Wait; it takes no commands until then.")]
    if info.get("role") == "slave":
        link = info.get("master_link_status", "?")
        return [Finding("state", "error", f"This is a replica (link {link}): it takes no jobs.", "Use its primary.")]
    replicas = int(info.get("connected_slaves") or 0)
    if replicas:
        behind = [
            name
            for name, value in info.items()
            if name.startswith("slave")
            and isinstance(value, dict)
            and cast("dict[str, Any]", value).get("state") != "online"
        ]
        if behind:
            return [Finding("state", "warning", f"{len(behind)} of {replicas} replicas are not in step.", None)]
        return [Finding("state", "ok", f"{replicas} replicas; what was acknowledged in the last moment may miss there")]
    return []


async def _cluster(backend: RedisBackend) -> Finding:
    try:
        answer: dict[str, Any] = await backend.client.execute_command("CLUSTER INFO", target_nodes="random")
    except (ResponseError, TypeError) as error:
        return Finding("cluster", "warning", f"The state of the cluster cannot be read: {error}.", None)
    state = answer.get("cluster_state")
    if state != "ok":
        return Finding("cluster", "error", f"The cluster is {state}.", "redis-cli --cluster check; fix its nodes.")
    return Finding("cluster", "ok", f"cluster of {answer.get('cluster_size')} shards is ok")


# -- every record against every index -------------------------------------------------------------------------

_MEND = "Something else has written to these keys, or data was lost. Keep a copy of them and report it."
_LOOKS = 3
_UNFINISHED = [STATUS_CODES["pending"], STATUS_CODES["processing"], STATUS_CODES["waiting"]]

Complaint: TypeAlias = tuple[bytes, str]
"""A packed job id (or a whole member that names none), and what is wrong with it."""


async def examine_deep(backend: RedisBackend, page: int = 500) -> list[Finding]:
    """Each job is in just the structures that its state asks for, and nothing else is in them.

    Reads everything once, ``page`` entries at a time, while the queue works on: what looks wrong is
    looked at three times, since a job may have moved between two reads.
    """
    problems: dict[str, list[bytes]] = {}
    jobs = 0

    async def check(find: Callable[[Any], Awaitable[set[Complaint]]], entries: list[Any]) -> None:
        complaints = await find(entries)
        for _ in range(_LOOKS - 1):
            if complaints:
                await asyncio.sleep(0.05)
                complaints &= await find(entries)
        for who, what in complaints:
            problems.setdefault(what, []).append(who)

    async for entries in _scan(backend, "hscan", "h", page):
        jobs += len(entries)
        await check(partial(_misplaced, backend), entries)
    for name in ("ix", "rd", "dl", "ls", "gr", "pk", "tg", "uq"):
        async for entries in _scan(backend, "zscan", name, page):
            await check(partial(_ghosts, backend, name), [member for member, _ in entries])
            scored = [member for member, score in entries if score]
            if scored:
                problems.setdefault(f"member of {name} with a score, which breaks its order", []).extend(scored)
    for name in ("s", "o", "er", "ev", "sn"):
        async for entries in _scan(backend, "hscan", name, page):
            await check(partial(_orphans, backend, name), entries)
    async for entries in _scan(backend, "hscan", "id", page):
        stored = await backend.client.hmget(backend.key("id"), entries)
        pairs = [(key, holder) for key, holder in zip(entries, stored, strict=True) if holder]
        await check(partial(_loose_keys, backend), pairs)
    findings = [
        Finding("indexes", "error", f"{len(found):,} × {what}: {_examples(found)}", _MEND)
        for what, found in sorted(problems.items())
    ]
    return findings or [Finding("indexes", "ok", f"{jobs:,} jobs, each in its place in every index")]


def _examples(found: list[bytes]) -> str:
    shown = [str(unpack_int(who)) if len(who) == 6 else repr(who) for who in sorted(found)[:_EXAMPLES]]
    return ", ".join(shown) + (", …" if len(found) > _EXAMPLES else "")


async def _scan(backend: RedisBackend, command: str, name: str, page: int) -> AsyncIterator[list[Any]]:
    """The fields of a hash, or the members of a set with their scores."""
    cursor = 0
    while True:
        cursor, entries = await getattr(backend.client, command)(backend.key(name), cursor, count=page)
        if entries:
            yield list(entries)
        if not cursor:
            return


async def _expected(backend: RedisBackend, ids: list[bytes]) -> dict[bytes, dict[str, set[bytes]] | None]:
    """For each job, the members that its state asks for; None if its payload is missing. Gone jobs are left out.

    One that waits for its time is to be among the ready, the delayed or the parked: all are named.
    """
    pipe = backend.client.pipeline(transaction=False)
    pipe.hmget(backend.key("h"), ids)
    pipe.hmget(backend.key("s"), ids)
    answers: list[list[bytes | None]] = await pipe.execute() if ids else [[], []]
    expected: dict[bytes, dict[str, set[bytes]] | None] = {}
    for job_id, data, spec in zip(ids, *answers, strict=True):
        if data is not None:
            expected[job_id] = None if spec is None else _members_of(job_id, Head(data), spec)
    return expected


def _members_of(job_id: bytes, head: Head, spec: bytes) -> dict[str, set[bytes]]:
    status, number, priority = head["status"], pack_int(head["type"], 2), pack_int(head["prio"], 4)
    members: dict[str, set[bytes]] = {"ix": {number + bytes([status]) + job_id}}
    if status == STATUS_CODES["processing"]:
        members["ls"] = {(head.worker or "").encode() + b"\0" + job_id}
        if head.group is not None:
            members["gr"] = {head.group.encode() + b"\0" + job_id}
    retries = status == STATUS_CODES["failed"] and head["next_at"]
    options = decode_spec(spec)[0]
    if "uq" in options and (retries or status in _UNFINISHED):
        members["uq"] = {options["uq"].encode() + b"\0" + job_id}
    blocked = status == STATUS_CODES["pending"] and head.has("blocked")
    woken = status == STATUS_CODES["waiting"] and head["next_at"]
    if woken or (head["attempts"] < head["max"] and not blocked and (status == STATUS_CODES["pending"] or retries)):
        due = pack_int(head["next_at"] or head["run_at"], 6)
        members["rd"] = {number + priority + due + job_id}
        if head.group is not None:
            members["pk"] = {head.group.encode() + b"\0" + number + priority + due + job_id}
        members["dl"] = {due + number + priority + job_id}
    members["tg"] = {tag.encode() + b"\0" + job_id for tag in options.get("tags", ())}
    return members


async def _misplaced(backend: RedisBackend, ids: list[bytes]) -> set[Complaint]:
    """Jobs that are not where they should be."""
    complaints: set[Complaint] = set()
    asked: list[tuple[bytes, str]] = []
    pipe = backend.client.pipeline(transaction=False)
    last = int(await backend.client.hget(backend.key("m"), "id") or 0)
    for job_id, expected in (await _expected(backend, ids)).items():
        if expected is None:
            complaints.add((job_id, "job without its payload"))
            continue
        if unpack_int(job_id) > last:
            complaints.add((job_id, "job with an id that is still to be given"))
        for name, members in expected.items():
            for member in members:
                asked.append((job_id, name))
                pipe.zscore(backend.key(name), member)
    scores: list[float | None] = await pipe.execute() if asked else []
    waits: Counter[bytes] = Counter()
    for (job_id, name), score in zip(asked, scores, strict=True):
        if name in ("rd", "dl", "pk"):
            waits[job_id] += score is not None
        elif score is None:
            complaints.add((job_id, f"job that is missing in {name}"))
    for job_id in {job_id for job_id, name in asked if name == "rd"}:
        if waits[job_id] != 1:
            where = "more than one of" if waits[job_id] else "none of"
            complaints.add((job_id, f"job that is in {where} rd, dl and pk"))
    return complaints


async def _ghosts(backend: RedisBackend, name: str, members: list[bytes]) -> set[Complaint]:
    """Members that no job's state asks for."""
    expected = await _expected(backend, list({member[-6:] for member in members}))
    complaints: set[Complaint] = set()
    scores = await backend.client.zmscore(backend.key(name), members)
    for member, score in zip(members, scores, strict=True):
        job_id = member[-6:]
        if score is None:
            continue  # it was removed since it was read
        if job_id not in expected:
            complaints.add((job_id, f"member of {name} whose job is gone"))
        else:
            wanted = expected[job_id]
            if wanted is not None and member not in wanted.get(name, ()):
                complaints.add((job_id, f"member of {name} that its job does not ask for"))
    return complaints


async def _orphans(backend: RedisBackend, name: str, ids: list[bytes]) -> set[Complaint]:
    pipe = backend.client.pipeline(transaction=False)
    pipe.hmget(backend.key("h"), ids)
    pipe.hmget(backend.key(name), ids)
    answers = zip(ids, *await pipe.execute(), strict=True)
    return {(job_id, f"entry of {name} whose job is gone") for job_id, head, entry in answers if entry and not head}


async def _loose_keys(backend: RedisBackend, pairs: list[tuple[bytes, bytes]]) -> set[Complaint]:
    """Idempotency keys that name a job which is gone or has another one."""
    specs: list[bytes | None] = []
    if pairs:
        specs = await backend.client.hmget(backend.key("s"), [holder for _, holder in pairs])
    return {
        (holder, "idempotency key of a job that does not have it")
        for (key, holder), spec in zip(pairs, specs, strict=True)
        if spec is None or (decode_spec(spec)[0].get("key") or "").encode() != key
    }
