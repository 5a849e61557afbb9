"""The protocol's own conformance suite against a running gateway; what needs a fixture, against its front with that."""

import asyncio
from pathlib import Path

import pytest
from mcp.server.mcpserver.resources import TextResource

from tests.conformance.proxy import with_token
from tests.node_tools import NodeTools, node_tools
from tests.running import gateway
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
NEED_FIXTURE = ("resources-subscribe", "resources-unsubscribe")
WATCHED = TextResource(uri="test://watched-resource", name="watched", text="")
"""The one fixture: the suite subscribes to it, and this server takes no subscriptions to what it does not have."""
DEADLINE_S = 60.0


@pytest.fixture(scope="session")
def tools() -> NodeTools:
    return node_tools()


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("scenario", [name for name in SCENARIOS if name not in NEED_FIXTURE])
async def test_the_suite_passes_against_a_running_gateway(tmp_path: Path, tools: NodeTools, scenario: str) -> None:
    async with gateway(tmp_path, "--demo") as running, with_token(running.http, running.token) as port:
        await passes(tools, tmp_path, port, scenario)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("scenario", NEED_FIXTURE)
async def test_the_suite_passes_with_its_fixture(tmp_path: Path, tools: NodeTools, scenario: str) -> None:
    async with house(tmp_path) as home, with_token(home.ports["http"], home.token) as port:
        await furnish(home)
        home.endpoint.server.add_resource(WATCHED)
        await passes(tools, tmp_path, port, scenario)


async def passes(tools: NodeTools, folder: Path, port: int, scenario: str) -> None:
    """Run one scenario of the suite and see that all of it passed."""
    child = await asyncio.create_subprocess_exec(
        tools.node,
        tools.conformance,
        "server",
        *("--url", f"http://localhost:{port}/mcp"),
        *("--scenario", scenario),
        cwd=folder,
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
