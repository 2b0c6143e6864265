"""Writes MCP configuration, rules and skills into editors' own files."""
