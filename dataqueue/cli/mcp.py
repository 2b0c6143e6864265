"""``dataqueue mcp``: the server that AI assistants talk to."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from dataqueue.cli.common import EnvFile, Schema, load_environment, reports_errors, run_async
from dataqueue.errors import ConfigError

DEFAULT_TOKEN = "DATAQUEUE_MCP_TOKEN"  # noqa: S105 - the variable's name


@reports_errors
def mcp(
    toolsets: Annotated[str, typer.Option(metavar="A,B", help="Groups of tools: docs, queue.")] = "docs,queue",
    allow_writes: Annotated[
        bool, typer.Option("--allow-writes", help="Also offer tools that retry, cancel and add jobs.")
    ] = False,
    payloads: Annotated[
        str, typer.Option(metavar="shape|redacted|full", help="How payloads and outputs are shown.")
    ] = "shape",
    max_output: Annotated[int, typer.Option(metavar="BYTES", help="Size of an answer at most.")] = 40_000,
    transport: Annotated[str, typer.Option(metavar="stdio|http", help="How clients connect.")] = "stdio",
    host: Annotated[str, typer.Option(help="With http: the address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="With http: the port.")] = 8765,
    token_env: Annotated[
        str | None,
        typer.Option(metavar="NAME", help=f"With http: the variable with the token; {DEFAULT_TOKEN} by default."),
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="With http: a name by which clients call this server. Repeatable."),
    ] = None,
    url_env: Annotated[
        str | None, typer.Option(metavar="NAME", help="The variable with the store's URL, if not the usual ones.")
    ] = None,
    schema: Schema = None,
    env_file: EnvFile = None,
) -> None:
    """Serve documentation and live jobs to AI assistants over MCP.

    Read-only unless --allow-writes is given: the store itself refuses changes. The docs tools work without a store.
    """
    load_environment(env_file)
    from dataqueue.mcp_server.options import TOOLSETS, VALUES, ServerOptions
    from dataqueue.mcp_server.run import serve_http
    from dataqueue.mcp_server.server import create_server
    from dataqueue.queue import JobQueue

    if payloads not in VALUES:
        raise ConfigError(f"--payloads is one of {', '.join(VALUES)}, not {payloads!r}.")
    if transport not in ("stdio", "http"):
        raise ConfigError(f"--transport is stdio or http, not {transport!r}.")
    wanted = [name.strip() for name in toolsets.split(",") if name.strip()]
    unknown = [name for name in wanted if name not in TOOLSETS]
    if unknown:
        raise ConfigError(f"There is no toolset {', '.join(unknown)}. Toolsets: {', '.join(TOOLSETS)}.")
    options = ServerOptions(
        toolsets=tuple(name for name in TOOLSETS if name in wanted),
        allow_writes=allow_writes,
        values=next(name for name in VALUES if name == payloads),
        max_output=max_output,
    )
    url = _url(url_env)
    reader = JobQueue.from_url(url, schema=schema, key_prefix=schema, min_connections=0, read_only=True)
    writer = JobQueue.from_url(url, schema=schema, key_prefix=schema, min_connections=0) if allow_writes else None
    server = create_server(options, reader, writer)
    if transport == "stdio":
        run_async(server.run_stdio_async)
        return
    token = os.environ.get(token_env or DEFAULT_TOKEN)
    if token_env is not None and not token:
        raise ConfigError(f"The variable {token_env}, which --token-env names, is not set.")
    run_async(lambda: serve_http(server, host=host, port=port, token=token or None, allowed_hosts=allowed_host or ()))


def _url(url_env: str | None) -> str | None:
    if url_env is None:
        return None
    url = os.environ.get(url_env)
    if not url:
        raise ConfigError(f"The variable {url_env}, which --url-env names, is not set.")
    return url
