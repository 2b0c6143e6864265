"""The MCP server's tools, as a client sees them, on each store."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import pytest
from dataqueue.mcp_server import Server, ServerOptions, create_server
from mcp import Client
from mcp_types import CallToolResult, ElicitRequestParams, ElicitResult

from dataqueue import JobQueue, NewJob
from dataqueue.backends.base import Completed, Failed, WorkerInfo
from dataqueue.limits import Rate, TypeLimits

READ_TOOLS = [
    "search_docs", "get_doc", "queue_status", "list_jobs", "get_job", "explain_job", "summarize_failures",
    "list_workers", "check_setup", "list_schedules",
]  # fmt: skip
WRITE_TOOLS = [
    "retry_jobs",
    "cancel_jobs",
    "edit_job",
    "add_job",
    "set_paused",
    "set_schedule_status",
    "complete_token",
]


@pytest.fixture
def make_server(make_queue: Callable[..., JobQueue]) -> Callable[..., Server]:
    def make(**options: Any) -> Server:
        chosen = ServerOptions(**options)
        return create_server(chosen, make_queue(read_only=True), make_queue() if chosen.allow_writes else None)

    return make


@pytest.fixture
async def client(make_server: Callable[..., Server]) -> AsyncIterator[Client]:
    async with Client(make_server()) as client:
        yield client


def text_of(result: CallToolResult) -> str:
    assert len(result.content) == 1 and result.structured_content is None
    return result.content[0].text  # type: ignore[union-attr]


async def ask(client: Client, name: str, /, **arguments: Any) -> str:
    result = await client.call_tool(name, arguments)
    assert not result.is_error, text_of(result)
    return text_of(result)


async def refused(client: Client, name: str, /, **arguments: Any) -> str:
    result = await client.call_tool(name, arguments)
    assert result.is_error, text_of(result)
    return text_of(result)


async def fail_one(queue: JobQueue, message: str, error_type: str = "ValueError") -> int:
    await queue.open()
    await queue.backend.register_worker(WorkerInfo("w", "host", 1, ("pay",), 1, "0", 60))
    (job,) = (await queue.backend.cycle("w", [], ["pay"], 1, True)).jobs
    outcome = Failed(job.id, job.lease_id, message, "handler_error", None, error_type, "shop.py:12 pay")
    await queue.backend.cycle("w", [outcome], [], 0, False)
    return job.id


# -- the list of tools ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("writes", "names", "most"), [(False, READ_TOOLS, 6000), (True, READ_TOOLS + WRITE_TOOLS, 12_500)]
)
async def test_tools_are_few_small_and_hinted(writes: bool, names: list[str], most: int) -> None:
    queue = JobQueue.from_url("postgresql://u:hunter2@127.0.0.1:1/nowhere", read_only=True)
    async with Client(create_server(ServerOptions(allow_writes=writes), queue, queue if writes else None)) as client:
        tools = (await client.list_tools()).tools
    assert [tool.name for tool in tools] == names
    assert len(json.dumps([tool.model_dump(by_alias=True, exclude_none=True) for tool in tools])) <= most
    for tool in tools:
        hints = tool.annotations
        assert hints is not None and tool.output_schema is None and tool.description
        assert hints.read_only_hint is (tool.name in READ_TOOLS)
        assert None not in (hints.destructive_hint, hints.idempotent_hint, hints.open_world_hint)
        assert tool.input_schema["additionalProperties"] is False


async def test_only_the_docs() -> None:
    queue = JobQueue.from_url("postgresql://u:hunter2@127.0.0.1:1/nowhere", read_only=True)
    async with Client(create_server(ServerOptions(toolsets=("docs",)), queue)) as client:
        assert [tool.name for tool in (await client.list_tools()).tools] == ["search_docs", "get_doc"]
        assert "how-to/" in await ask(client, "search_docs", query="fastapi")
        assert [prompt.name for prompt in (await client.list_prompts()).prompts] == ["write_handler"]


async def test_a_store_out_of_reach_is_told_without_its_password() -> None:
    queue = JobQueue.from_url("postgresql://u:hunter2@127.0.0.1:1/nowhere", read_only=True)
    async with Client(create_server(ServerOptions(), queue)) as client:
        for name in ("queue_status", "list_workers", "check_setup", "list_jobs"):
            told = await refused(client, name)
            assert "127.0.0.1" in told and "nowhere" in told and "hunter2" not in told
        assert await ask(client, "get_doc")


async def test_no_store_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATAQUEUE_URL", "PG_DATAQUEUE_DATABASE", "DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)
    async with Client(create_server(ServerOptions(), JobQueue.from_url(read_only=True))) as client:
        assert "DATAQUEUE_URL" in await refused(client, "queue_status")


# -- docs -----------------------------------------------------------------------------------------------


async def test_docs_are_searched_and_read(client: Client) -> None:
    found = await ask(client, "search_docs", query="how do I retry with backoff", limit=3)
    assert re.match(r"1\. [\w-]+(/[\w-]+)? ", found)
    assert "Nothing found. The nearest titles" in await ask(client, "search_docs", query="zzqqxx")
    pages = await ask(client, "get_doc")
    assert pages.count("\n") > 5
    slug = pages.splitlines()[1].removeprefix("- ").split(":")[0]
    page = await ask(client, "get_doc", slug=slug)
    assert page.startswith("# ") and len(page.encode()) <= 13_000
    heading = re.search(r"^## (.+)$", page, re.MULTILINE)
    assert heading is not None
    assert (await ask(client, "get_doc", slug=slug, section=heading[1])).startswith(f"## {heading[1]}")
    wrong = await refused(client, "get_doc", slug="how-to/troubleshoot")
    assert "how-to/troubleshooting" in wrong and wrong.count("\n- ") == 5
    assert "Its sections" in await refused(client, "get_doc", slug=slug, section="no such")


async def test_resources_prompts_and_completion(client: Client, queue: JobQueue) -> None:
    from mcp_types import ResourceTemplateReference

    await queue.add_job("pay")
    assert {str(one.uri) for one in (await client.list_resources()).resources} == {"dataqueue://llms.txt"}
    templates = {one.uri_template for one in (await client.list_resource_templates()).resource_templates}
    assert templates == {"dataqueue://docs/{+slug}", "dataqueue://jobs/{id}"}
    llms = (await client.read_resource("dataqueue://llms.txt")).contents[0]
    assert "## How-to guides" in llms.text  # type: ignore[union-attr]
    page = (await client.read_resource("dataqueue://docs/how-to/troubleshooting")).contents[0]
    assert page.text.startswith("# ")  # type: ignore[union-attr]
    job = (await client.read_resource("dataqueue://jobs/1")).contents[0]
    assert "job 1: ready" in job.text  # type: ignore[union-attr]
    with pytest.raises(Exception, match="no page"):
        await client.read_resource("dataqueue://docs/no/such")
    prompts = {prompt.name for prompt in (await client.list_prompts()).prompts}
    assert prompts == {"diagnose_job", "triage_failures", "write_handler"}
    prompt = await client.get_prompt("diagnose_job", {"job_id": "7"})
    assert "job 7" in prompt.messages[0].content.text  # type: ignore[union-attr]
    reference = ResourceTemplateReference(type="ref/resource", uri="dataqueue://docs/{+slug}")
    found = await client.complete(reference, {"name": "slug", "value": "how-to/trouble"})
    assert found.completion.values == ["how-to/troubleshooting"]


# -- the queue ------------------------------------------------------------------------------------------


async def test_an_empty_store(client: Client) -> None:
    assert (await ask(client, "queue_status")).startswith("verdict: healthy")
    assert "No job meets" in await ask(client, "list_jobs")
    assert "job 1: not_found" in await ask(client, "explain_job", job_id=1)
    assert "no job 1" in await refused(client, "get_job", job_id=1)
    assert "0 failed jobs" in await ask(client, "summarize_failures")
    assert "0 workers alive" in await ask(client, "list_workers")
    assert "reads only" in await ask(client, "check_setup")


async def test_what_happened_to_a_job(client: Client, queue: JobQueue) -> None:
    await queue.add_job("pay", {"to": "Ada", "sum": 12}, tags=["shop"], max_attempts=1)
    job_id = await fail_one(queue, "card declined")
    explained = await ask(client, "explain_job", job_id=job_id)
    assert explained.startswith(f"job {job_id}: failed; will run: never")
    assert "card declined" in explained and "shop.py:12 pay" in explained and "dataqueue jobs retry" in explained
    job = await ask(client, "get_job", job_id=job_id)
    assert '"to": "string(3)"' in job and "Ada" not in job and "card declined" in job and "failed" in job
    assert '"to": "Ada"' in await ask(client, "get_job", job_id=job_id, include=["payload"], values="redacted")
    assert "--payloads full" in await refused(client, "get_job", job_id=job_id, values="full")
    failures = await ask(client, "summarize_failures")
    assert "1 failed jobs" in failures and "ValueError in pay" in failures
    status = await ask(client, "queue_status", job_type="pay", window="15m")
    assert "failed 1" in status and "| pay |" in status
    assert "15m or 24h" in await refused(client, "queue_status", window="long")


async def test_lists_are_paged(client: Client, queue: JobQueue) -> None:
    await queue.add_jobs(NewJob("pay", None, {"tags": ["even"] if n % 2 else []}) for n in range(25))
    await queue.add_job("other")
    first = await ask(client, "list_jobs", job_type=["pay"], limit=10)
    assert "total: 25 · truncated: true · next_cursor: 16" in first
    second = await ask(client, "list_jobs", job_type=["pay"], limit=20, cursor="16")
    assert second.count("| pay |") == 15 and "truncated: false · next_cursor: none" in second
    tagged = await ask(client, "list_jobs", tags=["even"], status=["pending"])
    assert "total: 12 · truncated: false" in tagged
    assert "total: 0" in await ask(client, "list_jobs", status=["failed"])
    assert "total: 0" in await ask(client, "list_jobs", created_after="2100-01-01")
    for wrong in (
        {"cursor": "x"},
        {"created_after": "yesterday"},
        {"limit": 0},
        {"status": ["odd"]},
        {"stauts": ["failed"]},
    ):
        assert await refused(client, "list_jobs", **wrong)


async def test_workers_and_what_they_hold(client: Client, queue: JobQueue) -> None:
    await queue.add_job("pay")
    await queue.backend.register_worker(WorkerInfo("w-1", "host", 7, ("pay",), 3, "0", 60))
    await queue.backend.cycle("w-1", [], ["pay"], 1, True)
    told = await ask(client, "list_workers")
    assert "1 workers alive" in told and "w-1 (alive): holds 1 of 3" in told and "job 1 (pay)" in told


async def test_groups_limits_and_pauses_are_shown(client: Client, queue: JobQueue) -> None:
    await queue.add_job("pay", group="acme")
    await queue.add_job("pay", group="other")
    await queue.backend.register_worker(WorkerInfo("w-1", "host", 7, ("pay",), 3, "0", 60, 2))
    await queue.backend.declare_limits({"pay": TypeLimits(max_concurrency=5, rate=Rate(100, per=timedelta(minutes=1)))})
    assert "at most 2 of one group" in await ask(client, "list_workers")
    listed = await ask(client, "list_jobs", group_id="acme")
    assert "| 1 | pay |" in listed and "| 2 | pay |" not in listed and "total: 1" in listed
    assert "group: acme" in await ask(client, "get_job", job_id=1)
    assert "| pay | – | 0 of 5 | 0 of 100 in 1 min | – |" in await ask(client, "queue_status")
    await queue.pause("pay", by="ana")
    await queue.pause(by="ben")
    status = await ask(client, "queue_status")
    assert status.startswith("verdict: healthy") and "Type pay was paused by ana" in status
    assert "| (whole queue) | since " in status and "by ben" in status and "dataqueue resume" in status
    explained = await ask(client, "explain_job", job_id=1)
    assert explained.startswith("job 1: paused; will run: later") and "reasons: queue_paused" in explained
    assert "by ana" in explained and "dataqueue resume TYPE" in explained and "dataqueue resume --all" in explained


async def test_unknown_arguments_are_refused(client: Client) -> None:
    told = await refused(client, "get_job", job_id=1, raw=True)
    assert "no argument raw" in told and "job_id, include, values" in told


async def test_long_answers_are_cut(make_server: Callable[..., Server], queue: JobQueue) -> None:
    await queue.add_jobs(NewJob("pay", None, {"tags": [f"{n}-{'x' * 70}"]}) for n in range(100))
    async with Client(make_server(max_output=4000)) as client:
        told = await ask(client, "list_jobs", limit=100)
    assert (
        len(told.encode()) <= 4000 and "truncated: true" in told and told.count("<data-") == told.count("</data-") == 1
    )


# -- changing -------------------------------------------------------------------------------------------


async def test_reading_servers_change_nothing(client: Client, queue: JobQueue) -> None:
    await queue.add_job("pay")
    told = await client.call_tool("cancel_jobs", {"ids": [1], "dry_run": False, "confirm": True})
    assert told.is_error
    assert (await queue.require_job(1)).status == "pending"


async def test_a_dry_run_comes_first(make_server: Callable[..., Server], queue: JobQueue) -> None:
    await queue.add_jobs(NewJob("pay") for _ in range(3))
    async with Client(make_server(allow_writes=True)) as client:
        told = await ask(client, "cancel_jobs", job_type=["pay"])
        assert told.startswith("Dry run: nothing was done") and told.count("| pay |") == 3
        assert "expected_count=3" in told
        assert "this client cannot ask" in await ask(
            client, "cancel_jobs", job_type=["pay"], expected_count=3, dry_run=False
        )
        assert [job.status for job in await queue.get_all_jobs()] == ["pending"] * 3
        wrong = await refused(client, "cancel_jobs", job_type=["pay"], expected_count=2, dry_run=False, confirm=True)
        assert "3 jobs match, but expected_count is 2" in wrong
        done = await ask(client, "cancel_jobs", job_type=["pay"], expected_count=3, dry_run=False, confirm=True)
        assert "cancelled: 3 jobs" in done
        retried = await ask(client, "retry_jobs", ids=[1, 99], dry_run=False, confirm=True)
        assert "There are no jobs with these ids: 99" in retried and "retried: 1 jobs (1)" in retried
        assert "either ids or a filter" in await refused(client, "retry_jobs", ids=[1], job_type=["pay"])
        assert "either ids or a filter" in await refused(client, "retry_jobs")
        assert await refused(client, "retry_jobs", ids=list(range(1, 60)))
        told = await ask(client, "add_job", job_type="new", payload={"a": 1})
        assert "Dry run: nothing was done" in told and "no job of this type" in told
        added = await ask(
            client, "add_job", job_type="pay", payload={"a": 1}, delay_seconds=60, dry_run=False, confirm=True
        )
        assert "added: job" in added
    assert [job.status for job in await queue.get_all_jobs()] == ["pending", "cancelled", "cancelled", "pending"]
    assert [(e.event_type, e.metadata) for e in await queue.get_job_events(1)][1:] == [
        ("cancelled", {"by": "mcp"}),
        ("retried", {"by": "mcp"}),
    ]
    new = (await queue.get_all_jobs())[0]
    assert (new.payload, new.tags) == ({"a": 1}, ("mcp",)) and new.run_at - new.created_at >= timedelta(seconds=59)


async def test_a_pending_job_is_edited(make_server: Callable[..., Server], queue: JobQueue) -> None:
    await queue.add_job("pay", {"token": "sk-live-abcdefghijklmnop", "n": 1}, delay=timedelta(hours=1))
    done: dict[str, Any] = {"dry_run": False, "confirm": True}
    changes = {"priority": 9, "run_at": "now", "payload": {"n": 2}, "tags": ["x"], "timeout_seconds": 5}
    async with Client(make_server(allow_writes=True)) as client:
        told = await ask(client, "edit_job", job_id=1, changes=changes)
        assert told.startswith("Dry run: nothing was done") and "priority: 0 → 9" in told and "→ now" in told
        assert "sk-live" not in told
        assert "this client cannot ask" in await ask(client, "edit_job", job_id=1, changes=changes, dry_run=False)
        assert len(await queue.get_job_events(1)) == 1
        assert "changed: job 1" in await ask(client, "edit_job", job_id=1, changes=changes, **done)
        assert "Name what to change" in await refused(client, "edit_job", job_id=1, changes={})
        assert "no job 9" in await refused(client, "edit_job", job_id=9, changes={"priority": 1})
        for name, wrong in (
            ("run_at", "soon"),
            ("run_at", "2030-01-01T00:00:00"),
            ("priority", 2**40),
            ("priority", None),
            ("timeout_seconds", 1e30),
            ("group", "g"),
        ):
            assert name in await refused(client, "edit_job", job_id=1, changes={name: wrong}, **done)
        assert "changed: job 1" in await ask(client, "edit_job", job_id=1, changes={"timeout_seconds": None}, **done)
        await queue.cancel_job(1)
        told = await ask(client, "edit_job", job_id=1, changes={"priority": 1}, **done)
        assert "only pending jobs can be changed" in told
    job = await queue.require_job(1)
    assert (job.priority, job.payload, job.tags, job.timeout) == (9, {"n": 2}, ("x",), None)
    assert job.run_at < job.created_at + timedelta(minutes=30)
    event = (await queue.get_job_events(1))[1]
    assert (event.event_type, event.metadata["by"], event.metadata["priority"]) == ("edited", "mcp", 9)


async def test_a_type_is_paused_and_resumed(make_server: Callable[..., Server], queue: JobQueue) -> None:
    await queue.add_job("pay")
    async with Client(make_server(allow_writes=True)) as client:
        assert "Dry run: nothing was done" in await ask(client, "set_paused", paused=True, job_type="pay")
        told = await ask(client, "set_paused", paused=True, dry_run=False)
        assert "this client cannot ask" in told and "confirm=true" in told
        assert await queue.list_limits() == []
        done: dict[str, Any] = {"dry_run": False, "confirm": True}
        told = await ask(client, "set_paused", paused=True, job_type="pay", reason="the bank is down", **done)
        assert told.startswith("paused.")
        assert "Nothing was changed" in await ask(client, "set_paused", paused=True, job_type="pay", **done)
        await ask(client, "set_paused", paused=True, **done)
        assert [(s.job_type, s.paused_by) for s in await queue.list_limits()] == [
            (None, "mcp"),
            ("pay", "mcp: the bank is down"),
        ]
        assert "no job of this type" in await ask(client, "set_paused", paused=True, job_type="typo")
        told = await ask(client, "set_paused", paused=False, **done)
        assert told.startswith("resumed.") and "still paused: pay" in told
        assert (await ask(client, "set_paused", paused=False, job_type="pay", **done)).startswith("resumed.")
    assert await queue.list_limits() == []


async def test_one_name_is_a_list_of_one(client: Client, queue: JobQueue) -> None:
    await queue.add_job("pay")
    assert "total: 1" in await ask(client, "list_jobs", job_type="pay", status="pending")


@pytest.mark.parametrize("mode", ["legacy", "2026-07-28"])
@pytest.mark.parametrize("answer", [True, False, None])
async def test_the_person_is_asked_where_the_client_can(
    make_server: Callable[..., Server], queue: JobQueue, answer: bool | None, mode: Any
) -> None:
    await queue.add_job("pay")
    asked: list[str] = []

    async def elicit(context: Any, params: ElicitRequestParams) -> ElicitResult:
        asked.append(params.message)
        if answer is None:
            return ElicitResult(action="decline")
        return ElicitResult(action="accept", content={"approve": answer})

    async with Client(make_server(allow_writes=True), mode=mode, elicitation_callback=elicit) as client:
        assert "Dry run" in await ask(client, "cancel_jobs", ids=[1])
        assert asked == []
        # Saying confirm does not replace the person.
        told = await ask(client, "cancel_jobs", ids=[1], dry_run=False, confirm=True)
    assert asked == ["Cancel job 1 of type pay, running ones too?"]
    assert ("cancelled: 1 jobs" if answer else "The person said no: nothing was done") in told
    assert answer or "do not ask again" in told
    assert (await queue.require_job(1)).status == ("cancelled" if answer else "pending")


async def test_completed_work_is_not_touched_by_a_filter(make_server: Callable[..., Server], queue: JobQueue) -> None:
    await queue.add_jobs(NewJob("pay") for _ in range(2))
    await queue.backend.register_worker(WorkerInfo("w", "host", 1, ("pay",), 1, "0", 60))
    (job,) = (await queue.backend.cycle("w", [], ["pay"], 1, True)).jobs
    await queue.backend.cycle("w", [Completed(job.id, job.lease_id)], [], 0, False)
    async with Client(make_server(allow_writes=True)) as client:
        told = await ask(client, "cancel_jobs", job_type=["pay"])
        assert "To be cancelled: 1 jobs" in told
        assert "No job is to be retried" in await ask(client, "retry_jobs", ids=[1], dry_run=False, confirm=True)
        wrong = await refused(client, "cancel_jobs", ids=[1, 2], expected_count=2, dry_run=False, confirm=True)
        assert "expected_count is 2" in wrong
        for arguments in ({"priority": 10**12}, {"tags": ["x" * 300]}, {"delay_seconds": 1e30}):
            assert "Nothing was added" in await refused(client, "add_job", job_type="pay", **arguments)
        assert f"Left alone, because their state does not allow it: jobs {job.id}" in await ask(
            client, "cancel_jobs", ids=[job.id], dry_run=False, confirm=True
        )


# -- schedules ------------------------------------------------------------------------------------------


async def test_schedules_are_listed_paused_and_resumed(make_server: Callable[..., Server], queue: JobQueue) -> None:
    await queue.add_cron_job("report", "0 9 * * 1-5", "pay", timezone="Europe/Oslo")
    done = {"dry_run": False, "confirm": True}
    async with Client(make_server(allow_writes=True)) as client:
        told = await ask(client, "list_schedules")
        assert "At 09:00, Monday through Friday" in told and "Europe/Oslo" in told and "next: 20" in told
        assert "schedules: 0" in await ask(client, "list_schedules", name="other")
        assert "schedules: 0" in await ask(client, "list_schedules", status="paused")
        change = {"name": "report", "status": "paused"}
        assert "Dry run: nothing was done" in await ask(client, "set_schedule_status", **change)
        assert (await queue.list_cron_jobs())[0].status == "active"
        assert (await ask(client, "set_schedule_status", **change, **done)).startswith("paused.")
        assert (await queue.list_cron_jobs())[0].status == "paused"
        assert "Nothing was changed" in await ask(client, "set_schedule_status", **change, **done)
        assert (await ask(client, "set_schedule_status", name="report", status="active", **done)).startswith("active.")
        assert "no schedule of this name" in await ask(
            client, "set_schedule_status", name="typo", status="active", **done
        )
