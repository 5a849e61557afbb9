"""Says something to one node over the broker and hears its answer, on a connection of its own."""

import asyncio
import secrets
from collections.abc import Callable, Mapping
from typing import Any

from aiomqtt import Client, MqttError

CONNECT_WITHIN_S = 10.0
AT_ONCE = 8
RETAINED = ("capabilities", "status")
"""What the broker keeps of a node."""


class NoAnswer(TimeoutError):
    """The node did not answer in time; what became of the command is not known."""


class Unreachable(ConnectionError):
    """The broker was not reached: nothing was sent."""


class Commander:
    """Commands to nodes. `encode` (name, arguments) and `decode` (topic, payload -> ok, result or error text) know the
    wire. A connection lives as long as its command: commands are rare, and a standing one would be one more to keep."""

    def __init__(
        self,
        host: str,
        port: int,
        encode: Callable[[str, Mapping[str, Any]], bytes],
        decode: Callable[[str, bytes], tuple[bool, Any]],
        *,
        username: str | None = None,
        password: str | None = None,
    ) -> None:
        self._host, self._port, self._encode, self._decode = host, port, encode, decode
        self._username, self._password = username, password
        self._room = asyncio.Semaphore(AT_ONCE)

    async def send(self, device: str, name: str, args: Mapping[str, Any], timeout_s: float) -> tuple[bool, Any]:
        """(ok, result or error text). NoAnswer after so many seconds, Unreachable where the broker is away; whatever
        `decode` raises where the answer is none."""
        topic = f"devices/{device}/commands/{secrets.token_hex(8)}"
        async with self._room:
            try:
                async with self._connected() as client:
                    await client.subscribe(f"{topic}/result", qos=1)
                    await client.publish(topic, self._encode(name, args), qos=1)
                    async with asyncio.timeout(timeout_s):
                        async for message in client.messages:
                            return self._decode(str(message.topic), bytes(message.payload))
            except TimeoutError:
                raise NoAnswer(f"{device} did not answer {name!r} within {timeout_s:g} s") from None
            except MqttError as error:
                raise Unreachable(f"the broker at {self._host}:{self._port} was not reached: {error}") from error
        raise AssertionError("messages end with an error only")

    async def clear(self, device: str) -> None:
        """Let the broker forget what it keeps of a node. Unreachable where that was not possible."""
        try:
            async with self._connected() as client:
                for kind in RETAINED:
                    await client.publish(f"devices/{device}/{kind}", b"", qos=1, retain=True)
        except MqttError as error:
            raise Unreachable(f"the broker at {self._host}:{self._port} was not reached: {error}") from error

    def _connected(self) -> Client:
        return Client(
            self._host,
            self._port,
            identifier=f"gateway-command-{secrets.token_hex(4)}",
            username=self._username,
            password=self._password,
            timeout=CONNECT_WITHIN_S,
        )
