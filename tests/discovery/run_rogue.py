"""Somebody who claims to be a gateway: its id, its name, its fingerprint, but another certificate.

    python run_rogue.py PORT CERTIFICATE KEY GATEWAY_ID FINGERPRINT

Prints `announced as`, a `met` for every handshake and, should it ever be told anything, `got` and the bytes.
"""

import asyncio
import logging
import ssl
import sys

from gateway.discovery.mdns import Announcer

logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")


def say(words: str) -> None:
    sys.stdout.write(words + "\n")
    sys.stdout.flush()


async def main(port: str, certificate: str, key: str, gateway_id: str, fingerprint: str) -> None:
    async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                say(f"got {data!r}")
        except OSError:
            pass
        say("met")
        writer.close()

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    announcer = Announcer(
        name="Attic",
        gateway_id=gateway_id,
        fingerprint=fingerprint,
        http_port=None,
        https_port=int(port),
        version="1",
        mcp_revisions=["2026-07-28"],
    )
    server = await asyncio.start_server(meet, "0.0.0.0", int(port), ssl=context)
    async with server, announcer:
        await asyncio.Event().wait()


asyncio.run(main(*sys.argv[1:]))
