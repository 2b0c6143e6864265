"""The pytest plugin. pytest loads it in every run of an environment that has dataqueue, so it imports next to nothing."""

from __future__ import annotations

import shutil
import tempfile
import uuid
from collections.abc import Callable, Generator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from dataqueue.testing import calls

if TYPE_CHECKING:
    from dataqueue.queue import JobQueue
    from dataqueue.sync import SyncJobQueue
    from dataqueue.testing.stores import Stores

    Q = TypeVar("Q", JobQueue, SyncJobQueue)

_HOME = pytest.StashKey[Path]()
_WORKER_INPUT = "dataqueue_home"


def pytest_addoption(parser: pytest.Parser) -> None:
    text = "store of the tests: postgres (the default) or valkey, embedded ones, or the URL of a server"
    parser.getgroup("dataqueue").addoption("--dataqueue-store", metavar="STORE", help=text)
    parser.addini("dataqueue_store", text, default="postgres")


def pytest_configure(config: pytest.Config) -> None:
    # One directory a run: pytest-xdist's workers are told of their controller's.
    told = getattr(config, "workerinput", {}).get(_WORKER_INPUT)
    own = Path(tempfile.gettempdir(), f"dataqueue-pytest-{uuid.uuid4().hex[:12]}")
    config.stash[_HOME] = own if told is None else Path(told)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    node.workerinput[_WORKER_INPUT] = str(node.config.stash[_HOME])


def pytest_unconfigure(config: pytest.Config) -> None:
    home = config.stash.get(_HOME, None)
    if home is not None and not hasattr(config, "workerinput"):
        shutil.rmtree(home, ignore_errors=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, Any, Any]:
    __tracebackhide__ = True
    calls.watch_awaits()
    try:
        result = yield
    except BaseException:
        calls.never_awaited()
        raise
    forgotten = calls.never_awaited()
    if forgotten:
        raise AssertionError(f"Never awaited, so nothing was done or checked: {', '.join(forgotten)}.")
    return result


@pytest.fixture(scope="session")
def dataqueue_server(pytestconfig: pytest.Config) -> Generator[str]:
    """The URL of the server on which each test gets a store of its own.

    By default a Postgres is started for the run and removed afterwards; ``--dataqueue-store`` or ``dataqueue_store`` in
    pytest's settings chooses. To use another (a container, say), define a fixture of this name that gives its URL.
    """
    from dataqueue.testing.stores import server

    choice = pytestconfig.getoption("--dataqueue-store") or pytestconfig.getini("dataqueue_store")
    with server(choice, pytestconfig.stash[_HOME]) as url:
        yield url


@pytest.fixture(scope="session")
def _dataqueue_stores(dataqueue_server: str) -> Generator[Stores]:
    from dataqueue.testing.stores import stores

    with stores(dataqueue_server, uuid.uuid4().hex[:12]) as made:
        yield made


@pytest.fixture
def dataqueue_url(_dataqueue_stores: Stores) -> Generator[str]:
    """The URL of an empty store of the test's own, with its tables."""
    yield from _dataqueue_stores.fresh(uuid.uuid4().hex[:12])


@pytest.fixture
def dataqueue_bind(dataqueue_url: str) -> Generator[Callable[[Q], Q]]:
    """``dataqueue_bind(queue)`` lets a queue of the application use the test's store until the test is over.

    Gives the queue back. See :func:`dataqueue.testing.bound`.
    """
    from dataqueue.testing.binding import bound

    with ExitStack() as stack:
        yield lambda queue: stack.enter_context(bound(queue, dataqueue_url))


@pytest.fixture
def dataqueue_queue(dataqueue_url: str, dataqueue_bind: Callable[[JobQueue], JobQueue]) -> JobQueue:
    """A :class:`dataqueue.JobQueue` without definitions on the test's store, closed at the end of the test."""
    from dataqueue.queue import JobQueue

    return dataqueue_bind(JobQueue.from_url(dataqueue_url))
