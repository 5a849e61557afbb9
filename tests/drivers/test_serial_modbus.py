"""Modbus RTU: the maker's frames byte for byte, and a line that loses bytes, doubles them or goes silent."""

import asyncio
import json
import struct
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from drivers.checksum import crc16_modbus
from drivers.errors import BadData, BusTimeout, DriverError, Refused
from drivers.modbus import RESPONSE_S, ModbusRtu, framed, parse, read_request, size, write_request
from drivers.sensors._scd30 import Command
from drivers.testing.recording import Wave
from drivers.testing.scd30_chip import Scd30Chip
from drivers.testing.serial_line import (
    Doubled,
    FaultyLine,
    Flip,
    Hang,
    Lost,
    Noise,
    SerialFault,
    Short,
    SimulatedSerial,
)
from drivers.testing.serial_scd30 import Scd30Uart
from drivers.testing.virtual import run_virtual

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "scd30_vectors.json").read_text())
UNIT = 0x61
FIRMWARE = 0x0342

READS: dict[str, tuple[Command, tuple[int, ...]]] = {
    "get interval": (Command.INTERVAL, (2,)),
    "data ready -> 1": (Command.DATA_READY, (1,)),
    "data ready -> 0": (Command.DATA_READY, (0,)),
    "read measurement": (Command.MEASUREMENT, (0x43DB, 0x8C2E, 0x41D9, 0xE7FF, 0x4243, 0x3A1B)),
    "get ASC": (Command.SELF_CALIBRATION, (0,)),
    "get FRC": (Command.REFERENCE, (450,)),
    "get temp offset": (Command.TEMPERATURE_OFFSET, (500,)),
    "get altitude": (Command.ALTITUDE, (1000,)),
    "firmware": (Command.FIRMWARE, (FIRMWARE,)),
}
WRITES: dict[str, tuple[Command, int]] = {
    "start, p=0": (Command.START, 0),
    "start, p=1013": (Command.START, 1013),
    "start, p=836": (Command.START, 836),
    "stop": (Command.STOP, 1),
    "set interval 2": (Command.INTERVAL, 2),
    "set interval 60": (Command.INTERVAL, 60),
    "ASC on": (Command.SELF_CALIBRATION, 1),
    "ASC off": (Command.SELF_CALIBRATION, 0),
    "FRC 450": (Command.REFERENCE, 450),
    "FRC 420": (Command.REFERENCE, 420),
    "temp offset 5.00": (Command.TEMPERATURE_OFFSET, 500),
    "altitude 1000": (Command.ALTITUDE, 1000),
    "soft reset": (Command.RESET, 1),
}
ASK_READY = read_request(UNIT, Command.DATA_READY.register, 1)
SET_INTERVAL = write_request(UNIT, Command.INTERVAL.register, 2)


# ---- frames


@pytest.mark.parametrize("vector", VECTORS["modbus"], ids=lambda v: v["what"])
def test_every_printed_exchange(vector):
    request, answer = bytes.fromhex(vector["request"]), bytes.fromhex(vector["response"])
    if vector["what"] in READS:
        command, words = READS[vector["what"]]
        assert read_request(UNIT, command.register, len(words)) == request
        assert parse(answer, request) == words
    else:
        command, word = WRITES[vector["what"]]
        assert write_request(UNIT, command.register, word) == request
        assert parse(answer, request) == (word,)


def test_every_printed_exchange_has_its_meaning():
    assert {v["what"] for v in VECTORS["modbus"]} == READS.keys() | WRITES.keys()


NEGATIVE = {
    "exception: illegal function (to fc 3)": (ASK_READY, Refused, r"illegal function \(1\)"),
    "exception: illegal data address": (ASK_READY, Refused, r"illegal data address \(2\)"),
    "exception: illegal data value (to fc 6)": (SET_INTERVAL, Refused, r"illegal data value \(3\)"),
    "bad CRC data-ready answer (reject)": (ASK_READY, BadData, "checksum"),
}


@pytest.mark.parametrize("vector", VECTORS["modbus_negative"], ids=lambda v: v["what"])
def test_every_printed_refusal(vector):
    request, kind, says = NEGATIVE[vector["what"]]
    with pytest.raises(BadData, match=says) as caught:
        parse(bytes.fromhex(vector["response"]), request)
    assert type(caught.value) is kind


@pytest.mark.parametrize(
    ("answer", "request_", "says"),
    [
        (framed(b"\x62\x03\x02\x00\x01"), ASK_READY, "0x61 was asked and 0x62 answers"),
        (framed(b"\x61\x04\x02\x00\x01"), ASK_READY, "function 3 was asked and 4"),
        (framed(b"\x61\x03\x04\x00\x01"), ASK_READY, "counts 4 bytes and has 2"),
        (framed(b"\x61\x03\x02\x00"), ASK_READY, "6 bytes instead of 7"),
        (framed(b"\x61\x06\x00\x25\x00\x03"), SET_INTERVAL, "echo .* of the write"),
        (framed(b"\x61\x83\x06"), ASK_READY, r"device busy \(6\)"),
        (framed(b"\x61\x83\x63"), ASK_READY, r"unknown exception \(99\)"),
        (b"", ASK_READY, "0 bytes"),
    ],
)
def test_what_does_not_answer_the_question_is_bad_data(answer, request_, says):
    with pytest.raises(BadData, match=says) as caught:
        parse(answer, request_)
    assert type(caught.value) is BadData


@pytest.mark.parametrize("bit", range(17 * 8))
def test_no_flipped_bit_passes(bit):
    request, answer = (bytes.fromhex(VECTORS["modbus"][9][key]) for key in ("request", "response"))
    spoiled = bytearray(answer)
    spoiled[bit // 8] ^= 1 << bit % 8
    with pytest.raises(BadData):
        parse(bytes(spoiled), request)


requests = st.builds(read_request, st.integers(1, 247), st.integers(0, 0xFFFF), st.integers(1, 125), st.just(3)) | (
    st.builds(write_request, st.integers(1, 247), st.integers(0, 0xFFFF), st.integers(0, 0xFFFF))
)


@st.composite
def exchanges(draw):
    """A request with any bytes, with any bytes behind the right beginning, or with a right frame of any content."""
    request = draw(requests)
    rest = draw(st.binary(max_size=40))
    head = request[: draw(st.integers(0, 3))]
    return request, draw(st.sampled_from([rest, head + rest, framed(head + rest)]))


@settings(deadline=None, max_examples=5000)
@given(exchanges())
@example((ASK_READY, b"\x61"))
def test_any_bytes_are_words_or_bad_data(exchange):
    request, answer = exchange
    try:
        words = parse(answer, request)
    except BadData:
        return
    assert answer == framed(answer[:-2])
    assert len(answer) == size(answer, request)
    assert all(0 <= word <= 0xFFFF for word in words)


@settings(deadline=None)
@given(st.integers(1, 247), st.lists(st.integers(0, 0xFFFF), min_size=1, max_size=125))
def test_what_a_unit_says_is_what_is_read(unit, words):
    request = read_request(unit, 0, len(words), 4)
    answer = framed(struct.pack(f">BBB{len(words)}H", unit, 4, 2 * len(words), *words))
    assert parse(answer, request) == tuple(words)


def test_a_frame_with_its_own_checksum_leaves_zero():
    assert crc16_modbus(ASK_READY) == 0


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: read_request(0, 0, 1), "unit 0: a Modbus unit is 1 to 247"),
        (lambda: read_request(248, 0, 1), "unit 248"),
        (lambda: read_request(1, 0x10000, 1), "register 65536: 0 to 65535"),
        (lambda: read_request(1, 0, 0), "count 0: 1 to 125"),
        (lambda: read_request(1, 0, 126), "count 126"),
        (lambda: read_request(1, 0, 1, 6), "function 6: registers are read with 3 or 4"),
        (lambda: write_request(1, 0, -1), "value -1: 0 to 65535"),
    ],
)
def test_what_no_frame_can_hold_is_refused_before_the_wire(make, says):
    with pytest.raises(ValueError, match=says):
        make()


# ---- the line


class World:
    """A line with faults to a chip that answers with its firmware."""

    def __init__(self, faults: dict[int, SerialFault] | None = None) -> None:
        self.uart = Scd30Uart(Scd30Chip(Wave()))
        self.port = SimulatedSerial(self.uart)
        self.wire = FaultyLine(self.port, faults)
        self.line = ModbusRtu(self.wire)

    async def firmware(self) -> int:
        return (await self.line.read_registers(UNIT, Command.FIRMWARE.register, 1))[0]


DISCARD, WRITE, READ = range(3)  # the calls of one exchange


@pytest.mark.parametrize(
    ("call", "fault", "kind"),
    [
        (WRITE, Flip(3), BusTimeout),  # a unit does not answer a damaged request
        (WRITE, Lost(2), BusTimeout),
        (WRITE, Doubled(2), BusTimeout),
        (READ, Flip(0), BadData),
        (READ, Flip(30), BadData),
        (READ, Lost(0), BadData),
        (READ, Lost(3), BadData),
        (READ, Lost(6), BadData),
        (READ, Doubled(0), BadData),
        (READ, Doubled(3), BadData),
        (READ, Doubled(5), BadData),
        (READ, Noise(b"\x00"), BadData),
        (READ, Noise(b"\x61\x03"), BadData),
        (READ, Noise(b"\xff" * 300), BadData),
        (READ, Short(1), BadData),
        (READ, Short(4), BadData),
        (READ, Short(7), BusTimeout),
    ],
    ids=str,
)
def test_a_spoiled_exchange_has_its_kind_and_the_next_one_works(call, fault, kind):
    async def main():
        world = World({call: fault})
        with pytest.raises(DriverError) as caught:
            await world.firmware()
        loop = asyncio.get_running_loop()
        before_s = loop.time()
        assert await world.firmware() == FIRMWARE
        return caught.value, before_s, loop.time() - before_s

    error, failed_s, resumed_s = run_virtual(main())
    assert type(error) is kind
    assert failed_s < RESPONSE_S + 0.05
    assert resumed_s < 0.1


def test_a_doubled_last_byte_is_thrown_away():
    async def main():
        world = World({READ: Doubled(6)})
        return [await world.firmware() for _ in range(2)]

    assert run_virtual(main()) == [FIRMWARE, FIRMWARE]


def test_a_silent_line_is_a_timeout_and_works_when_it_speaks_again():
    async def main():
        world, loop = World(), asyncio.get_running_loop()
        world.wire.silent = True
        for _ in range(3):
            began_s = loop.time()
            with pytest.raises(BusTimeout, match="0x61 does not answer 61 03 00 20"):
                await world.firmware()
            assert loop.time() - began_s == pytest.approx(RESPONSE_S, abs=0.05)
        world.wire.silent = False
        return await world.firmware()

    assert run_virtual(main()) == FIRMWARE


def test_bytes_that_came_by_themselves_are_thrown_away():
    async def main():
        world = World()
        world.port.say(b"\x00\xff\x61\x03\x02\xff")
        return await world.firmware()

    assert run_virtual(main()) == FIRMWARE


def test_a_line_that_babbles_without_end_is_refused_in_time():
    async def main():
        world, loop = World(), asyncio.get_running_loop()

        def babble() -> None:
            world.port.say(b"\x55")
            loop.call_later(0.002, babble)

        babble()
        for _ in range(3):
            with pytest.raises(BadData):
                await world.firmware()
        return loop.time()

    assert run_virtual(main()) < 3 * (RESPONSE_S * 2 + 0.1)


def test_the_answer_to_an_abandoned_request_is_never_taken_for_the_next():
    async def main():
        world = World()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.004):  # the request is out, the answer under way
                await world.line.read_registers(UNIT, Command.INTERVAL.register, 1)
        asked = len(world.uart.requests)
        return asked, await world.firmware(), len(world.uart.requests)

    assert run_virtual(main()) == (1, FIRMWARE, 2)


def test_a_cancelled_request_frees_the_line():
    async def main():
        hang = Hang()
        world = World({READ: hang})
        asked = asyncio.create_task(world.firmware(), name="cancelled")
        await hang.reached.wait()
        asked.cancel()
        await asyncio.wait([asked])
        assert asked.cancelled()
        return await world.firmware()

    assert run_virtual(main()) == FIRMWARE


def test_requests_do_not_overlap_and_keep_their_distance():
    async def main():
        world, loop = World(), asyncio.get_running_loop()
        found = await asyncio.gather(*(world.firmware() for _ in range(5)))
        return found, loop.time()

    found, took_s = run_virtual(main())
    assert found == [FIRMWARE] * 5
    assert took_s >= 5 * 0.005 + 4 * 3.5 * 11 / 19200


def test_an_answer_in_pieces_is_put_together():
    class Slow:
        def receive(self, data: bytes, now_s: float) -> bytes:
            loop = asyncio.get_running_loop()
            for at, byte in enumerate(framed(b"\x61\x03\x02\x03\x42")):
                loop.call_later(0.016 * (at + 1), port.say, bytes((byte,)))
            return b""

    async def main():
        return await ModbusRtu(port).read_registers(UNIT, 0x20, 1)

    port = SimulatedSerial(Slow())
    assert run_virtual(main()) == (FIRMWARE,)
