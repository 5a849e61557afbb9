"""When was it? A board without a clock, dated by the gateway; and one that asks a time server."""

import asyncio
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.boards import FIRMWARE, HERE, INTERPRETER, Board, Wire
from gateway.store.db import Store
from tests.brokers import free_port, needs_mosquitto
from tests.firmware.house import HOST, WITHIN_S, Said, ear, key_of, powered, settings
from tests.running import gateway

pytestmark = pytest.mark.slow
STORED = """
    select epoch_ms(r.ts) / 1000, r.value, r.quality from {raw} r join series s using (series_id)
    where s.metric = 'energy' order by r.value
"""
SINCE_1900 = 2208988800
QUICK = {"AMBIENT_GATEWAY_STORE_FLUSH_INTERVAL_S": "0.1"}


@needs_mosquitto
async def test_a_board_without_a_clock_is_dated_within_two_seconds(tmp_path: Path) -> None:
    """Seen live, then cut off, then heard again: what it held meanwhile is dated as well."""
    data = tmp_path / "data"
    async with gateway(data, environment=QUICK) as running, ear(running.mqtt) as heard, Wire(running.mqtt) as way:
        key = await key_of("n1", data)
        told = settings("n1", way.port, [{"driver": "wallclock", "interval_s": 2}], key=key)
        board = Board(tmp_path / "board", told, environment={"HEAP": "1"})
        async with powered(board):
            await heard.until(lambda said: sum(topic.endswith("/data") for topic, _ in said) >= 3)
            port, way.to = way.to, 1
            way.reset()
            async with asyncio.timeout(WITHIN_S):
                await way.refused(2)
            way.to = port
            await heard.until(lambda said: sum(topic.endswith("/data") for topic, _ in said) >= 7)
            last = max(body["seq"] for topic, body in heard.said if topic.endswith("/data"))
            await heard.until(lambda said: any(t.endswith("/ack") and body["seq"] >= last for t, body in said))
            assert {body["clock"] for topic, body in heard.said if topic.endswith("/data")} == {"none"}
        await running.stop()
    async with Store(data) as store:
        rows = await store.ask(lambda view: view.db.execute(STORED.format(raw=view.raw())).fetchall())
    assert len(rows) >= 6
    errors_s = [stored - true for stored, true, _ in rows]
    assert max(map(abs, errors_s)) < 2, errors_s


@needs_mosquitto
async def test_a_board_asks_the_gateway_for_the_time(tmp_path: Path) -> None:
    """By default, where its broker is, as soon as that has proved to be the gateway."""
    data, port = tmp_path / "data", free_port()
    environment = {**QUICK, "AMBIENT_GATEWAY_NTP_PORT": str(port)}
    async with gateway(data, environment=environment) as running, ear(running.mqtt) as heard:
        key = await key_of("n1", data)
        told = settings(
            "n1", running.mqtt, [{"driver": "wallclock", "interval_s": 2}], key=key, ntp=None, ntp_port=port
        )
        async with powered(Board(tmp_path / "board", told)):

            def dated(said: list[Said]) -> list[int]:
                return [body["seq"] for topic, body in said if topic.endswith("/data") and body["clock"] == "ntp"]

            last = (await heard.until(lambda said: dated(said)[1:]))[-1]
            await heard.until(lambda said: any(t.endswith("/ack") and body["seq"] >= last for t, body in said))
        await running.stop()
    async with Store(data) as store:
        rows = await store.ask(lambda view: view.db.execute(STORED.format(raw=view.raw())).fetchall())
    assert max(abs(stored - true) for stored, true, _ in rows[-2:]) < 0.5, "loopback: what the loop's delays leave"
    assert max(abs(stored - true) for stored, true, _ in rows) < 2


class TimeServer(asyncio.DatagramProtocol):
    """Answers as NTP servers do, or as `spoil` makes of it."""

    def __init__(self, now_s: float, spoil: Callable[[bytes], bytes] = bytes) -> None:
        self._now_s, self._spoil, self.asked = now_s, spoil, 0

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self._line = transport

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        self.asked += 1
        seconds, part = int(self._now_s) + SINCE_1900, int(self._now_s % 1 * 2**32)
        stamp = struct.pack(">II", seconds & 0xFFFFFFFF, part)
        self._line.sendto(self._spoil(b"\x24\x02\x06\xec" + bytes(20) + data[40:48] + stamp + stamp), address)


PROGRAM = """
import asyncio, sys
from node.clock import Clock
clock = Clock()
try:
    asyncio.run(clock.sync("127.0.0.1", int(sys.argv[1])))
    print(clock.unix_ms(clock.uptime_ms()))
except (OSError, ValueError) as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize(
    ("now_s", "spoil", "said"),
    [
        (1_795_000_000.25, bytes, 1_795_000_000_250),
        (2_100_000_000.5, bytes, 2_100_000_000_500),  # after the seconds since 1900 have begun anew, in 2036
        (1_500_000_000.0, bytes, "ValueError the server's clock was never set"),
        (1_795_000_000.0, lambda answer: answer[:1] + b"\x00" + answer[2:], "ValueError the server has no time"),
        (1_795_000_000.0, lambda answer: b"\xe4" + answer[1:], "ValueError the server has no time"),
        (1_795_000_000.0, lambda answer: answer[:24] + bytes(8) + answer[32:], "OSError"),  # of one who did not see it
        (1_795_000_000.0, lambda answer: answer[:40], "OSError"),
    ],
)
async def test_what_time_servers_say(now_s: float, spoil: Callable[[bytes], bytes], said: int | str) -> None:
    loop = asyncio.get_running_loop()
    line, server = await loop.create_datagram_endpoint(lambda: TimeServer(now_s, spoil), local_addr=(HOST, 0))
    path = ":".join(map(str, (FIRMWARE, HERE / "stubs", ".frozen")))
    process = await asyncio.create_subprocess_exec(
        INTERPRETER,
        "-c",
        PROGRAM,
        str(line.get_extra_info("sockname")[1]),
        stdout=subprocess.PIPE,
        env={"MICROPYPATH": path},
    )
    out, _ = await process.communicate()
    line.close()
    assert server.asked == 1
    answer = out.decode().strip()
    if isinstance(said, str):
        assert answer.startswith(said)
    else:
        assert 0 <= int(answer) - said < 1000
