"""The firmware's parts under the real MicroPython: tests/firmware/inside, one process a file."""

import json
import shutil
import socket
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
from zeroconf import DNSAddress, DNSOutgoing, DNSPointer, DNSService

from bench.boards import FIRMWARE, HERE, INTERPRETER
from drivers.model import Quality
from drivers.sensors import _bthome
from gateway.ingest import command_wire, wire

VECTORS = HERE.parent / "vectors"
ADDRESS, KEY = "54:48:E6:8F:80:A5", bytes.fromhex("231d39c1d7cc1ab1aee224cd096db932")


def mdns_answer() -> bytes:
    """What python-zeroconf, which is not ours, answers for a gateway's broker."""
    response, address, pointer, service, of_class, unique = 0x8400, 1, 12, 33, 1, 0x8001  # RFC 1035, 2782, 6762
    out = DNSOutgoing(response)
    kind, name, host = "_mqtt._tcp.local.", "Hall._mqtt._tcp.local.", "hall.local."
    out.add_answer_at_time(DNSPointer(kind, pointer, of_class, 120, name), 0)
    out.add_additional_answer(DNSService(name, service, unique, 120, 0, 0, 1884, host))
    out.add_additional_answer(DNSAddress(host, address, unique, 120, socket.inet_aton("192.168.7.9")))
    (packet,) = out.packets()
    return packet


def run(name: str, folder: Path) -> str:
    """What the tests of a file say; AssertionError with all of it where one failed."""
    flashed = folder / "path"
    shutil.copytree(FIRMWARE / "node", flashed / "node", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "loader").mkdir()
    shutil.copy(FIRMWARE / "main.py", folder / "loader")
    paths = [
        folder / "loader" if name == "loaders" else flashed,
        HERE / "inside",
        HERE / "virtual",
        HERE / "stubs",
        ".frozen",
    ]
    environment = {"MICROPYPATH": ":".join(map(str, paths)), "VECTORS": str(VECTORS), "MDNS": mdns_answer().hex()}
    work = folder / "work"
    work.mkdir()
    done = subprocess.run(
        [INTERPRETER, HERE / "inside" / "run.py", name],
        cwd=work,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("ok ") >= 5
    return done.stdout


@pytest.mark.parametrize("name", ["wires", "chips", "rings", "links", "loaders"])
def test_parts(tmp_path: Path, name: str) -> None:
    run(name, tmp_path)


def test_the_gateway_reads_what_the_node_writes(tmp_path: Path) -> None:
    run("wires", tmp_path)
    told = json.loads((tmp_path / "work" / "told.json").read_text())
    vectors = json.loads((VECTORS / "wire_vectors.json").read_text())["data"]
    assert len(told) == len(vectors)
    for payload, each in zip(told, vectors, strict=True):
        boot, seq, sensor, uptime_ms, _ = each["record"]
        message, problems = decoded(sensor, payload)
        assert not problems
        assert message.delivery == (boot, seq, each["oldest"])
        assert message.uptime_ms == uptime_ms
        assert message.timed == bool(each["timestamp_ms"])
        assert {reading.metric: reading.value for reading in message.readings} == each["readings"]
        bad = {reading.metric for reading in message.readings if reading.quality is Quality.BAD}
        assert bad == {metric for metric, value in each["readings"].items() if value is None}
        if message.timed and message.readings:
            assert message.readings[0].time.timestamp() * 1000 == pytest.approx(each["timestamp_ms"], abs=1)


def decoded(sensor: str, payload: str) -> wire.Decoded:
    return wire.decode_data(f"devices/n1/sensors/{sensor}/data", payload.encode(), datetime(2026, 11, 20, tzinfo=UTC))


def test_the_gateway_knows_the_same_vectors() -> None:
    vectors = json.loads((VECTORS / "wire_vectors.json").read_text())
    for each in vectors["acks"]:
        topic, key = f"devices/{each['device']}/ack", bytes.fromhex(each["key"]) if each["key"] else None
        if each["covers"] is None:
            with pytest.raises(wire.WireError):
                wire.verify_ack(topic, each["payload"].encode(), key)
        else:
            ack = wire.verify_ack(topic, each["payload"].encode(), key)
            assert [ack.boot, ack.seq] == each["covers"]
            told = json.loads(wire.encode_ack(each["device"], ack.boot, ack.seq, key))
            assert told.get("mac") == json.loads(each["payload"]).get("mac")
    for each in vectors["commands"]:
        topic = f"devices/bedroom-1/commands/{each.get('id', '1')}"
        key = bytes.fromhex(each["key"]) if "key" in each else None
        if each["means"] is None:
            with pytest.raises(wire.WireError):
                command_wire.decode_command(topic, each["payload"].encode(), key)
            continue
        assert list(command_wire.decode_command(topic, each["payload"].encode(), key)) == each["means"]
        if key is not None:
            (name, args), (boot, n) = each["means"], each["for"]
            written = command_wire.encode_command(topic, name, args, (key, boot, n))
            assert list(command_wire.decode_command(topic, written, key)) == each["means"]
    for each in vectors["results"]:
        topic, said = f"devices/{each['device']}/commands/{each['id']}/result", each["payload"].encode()
        assert command_wire.is_signed(topic, said, bytes.fromhex(each["key"])) is each["signed"], each
        assert list(command_wire.decode_result(topic, said)) == each["means"]
        if each["signed"]:
            text = json.dumps({name: value for name, value in json.loads(said).items() if name != "mac"}).encode()
            ours = command_wire.sign_result(topic, text, bytes.fromhex(each["key"]))
            assert json.loads(ours) == json.loads(said)
    for each in vectors["offers"]:
        told = each["payload"].encode(), bytes.fromhex(each["key"]), "update", each["device"]
        if each["means"] is None:
            with pytest.raises(wire.WireError):
                command_wire.unsealed("devices/bedroom-1/update", *told)
        else:
            assert command_wire.unsealed("devices/bedroom-1/update", *told) == each["means"]


def test_the_gateway_hears_what_the_node_advertises(tmp_path: Path) -> None:
    run("chips", tmp_path)
    values, plain, secret = json.loads((tmp_path / "work" / "frames.json").read_text())
    for data, key in ((plain, None), (secret, KEY)):
        frame = _bthome.decode(bytes.fromhex(data), ADDRESS, key)
        heard = {entry.quantity.name.lower(): value for entry, value in frame.objects if entry.quantity is not None}
        assert heard == pytest.approx(values), frame
        assert frame.packet_id == 7
