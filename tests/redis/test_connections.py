"""Connections: URLs, TLS, users with few rights, clients of one's own, absent servers."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio
from certificates import certificates
from servers import free_ports, redis_server
from support import until

from dataqueue import TLS, ConfigError, JobQueue, StoreUnavailable
from dataqueue.backends.redis import connect

UseEverything = Callable[[JobQueue], Awaitable[None]]


@pytest.fixture(scope="module")
def tls_server() -> Iterator[tuple[int, dict[str, str], Path]]:
    """A server that takes only TLS with a client certificate, with its PEM texts."""
    pems, (port,) = certificates(), free_ports(1)
    with pytest.MonkeyPatch.context() as patch, redis_server() as folder_of:
        folder = folder_of.folder / "tls"
        folder.mkdir()
        patch.setenv("PGSSLROOTCERT", "")
        for name, text in pems.items():
            (folder / f"{name}.pem").write_text(text)
            (folder / f"{name}.pem").chmod(0o600)
        with redis_server(
            "--tls-port", str(port), "--bind", "127.0.0.1", "--tls-cert-file", str(folder / "server_cert.pem"),
            "--tls-key-file", str(folder / "server_key.pem"), "--tls-ca-cert-file", str(folder / "ca.pem"),
        ):  # fmt: skip
            yield port, pems, folder


@pytest.fixture(scope="module")
def tcp_port() -> Iterator[int]:
    """A server with a password and some users."""
    (port,) = free_ports(1)
    with redis_server("--port", str(port), "--bind", "127.0.0.1") as server, server.client() as client:
        client.acl_setuser("worker", enabled=True, passwords=["+s3cret"], keys=["{app}:*"], channels=["{app}:*"],
                           reset=True, commands=connect.ACL_COMMANDS.split())  # fmt: skip
        client.acl_setuser("reader", enabled=True, passwords=["+s3cret"], keys=["{app}:*"], reset=True,
                           commands=connect.ACL_READER.split())  # fmt: skip
        client.acl_setuser(
            "default", enabled=True, passwords=["+s3cret"], keys=["*"], channels=["*"], categories=["+@all"]
        )
        yield port


# -- URLs -----------------------------------------------------------------------------------------------------


async def test_tcp_with_a_password_and_a_prefix(tcp_port: int, use_everything: UseEverything) -> None:
    url = f"redis://:s3cret@127.0.0.1:{tcp_port}/0"
    named = JobQueue.from_url(f"{url}?key_prefix=mine")
    await use_everything(named)
    async with JobQueue.from_url(url, key_prefix="mine") as same, JobQueue.from_url(url) as other:
        assert len(await same.get_all_jobs()) == 24 and await other.get_all_jobs() == []
    await named.close()
    with redis.Redis(port=tcp_port, password="s3cret") as client:
        assert all(key.startswith((b"{mine}:", b"{dq}:m")) for key in client.scan_iter())
        client.flushall()


async def test_tls_with_pem_texts_and_files(tls_server: Any, use_everything: UseEverything) -> None:
    port, pems, folder = tls_server
    url = f"rediss://127.0.0.1:{port}"
    texts = TLS(ca=pems["ca"], cert=pems["client_cert"], key=pems["client_key"])
    files = TLS(*(f"file://{folder}/{name}.pem" for name in ("ca", "client_cert", "client_key")))
    unverified = TLS(cert=pems["client_cert"], key=pems["client_key"], verify=False)
    for n, tls in enumerate((texts, files, unverified)):
        queue = JobQueue.from_url(url, tls=tls, key_prefix=f"tls{n}")
        await use_everything(queue)
        await queue.close()
    for wrong in (TLS(ca=pems["other_ca"], cert=pems["client_cert"], key=pems["client_key"]), TLS(ca=pems["ca"])):
        with pytest.raises(StoreUnavailable, match=f"127.0.0.1:{port}"):
            await JobQueue.from_url(url, tls=wrong).add_job("t")
    for broken in (TLS(ca="file:///nowhere.pem"), TLS(ca="not PEM at all")):
        with pytest.raises(ConfigError):
            JobQueue.from_url(url, tls=broken)
    with pytest.raises(ConfigError, match="rediss://"):
        JobQueue.from_url(f"redis://127.0.0.1:{port}", tls=texts)


@pytest.mark.parametrize(
    "url",
    [
        "redis://me:s3cret@h:port/0",
        "redis://me:s3cret@h:99999/0",
        "redis://me:s3cret@h/0?socket_timeout=soon",
        "redis://me:s3cret@h/0?nonsense=1",
        "redis+cluster://me:s3cret@h/0?nonsense=1",
        "rediss://me:s3cret@[h/0",
    ],
)
async def test_a_bad_url_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        await JobQueue.from_url(url).add_job("t")
    assert "s3cret" not in str(caught.value) and caught.value.__cause__ is None


@pytest.mark.parametrize("prefix", ["", "a b", "a\0", "x" * 201])
def test_a_bad_prefix_is_refused(prefix: str) -> None:
    with pytest.raises(ConfigError, match="key_prefix"):
        JobQueue.from_url("redis://localhost", key_prefix=prefix)


@pytest.mark.parametrize("scheme", ["redis", "rediss", "redis+cluster"])
async def test_an_absent_server_is_named_and_the_password_is_not(scheme: str) -> None:
    (port,) = free_ports(1)
    queue = JobQueue.from_url(f"{scheme}://me:s3cret@127.0.0.1:{port}")
    with pytest.raises(StoreUnavailable, match=f"127.0.0.1:{port}") as caught:
        await queue.add_job("t")
    assert "s3cret" not in str(caught.value) and "s3cret" not in repr(caught.value.__cause__)
    with pytest.raises(StoreUnavailable, match=r"/nowhere/redis\.sock"):
        await JobQueue.from_url("unix:///nowhere/redis.sock").add_job("t")


@pytest.mark.parametrize("credentials", ["", ":wr0ng@", "nobody:wr0ng@"])
async def test_a_wrong_password_is_said_and_not_shown(tcp_port: int, credentials: str) -> None:
    with pytest.raises(StoreUnavailable, match="user and password") as caught:
        await JobQueue.from_url(f"redis://{credentials}127.0.0.1:{tcp_port}").add_job("t")
    assert "wr0ng" not in str(caught.value) and f"127.0.0.1:{tcp_port}" in str(caught.value)


@pytest.mark.parametrize("reads", [False, True])
async def test_many_callers_wait_for_few_connections(reads: bool) -> None:
    with redis_server() as server, server.client() as client:
        async with JobQueue.from_url(server.url, max_connections=2) as queue:
            added = await asyncio.gather(*(queue.add_job("t", n) for n in range(300)))
            assert sorted(handle.id for handle in added) == list(range(1, 301))
            if reads:
                await asyncio.gather(*(handle.refresh() for handle in added))
            assert len(client.client_list()) == 3
        await until(lambda: len(client.client_list()) == 1, "the end of the connections")


# -- users with few rights --------------------------------------------------------------------------------------


async def test_a_worker_with_the_least_rights(tcp_port: int, use_everything: UseEverything) -> None:
    url = f"redis://worker:s3cret@127.0.0.1:{tcp_port}"
    queue = JobQueue.from_url(url, key_prefix="app")
    await use_everything(queue)
    await queue.close()
    with pytest.raises(StoreUnavailable, match="refused"):
        await JobQueue.from_url(url, key_prefix="other").add_job("t")


async def test_each_right_is_needed(tcp_port: int) -> None:
    """No command is on the list for nothing: the scripts and the reading code name each."""
    folder = Path(connect.__file__).parent
    sources = "".join(path.read_text() for path in [*folder.glob("*.py"), *folder.glob("scripts/*.lua")]).lower()
    sources = sources.replace("acl_commands", "").replace(connect.ACL_COMMANDS, "").replace(connect.ACL_READER, "")
    scripts = [
        path.read_text().lower() for path in folder.glob("scripts/*.lua") if path.stem != "move_back"
    ]  # of tests
    called = set(re.findall(r"redis\.call\('(\w+)'", "".join(scripts)))
    assert called <= {command.removeprefix("+") for command in connect.ACL_COMMANDS.split()}, "none is missing"
    for command in connect.ACL_COMMANDS.split():
        name = command.removeprefix("+").partition("|")[0]
        assert f"'{name}'" in sources or f".{name}" in sources or f'"{name}' in sources, name


async def test_a_reader_reads(tcp_port: int) -> None:
    async with JobQueue.from_url(f"redis://:s3cret@127.0.0.1:{tcp_port}", key_prefix="app") as writer:
        handle = await writer.add_job("t", 1, tags=["read"])
    async with JobQueue.from_url(f"redis://reader:s3cret@127.0.0.1:{tcp_port}", key_prefix="app") as queue:
        assert (await queue.require_job(handle.id)).payload == 1
        assert [job.id for job in await queue.get_jobs(tags=["read"])] == [handle.id]
        assert (await queue.stats()).by_status["pending"] >= 1
        assert len(await queue.get_job_events(handle.id)) == 1
        assert await queue.list_workers() is not None
        assert [item.check for item in await queue.doctor(deep=True) if item.level == "warning"] == ["server"]
        with pytest.raises(StoreUnavailable, match="ACL"):
            await queue.add_job("t")
    async with JobQueue.from_url(f"redis://reader:s3cret@127.0.0.1:{tcp_port}", key_prefix="{app}:empty") as queue:
        assert await queue.get_all_jobs() == []


# -- clients of one's own -----------------------------------------------------------------------------------------


async def test_a_client_of_ones_own_is_used_and_left_open(
    tcp_port: int, tls_server: Any, redis_server_url: str, use_everything: UseEverything
) -> None:
    tls_port, _, folder = tls_server
    tls = {
        "ssl": True,
        "ssl_ca_certs": f"{folder}/ca.pem",
        "ssl_certfile": f"{folder}/client_cert.pem",
        "ssl_keyfile": f"{folder}/client_key.pem",
    }
    clients = [
        redis.asyncio.Redis(host="127.0.0.1", port=tcp_port, password="s3cret", health_check_interval=5),
        redis.asyncio.Redis(host="127.0.0.1", port=tls_port, **tls),
        redis.asyncio.Redis.from_url(redis_server_url, protocol=3),
        redis.asyncio.Redis.from_pool(redis.asyncio.BlockingConnectionPool.from_url(redis_server_url, max_connections=8)),
    ]  # fmt: skip
    for n, client in enumerate(clients):
        queue = JobQueue(client=client, key_prefix=f"own{n}")
        await use_everything(queue)
        await queue.close()
        assert await client.ping(), "it is the caller's to close"
        await client.aclose()


@pytest.mark.parametrize(
    "client",
    [object(), redis.Redis(), redis.asyncio.Redis(decode_responses=True), "redis://localhost"],
    ids=["object", "sync", "decoding", "text"],
)
def test_another_kind_of_client_is_refused(client: Any) -> None:
    with pytest.raises(ConfigError, match=r"decode_responses|redis\.asyncio"):
        _ = JobQueue(client=client).backend


def test_a_client_of_sentinel_is_refused() -> None:
    from redis.asyncio.sentinel import Sentinel

    with pytest.raises(ConfigError, match="Sentinel"):
        _ = JobQueue(client=Sentinel([("127.0.0.1", 1)]).master_for("main")).backend


async def test_a_transaction_of_ones_own_is_refused(make_queue: Callable[..., JobQueue]) -> None:
    queue = make_queue()
    with pytest.raises(ConfigError, match="idempotency_key"):
        await queue.add_job("t", conn=object())  # type: ignore[arg-type]
    assert await queue.get_all_jobs() == []
