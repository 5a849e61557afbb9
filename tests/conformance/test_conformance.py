"""The protocol's own conformance suite against a whole gateway: each scenario that needs no fixture of its own."""

import asyncio
from pathlib import Path

import pytest
from mcp.server.mcpserver.resources import TextResource

from tests.conformance.proxy import with_token
from tests.node_tools import NodeTools, node_tools
from tests.web.house import furnish, house

SCENARIOS = (
    "server-initialize",
    "ping",
    "tools-list",
    "completion-complete",
    "logging-set-level",
    "resources-list",
    "resources-subscribe",
    "resources-unsubscribe",
    "prompts-list",
    "dns-rebinding-protection",
)
WATCHED = TextResource(uri="test://watched-resource", name="watched", text="")
"""The one fixture: the suite subscribes to it, and this server takes no subscriptions to what it does not have."""
DEADLINE_S = 60.0


@pytest.fixture(scope="session")
def tools() -> NodeTools:
    return node_tools()


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_the_suite_passes(tmp_path: Path, tools: NodeTools, scenario: str) -> None:
    async with house(tmp_path) as home, with_token(home.ports["http"], home.token) as port:
        await furnish(home)
        home.endpoint.server.add_resource(WATCHED)
        url = f"http://localhost:{port}/mcp"
        child = await asyncio.create_subprocess_exec(
            tools.node,
            tools.conformance,
            "server",
            *("--url", url),
            *("--scenario", scenario),
            cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            async with asyncio.timeout(DEADLINE_S):
                said, _ = await child.communicate()
        finally:
            if child.returncode is None:
                child.kill()
                await child.wait()
    text = said.decode(errors="replace")
    assert child.returncode == 0, text
    assert "Passed: " in text, text
    assert ", 0 failed" in text, text
