"""Import rules and types, checked on the wheel as a user gets it, in a folder of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from readme import write_readme_files  # noqa: E402

BIN = Path(sys.executable).parent


def run(*command: str, cwd: Path, env: dict[str, str] | None = None) -> None:
    print("$", " ".join(command[:6]), flush=True)
    if subprocess.run([str(BIN / command[0]), *command[1:]], cwd=cwd, env=env, check=False).returncode:
        sys.exit(f"failed: {command[0]}")


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run("python", "-m", "build", "--wheel", "--outdir", str(folder / "dist"), str(ROOT), cwd=folder)
        (wheel,) = (folder / "dist").glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            top = {member.split("/")[0] for member in archive.namelist()}
            archive.extractall(folder / "wheel")
        strangers = {entry for entry in top if entry != "dataqueue" and not entry.endswith(".dist-info")}
        if strangers:
            sys.exit(f"the wheel would put {', '.join(sorted(strangers))} into site-packages")
        environment = {**os.environ, "PYTHONPATH": str(folder / "wheel")}
        run("lint-imports", "--config", str(ROOT / "pyproject.toml"), cwd=folder / "wheel", env=environment)
        # Inside: every file strictly.
        (folder / "inside.json").write_text(
            '{"include": ["wheel/dataqueue"], "typeCheckingMode": "strict", "pythonVersion": "3.11",'
            ' "extraPaths": ["wheel"]}'
        )
        run("pyright", "--pythonpath", sys.executable, "-p", "inside.json", cwd=folder)
        # Outside: what a user writes. Every "# error" line must be one, and no other.
        user = folder / "user"
        user.mkdir()
        text = (ROOT / "tests" / "typing_user.py").read_text()
        (user / "typing_user.py").write_text(text)
        write_readme_files(user)
        (user / "pyrightconfig.json").write_text(
            '{"typeCheckingMode": "strict", "pythonVersion": "3.11", "extraPaths": ["../wheel"],'
            ' "reportUnnecessaryTypeIgnoreComment": "error"}'
        )
        run("pyright", "--pythonpath", sys.executable, cwd=user)


if __name__ == "__main__":
    main()
