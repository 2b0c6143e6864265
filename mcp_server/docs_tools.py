"""Tools and resources over the manual; they need no store."""

from __future__ import annotations

from typing import Annotated

from dataqueue.docs import DocsIndex, Page, find_page, load_pages, nearest_pages
from dataqueue.docs.llms import llms_txt
from dataqueue.mcp_server.server import Server, read_only_hints
from mcp.server.mcpserver.exceptions import ResourceNotFoundError, ToolError
from mcp_types import Completion, CompletionArgument, CompletionContext, PromptReference, ResourceTemplateReference
from pydantic import Field

from dataqueue.errors import DataQueueError

MAX_PAGE = 12_000
"""Bytes of Markdown in one answer; a longer page is given as an outline."""


def register(server: Server) -> None:
    index = DocsIndex(load_pages())

    def find(slug: str) -> Page | None:
        return find_page(slug.strip().removeprefix("dataqueue://docs/"), index.pages)

    def search_docs(
        query: Annotated[str, Field(min_length=1, max_length=400, description="a question or keywords")],
        limit: Annotated[int, Field(ge=1, le=20)] = 5,
    ) -> str:
        """Search dataqueue's manual. Gives pages and the section of each that fits best; read on with get_doc."""
        hits = index.search(query, limit)
        if not hits:
            near = "\n".join(f"- {page.slug}: {page.title}" for page in nearest_pages(query, index.pages))
            return f"Nothing found. The nearest titles:\n{near}"
        lines: list[str] = []
        for place, hit in enumerate(hits, 1):
            section = f" § {hit.section.heading}" if hit.section.level > 1 else ""
            lines.append(f"{place}. {hit.page.slug}{section} (score {hit.score}): {hit.page.title}")
            lines.append(f"   {hit.page.description}\n   {hit.snippet}")
        return "\n".join(lines)

    def get_doc(
        slug: Annotated[str | None, Field(description="as search_docs gives it; without: the list of pages")] = None,
        section: Annotated[str | None, Field(description="a heading of the page")] = None,
        offset: Annotated[int, Field(ge=0, description="go on from here")] = 0,
    ) -> str:
        """Read a page of dataqueue's manual, or one section of it. A long page is answered with its outline."""
        if slug is None:
            return "\n".join(f"- {page.slug}: {page.description}" for page in index.pages)
        page = find(slug)
        if page is None:
            near = "\n".join(f"- {one.slug}: {one.title}" for one in nearest_pages(slug, index.pages))
            raise ToolError(f"There is no page of this name. The nearest:\n{near}")
        text = page.body
        if section is not None:
            text = _section_text(page, section)
        elif offset == 0 and len(text.encode()) > MAX_PAGE:
            return _outline(page)
        return _part(text, offset)

    def llms() -> str:
        return llms_txt(index.pages)

    def doc(slug: str) -> str:
        page = find(slug)
        if page is None:
            raise ResourceNotFoundError(f"There is no page {slug!r:.80}.")
        return page.body

    server.register(search_docs, read_only_hints("Search the manual"))
    server.register(get_doc, read_only_hints("Read the manual"))
    server.resource(
        "dataqueue://llms.txt", name="llms.txt", mime_type="text/markdown", description="The list of pages."
    )(llms)
    server.resource(
        "dataqueue://docs/{+slug}", name="page", mime_type="text/markdown", description="A page of the manual."
    )(doc)

    @server.completion()
    async def complete(  # pyright: ignore[reportUnusedFunction]
        ref: PromptReference | ResourceTemplateReference,
        argument: CompletionArgument,
        context: CompletionContext | None,
    ) -> Completion | None:
        part = argument.value.casefold()
        if argument.name == "slug":
            names = [page.slug for page in index.pages]
        elif argument.name == "job_type" and "queue" in server.options.toolsets:
            try:
                names = sorted((await server.queues.reader.stats()).by_type)
            except DataQueueError:
                return None
        else:
            return None
        found = [name for name in names if part in name.casefold()]
        found.sort(key=lambda name: (not name.casefold().startswith(part), name))
        return Completion(values=found[:100], total=len(found), has_more=len(found) > 100)


def _section_text(page: Page, heading: str) -> str:
    found = page.section(heading)
    if found is None:
        headings = "\n".join(f"- {section.heading}" for section in page.sections)
        raise ToolError(f"{page.slug} has no section of this name. Its sections:\n{headings}")
    at = page.sections.index(found)
    parts = [found]
    for following in page.sections[at + 1 :]:  # with what stands below it
        if following.level <= found.level:
            break
        parts.append(following)
    return "\n\n".join(f"{'#' * part.level} {part.heading}\n\n{part.text}" for part in parts)


def _outline(page: Page) -> str:
    lines = [f"# {page.title}", page.description, "", "This page is long: ask for a section, or go on with offset=1."]
    lines += [f"{'  ' * (part.level - 2)}- {part.heading} ({len(part.text):,} chars)" for part in page.sections[1:]]
    return "\n".join(lines)


def _part(text: str, offset: int) -> str:
    data = text.encode()
    part = data[offset : offset + MAX_PAGE].decode("utf-8", "ignore")
    end = offset + len(part.encode())
    if end < len(data):
        part += f"\n\n(cut: {len(data) - end:,} bytes follow; go on with offset={end})"
    return part or f"(nothing: the text ends at {len(data):,})"
