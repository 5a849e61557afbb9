"""10,000 different seeded byte strings into each decoder of what strangers send: a value or its own refusal.

Half of them are random, half are valid ones damaged; where a checksum would keep all damage out, half of those get a
right one again.
"""

import json
import random
import zlib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESCCM
from pydantic import TypeAdapter, ValidationError

from drivers.checksum import crc8_sensirion
from drivers.errors import BadData
from drivers.modbus import framed, parse, read_request, write_request
from drivers.sensors import _bthome, bmp280, ess, scd30
from gateway.control import run, socket
from gateway.discovery import txt
from gateway.ingest import command_wire, serial_nodes, wire
from gateway.ingest.dialects import DIALECTS
from gateway.ingest.dialects.base import EMPTY, Context, Memory
from gateway.ingest.wire import WireError
from gateway.mac import enveloped
from gateway.nodes.ota import offer

EACH = 10_000
UNIT = 0x61
SEED = 20_261_120
NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
VECTORS = Path(__file__).parent / "vectors"
DIALECT_VECTORS = Path(__file__).parent / "ingest" / "dialects" / "vectors"
MAC, KEY = "A4:C1:38:8D:18:B2", bytes(range(16))
A_READING = b'{"timestamp":1795175998.5,"boot":"1-a","seq":7,"oldest":3,"value":{"co2":{"reading":612.5,"unit":"ppm"}}}'


class Decoder(NamedTuple):
    """What takes bytes, valid ones, and the one kind of error that it may raise (() = none)."""

    name: str
    decode: Callable[[bytes], object]
    valid: Sequence[bytes]
    refusal: type[Exception] | tuple[()]
    mend: Callable[[bytes], bytes] = bytes
    """Gives damaged bytes a right checksum."""


def books(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((VECTORS / f"{name}_vectors.json").read_text("utf-8"))
    return found


def drivers() -> list[Decoder]:
    chip, pressure, beacon = books("scd30"), books("bmp280"), books("bthome")
    blocks = [bytes.fromhex(each["bytes_88_9F"]) for each in pressure["calibrations"].values()]
    calibrated = [bmp280.calibration(block) for block in blocks]
    measured = [bytes.fromhex(each["i2c_read_18"]) for each in chip["measurement_read"]]
    answers = [bytes.fromhex(each["response"]) for each in chip["modbus"] + chip["modbus_negative"]]

    def answering(request: bytes) -> list[bytes]:
        """The vectors of its function, damaged ones and exceptions among them."""
        return [answer for answer in answers if len(answer) > 1 and answer[1] & 0x7F == request[1]]

    adverts = [bytes.fromhex(each["service_data"]) for each in beacon["vectors"]]
    plain = [raw[1:] for raw in adverts if raw and raw[0] == 0x40]
    return [
        Decoder("scd30 words", scd30.words, measured, BadData, with_crc8),
        Decoder("scd30 decode", scd30.decode, measured, BadData, with_crc8),
        Decoder("bmp280 calibration", bmp280.calibration, blocks, BadData),
        Decoder(
            "bmp280 decode",
            lambda raw: [bmp280.decode(raw, each) for each in calibrated],
            [bytes.fromhex(each["burst_F7_FC"]) for each in pressure["vectors"]],
            BadData,
        ),
        Decoder(
            "bmp280 decode with any calibration",
            lambda raw: bmp280.decode(raw[24:], bmp280.calibration(raw[:24])),
            [block + bytes.fromhex("655ac07eed00") for block in blocks],
            BadData,
        ),
        *(
            Decoder(f"modbus {name}", partial(parse, request=request), answering(request), BadData, with_crc16)
            for name, request in (
                ("word", read_request(UNIT, 0x27, 1)),
                ("words", read_request(UNIT, 0x28, 6)),
                ("write", write_request(UNIT, 0x36, 1013)),
            )
        ),
        Decoder("bthome", partial(beacon_frame, key=None), adverts, BadData),
        Decoder("bthome with a key", partial(beacon_frame, key=KEY), [sealed(each) for each in plain], BadData),
        Decoder("bthome under a good seal", lambda raw: beacon_frame(sealed(raw), KEY), plain, BadData),
        *(
            Decoder(
                f"ess {entry.name}",
                lambda raw, entry=entry: ess.sample("x", ess.decode(entry, raw)),  # type: ignore[misc]
                [bytes(entry.size), b"\xff" * entry.size, b"\x01" * entry.size],
                BadData,
            )
            for entry in ess.TABLE.values()
        ),
    ]


def sealed_command(topic: str, raw: bytes) -> object:
    text = raw.decode(errors="replace")
    return command_wire.decode_command(topic, enveloped(KEY, text, "command", "a", "c"), KEY)


def on_the_wire() -> list[Decoder]:
    told = b'{"device_name":"Kitchen","sensors":["scd30",{"name":"b"}],"metadata":{"scd30":{"range":[400,10000]}}}'
    topic, data = "devices/a/commands/c", "devices/a/sensors/scd30/data"
    signed = wire.encode_ack("a", "1-a", 7, b"key")
    command = command_wire.encode_command(topic, "interval", {"interval_s": 5})
    body = b'{"name":"interval","args":{"interval_s":5},"boot":"1-a","n":7}'
    results = [
        command_wire.encode_result({"a": 1}),
        command_wire.encode_result(error="no"),
        b'{"ok":false,"boot":"1-a","n":7}',
        command_wire.sign_result(topic, command_wire.encode_result({"a": 1}), KEY),
    ]
    update = b'{"offer":"0123456789abcdef","phase":"downloading","percent":10,"version":"1.2.3","error":"x"}'
    minimal = b'{"value":{"temperature":21.5,"humidity":43,"pressure":null,"x_co2":-1e400}}'
    lines = [serial_nodes.encode_line(data, A_READING)[:-1], b'{"topic":"devices/a/status","payload":{"a":[1]}}']
    return [
        Decoder("wire data", lambda raw: wire.decode_data(data, raw, NOON), [A_READING, minimal], WireError),
        Decoder(
            "wire capabilities", lambda raw: wire.decode_capabilities("devices/a/capabilities", raw), [told], WireError
        ),
        Decoder(
            "wire status",
            lambda raw: wire.decode_status("devices/a/status", raw),
            [b"online", b'{"status":"online","boot":"1-a","uptime_ms":5}'],
            WireError,
        ),
        Decoder(
            "wire error",
            lambda raw: wire.decode_error("devices/a/error", raw),
            [b'{"code":7,"message":"bus \\u0007"}'],
            WireError,
        ),
        Decoder("wire ack", lambda raw: wire.verify_ack("devices/a/ack", raw, None), [signed], WireError),
        Decoder("wire signed ack", lambda raw: wire.verify_ack("devices/a/ack", raw, b"key"), [signed], WireError),
        Decoder("wire command", lambda raw: command_wire.decode_command(topic, raw), [command], WireError),
        Decoder("wire command under a good seal", partial(sealed_command, topic), [body], WireError),
        Decoder("wire result", lambda raw: command_wire.decode_result(topic, raw), results, WireError),
        Decoder("wire signature", lambda raw: command_wire.is_signed(topic, raw, KEY), results, ()),
        Decoder("wire refusal", lambda raw: command_wire.decode_refusal(topic, raw), results, WireError),
        Decoder("wire update", lambda raw: wire.decode_update(topic, raw), [update], WireError),
        Decoder("update status", offer.decode_status, [update], offer.OfferError),
        Decoder(
            "wire topic",
            lambda raw: wire.route.__wrapped__(raw.decode(errors="replace")),
            [data.encode(), topic.encode(), b"devices/a/ack"],
            WireError,
        ),
        Decoder("serial line", serial_nodes.decode_line, lines, WireError, with_crc32),
    ]


def others() -> list[Decoder]:
    record = {"proto": "http", "id": "gw1", "txtvers": "1", "name": "Küche", "mcpv": "2026-07-28", "http": "8080"}
    strings = b"".join(bytes((len(each),)) + each for each in (f"{k}={v}".encode() for k, v in record.items()))
    commands = [b'{"command":"create_token","name":"x","scope":"read"}', b'{"command":"view_status"}']
    answers = [b'{"ok":true,"result":{"token":"x"}}', b'{"ok":false,"error":"no"}']
    return [
        Decoder("discovery txt", lambda raw: txt.decode(properties(raw)), [strings], ()),
        Decoder("control command", typed(run.COMMAND), commands, ValidationError),
        Decoder("control answer", typed(socket._ANSWER), answers, ValidationError),
    ]


def dialects() -> list[Decoder]:
    found = []
    for name in DIALECTS:
        cases = json.loads((DIALECT_VECTORS / f"{name}.json").read_text("utf-8"))["cases"]
        valid = [(case["topic"] + "\n").encode() + message(case) for case in cases]
        found.append(Decoder(f"dialect {name}", partial(foreign, name), valid, WireError))
    return found


def message(case: dict[str, Any]) -> bytes:
    given = case["payload"]
    return given.encode() if isinstance(given, str) else json.dumps(given).encode()


@cache
def experienced(name: str) -> Memory:
    """What a dialect remembers after its vectors."""
    dialect, memory = DIALECTS[name], EMPTY
    for case in json.loads((DIALECT_VECTORS / f"{name}.json").read_text("utf-8"))["cases"]:
        if "error" not in case:
            memory = dialect.decode(dialect.prefix, case["topic"], message(case), Context(NOON), memory).memory
    return memory


@cache
def foreign_topics(name: str) -> list[str]:
    cases = json.loads((DIALECT_VECTORS / f"{name}.json").read_text("utf-8"))["cases"]
    return sorted({case["topic"] for case in cases})


def foreign(name: str, raw: bytes) -> object:
    """A line with the topic, then the payload; a topic that the dialect does not take is replaced by one of its own."""
    dialect = DIALECTS[name]
    head, _, rest = raw.partition(b"\n")
    topic = head.decode(errors="replace")
    if not dialect.takes(dialect.prefix, topic):
        topics = foreign_topics(name)
        topic, rest = topics[len(raw) % len(topics)], raw
    context = Context(NOON, zone=ZoneInfo("Europe/Berlin"), live=bool(len(raw) % 2))
    return dialect.decode(dialect.prefix, topic, rest, context, experienced(name))


def beacon_frame(raw: bytes, key: bytes | None) -> object:
    frame = _bthome.decode(raw, MAC, key)
    return frame, _bthome.samples(frame, -60)


def sealed(plain: bytes) -> bytes:
    info, counter = b"\x41", b"\x07\0\0\0"
    nonce = bytes.fromhex(MAC.replace(":", "")) + b"\xd2\xfc" + info + counter
    cipher = AESCCM(KEY, tag_length=4).encrypt(nonce, plain, None)
    return info + cipher[:-4] + counter + cipher[-4:]


def properties(raw: bytes) -> dict[bytes, bytes | None]:
    """The strings of a TXT record (RFC 6763 section 6) as zeroconf hands them over."""
    found: dict[bytes, bytes | None] = {}
    while raw:
        text, raw = raw[1 : 1 + raw[0]], raw[1 + raw[0] :]
        key, sign, value = text.partition(b"=")
        found.setdefault(key, value if sign else None)
    return found


def typed(adapter: TypeAdapter[Any]) -> Callable[[bytes], object]:
    return adapter.validate_json


def with_crc8(raw: bytes) -> bytes:
    pairs = [raw[at : at + 2] for at in range(0, len(raw) - 2, 3)]
    return b"".join(pair + bytes((crc8_sensirion(pair),)) for pair in pairs)


def with_crc16(raw: bytes) -> bytes:
    return framed(raw[:-2])


def with_crc32(raw: bytes) -> bytes:
    start = raw.partition(b',"crc":')[0]
    return start + b',"crc":"%08x"}' % zlib.crc32(start)


def damaged(chance: random.Random, raw: bytes) -> bytes:
    """One to three wounds: a flipped bit, a byte that is another, a cut, a piece that is lost, repeated or put in."""
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        at = chance.randrange(len(raw) + 1)
        end = min(len(raw), at + chance.randrange(1, 9))
        match chance.randrange(6):
            case 0 if raw:
                bit = chance.randrange(8 * len(raw))
                spoiled = bytearray(raw)
                spoiled[bit // 8] ^= 1 << bit % 8
                raw = bytes(spoiled)
            case 1:
                raw = raw[:at] + chance.randbytes(1) + raw[at + 1 :]
            case 2:
                raw = raw[:at]
            case 3:
                raw = raw[:at] + raw[end:]
            case 4:
                raw = raw[:end] + raw[at:]
            case _:
                raw = raw[:at] + chance.randbytes(end - at) + raw[at:]
    return raw


def noise(decoder: Decoder, chance: random.Random) -> bytes:
    if chance.random() < 0.5:
        return chance.randbytes(chance.randrange(80))
    raw = damaged(chance, chance.choice(decoder.valid))
    return decoder.mend(raw) if chance.random() < 0.5 else raw


DECODERS = [*drivers(), *on_the_wire(), *others(), *dialects()]


@pytest.mark.parametrize("decoder", DECODERS, ids=lambda decoder: decoder.name)
def test_a_value_or_its_refusal(decoder: Decoder) -> None:
    chance = random.Random(f"{SEED} {decoder.name}")
    seen: set[bytes] = set()
    taken = refused = 0
    while len(seen) < EACH:
        if (raw := noise(decoder, chance)) in seen:
            continue
        seen.add(raw)
        try:
            value = decoder.decode(raw)
        except decoder.refusal as refusal:
            str(refusal).encode()
            refused += 1
        except Exception as error:
            error.add_note(f"{decoder.name}: {raw.hex()}")
            raise
        else:
            repr(value).encode()
            taken += 1
    assert taken, "the strings never get past the first check"
    assert refused or not decoder.refusal
    assert taken + refused == EACH
