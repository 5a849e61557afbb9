"""What `gateway run` prints once it works: where it is, a token, and lines to paste into an assistant."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Welcome:
    """Addresses in order of preference; `token` is None where the owner has made tokens already; `code` is that of the
    pairing window that is open since the start."""

    name: str
    gateway_id: str
    fingerprint: str
    addresses: Sequence[str]
    http_port: int | None
    https_port: int
    token: str | None
    broker: str
    data: Path
    code: str


def text(welcome: Welcome) -> str:
    """The whole welcome, ready to print."""
    host = bracketed(welcome.addresses[0] if welcome.addresses else "127.0.0.1")
    plain = f"http://{host}:{welcome.http_port}" if welcome.http_port else ""
    secure = f"https://{host}:{welcome.https_port}"
    easy = plain or secure
    lines = [
        f"{welcome.name} ({welcome.gateway_id}) is running.",
        "",
        f"  page     {easy}/",
        f"  MCP      {easy}/mcp",
        f"  HTTPS    {secure}/mcp   certificate {welcome.fingerprint}",
        f"  pair     {secure}/pair   code {welcome.code}, for two minutes; later: gateway pair",
        f"  broker   {welcome.broker}",
        f"  data     {welcome.data.absolute()}",
    ]
    if welcome.token is None:
        lines += ["", "  Tokens exist already; make another with: gateway token create NAME --scope read"]
    else:
        lines += [f"  token    {welcome.token}   (read only, not shown again)", "", *_paste(welcome, easy)]
    return "\n".join(lines)


def _paste(welcome: Welcome, base: str) -> list[str]:
    token = welcome.token or ""
    command = str(Path(sys.prefix) / "bin" / "gateway")
    bridge = ["connect", "--token", token, "--fingerprint", welcome.fingerprint]
    desktop = {"mcpServers": {"ambient-gateway": {"command": command, "args": bridge}}}
    code = {
        "name": "ambient-gateway",
        "type": "http",
        "url": f"{base}/mcp",
        "headers": {"Authorization": f"Bearer {token}"},
    }
    return [
        "Claude Code:",
        f'  claude mcp add --transport http ambient-gateway {base}/mcp --header "Authorization: Bearer {token}"',
        "Claude Desktop (claude_desktop_config.json; it finds the gateway by itself):",
        f"  {json.dumps(desktop)}",
        "VS Code:",
        f"  code --add-mcp '{json.dumps(code)}'",
    ]


def bracketed(address: str) -> str:
    """An address as it stands in a URL."""
    return f"[{address}]" if ":" in address else address
