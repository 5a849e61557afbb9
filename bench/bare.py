"""The floor of a tool call: the SDK's server with one trivial tool under uvicorn. `python -m bench.bare PORT`."""

import sys

import uvicorn
from mcp.server.mcpserver import MCPServer


def main() -> None:
    server = MCPServer("bare", log_level="WARNING")

    @server.tool()
    def ping() -> str:
        """Nothing."""
        return "pong"

    uvicorn.run(server.streamable_http_app(), host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")


if __name__ == "__main__":
    main()
