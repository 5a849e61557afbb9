"""Two machines on one wire: announce and find, a change of address, avahi as the judge, and a liar."""

import asyncio
import ipaddress
import json
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from mcp import Client

from tests.certificates import Certificate, make_certificate
from tests.discovery.harness import DEADLINE_S, TOKEN, Child, child, connect_command, mcp_server, script
from tests.discovery.test_connect import INITIALIZE, talk, text_of
from tests.netns import Machine, possible, two_machines

pytestmark = [pytest.mark.system, pytest.mark.skipif(not possible(), reason="needs root and iproute2")]

GATEWAY, PORT, ROGUE_PORT = "gw-12ab34cd", 8443, 8444


@pytest.fixture
def wire() -> Iterator[tuple[Machine, Machine]]:
    with two_machines() as machines:
        yield machines


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> tuple[Certificate, Certificate]:
    folder = tmp_path_factory.mktemp("certificates")
    return make_certificate(folder, "gateway"), make_certificate(folder, "rogue")


def announce(machine: Machine, name: str = "Küche") -> Any:
    return child(*machine.inside, *script("run_announce", name, GATEWAY, "ab" * 32))


def browsing(machine: Machine) -> Any:
    return child(*machine.inside, *script("run_browse"))


async def found_with(browser: Child, address: str) -> dict[str, Any]:
    """The next answer that lists the address."""
    while True:
        found: dict[str, Any] = json.loads(await browser.line("found"))
        if address in found["addresses"]:
            return found


@pytest.mark.parametrize("loopback", [True, False])
async def test_found_and_followed(loopback: bool, wire: tuple[Machine, Machine]) -> None:
    """The gateway starts before its network does (even before loopback), and later gets another address."""
    here, there = wire
    here.ip("addr", "flush", "dev", here.link)
    if not loopback:
        here.ip("addr", "flush", "dev", "lo")
    async with announce(here) as gateway, browsing(there) as browser:
        await gateway.line("announced as" if loopback else "not announced on the local network")
        here.move_to("10.77.0.1")
        found = await found_with(browser, "10.77.0.1")
        assert (found["name"], found["gateway_id"], found["port"], found["tls"]) == ("Küche", GATEWAY, 8443, True)
        assert (found["fingerprint"], found["version"]) == ("ab" * 32, "0.1.0")
        assert found["mcp_revisions"] == ["2025-11-25", "2026-07-28"]
        assert found["instance"] == "Küche (34cd)"
        assert found["txt"]["http"] == "8080"
        if not loopback:
            return
        here.move_to("10.77.0.9")
        await found_with(browser, "10.77.0.9")  # told, not asked: the browser may remember the old one for a second
        async with browsing(there) as other:
            assert "10.77.0.1" not in (await found_with(other, "10.77.0.9"))["addresses"]


async def test_link_local_addresses_name_their_interface(wire: tuple[Machine, Machine]) -> None:
    here, there = wire
    here.ip("-4", "addr", "flush", "dev", here.link)
    there.ip("-4", "addr", "flush", "dev", there.link)
    async with announce(here), browsing(there) as browser:
        found = json.loads(await browser.line("found"))
        assert len(found["addresses"]) == 1
        address = ipaddress.ip_address(found["addresses"][0])
        assert address.is_link_local
        assert isinstance(address, ipaddress.IPv6Address)
        assert address.scope_id


@pytest.mark.skipif(not shutil.which("avahi-daemon") or not shutil.which("avahi-browse"), reason="needs avahi")
async def test_avahi_sees_it_come_and_go(wire: tuple[Machine, Machine], tmp_path: Path) -> None:
    """And a second one of that name, on the machine where avahi runs too, leaves the name to its owner."""
    here, there = wire
    async with announce(here) as gateway, avahi(there, tmp_path) as environment:
        await gateway.line("announced as")
        browse = (*there.inside, "avahi-browse", "--resolve", "--parsable")
        async with child(*browse, "_mcp._tcp", env=environment) as browser:
            resolved = (await browser.line(f"=;{there.link};IPv4;")).split(";")
            assert resolved[0] == "K\\195\\188che\\032\\04034cd\\041"
            assert resolved[3:6] == [f"{GATEWAY}.local", "10.77.0.1", "8443"]
            assert f'"id={GATEWAY}"' in resolved[6]
            async with announce(there) as second:
                assert (await second.line("announced as")).startswith("'Küche (34cd)-2'")
            gateway.process.terminate()
            assert "(34cd)" in (await browser.line(f"-;{there.link};IPv4;K")).replace("\\040", "(").replace(
                "\\041", ")"
            )


@asynccontextmanager
async def avahi(machine: Machine, folder: Path) -> AsyncIterator[dict[str, str]]:
    """An avahi daemon on the machine, with a D-Bus of its own: the environment that reaches it."""
    bus = folder / "bus"
    (folder / "dbus.conf").write_text(
        f"<busconfig><type>system</type><listen>unix:path={bus}</listen><auth>EXTERNAL</auth>"
        '<policy context="default"><allow user="*"/><allow own="*"/><allow send_type="method_call"/>'
        '<allow send_type="signal"/><allow send_requested_reply="true"/><allow receive_type="method_call"/>'
        '<allow receive_type="signal"/><allow receive_type="method_return"/><allow receive_type="error"/></policy>'
        "</busconfig>"
    )
    (folder / "avahi.conf").write_text(
        f"[server]\nhost-name=judge\nallow-interfaces={machine.link}\nenable-dbus=yes\n"
        "[publish]\npublish-workstation=no\npublish-hinfo=no\n[rlimits]\n"
    )
    environment = {**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": f"unix:path={bus}"}
    daemon = (
        "mkdir -p /run/avahi-daemon && mount -t tmpfs none /run/avahi-daemon &&"
        f" exec avahi-daemon -f {folder}/avahi.conf --no-drop-root --no-chroot --no-rlimits 2>&1"
    )
    dbus = ("dbus-daemon", f"--config-file={folder}/dbus.conf", "--nofork", "--nopidfile", "--print-address")
    async with child(*dbus) as messages:
        await messages.line("unix:")
        async with child(*machine.inside, "unshare", "-m", "sh", "-c", daemon, env=environment) as started:
            await started.line("Server startup complete")
            yield environment


def rogue(machine: Machine, certificates: tuple[Certificate, Certificate]) -> Any:
    genuine, other = certificates
    files = str(other.certificate), str(other.key)
    return child(*machine.inside, *script("run_rogue", str(ROGUE_PORT), *files, GATEWAY, genuine.fingerprint))


async def test_a_liar_hears_nothing(
    wire: tuple[Machine, Machine], certificates: tuple[Certificate, Certificate], tmp_path: Path
) -> None:
    """It answers first with the gateway's id, name and fingerprint; only the certificate tells them apart."""
    here, there = wire
    genuine, _ = certificates
    config = tmp_path / "config"
    given = {"token": TOKEN, "fingerprint": genuine.fingerprint, "find_timeout_s": 1.0, "retry_s": 15.0}
    async with rogue(here, certificates) as liar:
        await liar.line("announced as")
        alone = await talk(connect_command(config, there.inside, **given), INITIALIZE)
        words = alone[0]["error"]["message"]
        assert genuine.fingerprint in words
        assert certificates[1].fingerprint in words
        await liar.line("met")
        server = mcp_server(genuine, PORT, host="0.0.0.0", gateway_id=GATEWAY, inside=here.inside)
        async with server, asyncio.timeout(DEADLINE_S):
            command = connect_command(config, there.inside, **{**given, "find_timeout_s": 10.0})
            async with Client(command, mode="2026-07-28") as client:
                assert text_of(await client.call_tool("count", {"name": "genuine"})) == "1"
        liar.process.terminate()
        assert liar.process.stdout
        heard = (await liar.process.stdout.read()).decode().split()
        assert set(heard) == {"met"}, "nothing but handshakes"


async def test_a_gateway_that_moved_is_found_again(
    wire: tuple[Machine, Machine], certificates: tuple[Certificate, Certificate], tmp_path: Path
) -> None:
    """Another address and another port, in the middle of a session; the pin is enough, the app notices nothing."""
    here, there = wire
    genuine, _ = certificates
    given = {"token": TOKEN, "fingerprint": genuine.fingerprint}
    first = mcp_server(genuine, PORT, host="0.0.0.0", gateway_id=GATEWAY, inside=here.inside)
    async with first as running:
        client = Client(connect_command(tmp_path, there.inside, **given), mode="legacy")
        await client.__aenter__()
        try:
            assert text_of(await client.call_tool("count", {"name": "move"})) == "1"
            await running.kill()
            here.move_to("10.77.0.9")
            call = asyncio.create_task(client.call_tool("count", {"name": "move"}))
            second = mcp_server(genuine, PORT + 9, host="0.0.0.0", gateway_id=GATEWAY, inside=here.inside)
            async with second:
                assert text_of(await asyncio.wait_for(call, DEADLINE_S)) == "1"
        finally:
            await client.__aexit__(None, None, None)
    pins = json.loads((tmp_path / "ambient-gateway" / "gateways.json").read_text())
    assert pins["gateways"][0]["address"].endswith(f":{PORT + 9}")


async def test_without_a_pin_the_app_is_told_what_to_do(wire: tuple[Machine, Machine], tmp_path: Path) -> None:
    here, there = wire
    command = connect_command(tmp_path, there.inside, find_timeout_s=0.5)
    assert "no gateway was found" in (await talk(command, INITIALIZE))[0]["error"]["message"]
    async with announce(here) as gateway:
        await gateway.line("announced as")
        words = (await talk(command, INITIALIZE))[0]["error"]["message"]
    assert f"found Küche ({GATEWAY})" in words
    assert "gateway connect --token TOKEN --fingerprint FINGERPRINT" in words
