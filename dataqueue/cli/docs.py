"""``dataqueue docs``: the manual, searched and read in a terminal."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from dataqueue.cli.common import AsJson, console, reports_errors, write_json
from dataqueue.errors import DataQueueError

app = typer.Typer(no_args_is_help=True, help="Search and read the manual.")


@app.command()
@reports_errors
def search(
    query: Annotated[list[str], typer.Argument(metavar="WORDS", show_default=False)],
    limit: Annotated[int, typer.Option(min=1, max=50, help="Pages at most.")] = 5,
    as_json: AsJson = False,
) -> None:
    """Find the pages that answer a question."""
    from dataqueue.docs import DocsIndex, load_pages, nearest_pages

    words = " ".join(query)
    pages = load_pages()
    hits = DocsIndex(pages).search(words, limit)
    if as_json:
        write_json(
            [
                {
                    "slug": hit.page.slug,
                    "title": hit.page.title,
                    "section": hit.section.heading,
                    "score": hit.score,
                    "snippet": hit.snippet,
                }
                for hit in hits
            ]
        )
        return
    if not hits:
        near = ", ".join(page.slug for page in nearest_pages(words, pages))
        raise DataQueueError(f"Nothing was found for {words!r:.80}. The nearest titles: {near}.")
    from rich.text import Text

    for hit in hits:
        section = f" § {hit.section.heading}" if hit.section.level > 1 else ""
        console().print(Text.assemble((hit.page.slug, "bold cyan"), section))
        console().print(Text(f"  {hit.page.description}\n  {hit.snippet}\n", "bright_black"))


@app.command()
@reports_errors
def show(
    slug: Annotated[str, typer.Argument(metavar="SLUG", show_default=False)],
    section: Annotated[str | None, typer.Option(metavar="HEADING", help="Only this section.")] = None,
) -> None:
    """Print a page: rendered in a terminal, as Markdown elsewhere."""
    from dataqueue.docs import find_page, load_pages, nearest_pages

    pages = load_pages()
    page = find_page(slug, pages)
    if page is None:
        near = ", ".join(one.slug for one in nearest_pages(slug, pages))
        raise DataQueueError(f"There is no page {slug!r:.80}. The nearest: {near}.")
    text = page.body
    if section is not None:
        found = page.section(section)
        if found is None:
            headings = ", ".join(one.heading for one in page.sections)
            raise DataQueueError(f"{page.slug} has no section {section!r:.80}. Its sections: {headings}.")
        text = f"{'#' * found.level} {found.heading}\n\n{found.text}\n"
    if sys.stdout.isatty():
        from rich.markdown import Markdown

        console().print(Markdown(text))
    else:
        typer.echo(text, nl=False)


@app.command(name="list")
@reports_errors
def list_pages(as_json: AsJson = False) -> None:
    """List all pages."""
    from rich.text import Text

    from dataqueue.docs import load_pages

    if as_json:
        write_json([{"slug": page.slug, "title": page.title, "description": page.description} for page in load_pages()])
        return
    for page in load_pages():
        console().print(Text.assemble((f"{page.slug:<36}", "cyan"), page.description))


@app.command()
@reports_errors
def llms(full: Annotated[bool, typer.Option("--full", help="All pages, not only the list.")] = False) -> None:
    """Write llms.txt (or llms-full.txt) to stdout."""
    from dataqueue.docs import load_pages
    from dataqueue.docs.llms import llms_full_txt, llms_txt

    typer.echo(llms_full_txt(load_pages()) if full else llms_txt(load_pages()), nl=False)
