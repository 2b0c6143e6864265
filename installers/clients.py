"""The clients that can be installed into: one row each, and nothing about them anywhere else.

Paths are relative to the project's folder; those of a user begin with a folder of ``places`` in braces. Of several
paths for one purpose the first that exists is used, else the first.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

from dataqueue.installers.formats import Format

from dataqueue.errors import ConfigError

NAME = "dataqueue"
"""The name of our entry, our rule files and our main skill."""
PYTHON_FILES = "**/*.py"
ABOUT = "Background jobs with dataqueue. What to know before writing or debugging jobs, and where to look things up."


@dataclass(frozen=True, slots=True)
class Mcp:
    """Where a client reads MCP servers, below which keys, and in which shape of ``entries``."""

    project: tuple[str, ...] = ()
    user: tuple[str, ...] = ()
    form: Format = "json"
    keys: tuple[str, ...] = ("mcpServers",)
    shape: str = "plain"
    every: bool = False
    """Several files for several editions of the client: write each whose folder is there, at least the first."""
    paste: str = ""
    """No file to write: where a person puts the entry."""


@dataclass(frozen=True, slots=True)
class Rules:
    """Where a client reads instructions. With front matter the file is ours, else it is the user's, with our region."""

    project: tuple[str, ...]
    user: tuple[str, ...] = ()
    front: str = ""
    create: str = ""
    """Which path of a project to use if none exists; the first if this is empty."""


@dataclass(frozen=True, slots=True)
class Skills:
    """A client's own folder of skills, and whether it also reads the shared ``.agents/skills``."""

    project: str
    user: str
    shared: bool = False
    editions: tuple[str, ...] = ()
    """A user's folders for other editions of the client. Each is used whose parent is there, else ``user`` alone."""


@dataclass(frozen=True, slots=True)
class Client:
    id: str
    name: str
    mcp: Mcp | None = None
    rules: Rules | None = None
    skills: Skills | None = None
    signs: tuple[str, ...] = ()
    """Files and folders of a project that say that this client is used there."""
    user_signs: tuple[str, ...] = ()
    usual: bool = True
    """Part of ``--all``."""
    hint: str = ""
    """What a person has to do after the MCP entry is there."""


SHARED_SKILLS = Skills(".agents/skills", "{home}/.agents/skills", shared=True)
_AGENTS = Rules(("AGENTS.md",))
# Zed reads the first of these files only, so whatever is there already must get the text.
_ZED_RULES = (
    ".rules", ".cursorrules", ".windsurfrules", ".clinerules", ".github/copilot-instructions.md",
    "AGENT.md", "AGENTS.md", "CLAUDE.md", "GEMINI.md",
)  # fmt: skip
_OPENCODE = ("opencode.jsonc", "opencode.json", ".opencode/opencode.jsonc", ".opencode/opencode.json")
_CLINE_IN_VSCODE = "{vscode}/globalStorage/saoudrizwan.claude-dev/settings/cline_mcp_settings.json"

CLIENTS = (
    Client(
        "cursor", "Cursor",
        Mcp((".cursor/mcp.json",), ("{home}/.cursor/mcp.json",)),
        Rules((".cursor/rules/dataqueue.mdc",), front=f"description: {ABOUT}\nglobs: {PYTHON_FILES}\nalwaysApply: false"),
        Skills(".cursor/skills", "{home}/.cursor/skills", shared=True),
        (".cursor", ".cursorrules"), ("{home}/.cursor",),
        hint="Cursor asks before it starts a new server: Settings, MCP.",
    ),
    Client(
        "claude-code", "Claude Code",
        Mcp((".mcp.json",), ("{home}/.claude.json",)),
        Rules((".claude/rules/dataqueue.md",), ("{home}/.claude/CLAUDE.md",), f"paths:\n  - '{PYTHON_FILES}'"),
        Skills(".claude/skills", "{home}/.claude/skills"),
        (".claude", "CLAUDE.md", ".mcp.json"), ("{home}/.claude", "{home}/.claude.json"),
        hint="Claude Code asks once whether to trust the servers of a project; /mcp shows them.",
    ),
    Client(
        "claude-desktop", "Claude Desktop",
        Mcp(user=("{claude-desktop}/claude_desktop_config.json",)),
        user_signs=("{claude-desktop}",), hint="Quit Claude Desktop and start it again.",
    ),
    Client(
        "vscode", "VS Code with Copilot",
        Mcp((".vscode/mcp.json",), ("{vscode}/mcp.json",), keys=("servers",), shape="typed"),
        Rules(
            (".github/instructions/dataqueue.instructions.md",),
            front=f"description: {ABOUT}\napplyTo: '{PYTHON_FILES}'",
        ),
        Skills(".github/skills", "{copilot}/skills", shared=True),
        (".vscode", ".github/copilot-instructions.md", ".github/instructions"), ("{vscode}",),
        hint="VS Code asks before it starts the server: MCP: List Servers.",
    ),
    Client(
        "copilot-cli", "Copilot CLI",
        Mcp((".mcp.json", ".github/mcp.json"), ("{copilot}/mcp-config.json",), shape="copilot"),
        Rules(
            (".github/instructions/dataqueue.instructions.md",),
            front=f"description: {ABOUT}\napplyTo: '{PYTHON_FILES}'",
        ),
        Skills(".github/skills", "{copilot}/skills", shared=True),
        (".github/mcp.json",), ("{copilot}",),
    ),
    Client(
        "windsurf", "Windsurf, Devin Desktop",
        Mcp(
            (".devin/mcp_config.json",),
            ("{home}/.codeium/windsurf/mcp_config.json", "{config}/devin/mcp_config.json"), every=True,
        ),
        Rules((".devin/rules/dataqueue.md", ".windsurf/rules/dataqueue.md"), front=f"trigger: glob\nglobs: '{PYTHON_FILES}'"),
        Skills(".windsurf/skills", "{home}/.codeium/windsurf/skills", editions=("{config}/devin/skills",)),
        (".windsurf", ".devin", ".windsurfrules"), ("{home}/.codeium/windsurf", "{config}/devin"),
        hint="Builds named Windsurf read no file of the project: use --scope user for them.",
    ),
    Client(
        "codex", "Codex",
        Mcp((".codex/config.toml",), ("{codex}/config.toml",), "toml", ("mcp_servers",)),
        Rules(("AGENTS.md",), ("{codex}/AGENTS.md",)), SHARED_SKILLS,
        (".codex",), ("{codex}",), hint="Codex reads .codex/config.toml only in projects that it trusts.",
    ),
    Client(
        "gemini-cli", "Gemini CLI",
        Mcp((".gemini/settings.json",), ("{home}/.gemini/settings.json",)),
        Rules(("GEMINI.md",), ("{home}/.gemini/GEMINI.md",)),
        Skills(".gemini/skills", "{home}/.gemini/skills", shared=True),
        (".gemini", "GEMINI.md"), ("{home}/.gemini/settings.json",),
    ),
    Client(
        "antigravity", "Antigravity",
        Mcp((".agents/mcp_config.json",), ("{home}/.gemini/config/mcp_config.json",)),
        Rules((".agents/rules/dataqueue.md",), front=f"trigger: glob\nglobs: '{PYTHON_FILES}'"),
        Skills(".agents/skills", "{home}/.gemini/config/skills", shared=True),
        (".agents/rules", ".agents/mcp_config.json"), ("{home}/.gemini/config", "{home}/.gemini/antigravity"),
        hint="Older builds read the user's file only: --scope user.",
    ),
    Client(
        "zed", "Zed",
        Mcp((".zed/settings.json",), ("{zed}/settings.json",), keys=("context_servers",)),
        Rules(_ZED_RULES, ("{zed}/AGENTS.md",), create="AGENTS.md"), SHARED_SKILLS,
        (".zed", ".rules"), ("{zed}",),
    ),
    Client(
        "junie", "Junie",
        Mcp((".junie/mcp/mcp.json",), ("{home}/.junie/mcp/mcp.json",)),
        # It reads the first of these only.
        Rules((".junie/AGENTS.md", "AGENTS.md", ".junie/guidelines.md"), create="AGENTS.md"),
        Skills(".junie/skills", "{home}/.junie/skills"),
        (".junie",), ("{home}/.junie",),
    ),
    Client(
        "cline", "Cline",
        Mcp(user=("{cline}/settings/cline_mcp_settings.json", _CLINE_IN_VSCODE), shape="cline", every=True),
        Rules((".clinerules/dataqueue.md",), front=f"paths:\n  - '{PYTHON_FILES}'"), SHARED_SKILLS,
        (".clinerules", ".cline"), ("{cline}", "{vscode}/globalStorage/saoudrizwan.claude-dev"),
    ),
    Client(
        "opencode", "opencode",
        Mcp(
            _OPENCODE, ("{config}/opencode/opencode.jsonc", "{config}/opencode/opencode.json"),
            keys=("mcp",), shape="opencode",
        ),
        Rules(("AGENTS.md", "CLAUDE.md"), ("{config}/opencode/AGENTS.md",)), SHARED_SKILLS,
        ("opencode.jsonc", "opencode.json", ".opencode"), ("{config}/opencode",),
    ),
    Client(
        "kiro", "Kiro",
        Mcp((".kiro/settings/mcp.json",), ("{home}/.kiro/settings/mcp.json",)),
        Rules((".kiro/steering/dataqueue.md",), front=f"inclusion: fileMatch\nfileMatchPattern: '{PYTHON_FILES}'"),
        Skills(".kiro/skills", "{home}/.kiro/skills"),
        (".kiro",), ("{home}/.kiro",),
    ),
    Client(
        "amp", "Amp",
        Mcp(
            (".amp/settings.json", ".amp/settings.jsonc"), ("{config}/amp/settings.json", "{config}/amp/settings.jsonc"),
            keys=("amp.mcpServers",),
        ),
        Rules(("AGENTS.md",), ("{config}/amp/AGENTS.md",)),
        Skills(".agents/skills", "{config}/agents/skills"),
        (".amp",), ("{config}/amp",), hint="Amp asks before it starts a project's server: amp mcp approve dataqueue.",
    ),
    Client(
        "goose", "Goose",
        Mcp(user=("{goose}/config.yaml",), form="yaml", keys=("extensions",), shape="goose"),
        _AGENTS, Skills(".goose/skills", "{goose}/skills", shared=True),
        (".goose", ".goosehints"), ("{goose}",),
    ),
    Client(
        "agents", "any client that reads AGENTS.md", rules=_AGENTS, skills=SHARED_SKILLS,
        signs=("AGENTS.md", ".agents/skills"), user_signs=("{home}/.agents",),
    ),
    Client(
        "continue", "Continue",
        Mcp((".continue/mcpServers/mcp.json",), ("{home}/.continue/mcpServers/mcp.json",)),
        Rules((".continue/rules/dataqueue.md",), front=f"description: {ABOUT}\nglobs:\n  - '{PYTHON_FILES}'"),
        Skills(".continue/skills", "{home}/.continue/skills"),
        (".continue",), ("{home}/.continue",), usual=False,
    ),
    Client(
        "qwen", "Qwen Code",
        Mcp((".qwen/settings.json",), ("{home}/.qwen/settings.json",)),
        Rules((".qwen/rules/dataqueue.md",), front=f"description: {ABOUT}\npaths:\n  - '{PYTHON_FILES}'"),
        Skills(".qwen/skills", "{home}/.qwen/skills"),
        (".qwen", "QWEN.md"), ("{home}/.qwen",), usual=False,
    ),
    Client(
        "crush", "Crush",
        Mcp(("crush.json", ".crush.json"), ("{config}/crush/crush.json",), keys=("mcp",), shape="typed"),
        _AGENTS, SHARED_SKILLS, ("crush.json", ".crush.json", ".crush"), ("{config}/crush",), usual=False,
    ),
    Client(
        "warp", "Warp", Mcp((".warp/.mcp.json",), ("{home}/.warp/.mcp.json",)), _AGENTS, SHARED_SKILLS,
        (".warp",), ("{home}/.warp",), usual=False,
    ),
    Client(
        "kilo", "Kilo Code",
        Mcp(
            ("kilo.jsonc", "kilo.json", ".kilo/kilo.jsonc", ".kilo/kilo.json"),
            ("{config}/kilo/kilo.jsonc", "{config}/kilo/kilo.json"), keys=("mcp",), shape="opencode",
        ),
        _AGENTS, SHARED_SKILLS, ("kilo.jsonc", "kilo.json", ".kilo"), ("{config}/kilo",), usual=False,
    ),
    Client(
        "factory", "Factory Droid", Mcp((".factory/mcp.json",), ("{home}/.factory/mcp.json",), shape="typed"),
        _AGENTS, SHARED_SKILLS, (".factory",), ("{home}/.factory",), usual=False,
    ),
    Client(
        "grok", "Grok Build", Mcp((".grok/config.toml",), ("{grok}/config.toml",), "toml", ("mcp_servers",)),
        _AGENTS, None, (".grok",), ("{grok}",), usual=False,
    ),
    Client(
        "kimi", "Kimi Code", Mcp((".kimi-code/mcp.json",), ("{kimi}/mcp.json",), shape="kimi"),
        _AGENTS, SHARED_SKILLS, (".kimi-code",), ("{kimi}",), usual=False,
    ),
    Client(
        "jetbrains-ai", "JetBrains AI Assistant",
        Mcp(paste="Settings, Tools, AI Assistant, Model Context Protocol (MCP): add a server as JSON."),
        Rules((".aiassistant/rules/dataqueue.md",), front=f"apply: by file patterns\npatterns: {PYTHON_FILES}"),
        SHARED_SKILLS, (".aiassistant",), usual=False,
    ),
    Client(
        "copilot-cloud", "Copilot cloud agent",
        Mcp(shape="copilot-cloud", paste="the repository's settings on GitHub: Copilot, Cloud agent, MCP configuration."),
        usual=False,
    ),
)  # fmt: skip

ALIASES = {
    "claude": "claude-code",
    "copilot": "vscode",
    "github-copilot": "vscode",
    "devin": "windsurf",
    "gemini": "gemini-cli",
    "agents.md": "agents",
}
BY_ID = {client.id: client for client in CLIENTS}


def find_clients(names: Iterable[str]) -> list[Client]:
    """The clients of these ids or short names, each once, in the order of the table.

    Raises:
        ConfigError: a name is unknown; the message lists the known ones.
    """
    wanted: set[str] = set()
    for name in names:
        found = ALIASES.get(name.strip().lower(), name.strip().lower())
        if found not in BY_ID:
            near = difflib.get_close_matches(found, [*BY_ID, *ALIASES], 1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise ConfigError(
                f"There is no client {name!r:.60}.{hint} Nothing was written. Clients: {', '.join(BY_ID)}."
            )
        wanted.add(found)
    return [client for client in CLIENTS if client.id in wanted]
