"""The manual: its form, its links, and every Python block of it, on both stores."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from dataqueue.docs import load_pages
from dataqueue.docs.llms import llms_full_txt, llms_txt
from dataqueue.docs.pages import ROOMS, Page
from eval_docs import TARGETS, evaluate
from pages import python_blocks, run_blocks

DOCS = Path(__file__).parent.parent / "docs"
PAGES = load_pages()
STORES = ("postgres", "redis")


def file_of(page: Page) -> Path:
    return DOCS / f"{page.slug}.md"


RUNNING = [
    pytest.param(page, store, id=f"{page.slug}-{store}")
    for page in PAGES
    for store in STORES
    if page.front_matter.get("store", store) == store and python_blocks(file_of(page).read_text())
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.slug)
def test_the_front_matter(page: Page) -> None:
    assert set(page.front_matter) <= {"description", "questions", "store"}
    assert 30 <= len(page.description) <= 200
    assert 3 <= len(page.questions) <= 6
    assert all(question.endswith("?") for question in page.questions)


def test_the_pages_are_those_of_the_folders() -> None:
    files = {file.relative_to(DOCS).with_suffix("").as_posix() for room in ROOMS for file in (DOCS / room).glob("*.md")}
    assert {page.slug for page in PAGES} == files | {"index"}


def test_links_lead_to_pages_and_headings() -> None:
    wrong: list[str] = []
    by_file = {file_of(page): page for page in PAGES}
    for file in by_file:
        for target in re.findall(r"\]\(([^)\s]+)\)", file.read_text()):
            if re.match(r"https?:|mailto:", target):
                continue
            path, _, anchor = target.partition("#")
            found = (file.parent / path).resolve() if path else file
            page = by_file.get(found)
            if not found.exists() or (anchor and page is not None and page.section(anchor) is None):
                wrong.append(f"{file.relative_to(DOCS)}: {target}")
    assert wrong == []


def test_llms_files_are_those_of_the_pages() -> None:
    """Made anew by ``make docs``."""
    assert (DOCS / "llms.txt").read_text() == llms_txt(PAGES)
    assert (DOCS / "llms-full.txt").read_text() == llms_full_txt(PAGES)


def test_every_page_is_in_the_sites_navigation() -> None:
    named = set(re.findall(r"([\w/-]+)\.md$", (DOCS.parent / "mkdocs.yml").read_text(), re.MULTILINE))
    assert {page.slug for page in PAGES} == named - {"api/index"}


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
    file = file_of(page)
    run_blocks(str(file), python_blocks(file.read_text()), tmp_path)
