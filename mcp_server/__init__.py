"""The MCP server: documentation search and live inspection for AI assistants.

``dataqueue mcp`` runs it; :func:`create_server` makes one to embed.
"""

from dataqueue.mcp_server.options import ServerOptions
from dataqueue.mcp_server.server import Server, create_server

__all__ = ["Server", "ServerOptions", "create_server"]
