"""Who may do what at the real mosquitto: nodes, rogues, devices of other makers, those who were sent away."""

import asyncio
import os
import stat
from pathlib import Path

import psutil
import pytest
from aiomqtt import Will
from paho.mqtt.client import Client as Paho
from paho.mqtt.enums import CallbackAPIVersion

from gateway.access.logins import Issued, LoginError
from tests.broker.guarded import OURS, Guarded, guarded, refused
from tests.brokers import free_port, needs_mosquitto

pytestmark = needs_mosquitto


def addresses(home: Guarded) -> set[tuple[str, int]]:
    """Where mosquitto listens, but for the gateway's own entrance."""
    found = psutil.Process(home.broker.child.pid).net_connections()
    listening = {(c.laddr.ip, c.laddr.port) for c in found if c.status == psutil.CONN_LISTEN}
    return listening - {("127.0.0.1", home.broker.entrance.port)}


async def test_the_first_login_opens_the_broker_and_loses_nothing(tmp_path: Path) -> None:
    """What was acknowledged to an anonymous sender waits for the gateway's session, also over the change."""
    async with guarded(tmp_path) as home:
        assert addresses(home) == {("127.0.0.1", home.port)}
        async with home.ours(clean_session=False) as gateway:
            await gateway.client.subscribe("#", qos=1)
        async with home.node(None) as plug:
            for number in range(200):
                await plug.say("tele/plug/SENSOR", b"%d" % number)
            await plug.say("tele/plug/LWT", b"Online", retain=True)
            issued = await home.add("n1")
            await plug.ended()
        assert addresses(home) == {("0.0.0.0", home.port), ("::", home.port)}
        assert home.said == [issued.note]
        assert f"port {home.port} of every address, for logins only" in issued.note
        assert await refused(home.node(None))
        async with home.ours(clean_session=False) as gateway:
            await gateway.hears("tele/plug/SENSOR", b"199")
            assert [said for topic, said in gateway.heard if topic.endswith("SENSOR")] == [
                b"%d" % n for n in range(200)
            ]
            async with home.node(issued) as node:
                await node.say("devices/n1/status")
            await gateway.hears("devices/n1/status")


async def test_a_rogue_reaches_nothing_of_others(tmp_path: Path) -> None:
    async with guarded(tmp_path) as home:
        a, b = await home.add("a"), await home.add("b")
        async with home.ours() as gateway, home.node(b) as victim:
            await gateway.client.subscribe("#", qos=1)
            await victim.client.subscribe("#", qos=1)
            for topic in (
                "devices/b/sensors/scd30/data",
                "devices/b/status",
                "devices/b/capabilities",
                "devices/b/commands/1/result",
                "devices/b/ack",
                "devices/b/commands/1",
                "devices/b/update",
                "devices/a/ack",
                "devices/a/commands/1",
                "devices/a/update",
                "devices/a",
                "devices/a/sensors/x/state",
                "gateway/agw-1/status",
                "homeassistant/device/x/config",
                "$SYS/broker/version",
                "$CONTROL/dynamic-security/v1",
                "tele/plug/SENSOR",
            ):
                async with home.node(a) as rogue:
                    await rogue.client.publish(topic, b"rogue", qos=0)
                    await rogue.ended()
            will = Will("devices/b/status", b"rogue", qos=1, retain=True)
            async with home.node(a, will=will) as rogue:  # its last word, when it is thrown out
                await rogue.client.publish("devices/b/error", b"rogue", qos=0)
                await rogue.ended()
            async with home.node(a) as node:
                await node.say("devices/a/sensors/scd30/data", b"own")
            await gateway.hears("devices/a/sensors/scd30/data", b"own")
            assert gateway.heard == [("devices/a/sensors/scd30/data", b"own")]
            await gateway.say("devices/b/ack", b"mark")
            await victim.hears("devices/b/ack", b"mark")
            assert victim.heard == [("devices/b/ack", b"mark")]


async def test_who_subscribes_to_everything_is_told_only_its_own(tmp_path: Path) -> None:
    async with guarded(tmp_path) as home:
        a, b = await home.add("a"), await home.add("b")
        async with home.ours() as gateway, home.node(b) as other, home.node(a) as rogue:
            await other.say("devices/b/capabilities", b"{}", retain=True)
            for wide in ("#", "devices/#", "devices/b/ack", "+/+/commands/+", "$SYS/#", "$share/x/devices/#"):
                await rogue.client.subscribe(wide, qos=1)
            for topic in ("ack", "commands/7", "update", "status", "sensors/scd30/data"):
                await gateway.say(f"devices/b/{topic}")
            await other.say("devices/b/sensors/scd30/data")
            await gateway.say("gateway/agw-1/status")
            for topic in ("update", "commands/7", "ack"):
                await gateway.say(f"devices/a/{topic}")
            await rogue.hears("devices/a/ack")
            assert {topic for topic, _ in rogue.heard} == {"devices/a/ack", "devices/a/commands/7", "devices/a/update"}


async def test_nobody_takes_over_the_session_of_another(tmp_path: Path) -> None:
    """A session that ends another of its name would end the gateway's, with all that waits in it."""
    async with guarded(tmp_path) as home:
        a = await home.add("a")
        async with home.ours(clean_session=False) as gateway:
            await gateway.client.subscribe("#", qos=1)
            for name in (OURS, "b"):
                async with home.node(a, name=name) as rogue:
                    await rogue.say("devices/a/status", name.encode())
                await gateway.hears("devices/a/status", name.encode())
            assert not gateway.gone.is_set()
        with pytest.raises(LoginError, match="gateway's own name"):
            await home.add(OURS)


async def test_wrong_and_unknown_are_refused(tmp_path: Path) -> None:
    async with guarded(tmp_path) as home:
        a, b = await home.add("a"), await home.add("b")
        for user, password in (
            ("a", "wrong"),
            ("a", ""),
            ("c", a.password),
            ("a", b.password),
            ("@gateway", a.password),
        ):
            assert await refused(home.node(Issued(user, None, password), name="a"))
        assert await refused(home.node(None))
        assert await refused(home.ours(login=(None, None)))
        assert await refused(home.ours(login=("a", "wrong")))
        await home.until(lambda: home.broker.refused == 8)
        assert not await refused(home.node(a))


async def test_revoked_is_gone_at_once_and_others_stay(tmp_path: Path) -> None:
    async with guarded(tmp_path) as home:
        a, b = await home.add("a"), await home.add("b")
        paho, acked = durable(home), asyncio.Event()
        loop = asyncio.get_running_loop()
        paho.on_disconnect = lambda *_: loop.call_soon_threadsafe(acked.set)
        try:
            async with home.node(a) as first, home.node(b) as second:
                await home.until(lambda: home.broker.connected().keys() == {"a", "b"})
                began_s = loop.time()
                await home.logins.revoke("a")
                await first.ended()
                took_s = loop.time() - began_s
                await second.say("devices/b/status", b"alive")
                assert not second.gone.is_set()
            assert took_s < 1
            assert not acked.is_set()  # the gateway's own session was not disturbed
            assert await refused(home.node(a))
            await home.until(lambda: not home.broker.connected())
        finally:
            paho.disconnect()
            paho.loop_stop()


async def test_what_waits_for_a_session_waits_over_a_reload(tmp_path: Path) -> None:
    async with guarded(tmp_path) as home:
        a = await home.add("a")
        async with home.ours(clean_session=False) as gateway:
            await gateway.client.subscribe("#", qos=1)
        async with home.node(a) as node:
            for number in range(20):
                await node.say("devices/a/error", b"%d" % number)
            await home.add("b")
            await home.logins.revoke("b")
        async with home.ours(clean_session=False) as gateway:
            await gateway.hears("devices/a/error", b"19")
            assert [said for _, said in gateway.heard] == [b"%d" % number for number in range(20)]


def durable(home: Guarded) -> Paho:
    """A session as the gateway's ingest has it."""
    way = home.broker.entrance
    paho = Paho(CallbackAPIVersion.VERSION2, OURS, clean_session=False, manual_ack=True)
    paho.username_pw_set(way.username or "", way.password)
    paho.connect(way.host, way.port)
    paho.loop_start()
    return paho


async def test_rotated(tmp_path: Path) -> None:
    async with guarded(tmp_path) as home:
        old = await home.add("a")
        async with home.node(old) as node:
            new = await home.logins.rotate("a")
            await node.ended()
        assert (new.key, new.password is not None, new.password != old.password) == (None, True, True)
        assert await refused(home.node(old))
        assert not await refused(home.node(new))
        again = await home.logins.rotate("a", key=True)
        assert again.key not in {None, old.key}


async def test_many_changes_are_few_reloads(tmp_path: Path) -> None:
    async with guarded(tmp_path) as home:
        await home.add("first")
        before = home.reloads
        await asyncio.gather(*(home.broker.apply() for _ in range(50)))
        assert 1 <= home.reloads - before <= 2
        issued = await asyncio.gather(*(home.add(f"n{number}") for number in range(20)))
        for each in issued[::6]:
            assert not await refused(home.node(each))


async def test_a_restart_keeps_logins_and_the_last_one_closes_nothing(tmp_path: Path) -> None:
    port = free_port()
    async with guarded(tmp_path, port=port) as home:
        a = await home.add("a")
    async with guarded(tmp_path, port=port) as home:
        assert addresses(home) == {("0.0.0.0", port), ("::", port)}
        assert not await refused(home.node(a))
        await home.logins.revoke("a")
        assert await refused(home.node(a))
        assert await refused(home.node(None))
    async with guarded(tmp_path, port=port) as home:
        assert await refused(home.node(None))
        assert addresses(home) == {("0.0.0.0", port), ("::", port)}
        with pytest.raises(LoginError, match="has no login"):
            await home.logins.revoke("a")


async def test_a_device_of_another_maker(tmp_path: Path) -> None:
    async with guarded(tmp_path) as home:
        plug = await home.add("plug-1", write=("tele/plug-1/#", "stat/plug-1/#"), read=("cmnd/plug-1/#",))
        assert (plug.key, plug.user) == (None, "plug-1")
        async with home.ours() as gateway, home.node(plug) as device:
            await gateway.client.subscribe("#", qos=1)
            await device.client.subscribe("#", qos=1)
            await device.say("tele/plug-1/SENSOR")
            await gateway.hears("tele/plug-1/SENSOR")
            await gateway.say("cmnd/plug-2/POWER")
            await gateway.say("cmnd/plug-1/POWER")
            await device.hears("cmnd/plug-1/POWER")
            assert device.heard == [("cmnd/plug-1/POWER", b"x")]
            for _ in range(2):
                async with home.node(plug) as rogue:
                    await rogue.client.publish("devices/plug-1/status", b"x")
                    await rogue.ended()
            await home.until(lambda: not home.broker.connected())
            assert [text for text in home.said if "plug-1 was disconnected: it said something" in text] == home.said[1:]
            assert len(home.said) == 2


async def test_explicit_addresses(tmp_path: Path) -> None:
    """Loopback that was asked for stays open to this machine alone; another address is for logins from the start."""
    async with guarded(tmp_path / "a", "127.0.0.1") as home:
        issued = await home.add("a")
        assert "loopback only, where nobody is asked for a login" in issued.note
        assert not await refused(home.node(None))
        assert addresses(home) == {("127.0.0.1", home.port)}
        assert home.broker.outside is None
    async with guarded(tmp_path / "b", "0.0.0.0") as home:
        assert await refused(home.node(None))
        assert not await refused(home.node(await home.add("a")))
        assert home.broker.outside == (home.port, 0)


async def test_a_port_that_others_hold_keeps_it_inside(tmp_path: Path) -> None:
    async with guarded(tmp_path) as home:
        other = await asyncio.start_server(lambda _r, _w: None, "::", home.port)
        async with other:
            issued = await home.add("a")
            assert "stays on loopback, for logins only" in issued.note
            assert addresses(home) == {("127.0.0.1", home.port)}
            assert not await refused(home.node(issued))
            assert await refused(home.node(None))


async def test_what_lies_on_the_card_is_private_and_no_password(tmp_path: Path) -> None:
    async with guarded(tmp_path, tls=True) as home:
        issued = await home.add("a")
        assert issued.password is not None
        for name in ("broker/passwords", "broker/topics", "broker/server.key", "identity/authority.pem"):
            assert stat.S_IMODE(os.stat(tmp_path / name).st_mode) == 0o600
    assert issued.password.encode() not in b"".join(map(Path.read_bytes, files_in(tmp_path)))


def files_in(folder: Path) -> list[Path]:
    return [file for file in folder.rglob("*") if file.is_file()]
