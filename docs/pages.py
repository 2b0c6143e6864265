"""Pages of the manual: front matter, title, and sections by heading."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any, cast

ROOMS = ("tutorial", "how-to", "reference", "explanation")
"""The folders that hold pages, in reading order; ``index.md`` stands before them."""

_FENCE = re.compile(r"^\s*(```+|~~~+)")
_HEADING = re.compile(r"^(#{1,4}) +(.+?)\s*$")


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and what stands below it, up to the next heading. ``level`` 1 is the page's own."""

    heading: str
    level: int
    text: str

    @property
    def anchor(self) -> str:
        """The fragment of its URL on the site."""
        return re.sub(r"[^\w]+", "-", self.heading.lower()).strip("-")


@dataclass(frozen=True, slots=True)
class Page:
    """One page. ``slug`` is its path without ``.md``; ``questions`` are what it answers, in a reader's words."""

    slug: str
    title: str
    description: str
    questions: tuple[str, ...]
    body: str
    """Markdown from the title on, without the front matter."""
    sections: tuple[Section, ...]
    front_matter: dict[str, Any]

    def section(self, heading: str) -> Section | None:
        """The section with this heading or anchor, however it is capitalised."""
        wanted = heading.strip().lstrip("#").strip().casefold()
        return next((s for s in self.sections if wanted in (s.heading.casefold(), s.anchor)), None)


@cache
def load_pages() -> tuple[Page, ...]:
    """All pages of the installed manual, in reading order."""
    return tuple(parse_page(slug, text) for slug, text in _files(resources.files("dataqueue.docs")))


def _files(root: Traversable) -> Iterator[tuple[str, str]]:
    index = root / "index.md"
    if index.is_file():
        yield "index", index.read_text("utf-8")
    for room in ROOMS:
        folder = root / room
        if folder.is_dir():
            for file in sorted(folder.iterdir(), key=lambda entry: entry.name):
                if file.name.endswith(".md"):
                    yield f"{room}/{file.name.removesuffix('.md')}", file.read_text("utf-8")


def parse_page(slug: str, text: str) -> Page:
    """A page from its file.

    Raises:
        ValueError: no front matter, no description, or no title; the message names the page.
    """
    match = re.match(r"---\n(.*?\n)---\n+(.*)", text, flags=re.DOTALL)
    if match is None:
        raise ValueError(f"{slug}: the page has no front matter.")
    from ruamel.yaml import YAML

    reader: Any = YAML(typ="safe", pure=True)
    front = cast("dict[str, Any]", reader.load(match[1]) or {})
    body = match[2].strip() + "\n"
    sections = tuple(split_sections(body))
    if not sections or sections[0].level != 1:
        raise ValueError(f"{slug}: the page does not begin with a title.")
    if not front.get("description"):
        raise ValueError(f"{slug}: the page has no description.")
    questions = tuple(str(question) for question in front.get("questions") or ())
    return Page(slug, sections[0].heading, str(front["description"]), questions, body, sections, front)


def split_sections(body: str) -> Iterator[Section]:
    """The sections of a page's Markdown; a ``#`` inside a fenced block is no heading."""
    heading, level, lines, fence = "", 0, list[str](), ""
    for line in body.splitlines():
        mark = _FENCE.match(line)
        if mark and (not fence or line.strip().startswith(fence)):
            fence = "" if fence else mark[1]
        found = None if fence else _HEADING.match(line)
        if found:
            if level:
                yield Section(heading, level, "\n".join(lines).strip())
            heading, level, lines = found[2], len(found[1]), []
        else:
            lines.append(line)
    if level:
        yield Section(heading, level, "\n".join(lines).strip())


def find_page(name: str, pages: Sequence[Page]) -> Page | None:
    """The page with this slug, or the only one whose slug ends with it."""
    wanted = name.strip().strip("/").removesuffix(".md")
    named = [page for page in pages if wanted in (page.slug, page.slug.rpartition("/")[2])]
    exact = [page for page in named if page.slug == wanted]
    return exact[0] if exact else named[0] if len(named) == 1 else None


def nearest_pages(wanted: str, pages: Sequence[Page], count: int = 5) -> list[Page]:
    """The pages whose slugs or titles look most like a text that names no page."""

    def likeness(page: Page) -> float:
        names = (page.slug, page.slug.rpartition("/")[2], page.title)
        return max(difflib.SequenceMatcher(None, wanted.casefold(), name.casefold()).ratio() for name in names)

    return sorted(pages, key=likeness, reverse=True)[:count]
