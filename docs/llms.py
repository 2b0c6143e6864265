"""``llms.txt`` and ``llms-full.txt``: the manual for language models, generated from the pages."""

from __future__ import annotations

from collections.abc import Sequence

from dataqueue.docs.pages import ROOMS, Page

_INTRODUCTION = """\
# dataqueue

> Background jobs for Python on the Postgres or Redis you already run: typed jobs, retries, delays, results, \
transactional adds, fenced leases, and an MCP server through which an assistant can explain any job.
"""
_NAMES = {"tutorial": "Tutorial", "how-to": "How-to guides", "reference": "Reference", "explanation": "Explanation"}


def llms_txt(pages: Sequence[Page]) -> str:
    """A list of all pages with their descriptions, as llmstxt.org has it."""
    parts = [_INTRODUCTION]
    for room in ROOMS:
        own = [page for page in pages if page.slug.startswith(f"{room}/")]
        if own:
            lines = [f"- [{page.title}]({page.slug}.md): {page.description}" for page in own]
            parts.append(f"## {_NAMES[room]}\n\n" + "\n".join(lines) + "\n")
    return "\n".join(parts)


def llms_full_txt(pages: Sequence[Page]) -> str:
    """All pages, one after the other."""
    return "\n".join([_INTRODUCTION, *(f"<!-- {page.slug} -->\n{page.body}" for page in pages)])
