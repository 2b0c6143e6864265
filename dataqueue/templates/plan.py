"""Which files a template has, what they say in this project, and what is to be done with each."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from typing import Any, Literal

from dataqueue.errors import ConfigError
from dataqueue.templates.project import MARK, Project
from dataqueue.version import __version__

TEMPLATES = ("fastapi", "django", "flask", "worker")

Action = Literal["create", "unchanged", "keep"]

_PACKAGE = {
    "__init__.py": "package_init.py.j2",
    "__main__.py": "package_main.py.j2",
    "queue.py": "queue.py.j2",
    "jobs.py": "jobs.py.j2",
    "worker.py": "worker.py.j2",
}
_ENTRY = {
    "fastapi": {"main.py": "fastapi/main.py.j2"},
    "flask": {"main.py": "flask/main.py.j2"},
    "django": {
        "manage.py": "django/manage.py.j2",
        "config/__init__.py": "django/config_init.py.j2",
        "config/settings.py": "django/settings.py.j2",
        "config/urls.py": "django/urls.py.j2",
        "config/wsgi.py": "django/wsgi.py.j2",
    },
}
_REQUIREMENTS = {
    "fastapi": ["fastapi>=0.115", "uvicorn>=0.30"],
    "django": ["django>=4.2", "gunicorn>=23"],
    "flask": ["flask>=3", "gunicorn>=23"],
    "worker": [],
}
_DEV_REQUIREMENTS = {"fastapi": ["httpx2>=2"]}
_SERVE = {
    "fastapi": ["uvicorn", "main:app", "--host", "0.0.0.0"],  # noqa: S104 - in a container
    "django": ["gunicorn", "config.wsgi", "--bind", "0.0.0.0:8000"],
    "flask": ["gunicorn", "main:app", "--bind", "0.0.0.0:8000"],
}
_RUN = {
    "fastapi": "uvicorn main:app",
    "django": "python manage.py runserver",
    "flask": "flask --app main run --port 8000",
}


@dataclass(frozen=True, slots=True)
class File:
    """A file of the plan. ``keep``: another one stands there already, and it is left as it is."""

    path: str
    text: str
    action: Action

    def diff(self) -> str:
        """What would be written, as a unified diff; empty where nothing is."""
        if self.action != "create":
            return ""
        return "".join(difflib.unified_diff([], self.text.splitlines(keepends=True), "/dev/null", f"b/{self.path}"))


@dataclass(frozen=True, slots=True)
class Plan:
    """All files of a template for one project, in the order in which they are written."""

    project: Project
    template: str
    package: str
    files: tuple[File, ...]
    next_steps: tuple[str, ...]

    @property
    def diff(self) -> str:
        return "".join(file.diff() for file in self.files)


def make_plan(project: Project, template: str, package: str = "background") -> Plan:
    """Render a template for a project. Nothing is written.

    Raises:
        ConfigError: no such template; the package's name is none; or a folder of this name holds something else.
    """
    if template not in TEMPLATES:
        raise ConfigError(f"There is no template {template!r:.80}. Templates: {', '.join(TEMPLATES)}.")
    _check_package(project, package)
    own_entry = project.entry is None and project.framework in (None, template)
    values = _values(project, template, package, own_entry)
    files = tuple(_file(project, path, source, values) for path, source in _sources(project, template, own_entry))
    return Plan(project, template, package, files, tuple(_next_steps(project, template, package, files, own_entry)))


def _check_package(project: Project, package: str) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", package):
        raise ConfigError(f"--package is the name of a Python package such as background, not {package!r:.80}.")
    folder = project.root / package
    ours = folder / "queue.py"
    others = folder.exists() and not folder.is_dir()
    if folder.is_dir() and any(folder.glob("*.py")):
        others = not ours.is_file() or "dataqueue" not in ours.read_text("utf-8", "replace")
    if others or (project.root / f"{package}.py").exists():
        raise ConfigError(
            f"There is something else called {package} in {project.root} already. Nothing was written. Choose another "
            "name with --package."
        )


def _values(project: Project, template: str, package: str, own_entry: bool) -> dict[str, Any]:
    return {
        "template": template,
        "package": package,
        "project": _project_name(project, template),
        "sync": template in ("django", "flask"),
        "settings": project.settings or "config.settings",
        "installer": project.installer,
        "requirements": [f"dataqueue>={__version__}", *_REQUIREMENTS[template]],
        "dev_requirements": ["dataqueue[embedded]", *_DEV_REQUIREMENTS.get(template, []), "pytest>=8"],
        "serve": _SERVE.get(template) if own_entry else None,
        "app_url": "http://127.0.0.1:8000",
        "mark": f"Made by {MARK}",
    }


def _project_name(project: Project, template: str) -> str:
    """The folder's name, as a distribution may be called; never that of something it requires."""
    name = re.sub(r"[^a-z0-9]+", "-", project.root.resolve().name.lower()).strip("-") or "app"
    required = ["dataqueue", *_REQUIREMENTS[template], *_DEV_REQUIREMENTS.get(template, []), "pytest"]
    return f"{name}-app" if name in (re.split(r"[>\[]", one)[0] for one in required) else name


def _sources(project: Project, template: str, own_entry: bool) -> Iterator[tuple[str, str]]:
    """Path in the project, and the template of it. The package is filled in when the path is rendered."""
    for name, source in _PACKAGE.items():
        yield f"{{{{ package }}}}/{name}", source
    if template != "worker":
        yield "{{ package }}/web.py", f"{template}/web.py.j2"
        yield "{{ package }}/cron.py", "cron.py.j2"
    if own_entry:
        yield from _ENTRY.get(template, {}).items()
    yield "tests/test_{{ package }}.py", "test_background.py.j2"
    yield ".env.example", "env.example.j2"
    if project.compose in (None, "docker-compose.yml"):
        yield "docker-compose.yml", "docker-compose.yml.j2"
    yield "Dockerfile", "Dockerfile.j2"
    if project.installer in ("none", "pyproject"):
        yield "pyproject.toml", "pyproject.toml.j2"


def _file(project: Project, path: str, source: str, values: dict[str, Any]) -> File:
    path, text = _render(path, values), _render(_source(source), values)
    target = project.root / path
    for parent in target.relative_to(project.root).parents:
        if (project.root / parent).exists() and not (project.root / parent).is_dir():
            raise ConfigError(f"{project.root / parent} is a file, so {path} cannot be made. Nothing was written.")
    if not target.exists() and not target.is_symlink():
        return File(path, text, "create")
    same = target.is_file() and target.read_bytes().replace(b"\r\n", b"\n") == text.encode()
    return File(path, text, "unchanged" if same else "keep")


def _source(name: str) -> str:
    return (resources.files("dataqueue.templates") / "files" / name).read_text("utf-8")


def _render(text: str, values: dict[str, Any]) -> str:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)  # noqa: S701 - no HTML
    return environment.from_string(text).render(values)


# -- what to do next ------------------------------------------------------------------------------------


def _next_steps(
    project: Project, template: str, package: str, files: tuple[File, ...], own_entry: bool
) -> Iterator[str]:
    made = {file.path: file.action for file in files}
    yield from _install(project, template, made)
    if (not own_entry and template != "worker") or "keep" in (made.get(path) for path in _ENTRY.get(template, {})):
        yield _join(project, template, package)
    if "docker-compose.yml" not in made:
        yield f"{project.compose} is yours: add a service with the command dataqueue worker {package}.worker:queue"
    yield "cp .env.example .env && set -a && . ./.env && set +a"
    yield f"dataqueue worker {package}.worker:queue"
    if own_entry and template in _RUN:
        yield _RUN[template]
    yield f"python -m pytest tests/test_{package}.py"


def _install(project: Project, template: str, made: dict[str, str]) -> Iterator[str]:
    if made.get("pyproject.toml") in ("create", "unchanged"):
        yield "pip install -e . --group dev"
        return
    wanted = ["dataqueue"] if not project.has_dataqueue else []
    wanted += [name.partition(">")[0] for name in _REQUIREMENTS[template] if project.framework is None]
    if not wanted:
        return
    names = " ".join(wanted)
    match project.installer:
        case "uv" | "poetry" | "pdm":
            yield f"{project.installer} add {names}"
        case "requirements":
            yield f"add to requirements.txt, then install: {names}"
        case _:
            yield f"add to the dependencies in pyproject.toml, then install: {names}"
    yield "for development also: 'dataqueue[embedded]' pytest" + (" httpx2" if template == "fastapi" else "")


def _join(project: Project, template: str, package: str) -> str:
    where = project.entry or ("config/urls.py" if template == "django" else "main.py")
    if template == "fastapi":
        return f"in {where}: from {package}.web import router; app.include_router(router)"
    if template == "flask":
        return f"in {where}: from {package}.web import blueprint; app.register_blueprint(blueprint)"
    return f'in your urls.py: urlpatterns += [path("", include("{package}.web"))]'
