"""Here every store is a Postgres."""

from __future__ import annotations

import pytest


@pytest.fixture
def store_url(pg_url: str) -> str:
    return pg_url
