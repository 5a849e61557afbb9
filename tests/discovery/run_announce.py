"""Announce a gateway until told to stop (SIGTERM): python run_announce.py NAME GATEWAY_ID FINGERPRINT [MQTT_PORT]."""

import asyncio
import logging
import signal
import sys

from gateway.discovery.mdns import Announcer

logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")


async def main(name: str, gateway_id: str, fingerprint: str, mqtt_port: str | None = None) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with Announcer(
        name=name,
        gateway_id=gateway_id,
        fingerprint=fingerprint,
        http_port=8080,
        https_port=8443,
        version="0.1.0",
        mcp_revisions=["2025-11-25", "2026-07-28"],
        mqtt=(int(mqtt_port), 0) if mqtt_port else None,
    ):
        await stop.wait()


asyncio.run(main(*sys.argv[1:]))
