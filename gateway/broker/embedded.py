"""The broker of the demo: amqtt in a process of its own. `python -m gateway.broker.embedded --host H --port P`.

A process of its own, because a flood or a bug then ends a child that is restarted, and not the gateway.
"""

import argparse
import asyncio
import logging
import signal
import sys
from collections.abc import Callable
from importlib.util import find_spec

from gateway.broker.errors import BrokerError
from gateway.broker.supervise import ChildBroker
from gateway.hosts import is_loopback

PROMISES_NOT = (
    "the embedded broker is for a demo on this machine: it keeps nothing for a gateway that is away, delivers nothing "
    "twice, and forgets all when it ends; nodes that number their messages lose nothing, others do"
)


def installed() -> bool:
    return find_spec("amqtt") is not None


def embedded(host: str, port: int, *, on_problem: Callable[[str], None] = lambda _text: None) -> ChildBroker:
    """A broker on loopback that promises little; BrokerError off loopback or where amqtt is not installed."""
    if not is_loopback(host):
        raise BrokerError(f"the embedded broker listens on loopback only, not on {host}: install mosquitto")
    if not installed():
        raise BrokerError("amqtt is not installed: install mosquitto, or ambient-gateway[demo]")
    program = (sys.executable, "-m", "gateway.broker.embedded", "--host", host, "--port", str(port))
    return ChildBroker("embedded broker", program, host, port, on_problem=on_problem)


async def serve(host: str, port: int) -> None:
    """Run the broker until SIGTERM or SIGINT."""
    from amqtt.broker import Broker  # noqa: PLC0415 - slow to import, and only the child needs it

    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    address = f"[{host}]" if ":" in host else host
    broker = Broker(
        {
            "listeners": {"default": {"type": "tcp", "bind": f"{address}:{port}"}},
            "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
        }
    )
    await broker.start()
    await stop.wait()
    await broker.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    if not is_loopback(options.host):
        sys.exit(f"Error: loopback only, not {options.host}")
    logging.basicConfig(level=logging.ERROR, format="%(levelname)s %(name)s: %(message)s")
    asyncio.run(serve(options.host, options.port))


if __name__ == "__main__":
    main()
