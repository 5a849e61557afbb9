"""Many nodes at once: what a fleet says of itself, the command that runs one, and a house that comes back together."""

import json
import math
import os
import resource
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bench import fleet as bench
from bench.fleet import Load, Party, lost_or_doubled
from drivers.model import Quantity
from gateway.nodes.fleet import Fleet, Login, Waits, allow_files, fleet, logins, made_up
from gateway.reading import Delivery, Message, Reading
from gateway.store.db import Store
from tests.brokers import needs_mosquitto
from tests.running import command, gateway

NODES: dict[Party, int] = {"broker": 200, "gateway": 60}
NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
QUANTITIES = {"count": Quantity.COUNT, "energy": Quantity.ENERGY, "temperature": Quantity.TEMPERATURE}
STORM_WITHIN_S = 30.0
FAST = {"AMBIENT_GATEWAY_STORE_FLUSH_ON_IDLE": "true", "AMBIENT_GATEWAY_DISCOVERY_MDNS": "false"}


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_waits_are_right_within_their_step(share: float) -> None:
    waits, given = Waits(), [0.003 * 1.01**n for n in range(1000)]
    assert (waits.within_s(share), waits.longest_s) == (0.0, 0.0)
    for each in reversed(given):
        waits.add(each)
    assert given[int(share * 1000) - 1] <= waits.within_s(share) <= 1.051 * given[int(share * 1000) - 1]
    assert waits.within_s(1.0) == waits.longest_s == given[-1]
    waits.add(1e9)
    waits.clear()
    waits.add(0.0)
    assert waits.within_s(0.99) == 0.0


def test_logins_are_the_lines_that_the_command_prints() -> None:
    key = "ab" * 32
    lines = [
        json.dumps({"device": "a", "key": key, "user": "a", "password": "secret"}),
        "",
        json.dumps({"device": "b", "key": key}),
    ]
    assert logins(lines) == [Login("a", key, "a", "secret"), Login("b", key)]
    for wrong in ("{}", "[]", "x", '{"device":"c","key":"zz"}', '{"device":"c","key":5}'):
        with pytest.raises(ValueError, match="line 2 is not what `gateway node add --json` prints"):
            logins([lines[0], wrong])


def test_more_nodes_than_files_are_refused_before_they_start() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        with pytest.raises(OSError, match="ulimit -Hn"):
            allow_files(hard)
    allow_files(10)


def test_a_broker_may_have_thousands_of_connections_where_the_shell_allows_few() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    child = f"{sys.executable} -m gateway.child {os.getpid()} /bin/sh -c 'ulimit -Sn'"
    done = subprocess.run(["/bin/sh", "-c", f"ulimit -Sn 300; exec {child}"], capture_output=True, check=True)
    assert int(done.stdout) == (16_384 if hard == resource.RLIM_INFINITY else min(16_384, hard))


@needs_mosquitto
async def test_the_command_runs_nodes_for_a_while_and_sums_up(tmp_path: Path) -> None:
    async with gateway(tmp_path / "data", environment=FAST) as running:
        place = ("--mqtt", f"127.0.0.1:{running.mqtt}")
        code, out, err = await command(
            "simulate", "--nodes", "50", *place, "--interval", "0.5", "--seconds", "1", "--report", "0.3", "--json"
        )
        assert code == 0, err
        found = json.loads(out)
        assert found["nodes"] == found["connected"] == 50
        assert found["measured"] == found["acked"] >= 80
        assert (found["held"], found["discarded"], found["refused"], found["repeated"]) == (0, 0, 0, 0)
        assert 0 < found["ack_p50_s"] <= found["ack_p99_s"] <= found["ack_max_s"] < 5
        assert err.count("50/50 connected") >= 2
        key = json.loads((await command("node", "add", "keyed", "--json", "--data", str(tmp_path / "data")))[1])
        file = tmp_path / "logins"
        file.write_text(json.dumps(key) + "\n", encoding="utf-8")
        signed = await command("simulate", "--logins", str(file), *place, "--seconds", "0.1", "--json")
        assert signed[0] == 0, signed[2]
        assert (json.loads(signed[1])["acked"], json.loads(signed[1])["refused"]) == (1, 0)


async def test_the_command_says_what_is_missing(tmp_path: Path) -> None:
    code, _, err = await command("simulate", "--mqtt", "127.0.0.1:1")
    assert (code, err.strip()) == (1, "gateway: how many nodes? say --nodes N, or --logins FILE")
    code, _, err = await command("simulate", "--mqtt", "127.0.0.1:1", "--logins", str(tmp_path / "none"))
    assert code == 1
    assert "No such file" in err


@needs_mosquitto
@pytest.mark.parametrize("party", ["broker", "gateway"])
async def test_a_house_that_loses_its_broker_or_gateway_comes_back_without_loss(party: Party) -> None:
    """Each node holds a message that nobody acknowledged when it happens; what is stored is compared at the end."""
    found = await bench.storm("on idle", NODES[party], party, logins=party == "gateway")
    assert found.connected_s <= found.acked_s < STORM_WITHIN_S


async def test_what_is_lost_or_doubled_is_found(tmp_path: Path) -> None:
    """The comparison that the storms rely on."""
    one, other = made = bench._fleet(Load(2, 3600.0), 1, made_up(2)).nodes

    def message(device: str, seq: int, number: int) -> Message:
        values = {"count": number, "energy": number * 8, "temperature": 21}
        readings = [
            Reading(device, "meter", name, QUANTITIES[name], float(value), NOW, NOW) for name, value in values.items()
        ]
        return Message(device, "meter", tuple(readings), Delivery("1-a", seq, 1))

    async with Store(tmp_path) as store:
        await store.append([message(node.device, seq, seq) for node in made for seq in (1, 2, 3)])
    one.seq = other.seq = 3
    assert await lost_or_doubled(tmp_path, Fleet(made)) == []
    one.seq = 4
    async with Store(tmp_path) as store:
        await store.append([message(other.device, 4, 2)])
    assert await lost_or_doubled(tmp_path, Fleet(made)) == [
        f"{one.device} lost 1: [4.0]",
        f"{one.device} has 9 readings of 4 messages",
        f"{other.device} has 1 twice: [2.0]",
        f"{other.device} has 12 readings of 3 messages",
    ]


@needs_mosquitto
async def test_the_bench_watches_a_load_beside_the_least_that_acknowledges() -> None:
    load, minutes = Load(10, 0.2), 0.01
    floor, found = await bench._watch("floor", load, minutes), await bench._watch("on idle", load, minutes)
    figures = bench._of_load(str(load), found, floor, "on idle")
    assert all(math.isfinite(each.value) and each.peer_value is not None for each in figures)
    assert 0 < floor.p50_s < found.p50_s < 1
    assert found.server_mb > floor.server_mb > 1


async def test_a_fleet_of_made_up_nodes_has_rooms_of_its_own() -> None:
    made = fleet(made_up(3), "127.0.0.1", 1, 60.0)
    assert isinstance(made, Fleet)
    assert [node.device for node in made.nodes] == ["sim-0001", "sim-0002", "sim-0003"]
    assert made.summary().held == 0
