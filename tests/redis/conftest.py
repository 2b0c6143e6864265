"""Here every store is a Redis."""

from __future__ import annotations

import shutil

import pytest


@pytest.fixture
def store_url(redis_url: str) -> str:
    return redis_url


@pytest.fixture(autouse=True, scope="session")
def _needs_redis_server() -> None:
    if not shutil.which("redis-server"):
        pytest.skip("needs a redis-server: apt-get install redis-server")
