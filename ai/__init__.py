"""Rules and skills for AI assistants, as the installers write them into a project.

The *rules* are a short text that an assistant always has before it. The *skills* are folders in the form of
agentskills.io that it opens when it needs them.
"""

from __future__ import annotations

from pathlib import Path

from dataqueue.version import __version__

__all__ = ["render_rules", "skill_files"]

_HERE = Path(__file__).parent


def render_rules() -> str:
    """The rules as Markdown, without front matter: each client has its own, which the installer adds."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)  # noqa: S701 - Markdown
    template = environment.from_string((_HERE / "rules" / "dataqueue.md.j2").read_text("utf-8"))
    return template.render(version=__version__, skills=list(skill_files()))


def skill_files() -> dict[str, dict[str, str]]:
    """The files of each skill: its name → path inside its folder, with slashes → text."""
    folders = sorted(path.parent for path in (_HERE / "skills").glob("*/SKILL.md"))
    return {
        folder.name: {
            file.relative_to(folder).as_posix(): file.read_text("utf-8") for file in sorted(folder.rglob("*.md"))
        }
        for folder in folders
    }
