"""The manual: its form, its links, and every Python block of it, on both stores."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from dataqueue.docs import load_pages
from dataqueue.docs.pages import Page, parse_page
from eval_docs import TARGETS, evaluate
from pages import python_blocks, run_blocks

DOCS = Path(__file__).parent.parent / "docs"
FILES = sorted(
    file for room in ("tutorial", "how-to", "reference", "explanation") for file in (DOCS / room).glob("*.md")
)
STORES = ("postgres", "redis")


def slug_of(file: Path) -> str:
    return file.relative_to(DOCS).with_suffix("").as_posix()


PAGES = [parse_page(slug_of(file), file.read_text()) for file in FILES]
RUNNING = [
    pytest.param(page, store, id=f"{page.slug}-{store}")
    for page in PAGES
    for store in STORES
    if page.front_matter.get("store", store) == store and python_blocks((DOCS / f"{page.slug}.md").read_text())
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.slug)
def test_the_front_matter(page: Page) -> None:
    assert set(page.front_matter) <= {"description", "questions", "store"}
    assert 30 <= len(page.description) <= 200
    assert 3 <= len(page.questions) <= 6
    assert all(question.endswith("?") for question in page.questions)


def test_links_lead_to_pages_and_headings() -> None:
    wrong: list[str] = []
    by_slug = {page.slug: page for page in [*PAGES, *load_pages()]}
    for file in FILES:
        for target in re.findall(r"\]\(([^)\s]+)\)", file.read_text()):
            if re.match(r"https?:|mailto:", target):
                continue
            path, _, anchor = target.partition("#")
            found = (file.parent / path).resolve() if path else file
            page = by_slug.get(slug_of(found)) if DOCS in found.parents else None
            if not found.exists() or (anchor and page is not None and page.section(anchor) is None):
                wrong.append(f"{slug_of(file)}: {target}")
    assert wrong == []


def test_the_search_finds_what_is_asked_for() -> None:
    measures, _ = evaluate()
    assert {name: measures[name] >= target for name, target in TARGETS.items()} == dict.fromkeys(TARGETS, True), (
        measures
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("page", "store"), RUNNING)
def test_the_python_blocks_run(
    page: Page, store: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATAQUEUE_URL", request.getfixturevalue({"postgres": "pg_url", "redis": "redis_url"}[store]))
    monkeypatch.chdir(tmp_path)
    file = DOCS / f"{page.slug}.md"
    run_blocks(str(file), python_blocks(file.read_text()), tmp_path)
