"""Running the server over stdio or HTTP."""

from __future__ import annotations

import hmac
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dataqueue.mcp_server.server import Server
from mcp.server.transport_security import TransportSecuritySettings

from dataqueue.errors import ConfigError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

logger = logging.getLogger("dataqueue.mcp")

LOCAL = ("127.0.0.1", "localhost", "[::1]")
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1", "[::1]"})
LEAST_TOKEN = 16
PATH = "/mcp"


def http_app(server: Server, *, host: str, token: str | None, allowed_hosts: Sequence[str] = ()) -> ASGIApp:
    """The server as an ASGI application at ``/mcp``.

    Args:
        host: the address that it will listen on: beyond this machine a token is required.
        token: what clients send as ``Authorization: Bearer …``.
        allowed_hosts: names (with or without a port) by which clients call it, besides those of this machine.

    Raises:
        ConfigError: no token where one is required, or one that is too short.
    """
    if token is None and host not in _LOOPBACK:
        raise ConfigError(
            f"On {host} others can reach the server: a token is required. Put one of at least {LEAST_TOKEN} characters "
            "into the environment (DATAQUEUE_MCP_TOKEN, or the variable that --token-env names)."
        )
    if token is not None and len(token) < LEAST_TOKEN:
        raise ConfigError(f"The token has {len(token)} characters; use at least {LEAST_TOKEN}.")
    names = [*LOCAL, *([] if host in _LOOPBACK or host in ("0.0.0.0", "::") else [host]), *allowed_hosts]  # noqa: S104
    hosts = [pattern for name in names for pattern in ((name,) if name.endswith(":*") else (name, f"{name}:*"))]
    security = TransportSecuritySettings(
        enable_dns_rebinding_protection=True,
        allowed_hosts=hosts,
        allowed_origins=[f"{scheme}://{pattern}" for pattern in hosts for scheme in ("http", "https")],
    )
    app = server.streamable_http_app(streamable_http_path=PATH, transport_security=security, host=host)
    return app if token is None else _Bearer(app, token)


class _Bearer:
    """Lets in only who has the token."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._wanted = f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
            scheme, _, token = given.partition(b" ")
            if not hmac.compare_digest(scheme.title() + b" " + token.strip(), self._wanted):
                await send(
                    {
                        "type": "http.response.start",
                        "status": 401,
                        "headers": [(b"www-authenticate", b"Bearer"), (b"content-type", b"application/json")],
                    }
                )
                await send({"type": "http.response.body", "body": b'{"error":"a bearer token is required"}'})
                return
        await self._app(scope, receive, send)


async def serve_http(
    server: Server, *, host: str, port: int, token: str | None, allowed_hosts: Sequence[str] = ()
) -> None:
    """Listen until told to stop."""
    import uvicorn

    app = http_app(server, host=host, token=token, allowed_hosts=allowed_hosts)
    logger.warning("dataqueue's MCP server listens at http://%s:%s%s", host, port, PATH)
    config = uvicorn.Config(app, host=host, port=port, log_level="warning")
    await uvicorn.Server(config).serve()
