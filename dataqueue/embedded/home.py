"""Where an embedded server lives: its directory, its socket, and, for root, the account that runs it."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import stat
import sys
import tempfile
from pathlib import Path

from dataqueue.embedded.process import Account, run
from dataqueue.errors import ConfigError

SYSTEM_HOME = Path("/var/lib/dataqueue")
"""Where root's servers live: no home directory has to be opened for the account that runs them."""
ACCOUNT_NAME = "dataqueue"
SOCKET_PATH_LIMIT = 100
"""Bytes of a socket's path that every system takes (macOS: 103, Linux: 107)."""


def installed(package: str) -> Path:
    """Return the directory of an installed package of the extra ``embedded``, without importing it.

    Raises :class:`ConfigError` if it is missing.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ConfigError(
            f"An embedded: server needs the package {package!r}, which is not installed. "
            "Run: pip install 'dataqueue[embedded]'"
        )
    return Path(spec.origin).parent


def is_root() -> bool:
    """Say whether this process runs as root; never true on Windows."""
    if sys.platform == "win32":
        return False
    return os.geteuid() == 0


def default_path(name: str) -> Path:
    """Return the user's own stable directory for the server ``name``; ``DATAQUEUE_EMBEDDED_HOME`` names another."""
    if chosen := os.environ.get("DATAQUEUE_EMBEDDED_HOME"):
        return Path(chosen) / name
    if is_root():
        return SYSTEM_HOME / name
    installed("platformdirs")
    import platformdirs  # comes with the extra

    return platformdirs.user_data_path("dataqueue", appauthor=False) / name


def prepare(path: Path) -> None:
    """Make the server's directory, or check that the existing one is ours to use.

    Missing parents are made too; the permissions of existing ones are never changed. Raises
    :class:`ConfigError` if the directory is another account's, or holds anything but an embedded server.
    """
    try:
        for parent in reversed([parent for parent in path.parents if not parent.exists()]):
            parent.mkdir(exist_ok=True)
            if is_root():
                parent.chmod(0o755)  # whatever the umask: the server's account must get through
        path.mkdir(mode=0o700, exist_ok=True)
        names = {entry.name for entry in path.iterdir()} - {"lost+found"}
    except OSError as error:
        raise ConfigError(
            f"The directory {path} of the embedded server cannot be used ({error.strerror}). Give another path."
        ) from error
    if sys.platform != "win32" and path.stat().st_uid != os.geteuid():
        raise ConfigError(
            f"The directory {path} belongs to another account (uid {path.stat().st_uid}); an embedded "
            "server is shared by the processes of one user only. Run as that user, or give another path."
        )
    if names and "lock" not in names:
        raise ConfigError(
            f"The directory {path} is not empty and holds no embedded server. Nothing was changed. "
            "Give a new path or an empty directory."
        )
    (path / "lock").touch(mode=0o600)  # first of all files: it marks the directory as an embedded server's


def socket_directory(home: Path, socket_name: str) -> Path:
    """Return where the server's socket goes: ``run`` in its home, or, if that is too long, below ``/tmp``.

    The same for every process of the user, so nothing like ``TMPDIR`` may take part.
    """
    near = home / "run"
    if sys.platform == "win32" or len(os.fsencode(near / socket_name)) <= SOCKET_PATH_LIMIT:
        return near
    digest = hashlib.sha256(f"{os.geteuid()}:{home}".encode("utf-8", "surrogateescape")).hexdigest()
    return Path("/tmp", f"dataqueue-{digest[:20]}")  # noqa: S108 - make_private() checks the owner


def make_private(directory: Path, account: Account | None) -> None:
    """Make a directory that only the server's account (and root) can enter.

    Raises :class:`ConfigError` if somebody else has made one of this name, as anybody can in ``/tmp``.
    """
    directory.mkdir(mode=0o700, exist_ok=True)
    if sys.platform == "win32":
        return
    found = directory.lstat()
    allowed = {os.geteuid(), account.uid if account else os.geteuid()}
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in allowed:
        raise ConfigError(
            f"{directory} should be this user's directory for a server's socket, but uid {found.st_uid} "
            "has put something there. Remove it, or give another (shorter) path."
        )
    if found.st_mode & 0o077:
        directory.chmod(0o700)
    give(directory, account)


def give(path: Path, account: Account | None) -> None:
    """Make the account the owner; nothing to do when the server runs as this user."""
    if sys.platform != "win32" and account is not None:
        os.chown(path, account.uid, account.gid, follow_symlinks=False)


def server_account(data: Path) -> Account | None:
    """Return the account that must run Postgres, which refuses to run as root; None for "this user".

    The owner of existing data, else the account ``dataqueue`` (made if need be), else ``nobody``.
    """
    if sys.platform == "win32" or not is_root():
        return None
    if data.exists():
        owner = data.stat()
        if owner.st_uid == 0:
            raise ConfigError(
                f"The data directory {data} belongs to root, and Postgres does not run as root. "
                "Give it (chown -R) to an unprivileged account, or give another path."
            )
        return Account(owner.st_uid, owner.st_gid, f"uid {owner.st_uid}")
    found = _account(ACCOUNT_NAME)
    useradd = shutil.which("useradd")
    if found is None and useradd is not None:
        # Its exit code does not matter: another process may make the account at the same moment.
        run([useradd, "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", ACCOUNT_NAME], Path("/"))
        found = _account(ACCOUNT_NAME)
    found = found or _account("nobody")
    if found is None:
        raise ConfigError(
            "Postgres does not run as root, and this system has no account 'nobody' and makes no new one. "
            f"Make one: useradd --system {ACCOUNT_NAME}"
        )
    return found


def _account(name: str) -> Account | None:
    if sys.platform == "win32":
        return None
    import pwd

    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        return None
    return Account(entry.pw_uid, entry.pw_gid, name)


def require_reachable(path: Path, account: Account) -> None:
    """Raise :class:`ConfigError` if the account cannot pass through the existing parents of ``path``."""
    blocked = _first_blocked([parent for parent in reversed(path.parents) if parent.exists()], account)
    if blocked is not None:
        raise ConfigError(
            f"Postgres does not run as root but as the account {account.name!r}, which cannot enter "
            f"{blocked}, so {path} cannot hold its data. No permissions were changed. Give a path that "
            f"every account can reach, or none for {SYSTEM_HOME / 'postgres'}."
        )


def _first_blocked(paths: list[Path], account: Account) -> str | None:
    """Return the first of the paths that the account can neither enter nor execute."""
    # Asked of the system, as that account, because mode bits alone do not tell (ACLs, mount options).
    script = 'for path do [ -x "$path" ] || { echo "$path"; exit 1; }; done'
    outcome = run(["/bin/sh", "-c", script, "sh", *paths], Path("/"), account)
    return None if outcome.code == 0 else outcome.output


def open_traversal(home: Path, account: Account | None) -> None:
    """Let the server's account, and no other, pass through the home directory, which stays root's."""
    if sys.platform != "win32" and account is not None:
        os.chown(home, 0, account.gid)
        home.chmod(0o710)


def programs(package: Path, version: str, account: Account | None) -> Path:
    """Return the directory of Postgres' programs, where the account can execute them.

    A virtual environment below ``/root`` is closed to it: then a copy (some 33 MB, made once a version)
    is used, rather than opening anybody's directories.
    """
    inside = Path("pginstall", "bin")
    program = package / inside / "postgres"
    if account is None or _first_blocked([*reversed(program.parents), program], account) is None:
        return package / inside
    copy = SYSTEM_HOME / f"postgres-{version}"
    if not copy.exists():
        SYSTEM_HOME.mkdir(parents=True, exist_ok=True)
        SYSTEM_HOME.chmod(0o755)
        _copy_programs(package, copy)
    return copy / package.name / inside


def _copy_programs(package: Path, copy: Path) -> None:
    # Under a name of its own, renamed when complete: a half copy is never used, and the first one wins.
    fresh = Path(tempfile.mkdtemp(prefix="copy-", dir=copy.parent))
    try:
        for part in (package / "pginstall", package.with_name(f"{package.name}.libs")):
            if part.exists():
                kept = fresh / part.relative_to(package.parent)
                shutil.copytree(part, kept, symlinks=True, ignore=shutil.ignore_patterns("include"))
        for path in (fresh, *fresh.rglob("*")):
            if not path.is_symlink():
                mode = path.stat().st_mode
                path.chmod(0o755 if path.is_dir() or mode & stat.S_IXUSR else 0o644)
        fresh.rename(copy)
    except OSError as error:
        shutil.rmtree(fresh, ignore_errors=True)
        if not copy.exists():
            raise ConfigError(
                f"Postgres' programs in {package} are closed to the account that must run them, and cannot "
                f"be copied to {copy} ({error.strerror}). Install dataqueue where every account can read."
            ) from error
