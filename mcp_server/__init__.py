"""The MCP server: documentation search and live inspection for AI assistants."""
