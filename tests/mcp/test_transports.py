"""The server as a real process, over stdio and HTTP, in both eras of the protocol."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from servers import free_ports

from dataqueue import JobQueue

MODES = ["legacy", "auto", "2026-07-28"]
TOKEN = "correct-horse-battery-staple"


def environment(url: str | None, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DATAQUEUE_", "PG"))}
    kept.pop("DATABASE_URL", None)
    return kept | ({} if url is None else {"DATAQUEUE_URL": url}) | more


def command(*args: str) -> list[str]:
    return [sys.executable, "-m", "dataqueue", "mcp", *args]


async def check(client: Client) -> None:
    names = [tool.name for tool in (await client.list_tools()).tools]
    assert names[:3] == ["search_docs", "get_doc", "queue_status"]
    result = await client.call_tool("explain_job", {"job_id": 1})
    assert "job 1: ready" in result.content[0].text  # type: ignore[union-attr]


@pytest.fixture
async def filled_url(store_url: str) -> str:
    async with JobQueue.from_url(store_url) as queue:
        await queue.add_job("pay")
    return store_url


@pytest.mark.parametrize("mode", MODES)
async def test_stdio(filled_url: str, mode: Any) -> None:
    program, *args = command()
    server = StdioServerParameters(command=program, args=args, env=environment(filled_url))
    async with Client(server, mode=mode) as client:
        await check(client)


async def test_stdio_without_a_store() -> None:
    program, *args = command()
    async with Client(StdioServerParameters(command=program, args=args, env=environment(None))) as client:
        result = await client.call_tool("queue_status", {})
        assert result.is_error and "DATAQUEUE_URL" in result.content[0].text  # type: ignore[union-attr]
        assert not (await client.call_tool("search_docs", {"query": "retry"})).is_error


@contextmanager
def serving(url: str, *args: str, **env: str) -> Iterator[str]:
    (port,) = free_ports(1)
    process = subprocess.Popen(
        command("--transport", "http", "--port", str(port), *args),
        env=environment(url, **env),
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if "listens at" in line:
                break
        address = f"http://127.0.0.1:{port}/mcp"
        for _ in range(600):
            try:
                httpx2.get(address)
                break
            except httpx2.TransportError:
                time.sleep(0.05)
        yield address
    finally:
        process.terminate()
        process.communicate(timeout=30)


@pytest.mark.parametrize("mode", MODES)
async def test_http_on_this_machine(filled_url: str, mode: Any) -> None:
    with serving(filled_url) as address:
        async with Client(address, mode=mode) as client:
            await check(client)


async def test_http_wants_its_token_and_its_own_name(pg_url: str) -> None:
    async with JobQueue.from_url(pg_url) as queue:
        await queue.add_job("pay")
    hello = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    with serving(pg_url, "--token-env", "THE_TOKEN", THE_TOKEN=TOKEN) as address:
        accept = {"accept": "application/json, text/event-stream"}
        for wrong in ({}, {"authorization": "Bearer wrong"}, {"authorization": f"Basic {TOKEN}"}):
            assert httpx2.post(address, json=hello, headers=accept | wrong).status_code == 401
        right = accept | {"authorization": f"Bearer {TOKEN}"}
        assert httpx2.post(address, json=hello, headers=right).status_code not in (401, 403, 421)
        for foreign in ({"host": "evil.example"}, {"origin": "https://evil.example"}):
            assert httpx2.post(address, json=hello, headers=right | foreign).status_code in (403, 421)
        async with (
            httpx2.AsyncClient(headers={"authorization": f"Bearer {TOKEN}"}) as http,
            Client(streamable_http_client(address, http_client=http)) as client,
        ):
            await check(client)


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["--transport", "http", "--host", "0.0.0.0"], "a token is required"),
        (["--transport", "http", "--token-env", "NOT_SET"], "NOT_SET"),
        (["--transport", "carrier-pigeon"], "stdio or http"),
        (["--toolsets", "docs,everything"], "everything"),
        (["--payloads", "all"], "shape"),
        (["--max-output", "10"], "2,000"),
        (["--url-env", "NOT_SET"], "NOT_SET"),
        (["--allow-write"], "No such option"),
        (["--readonly"], "No such option"),
    ],
)
def test_wrong_flags_are_refused(args: list[str], told: str) -> None:
    done = subprocess.run(
        command(*args), env=environment("postgresql://nobody@127.0.0.1:1/x"), stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2 and done.stdout == ""
    assert re.search(re.escape(told), " ".join(done.stderr.replace("│", " ").split()))


def test_a_short_token_is_refused() -> None:
    done = subprocess.run(
        command("--transport", "http", "--token-env", "SHORT"), env=environment(None, SHORT="hunter2"),
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2 and "at least 16" in done.stderr and "hunter2" not in done.stderr
