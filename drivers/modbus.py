"""Modbus RTU: frames as pure functions, and a line of them on a serial port (Modbus over Serial Line 1.02).

A codec of our own and not pymodbus' client, which was measured and read first (pymodbus 3.16, Python 3.11, x86-64):
importing it costs 3.1 MB of resident memory and 20 ms, several times that on a Pi, for two function codes; and it waits
out a damaged answer like silence, so that BadData and BusTimeout, which the gateway treats differently, cannot be told
apart; it repeats and reconnects on its own. pymodbus' server is what this file is tested against.
"""

import asyncio
import struct

from drivers.bus import SerialPort
from drivers.checksum import crc16_modbus
from drivers.errors import BadData, BusTimeout, Refused

HOLDING, INPUT, WRITE = 3, 4, 6  # function codes
EXCEPTION = 0x80
EXCEPTIONS = {
    1: "illegal function",
    2: "illegal data address",
    3: "illegal data value",
    4: "device failure",
    5: "acknowledged, still working",
    6: "device busy",
    8: "memory parity error",
    10: "gateway path unavailable",
    11: "gateway target does not answer",
}
REFUSALS = (1, 2, 3)
FRAME_LIMIT, SMALLEST = 256, 5
COUNT_LIMIT = 125

RESPONSE_S = 0.2
SETTLE_S = 0.02  # silence that ends a damaged answer: USB adapters hand bytes over every 16 ms
BITS = 11  # of one character, §2.5.1.1
SILENCE_LEAST_S = 0.00175  # 3.5 characters, and this above 19200 baud


def framed(body: bytes) -> bytes:
    """A frame: the body and its CRC, low byte first."""
    return body + struct.pack("<H", crc16_modbus(body))


def read_request(unit: int, register: int, count: int, function: int = HOLDING) -> bytes:
    """The request for `count` words (1 to 125) from `register` on; ValueError for what no frame can hold."""
    if function not in (HOLDING, INPUT):
        raise ValueError(f"function {function}: registers are read with 3 or 4")
    if not 1 <= count <= COUNT_LIMIT:
        raise ValueError(f"count {count}: 1 to {COUNT_LIMIT} registers at a time")
    return framed(struct.pack(">BBHH", _unit(unit), function, _word("register", register), count))


def write_request(unit: int, register: int, value: int) -> bytes:
    """The request that writes one word; ValueError for what no frame can hold."""
    return framed(struct.pack(">BBHH", _unit(unit), WRITE, _word("register", register), _word("value", value)))


def size(head: bytes, request: bytes) -> int:
    """How many bytes the answer to `request` has that begins with `head`; BadData if none begins so."""
    if head[:1] not in (b"", request[:1]):
        raise BadData(f"Modbus unit {request[0]:#04x} was asked and {head[0]:#04x} answers: {head.hex(' ')}")
    if len(head) < 2 or head[1] == request[1] | EXCEPTION:
        return SMALLEST
    if head[1] != request[1]:
        raise BadData(f"Modbus function {request[1]} was asked and {head[1]} is answered: {head.hex(' ')}")
    return len(request) if request[1] == WRITE else SMALLEST + 2 * int.from_bytes(request[4:6], "big")


def parse(answer: bytes, request: bytes) -> tuple[int, ...]:
    """The words of a whole answer, of a write the one that was written; BadData if it is no right answer to `request`,
    Refused for an exception that says that the question is wrong."""
    shown = answer.hex(" ")
    if len(answer) != size(answer, request):
        raise BadData(f"Modbus answer of {len(answer)} bytes instead of {size(answer, request)}: {shown}")
    if framed(answer[:-2]) != answer:
        raise BadData(f"Modbus checksum of {shown}")
    if answer[1] & EXCEPTION:
        code = answer[2]
        text = f"Modbus unit {answer[0]:#04x}, function {request[1]}: {EXCEPTIONS.get(code, 'unknown exception')}"
        raise (Refused if code in REFUSALS else BadData)(f"{text} ({code})")
    if answer[1] == WRITE:
        if answer != request:
            raise BadData(f"Modbus echo {shown} of the write {request.hex(' ')}")
        return (int.from_bytes(answer[4:6], "big"),)
    if answer[2] != len(answer) - SMALLEST:
        raise BadData(f"Modbus answer that counts {answer[2]} bytes and has {len(answer) - SMALLEST}: {shown}")
    return struct.unpack(f">{answer[2] // 2}H", answer[3:-2])


class ModbusRtu:
    """A ModbusLine on a serial port, which belongs to it alone.

    What is left of an earlier answer is thrown away before each request; after a damaged or abandoned one the line is
    first listened to until it is silent, so that lost, doubled and stray bytes harm one exchange and no more.
    """

    def __init__(self, port: SerialPort, baud: int = 19200) -> None:
        self._port = port
        self._character_s = BITS / baud
        self._silence_s = max(SILENCE_LEAST_S, 3.5 * self._character_s)
        self._lock = asyncio.Lock()
        self._ended_s = 0.0  # when the last exchange ended well
        self._owed_s: float | None = None  # until when an answer that nobody waits for may still begin

    async def read_registers(self, unit: int, register: int, count: int, function: int = HOLDING) -> tuple[int, ...]:
        """As ModbusLine."""
        return await self._exchange(read_request(unit, register, count, function))

    async def write_register(self, unit: int, register: int, value: int) -> None:
        """As ModbusLine."""
        await self._exchange(write_request(unit, register, value))

    async def _exchange(self, request: bytes) -> tuple[int, ...]:
        async with self._lock:
            loop = asyncio.get_running_loop()
            await self._quiet(loop)
            await self._port.discard()
            on_wire_s = (len(request) + size(request, request)) * self._character_s
            deadline_s = self._owed_s = loop.time() + RESPONSE_S + on_wire_s
            await self._port.write(request)
            words = parse(await self._answer(request, deadline_s, loop), request)
            self._owed_s, self._ended_s = None, loop.time()
            return words

    async def _answer(self, request: bytes, deadline_s: float, loop: asyncio.AbstractEventLoop) -> bytes:
        received = b""
        while len(received) < size(received, request):
            try:
                received += await self._port.read(FRAME_LIMIT, max(0.0, deadline_s - loop.time()))
            except BusTimeout:
                if not received:
                    raise BusTimeout(f"Modbus unit {request[0]:#04x} does not answer {request.hex(' ')}") from None
                raise BadData(f"Modbus answer cut short: {received.hex(' ')}") from None
            self._owed_s = loop.time()
        return received[: size(received, request)]

    async def _quiet(self, loop: asyncio.AbstractEventLoop) -> None:
        """Return when the line has been silent for long enough to begin a frame."""
        if self._owed_s is None:
            await asyncio.sleep(self._ended_s + self._silence_s - loop.time())
            return
        wait_s = max(SETTLE_S, self._owed_s - loop.time())
        give_up_s = loop.time() + wait_s + RESPONSE_S
        try:
            while loop.time() < give_up_s:
                await self._port.read(FRAME_LIMIT, wait_s)
                wait_s = SETTLE_S
        except BusTimeout:
            self._owed_s = None


def _unit(unit: int) -> int:
    if not 1 <= unit <= 247:
        raise ValueError(f"unit {unit}: a Modbus unit is 1 to 247")
    return unit


def _word(name: str, value: int) -> int:
    if not 0 <= value <= 0xFFFF:
        raise ValueError(f"{name} {value}: 0 to 65535")
    return value
