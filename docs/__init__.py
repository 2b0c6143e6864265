"""The manual, as it is searched and read: Markdown pages that lie beside this file."""

from dataqueue.docs.pages import Page, Section, find_page, load_pages, nearest_pages
from dataqueue.docs.search import DocsIndex, Hit

__all__ = ["DocsIndex", "Hit", "Page", "Section", "find_page", "load_pages", "nearest_pages"]
