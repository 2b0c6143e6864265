"""What is wrong with a Redis store, and how to mend it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from redis.exceptions import ResponseError

from dataqueue.backends.base import Finding

if TYPE_CHECKING:
    from dataqueue.backends.redis.backend import RedisBackend


async def examine(backend: RedisBackend, deep: bool = False) -> list[Finding]:
    """All checks; one that is not allowed here says so instead of hiding the others."""
    info = await _info(backend)
    findings = [_server(backend, info)]
    findings.append(await _eviction(backend, info))
    findings.append(_persistence(info))
    return findings


async def _info(backend: RedisBackend) -> dict[str, Any]:
    answer = await backend.client.info()
    if answer and all(isinstance(value, dict) for value in answer.values()):
        return next(iter(answer.values()))  # a cluster answers by node
    return answer


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
    if policy != "noeviction":
        return Finding(
            "memory",
            "error" if info.get("maxmemory") else "warning",
            f"The eviction policy is {policy}: when memory runs out, Redis would drop the queue itself.",
            "CONFIG SET maxmemory-policy noeviction, and keep caches in another Redis.",
        )
    return Finding("memory", "ok", f"eviction policy noeviction, {info.get('used_memory_human', '?')} in use")


def _persistence(info: dict[str, Any]) -> Finding:
    if info.get("aof_enabled"):
        return Finding("durability", "ok", "append-only file on: a crash loses at most what appendfsync allows")
    if info.get("rdb_saves") or info.get("rdb_last_save_time"):
        return Finding(
            "durability",
            "warning",
            "Only snapshots are kept: a crash loses all jobs since the last one.",
            "CONFIG SET appendonly yes (appendfsync everysec loses at most about a second).",
        )
    return Finding("durability", "warning", "Nothing is kept on disk.", "CONFIG SET appendonly yes.")
