"""Found by itself: what another machine on the same network sees of a real gateway."""

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.discovery.harness import child
from tests.discovery.test_network import avahi
from tests.netns import Machine, possible, two_machines
from tests.node_tools import node_tools
from tests.running import GATEWAY, Running, command, gateway, program

pytestmark = [pytest.mark.system, pytest.mark.skipif(not possible(), reason="needs root and iproute2")]


@pytest.fixture
def wire() -> Iterator[tuple[Machine, Machine]]:
    with two_machines() as machines:
        yield machines


@pytest.fixture
async def running(wire: tuple[Machine, Machine], tmp_path: Path) -> AsyncIterator[Running]:
    here = wire[0]
    async with gateway(tmp_path / "data", "--demo", host="0.0.0.0", inside=here.inside) as started:
        yield started


async def test_avahi_and_discover_find_it(wire: tuple[Machine, Machine], running: Running, tmp_path: Path) -> None:
    there = wire[1]
    browse = (*there.inside, "avahi-browse", "-rp", "_mcp._tcp")
    async with avahi(there, tmp_path) as environment, child(*browse, env=environment) as browser:
        resolved = (await browser.line(f"=;{there.link};IPv4;")).split(";")
    assert resolved[4:6] == ["10.77.0.1", str(running.https)]
    for key in (
        "txtvers=1",
        "proto=http",
        "path=/mcp",
        "tls=1",
        "auth=bearer",
        "pair=/pair",
        f"fp={running.fingerprint}",
    ):
        assert f'"{key}"' in resolved[6]
    code, out, err = await command("discover", "--json", "--seconds", "2", inside=there.inside)
    assert code == 0, err
    (found,) = json.loads(out)
    assert (found["addresses"][0], found["port"], found["fingerprint"]) == (
        "10.77.0.1",
        running.https,
        running.fingerprint,
    )
    assert found["gateway_id"] in running.welcome
    code, out, _ = await command("discover", "--seconds", "1", inside=there.inside)
    assert code == 0
    assert f"https://10.77.0.1:{running.https}/mcp" in out


async def test_the_inspector_lists_tools_and_reads_through_connect(
    wire: tuple[Machine, Machine], running: Running, tmp_path: Path
) -> None:
    """The assistant's app of another maker starts `gateway connect`, which finds and proves the gateway by itself."""
    there, tools = wire[1], node_tools()
    home = {"HOME": str(tmp_path)}  # the inspector hands little more than this to what it starts
    bridge = (GATEWAY, "connect", "--token", running.token, "--fingerprint", running.fingerprint)
    inspector = (*there.inside, str(tools.node), str(tools.inspector), "--cli")
    code, out, err = await program(*inspector, *bridge, "--method", "tools/list", environment=home)
    assert code == 0, err
    assert "get_latest_readings" in {tool["name"] for tool in json.loads(out)["tools"]}
    # Paired now: neither token nor fingerprint has to be given again.
    asked = ("--method", "tools/call", "--tool-name", "get_latest_readings", "--tool-arg", "metric=co2")
    code, out, err = await program(*inspector, GATEWAY, "connect", *asked, environment=home)
    assert code == 0, err
    units = {reading["unit"] for reading in json.loads(out)["structuredContent"]["readings"]}
    assert units == {"ppm"}


async def test_without_a_gateway_the_words_are_clear(wire: tuple[Machine, Machine], tmp_path: Path) -> None:
    there = wire[1]
    code, _, err = await command("discover", "--seconds", "0.5", inside=there.inside)
    assert (code, err.strip()) == (1, "no gateway answered; is it running, and on this network?")
    code, out, err = await command(
        "connect", inside=there.inside, environment={"XDG_CONFIG_HOME": str(tmp_path), "HOME": str(tmp_path)}
    )
    assert code == 0, "the app hung up at once"
    assert not out
