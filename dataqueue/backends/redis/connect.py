"""Reaching Redis: URLs, TLS material, clients for the loop and for the heartbeat's thread.

The least rights of a user that adds and works jobs, with the key prefix ``dq`` (``+info`` is for the
doctor alone)::

    ACL SETUSER worker on >password ~{dq}:* &{dq}:* ACL_COMMANDS

and of one that only looks::

    ACL SETUSER reader on >password ~{dq}:* ACL_READER
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import redis
import redis.asyncio
import redis.asyncio.sentinel
import redis.cluster
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from dataqueue.backends.resolve import without_secrets
from dataqueue.errors import ConfigError
from dataqueue.tls import TLS, as_file

# The client's annotations are partly missing, and its sync and async classes share no base.
_sync: Any = redis
_async: Any = redis.asyncio
_cluster: Any = redis.cluster
_sentinel: Any = redis.asyncio.sentinel

SCHEMES = ("redis", "rediss", "unix", "redis+cluster", "rediss+cluster")
ACL_COMMANDS = (
    "+ping +evalsha +eval +time +type +hget +hexists +hmget +hset +hsetnx +hdel +hlen +hincrby +hgetall +hscan "
    "+zadd +zrem +zcard +zscore +zrange +zrangebylex +zrevrangebylex +zrangebyscore +zrevrange +zremrangebyscore "
    "+zlexcount +zmscore +zscan +publish +subscribe +info"
)
ACL_READER = "+ping +time +@read"
_CREDENTIALS = ("username", "password", "credential_provider")
_TIMEOUT = 10.0
_KEEPALIVE = {"socket_keepalive": True, "health_check_interval": 30}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """How to make clients for one store. ``owned``: whether the async client is ours to close."""

    where: str
    make_async: Callable[[], Any]
    make_sync: Callable[[], Any]
    owned: bool = True


def endpoint_of_url(url: str, tls: TLS | None, max_connections: int) -> tuple[Endpoint, str | None]:
    """Clients for a URL, and the key prefix that it names (``?key_prefix=``).

    Raises:
        ConfigError: not a Redis URL. The message never holds the password.
    """
    try:
        parts = urlsplit(url)
        _ = parts.port
        prefix = dict(parse_qsl(parts.query)).get("key_prefix")
    except ValueError:
        raise ConfigError(f"{without_secrets(url)!r} is not a usable Redis URL: it cannot be parsed.") from None
    scheme = parts.scheme.lower()
    query = urlencode([(name, value) for name, value in parse_qsl(parts.query) if name != "key_prefix"])
    cluster = scheme.endswith("+cluster")
    plain = f"{scheme.removesuffix('+cluster')}://{parts.netloc}{parts.path}" + (f"?{query}" if query else "")
    where = parts.path if scheme == "unix" else f"{parts.hostname or 'localhost'}:{parts.port or 6379}"
    options: dict[str, Any] = {
        **(_KEEPALIVE if scheme != "unix" else {}),
        "socket_connect_timeout": _TIMEOUT,
        # A command that is sent twice may add a job twice: whether to try again is decided where it is known.
        "retry": Retry(NoBackoff(), 0),
        **_tls_options(tls, scheme),
    }

    def make_async() -> Any:
        kind = _async.RedisCluster if cluster else _async.Redis
        return _bounded(kind.from_url(plain, max_connections=2**31, **options), max_connections)

    def make_sync() -> Any:
        if cluster:
            return _sync.RedisCluster.from_url(plain, socket_timeout=_TIMEOUT, **options)
        return _sync.Redis.from_url(plain, socket_timeout=_TIMEOUT, **options)

    try:
        client = make_async()  # nothing is connected yet
        if not cluster:
            client.connection_pool.make_connection()
    except (RedisError, ValueError, TypeError):
        raise ConfigError(
            f"{without_secrets(url)!r} is not a usable Redis URL: check its options. "
            "Use redis://user:password@host:6379/0, rediss://…, unix:///path/to/socket or redis+cluster://…."
        ) from None
    return Endpoint(where, make_async, make_sync), prefix


def _bounded(client: Any, most: int) -> Any:
    """A client whose callers wait for one of ``most`` connections.

    A cluster's client raises when they are all in use, and the blocking pool's way of waiting costs a
    third of what a whole command does.
    """
    free, execute, make_pipeline = asyncio.Semaphore(most), client.execute_command, client.pipeline

    async def execute_command(*arguments: Any, **options: Any) -> Any:
        async with free:
            return await execute(*arguments, **options)

    def pipeline(**options: Any) -> Any:
        pipe = make_pipeline(**options)
        execute_all = pipe.execute

        async def execute_bounded() -> Any:
            async with free:
                return await execute_all()

        pipe.execute = execute_bounded
        return pipe

    client.execute_command, client.pipeline = execute_command, pipeline
    return client


def endpoint_of_client(client: Any) -> Endpoint:
    """A caller's own client; the heartbeat gets one of its own with the same settings.

    Raises:
        ConfigError: not an asyncio client, or one that decodes responses.
    """
    if isinstance(client, _async.RedisCluster):
        settings = dict(client.get_connection_kwargs())
        nodes = [_cluster.ClusterNode(node.host, node.port) for node in client.startup_nodes]
        _refuse_decoding(settings)
        secure = settings.get("connection_class") is _async.SSLConnection
        kept: dict[str, Any] = {
            name: value
            for name, value in settings.items()
            if value is not None and (name in _CREDENTIALS or (secure and name.startswith("ssl_")))
        }
        kept["ssl"] = secure
        where = ", ".join(f"{node.host}:{node.port}" for node in nodes)
        return Endpoint(where, lambda: client, lambda: _sync.RedisCluster(startup_nodes=nodes, **kept), owned=False)
    if not isinstance(client, _async.Redis):
        raise ConfigError(f"client must be a redis.asyncio.Redis or RedisCluster, not {type(client).__qualname__}.")
    pool = client.connection_pool
    if isinstance(pool, _sentinel.SentinelConnectionPool):
        raise ConfigError("A client of Sentinel cannot be used: the heartbeat's own connection would not follow it.")
    settings = dict(pool.connection_kwargs)
    _refuse_decoding(settings)
    kinds: dict[type, Any] = {
        _async.UnixDomainSocketConnection: _sync.UnixDomainSocketConnection,
        _async.SSLConnection: _sync.SSLConnection,
    }
    kind = kinds.get(pool.connection_class, _sync.Connection)
    for name in ("retry", "event_dispatcher", "redis_connect_func", "maint_notifications_config"):
        settings.pop(name, None)

    def make_sync() -> Any:
        return _sync.Redis(connection_pool=_sync.ConnectionPool(connection_class=kind, **settings))

    where = settings.get("path") or f"{settings.get('host', 'localhost')}:{settings.get('port', 6379)}"
    return Endpoint(where, lambda: client, make_sync, owned=False)


def _refuse_decoding(settings: dict[str, Any]) -> None:
    if settings.get("decode_responses"):
        raise ConfigError("The Redis client decodes responses; records are bytes. Make one without decode_responses.")


def _tls_options(tls: TLS | None, scheme: str) -> dict[str, Any]:
    if tls is None:
        return {}
    if not scheme.startswith("rediss"):
        raise ConfigError("tls= needs a rediss:// URL.")
    files = {"ssl_ca_certs": tls.ca, "ssl_certfile": tls.cert, "ssl_keyfile": tls.key}
    options: dict[str, Any] = {name: str(as_file(material, name)) for name, material in files.items() if material}
    if not tls.verify:
        options |= {"ssl_cert_reqs": ssl.CERT_NONE, "ssl_check_hostname": False}
    return options
