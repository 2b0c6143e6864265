"""Files as clients and people leave them. Nothing in them may be lost, ever."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """A client, the file that it reads below the project's root, and what the file holds."""

    name: str
    client: str
    path: str
    content: bytes


_JSON = {
    "empty": "",
    "blank": "\n",
    "braces": "{}",
    "braces-spread": "{\n}\n",
    "null-free": '{\n  "KEY": {}\n}\n',
    "minified": '{"KEY":{"x":{"command":"y","args":["a","b"]}}}',
    "usual": '{\n  "KEY": {\n    "github": {\n      "command": "docker",\n      "args": ["run", "-i", "ghcr"],\n'
    '      "env": {"TOKEN": "t-1"}\n    }\n  }\n}\n',
    "after-others": '{\n  "KEY": {\n    "a": {"command": "a"}\n  },\n  "inputs": [\n    {"id": "k", "type": "promptString", '
    '"password": true}\n  ],\n  "sandbox": {"on": false}\n}\n',
    "no-servers": '{\n    "editor.fontSize": 14,\n    "n": 1.50,\n    "big": 123456789012345678901234567890,\n    "e": 1E-7\n}\n',
    "comments": '// top\n{\n  // servers\n  "KEY": {\n    "a": {"command": "a"}, // first\n    /* "b": {} */\n  } // end\n}\n// bye\n',
    "comment-only-map": '{\n  "KEY": {\n    // "x": {"command": "x"}\n  }\n}\n',
    "trailing-commas": '{\n  "KEY": {\n    "a": {"command": "a", "args": ["x",],},\n  },\n}\n',
    "url-with-slashes": '{\n  "KEY": {\n    "r": {"url": "https://example.com/mcp//x", "note": "/* no */"}\n  }\n}\n',
    "unicode": '{\n  "KEY": {\n    "naïve": {"command": "/opt/ü/bin", "env": {"E": "\\u00e9\\ud83d\\ude00😀"}}\n  }\n}\n',
    "three-spaces": '{\n   "KEY": {\n      "a": {\n         "command": "a"\n      }\n   }\n}\n',
    "no-final-newline": '{\n  "KEY": {\n    "a": {"command": "a"}\n  }\n}',
    "odd-layout": '{ "KEY" :\n{ "a" : { "command":"a" }\n, "b" : { "command":"b" } }\n}\n\n\n',
    "tabs": '{\n\t"KEY": {\n\t\t"a": {\n\t\t\t"command": "a"\n\t\t}\n\t}\n}\n',
}
_JSON_CLIENTS = {
    "cursor": (".cursor/mcp.json", "mcpServers"),
    "vscode": (".vscode/mcp.json", "servers"),
    "zed": (".zed/settings.json", "context_servers"),
    "amp": (".amp/settings.json", "amp.mcpServers"),
    "opencode": ("opencode.json", "mcp"),
}
_TOML = {
    "empty": "",
    "usual": '# mine\nmodel = "o3"\n\n[mcp_servers.other]\ncommand = "x"\nargs = ["a"]\n\n[mcp_servers.other.env]\nA = "1"\n',
    "dotted": "mcp_servers.x.command = 'y'   # odd\nn = 1_000\n",
    "header": '[mcp_servers]\n\n[tui]\ntheme = "dark"\n',
    "long-string": 'note = """\n[mcp_servers.dataqueue]\n"""\n[profiles.a]\nm = 0xFF',
}
_MARKDOWN = {
    "empty": "",
    "blank": "\n\n",
    "usual": "# Project\n\n- use tabs\n\n```sh\nmake\n```\n",
    "no-final-newline": "# Project\n\ntext",
    "many-final-newlines": "# Project\n\n\n\n",
    "trailing-spaces": "a  \nb\t\n",
    "html": "<!-- other:begin -->\nx\n<!-- other:end -->\n",
    "import": "@docs/rules.md\n",
    "front-matter": "---\na: 1\n---\n\n# T\n",
    "unicode": "# Règles — 規則 😀\n",
}


def _variants(text: str) -> dict[str, bytes]:
    return {
        "": text.encode(),
        "-crlf": text.replace("\n", "\r\n").encode(),
        "-bom": b"\xef\xbb\xbf" + text.encode(),
        "-bom-crlf": b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode(),
    }


def _cases() -> list[Case]:
    cases: list[Case] = []
    for client, (path, key) in _JSON_CLIENTS.items():
        for name, text in _JSON.items():
            variants = _variants(text.replace("KEY", key))
            for suffix, content in (variants if client == "cursor" else {"": variants[""]}).items():
                cases.append(Case(f"{client}-{name}{suffix}", client, path, content))
    for name, text in _TOML.items():
        cases += [Case(f"codex-{name}{s}", "codex", ".codex/config.toml", c) for s, c in _variants(text).items()]
    for name, text in _MARKDOWN.items():
        cases += [Case(f"agents-{name}{s}", "agents", "AGENTS.md", c) for s, c in _variants(text).items()]
    return cases


CASES = _cases()

BROKEN = [
    Case("list", "cursor", ".cursor/mcp.json", b"[]\n"),
    Case("text", "cursor", ".cursor/mcp.json", b'"hello"\n'),
    Case("number", "cursor", ".cursor/mcp.json", b"\n1\n"),
    Case("cut-off", "cursor", ".cursor/mcp.json", b'{\n  "mcpServers": {\n    "a": {'),
    Case("missing-comma", "cursor", ".cursor/mcp.json", b'{\n  "a": 1\n  "b": 2\n}\n'),
    Case("conflict", "cursor", ".cursor/mcp.json", b'<<<<<<< HEAD\n{}\n=======\n{"a": 1}\n>>>>>>> x\n'),
    Case("servers-list", "cursor", ".cursor/mcp.json", b'{\n"mcpServers": []}\n'),
    Case("servers-null", "vscode", ".vscode/mcp.json", b'{\n"servers": null}\n'),
    Case("twice", "cursor", ".cursor/mcp.json", b'{"mcpServers": {},\n "mcpServers": {"a": {}}}'),
    Case("single-quotes", "zed", ".zed/settings.json", b"{'a': 1}"),
    Case("utf-16", "cursor", ".cursor/mcp.json", '{"a": 1}'.encode("utf-16")),
    Case("binary", "cursor", ".cursor/mcp.json", b"\xff\x00\xfe"),
    Case("toml", "codex", ".codex/config.toml", b"a = 1\nb =\n"),
    Case("toml-twice", "codex", ".codex/config.toml", b"a = 1\na = 2\n"),
    Case("toml-other-kind", "codex", ".codex/config.toml", b"mcp_servers = 1\n"),
    Case("marks-cut", "agents", "AGENTS.md", b"# T\n<!-- dataqueue:begin 0.1.0 0123456789ab -->\ntext\n"),
    Case(
        "marks-turned", "agents", "AGENTS.md", b"<!-- dataqueue:end -->\n<!-- dataqueue:begin 0.1.0 0123456789ab -->\n"
    ),
]
