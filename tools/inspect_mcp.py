"""The MCP server before an independent judge: ``make check-mcp``.

MCP Inspector lists and calls every tool, over stdio and HTTP and in both eras of the protocol, against a queue of
100,000 jobs with payloads of up to a megabyte, on both stores. Every answer must be under 40 KB and, asked by a
client that stays connected, come within a second. Inspector and the Node.js that it needs come from npm.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from mcp import Client  # noqa: E402
from npm import FOLDER, INSPECTOR, install_programs  # noqa: E402
from servers import free_ports  # noqa: E402

from dataqueue import JobQueue, NewJob  # noqa: E402
from dataqueue.backends.base import Completed, Failed, WorkerInfo  # noqa: E402
from dataqueue.embedded import start_postgres, start_valkey  # noqa: E402
from dataqueue.tokens import TokenSpec  # noqa: E402

MOST_BYTES = 40_000
MOST_SECONDS = 1.0
TYPES = [f"type_{n}" for n in range(20)]

APPROVAL = "an-approval"
CALLS: list[tuple[str, dict[str, Any]]] = [
    ("search_docs", {"query": "how do I retry a job later"}),
    ("get_doc", {}),
    ("get_doc", {"slug": "reference/cli"}),
    ("queue_status", {}),
    ("queue_status", {"job_type": "type_1", "window": "1h"}),
    ("list_jobs", {}),
    ("list_jobs", {"limit": 100}),
    ("list_jobs", {"status": ["failed"], "error_contains": "refused", "limit": 50}),
    ("list_jobs", {"tags": ["big"], "limit": 50}),
    ("list_jobs", {"job_type": ["type_3"], "status": ["completed"], "limit": 50}),
    ("get_job", {"job_id": 1, "include": ["events", "errors", "payload", "output", "steps"]}),
    ("get_job", {"job_id": 1, "include": ["payload"], "values": "redacted"}),
    ("explain_job", {"job_id": 1}),
    ("explain_job", {"job_id": 99_999}),
    ("summarize_failures", {}),
    ("list_workers", {}),
    ("check_setup", {}),
    ("retry_jobs", {"status": ["failed"], "error_contains": "card 7 "}),
    ("cancel_jobs", {"ids": [99_998, 99_999]}),
    ("edit_job", {"job_id": 99_999, "changes": {"priority": 5}}),
    ("add_job", {"job_type": "type_1", "payload": {"a": 1}}),
    ("set_paused", {"job_type": "type_1", "paused": True}),
    ("list_schedules", {}),
    ("set_schedule_status", {"name": "nightly", "status": "paused"}),
    ("complete_token", {"token_id": APPROVAL, "output": "yes"}),
]
WRITES = {"retry_jobs", "cancel_jobs", "edit_job", "add_job", "set_paused", "set_schedule_status", "complete_token"}


class Inspector:
    def __init__(self, folder: Path) -> None:
        self._environment = install_programs(folder, INSPECTOR)
        self._program = str(folder / "node_modules" / ".bin" / "mcp-inspector")

    def __call__(self, target: Sequence[str], era: str, *args: str) -> Any:
        options = ["--cli", "--quiet", "--format", "json", "--protocol-era", era, *args]
        done = subprocess.run(
            [self._program, *options, *target], env=self._environment, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        if done.returncode:
            sys.exit(f"Inspector ended with {done.returncode} on {args}:\n{done.stdout[:2000]}{done.stderr[:2000]}")
        answer = json.loads(done.stdout)
        return answer.get("result", answer)


async def fill(queue: JobQueue, count: int) -> None:
    """Jobs in every state, the first few with large payloads, two workers, a schedule and a token."""
    big = {"rows": [{"id": n, "text": "x" * 80, "password": "hunter2"} for n in range(9_000)]}  # about a megabyte
    await queue.add_jobs(NewJob("type_0", big, {"max_attempts": 1, "tags": ["big"]}) for _ in range(20))
    await queue.add_jobs(
        NewJob(TYPES[n % 20], {"n": n, "to": f"user{n}@example.com"}, {"tags": ["shop", f"batch-{n % 100}"]})
        for n in range(count - 20)
    )
    await queue.backend.create_token(TokenSpec(APPROVAL, None, ("shop",)))
    await queue.add_cron_job("nightly", "0 3 * * *", "type_1", {"a": 1})
    for name in ("worker-1", "worker-2"):
        await queue.backend.register_worker(WorkerInfo(name, "host", 1, tuple(TYPES), 50, "0", 3600))
    for turn in range(count // 1000):  # half of them are worked
        jobs = (await queue.backend.cycle("worker-1", [], TYPES, 500, True)).jobs
        outcomes = [
            Failed(
                job.id, job.lease_id, f"card {job.id} was refused", "handler_error", None, "CardError", "pay.py:7 pay"
            )
            if job.id % 10 == 0 or job.id < 10
            else Completed(job.id, job.lease_id, json.dumps({"ok": job.id}))
            for job in jobs
        ]
        await queue.backend.cycle("worker-1", outcomes, [], 0, False)
        if turn == 0:
            await queue.backend.cycle("worker-2", [], TYPES, 40, True)


async def time_calls(address: str, calls: Sequence[tuple[str, dict[str, Any]]]) -> list[str]:
    """Ask everything over one connection; the complaints."""
    complaints: list[str] = []
    async with Client(address) as client:
        for name, arguments in calls:
            slowest, text = 0.0, ""
            for _ in range(3):
                began = time.perf_counter()
                result = await client.call_tool(name, arguments)
                slowest = max(slowest, time.perf_counter() - began)
                text = result.content[0].text  # type: ignore[union-attr]
                if result.is_error:
                    complaints.append(f"{name} {arguments}: {text[:300]}")
                if not name.endswith(("_docs", "_doc")) and ("hunter2" in text or "@example.com" in text):
                    complaints.append(f"{name} {arguments}: shows what it should hide")
            size = len(text.encode())
            print(f"  {name:<20} {json.dumps(arguments)[:60]:<60} {size:>7,} bytes {1000 * slowest:>6.0f} ms")
            if size > MOST_BYTES or slowest > MOST_SECONDS:
                complaints.append(f"{name} {arguments}: {size:,} bytes in {slowest:.2f} s")
    return complaints


def judge(url: str, inspector: Inspector, writes: bool) -> list[str]:
    calls = CALLS if writes else [call for call in CALLS if call[0] not in WRITES]
    flags = ["--allow-writes"] if writes else []
    environment = {**os.environ, "DATAQUEUE_URL": url}
    stdio = ["-e", f"DATAQUEUE_URL={url}", "--", sys.executable, "-m", "dataqueue", "mcp", *flags]
    (port,) = free_ports(1)
    server = subprocess.Popen(
        [sys.executable, "-m", "dataqueue", "mcp", *flags, "--transport", "http", "--port", str(port)],
        env=environment, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    address = f"http://127.0.0.1:{port}/mcp"
    try:
        assert server.stderr is not None
        next(line for line in server.stderr if "listens at" in line)
        time.sleep(1)
        http = ["--server-url", address, "--transport", "http"]
        for era in ("legacy", "modern"):
            for target in (stdio, http):
                listed = inspector(target, era, "--method", "tools/list", "--strict")
                tools = {tool["name"] for tool in listed["tools"]}
                assert tools == {name for name, _ in calls}, tools
            for name, arguments in calls:
                args = ["--method", "tools/call", "--tool-name", name, "--tool-args-json", json.dumps(arguments)]
                answer = inspector(http, era, *args)
                assert not answer.get("isError"), answer
            for method in ("resources/list", "resources/templates/list", "prompts/list"):
                inspector(http, era, "--method", method)
            inspector(http, era, "--method", "resources/read", "--uri", "dataqueue://docs/how-to/mcp")
            print(f"  Inspector, {era}: {len(tools)} tools listed over stdio and HTTP, {len(calls)} calls answered")
        return asyncio.run(time_calls(address, calls))
    finally:
        server.terminate()
        server.communicate(timeout=30)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where npm installs to")
    options = parser.parse_args()
    inspector = Inspector(options.folder.resolve())
    complaints: list[str] = []
    with ExitStack() as stack:
        for kind, start in (("postgres", start_postgres), ("valkey", start_valkey)):
            path = Path(tempfile.mkdtemp(prefix=f"dataqueue-inspect-{kind}-"))
            server = start(path)
            stack.callback(shutil.rmtree, path, ignore_errors=True)
            stack.callback(server.stop, wait=True)

            async def prepare(url: str = server.url) -> None:
                await JobQueue.from_url(url).migrate()
                async with JobQueue.from_url(url) as queue:
                    await fill(queue, options.jobs)

            asyncio.run(prepare())
            for writes in (False, True):
                print(f"{kind}, {options.jobs:,} jobs, {'reading and writing' if writes else 'reading'}", flush=True)
                complaints += judge(server.url, inspector, writes)
    if complaints:
        sys.exit("\n".join(complaints))
    print("All is well.")


if __name__ == "__main__":
    main()
