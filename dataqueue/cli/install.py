"""``dataqueue install-mcp``, ``install-rules``, ``install-skills`` and ``install-ai``."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dataqueue.cli.common import OK, PROBLEM, AsJson, finish, printable, reports_errors, write_json
from dataqueue.errors import ConfigError

if TYPE_CHECKING:
    from dataqueue.installers.clients import Client
    from dataqueue.installers.launch import Launch, Launcher
    from dataqueue.installers.places import Places, Scope
    from dataqueue.installers.plan import Kind, Outcome, Plan

Editors = Annotated[
    list[str] | None,
    typer.Option("--editor", "--client", metavar="ID", help="For this client: cursor, claude, copilot, … Repeatable."),
]
Everyone = Annotated[bool, typer.Option("--all", help="For all usual clients.")]
ScopeName = Annotated[
    str, typer.Option("--scope", metavar="project|user", help="Into this project, or for you in all projects.")
]
Root = Annotated[
    Path | None,
    typer.Option(
        "--root", metavar="DIR", help="Instead of the current folder; with --scope user, of your home folder."
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the changes as a diff and write nothing.")]
Check = Annotated[bool, typer.Option("--check", help="Write nothing; exit code 1 if something would change.")]
Uninstall = Annotated[bool, typer.Option("--uninstall", help="Take away what was installed.")]
Print = Annotated[bool, typer.Option("--print", help="Write the text to stdout, to be added by hand.")]
Force = Annotated[bool, typer.Option("--force", help="Replace also what somebody has edited.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Take the clients that are found here, without asking.")]
LauncherName = Annotated[
    str | None, typer.Option("--launcher", metavar="uvx|uv|python", help="How clients start the server.")
]


@reports_errors
def install_mcp(
    editor: Editors = None,
    everyone: Everyone = False,
    scope: ScopeName = "project",
    root: Root = None,
    launcher: LauncherName = None,
    dry_run: DryRun = False,
    check: Check = False,
    uninstall: Uninstall = False,
    print_only: Print = False,
    force: Force = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Add the MCP server to the configuration of AI clients. Everything else in their files stays as it is."""
    modes = _Modes(dry_run, check, uninstall, print_only, force, yes, as_json)
    _install(("mcp",), modes, editor, everyone, scope, root, launcher)


@reports_errors
def install_rules(
    editor: Editors = None,
    everyone: Everyone = False,
    scope: ScopeName = "project",
    root: Root = None,
    dry_run: DryRun = False,
    check: Check = False,
    uninstall: Uninstall = False,
    print_only: Print = False,
    force: Force = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Add a short text about dataqueue to the instructions of AI clients."""
    modes = _Modes(dry_run, check, uninstall, print_only, force, yes, as_json)
    _install(("rules",), modes, editor, everyone, scope, root, None)


@reports_errors
def install_skills(
    editor: Editors = None,
    everyone: Everyone = False,
    scope: ScopeName = "project",
    root: Root = None,
    dry_run: DryRun = False,
    check: Check = False,
    uninstall: Uninstall = False,
    print_only: Print = False,
    force: Force = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Add skills: instructions that AI clients open when a task needs them."""
    modes = _Modes(dry_run, check, uninstall, print_only, force, yes, as_json)
    _install(("skills",), modes, editor, everyone, scope, root, None)


@reports_errors
def install_ai(
    editor: Editors = None,
    everyone: Everyone = False,
    scope: ScopeName = "project",
    root: Root = None,
    launcher: LauncherName = None,
    dry_run: DryRun = False,
    check: Check = False,
    uninstall: Uninstall = False,
    print_only: Print = False,
    force: Force = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Install all three for AI clients: the MCP server, the rules and the skills."""
    modes = _Modes(dry_run, check, uninstall, print_only, force, yes, as_json)
    _install(("mcp", "rules", "skills"), modes, editor, everyone, scope, root, launcher)


@dataclass(frozen=True, slots=True)
class _Modes:
    dry_run: bool
    check: bool
    uninstall: bool
    print_only: bool
    force: bool
    yes: bool
    as_json: bool


def _install(
    kinds: tuple[Kind, ...],
    modes: _Modes,
    editors: list[str] | None,
    everyone: bool,
    scope_name: str,
    root: Path | None,
    launcher_name: str | None,
) -> None:
    from dataqueue.installers import launch as launching
    from dataqueue.installers.places import SCOPES, find_places
    from dataqueue.installers.plan import make_plan

    if modes.dry_run + modes.check + modes.print_only > 1:
        raise ConfigError("--dry-run, --check and --print exclude each other. Nothing was written.")
    if modes.uninstall and (modes.check or modes.print_only):
        raise ConfigError("--uninstall goes with --dry-run only, not with --check or --print. Nothing was written.")
    scope: Scope | None = next((name for name in SCOPES if name == scope_name), None)
    if scope is None:
        raise ConfigError(f"--scope is project or user, not {scope_name!r:.60}. Nothing was written.")
    launcher: Launcher | None = next((name for name in launching.LAUNCHERS if name == launcher_name), None)
    if launcher_name is not None and launcher is None:
        raise ConfigError(f"--launcher is one of {', '.join(launching.LAUNCHERS)}, not {launcher_name!r:.60}.")
    places = find_places(scope, root)
    launch = launching.choose(places, launcher)
    clients, named = _choose(modes, editors or [], everyone, places)
    if modes.print_only:
        _print(kinds, clients, places, launch, modes.as_json)
        return
    plan = make_plan(kinds, clients, places, launch, named=named, uninstall=modes.uninstall, force=modes.force)
    if "mcp" in kinds and not modes.uninstall:
        plan.notes[:0] = launching.warnings(places, launch)
    if scope == "project" and places.root == places.home and not modes.uninstall:
        plan.note("This folder is your home folder, not a project: for all your projects say --scope user.")
    writes = not (modes.dry_run or modes.check)
    states = [plan.state(outcome) for outcome in plan.outcomes]
    diffs = {} if writes else {path: plan.draft.diff(path) for path in plan.draft.changed()}
    backups = plan.draft.apply(backup=scope == "user") if writes else []
    if modes.as_json:
        _write_json(plan, states, diffs, backups, kinds)
    else:
        _show(plan, states, diffs, backups, modes)
    good = ("unchanged",) if modes.check else ("created", "updated", "removed", "unchanged", "absent")
    finish(OK if all(state in good for state in states) else PROBLEM)


# -- which clients --------------------------------------------------------------------------------------


def _choose(modes: _Modes, editors: list[str], everyone: bool, places: Places) -> tuple[list[Client], bool]:
    """The clients, and whether a person has named them."""
    from dataqueue.installers.clients import CLIENTS, find_clients
    from dataqueue.installers.detect import detect

    if editors and everyone:
        raise ConfigError("--editor and --all exclude each other. Nothing was written.")
    if editors:
        return find_clients(editors), True
    if everyone:
        return [client for client in CLIENTS if client.usual or modes.uninstall], False
    found = detect(places)
    ask = not (modes.yes or modes.dry_run or modes.check or modes.print_only)
    if ask and not modes.as_json and sys.stdin.isatty() and sys.stdout.isatty():
        return _ask(found, modes.uninstall)
    if not ask and modes.uninstall:
        return list(CLIENTS), False
    if ask or not found:
        raise ConfigError(_undecided(found, places))
    for client, why in found:
        typer.secho(f"{client.id}: {why}", fg="bright_black", err=True)
    return [client for client, _ in found], False


def _undecided(found: list[tuple[Client, str]], places: Places) -> str:
    from dataqueue.installers.clients import CLIENTS

    ids = ", ".join(client.id for client in CLIENTS)
    if not found:
        where = "in this project" if places.scope == "project" else "in the home folder"
        return f"No client was found {where}. Nothing was written. Name one with --editor: {ids}."
    here = ", ".join(f"{client.id} ({why})" for client, why in found)
    return f"For which clients? Nothing was written. Name them with --editor, or say --yes for those here: {here}. All: {ids}."


def _ask(found: list[tuple[Client, str]], uninstall: bool) -> tuple[list[Client], bool]:
    from dataqueue.installers.clients import CLIENTS, find_clients

    if uninstall:
        typer.confirm("Remove it from all clients?", abort=True)
        return list(CLIENTS), False
    for client, why in found:
        typer.echo(f"{client.id:<14} {client.name}: {why}")
    if found and typer.confirm("Install for these?", default=True):
        return [client for client, _ in found], False
    typer.echo(f"Clients: {', '.join(client.id for client in CLIENTS)}")
    answer = typer.prompt("For which? Ids, with commas between them")
    return find_clients(name for name in str(answer).split(",") if name.strip()), True


# -- what was done --------------------------------------------------------------------------------------


def _print(kinds: tuple[Kind, ...], clients: list[Client], places: Places, launch: Launch, as_json: bool) -> None:
    from dataqueue.installers.snippets import snippets

    found = [one for client in clients for one in snippets(client, kinds, places, launch)]
    if not found:
        raise ConfigError(f"There is nothing to print for {', '.join(client.id for client in clients)} in this scope.")
    if as_json:
        write_json(found)
        return
    for index, one in enumerate(found):
        typer.secho(f"{one.client}, {one.kind}: {one.where}", fg="cyan", err=True)
        typer.echo(("\n" if index else "") + one.text, nl=False)


def _write_json(
    plan: Plan, states: list[str], diffs: dict[Path, str], backups: list[Path], kinds: tuple[Kind, ...]
) -> None:
    results: list[dict[str, Any]] = []
    for outcome, state in zip(plan.outcomes, states, strict=True):
        shown = plan.places.shown(outcome.path)
        result = {"kind": outcome.kind, "clients": outcome.clients, "path": shown, "state": state}
        if outcome.left:
            result["reason"] = outcome.left
        if diffs:
            result["diff"] = "".join(diffs.get(file.resolve(), "") for file in outcome.files)
        results.append(result)
    answer: dict[str, Any] = {"scope": plan.places.scope, "root": str(plan.places.top), "results": results}
    if "mcp" in kinds and not plan.uninstall:
        answer["launch"] = {"command": plan.launch.command, "args": plan.launch.args, "why": plan.launch.why}
    answer |= {"backups": [str(path) for path in backups], "notes": plan.notes}
    write_json(answer)


_STYLES = {"created": "green", "updated": "green", "removed": "green", "left": "yellow"}
_WOULD = {"created": "to create", "updated": "to update", "removed": "to remove"}


def _show(plan: Plan, states: list[str], diffs: dict[Path, str], backups: list[Path], modes: _Modes) -> None:
    if modes.dry_run:
        for diff in diffs.values():
            typer.echo("\t".join(printable(part) for part in diff.replace("\r\n", "\n").split("\t")))
    pairs = [(outcome, state) for outcome, state in zip(plan.outcomes, states, strict=True) if state != "absent"]
    width = max((len(plan.places.shown(outcome.path)) for outcome, _ in pairs), default=0)
    for outcome, state in pairs:
        said = _WOULD.get(state, state) if modes.dry_run or modes.check else state
        line = f"{said:<10} {plan.places.shown(outcome.path):<{width}}  {_for(outcome)}"
        typer.secho(printable(line), fg=_STYLES.get(state))
        if outcome.left:
            typer.secho(printable(f"{'':<10} {outcome.left}."), fg="yellow")
    if not pairs:
        typer.echo("Nothing of dataqueue was found there.")
    for path in backups:
        typer.echo(f"backup     {plan.places.shown(path)}")
    started = any(outcome.kind == "mcp" and state in ("created", "updated") for outcome, state in pairs)
    if started and not modes.uninstall:
        typer.echo(f"\nThe server is started by: {plan.launch.line}\n({plan.launch.why}; --launcher chooses another)")
        if not modes.check:
            typer.echo("It finds the store by DATAQUEUE_URL in the environment, or in .env where the client starts it.")
            _show_hints(plan)
    for note in plan.notes:
        typer.secho(f"Note: {note}", fg="yellow", err=True)


def _for(outcome: Outcome) -> str:
    more = f" and {len(outcome.clients) - 4} more" if len(outcome.clients) > 5 else ""
    return f"{outcome.kind} for {', '.join(outcome.clients[:4] if more else outcome.clients)}{more}"


def _show_hints(plan: Plan) -> None:
    from dataqueue.installers.clients import BY_ID

    ids = {name for outcome in plan.outcomes if outcome.kind == "mcp" and not outcome.left for name in outcome.clients}
    for client in BY_ID.values():
        if client.id in ids and client.hint:
            typer.echo(client.hint)
