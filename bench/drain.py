"""Drain one session's queue and say how long it took: `python -m bench.drain auto|manual|gateway --port P …`.

A process of its own, so that its CPU time is that of the subscriber and nothing else.
"""

import argparse
import asyncio
import json
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

LOOK_EVERY_S = 0.005
READINGS_A_MESSAGE = 3
WITHIN_S = 300.0


def subscriber(port: int, messages: int, session: str) -> None:
    """The floor: parse and drop, acknowledged by paho or (session "manual") by the callback."""
    manual, seen = session == "manual", 0

    def received(client: Client, _userdata: Any, message: Any) -> None:
        nonlocal seen
        json.loads(message.payload)
        if manual:
            client.ack(message.mid, message.qos)
        seen += 1

    client = Client(CallbackAPIVersion.VERSION2, session, clean_session=False, manual_ack=manual)
    client.on_message = received
    client.connect("127.0.0.1", port)
    ends_s = time.monotonic() + WITHIN_S
    while seen < messages:
        if client.loop(timeout=5.0) != 0 or time.monotonic() > ends_s:
            raise SystemExit(f"the queue ended after {seen} of {messages} messages")
    client.disconnect()


async def gateway(port: int, messages: int, folder: Path, measured: Callable[[], None]) -> None:
    """The gateway's own parts, composed by its own functions, on a broker that runs already."""
    from gateway import acting, app, asking, core, heap, intake  # noqa: PLC0415 - the floor must not carry these
    from gateway.broker import choice  # noqa: PLC0415
    from gateway.clock import SystemClock  # noqa: PLC0415
    from gateway.config import Config, Mqtt  # noqa: PLC0415
    from gateway.store.types import Commit  # noqa: PLC0415

    # With mosquitto's window, as where it is a child: only starting one is left out.
    mosquitto = replace(choice.choose("mosquitto"), kind=choice.BrokerKind.EXTERNAL)
    choice.choose = lambda kind: mosquitto
    config = Config(mqtt=Mqtt(host="127.0.0.1", port=port, client_id="gateway", device_messages_per_s=0))
    async with AsyncExitStack() as stack:
        opened = await core.open_core(config, folder, SystemClock(), stack)
        measured()
        stack.enter_context(heap.settled())
        ways = await intake.open_intake(opened, (), stack)
        answering = await asking.open_asking(opened, stack)
        changing = await acting.open_acting(opened, acting.Outside(), stack)
        await app._endpoint(opened, ways, changing, answering, stack)
        counts, mqtt, done = ways.pipeline.counts, ways.mqtt, asyncio.Event()
        assert mqtt is not None

        async def committed(_commit: Commit | None) -> None:
            if counts.stored + counts.duplicates >= messages * READINGS_A_MESSAGE:
                done.set()

        ways.pipeline.listen(committed)
        await committed(None)  # a short queue may have been committed while the rest was composed
        async with asyncio.timeout(WITHIN_S):
            while not done.is_set():
                await asyncio.sleep(LOOK_EVERY_S)
                if mqtt.counts.received >= messages:  # the rest is less than a batch and would wait for its timer
                    await ways.pipeline.flush()
        measured()
        if counts.stored != messages * READINGS_A_MESSAGE:
            raise SystemExit(f"{counts.stored} readings stored, {counts.duplicates} taken for duplicates")


def main() -> None:
    """Print {"elapsed_s", "cpu_s"} of the drain alone."""
    parser = argparse.ArgumentParser()
    parser.add_argument("way", choices=("auto", "manual", "gateway"))
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--messages", type=int, required=True)
    parser.add_argument("--data", type=Path, required=True)
    options = parser.parse_args()
    marks: list[tuple[float, float]] = []

    def measured() -> None:
        marks.append((time.perf_counter(), time.process_time()))

    if options.way == "gateway":
        asyncio.run(gateway(options.port, options.messages, options.data, measured))
    else:
        measured()
        subscriber(options.port, options.messages, options.way)
        measured()
    (began_s, began_cpu_s), (ended_s, ended_cpu_s) = marks
    print(json.dumps({"elapsed_s": ended_s - began_s, "cpu_s": ended_cpu_s - began_cpu_s}))


if __name__ == "__main__":
    main()
