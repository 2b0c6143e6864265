"""Rules and skills for AI assistants, as they are installed."""

from __future__ import annotations

from pathlib import Path

from dataqueue.version import __version__

__all__ = ["render_rules", "skill_files"]

_HERE = Path(__file__).parent


def render_rules() -> str:
    """The rule as Markdown, without front matter: that differs between clients, and the installer adds it."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(undefined=StrictUndefined, autoescape=False, keep_trailing_newline=True)  # noqa: S701 - not HTML
    template = environment.from_string((_HERE / "rules" / "dataqueue.md.j2").read_text("utf-8"))
    return template.render(version=__version__)


def skill_files() -> dict[str, dict[str, str]]:
    """The skills: name → path inside the skill's folder (with slashes) → text."""
    skills = _HERE / "skills"
    return {
        folder.name: {
            file.relative_to(folder).as_posix(): file.read_text("utf-8")
            for file in sorted(folder.rglob("*"))
            if file.is_file()
        }
        for folder in sorted(skills.iterdir())
        if (folder / "SKILL.md").is_file()
    }
