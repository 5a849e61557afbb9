"""`gateway discover` and `gateway connect`: what runs on an assistant's computer rather than on the gateway."""

import argparse
import asyncio
import json
import logging
import sys
from dataclasses import asdict

from gateway.discovery import connect as bridge
from gateway.discovery import find


def discover(options: argparse.Namespace) -> int:
    """List the gateways that announce themselves; exit code 1 where there are none."""
    try:
        found = asyncio.run(find.find(options.seconds))
    except OSError as error:
        print(f"gateway: cannot look for gateways: {error}; is a network up?", file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps([asdict(gateway) | {"urls": gateway.urls()} for gateway in found]))
    else:
        for gateway in found:
            urls = " ".join(gateway.urls())
            print(f"{gateway.gateway_id}  {gateway.name}\n  {urls}\n  certificate {gateway.fingerprint}")
    if not found:
        print("no gateway answered; is it running, and on this network?", file=sys.stderr)
    return 0 if found else 1


def connect(options: argparse.Namespace) -> int:
    """Relay standard input and output to a gateway until the assistant hangs up."""
    logging.basicConfig(level=logging.INFO, format="gateway: %(message)s", stream=sys.stderr)
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    return asyncio.run(
        bridge.run_connect(
            bridge.ConnectOptions(
                url=options.url,
                token=options.token,
                fingerprint=options.fingerprint,
                gateway=options.gateway,
                insecure=options.insecure,
            )
        )
    )
