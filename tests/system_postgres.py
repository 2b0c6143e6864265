"""A server from this machine's own PostgreSQL programs, for what the embedded one cannot do (TLS, old versions)."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any


def find_programs(version: int | None = None) -> Path | None:
    """The folder of initdb and pg_ctl: of this major version, or of the newest there is."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name), reverse=True)
    folders += [Path(found).parent for found in [shutil.which("initdb")] if found and version is None]
    wanted = [folder for folder in folders if version is None or folder.parent.name == str(version)]
    return next((folder for folder in wanted if (folder / "initdb").exists()), None)


@contextmanager
def system_postgres(
    programs: Path, settings: Mapping[str, str], prepare: Callable[[Path], None] = lambda data: None
) -> Iterator[str]:
    """Run it for as long as it is needed; ``prepare`` may put files into its data directory first."""
    path = Path(tempfile.mkdtemp(prefix="dataqueue-system-"))
    account: dict[str, Any] = {}
    if os.geteuid() == 0:  # Postgres refuses to run as root
        shutil.chown(path, "postgres")
        account = {"user": "postgres", "cwd": path}
    data = path / "data"

    def run(program: str, *arguments: str) -> None:
        done = subprocess.run(
            [programs / program, *arguments],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            check=False,
            **account,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    with ExitStack() as stack:
        stack.callback(shutil.rmtree, path, ignore_errors=True)
        run("initdb", "-D", str(data), "-U", "postgres", "-E", "UTF8", "--auth", "trust", "--no-sync")
        prepare(data)
        for file in data.glob("tls-*.pem"):
            shutil.copystat(data / "PG_VERSION", file)
            os.chown(file, data.stat().st_uid, data.stat().st_gid)
            file.chmod(0o600)
        options = {"listen_addresses": "", "unix_socket_directories": str(path), **settings}
        with (data / "postgresql.conf").open("a") as conf:
            conf.writelines(f"{name} = '{value}'\n" for name, value in options.items())
        run("pg_ctl", "start", "-w", "-s", "-D", str(data), "-l", str(path / "log"))
        stack.callback(run, "pg_ctl", "stop", "-w", "-s", "-m", "immediate", "-D", str(data))
        yield f"postgresql://postgres@/postgres?host={path}"
