"""``python -m benchmarks``: our figures as ratios to the raw reference of the same run."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.processes import prefer_installed

if TYPE_CHECKING:
    from benchmarks.raw_postgres import PostgresStore
    from benchmarks.raw_redis import RedisStore
    from benchmarks.store import Store

NAMES = ("drain", "sleep", "single", "bulk", "latency", "memory", "history")

# Room for a whole measurement without a checkpoint in the middle of it; durability stays as it comes.
_SERVER = {"shared_buffers": "512MB", "max_wal_size": "4GB", "checkpoint_timeout": "30min"}


def main() -> int:
    options = _options()
    prefer_installed()
    from benchmarks import measures, report

    counts = measures.QUICK if options.quick else measures.Counts()
    found: list[dict[str, object]] = []
    missed: list[str] = []
    for url in [options.url] if options.url else ["embedded:", *(["embedded:valkey"] if os.name == "posix" else [])]:
        with _store(url) as store:
            facts = {
                "python": platform.python_version(),
                "cores": str(os.cpu_count()),
                "load": f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "?",
                **store.describe(),
            }
            print(", ".join(f"{name} {value}" for name, value in facts.items()), flush=True)
            bench = measures.Bench(store, counts, options.rounds, _tell)
            figures = [figure for measure in measures.chosen(options.only) for figure in measure(bench)]
        print(f"\n{report.table(figures)}\n", flush=True)
        found.append({"facts": facts, "figures": [figure.as_json() for figure in figures]})
        missed += [figure.name for figure in figures if not figure.is_met]
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    if missed:
        print(f"Missed: {', '.join(missed)}.")
    return 1 if missed and options.check else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--url", help="a Postgres on which databases may be made, or a Redis; default: embedded ones, both"
    )
    parser.add_argument("--only", type=_names, default=list(NAMES), help=f"some of {','.join(NAMES)}")
    parser.add_argument("--rounds", type=int, default=3, help="3 by default")
    parser.add_argument("--quick", action="store_true", help="less work: a first impression")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every round there, too")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a target is missed")
    return parser.parse_args()


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        raise argparse.ArgumentTypeError(f"no measurement {', '.join(unknown)}; there are {', '.join(NAMES)}")
    return names


@contextmanager
def _store(url: str) -> Iterator[Store]:
    """The store of a URL. Another kind of store is another branch here."""
    if url.startswith("embedded:"):
        with _embedded(url) as server_url, _store(server_url) as store:
            yield store
        return
    store: PostgresStore | RedisStore
    if url.startswith("postgres"):
        from benchmarks.raw_postgres import PostgresStore

        store = PostgresStore(url)
    else:
        from benchmarks.raw_redis import RedisStore

        store = RedisStore(url)
    try:
        yield store
    finally:
        store.close()


@contextmanager
def _embedded(url: str) -> Iterator[str]:
    from dataqueue.embedded import start_postgres, start_valkey

    with tempfile.TemporaryDirectory(prefix="dataqueue-bench-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o711)  # root's Postgres runs as another account, which has to pass through
        path = Path(folder) / "data"
        server = start_valkey(path) if "valkey" in url else start_postgres(path, settings=_SERVER)
        try:
            yield server.url
        finally:
            server.stop(wait=True)


def _tell(what: str) -> None:
    print(f"  {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
