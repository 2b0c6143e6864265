"""The README's Python blocks, as files that a user would have."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
NAMES = ("jobs.py", "add.py", "options.py", "transaction.py", "blocking.py", "more.py", "durable.py")


def write_readme_files(folder: Path) -> None:
    """Write each block of the README to its file."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    for name, block in zip(NAMES, blocks, strict=True):
        (folder / name).write_text(block)
