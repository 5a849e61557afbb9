"""Says something to one node over the broker and hears its answer, on a connection of its own."""

import asyncio
import secrets
from collections.abc import Callable

from aiomqtt import Client, MqttError

CONNECT_WITHIN_S = 10.0
AT_ONCE = 8
RETAINED = ("capabilities", "status")
"""What the broker keeps of a node."""


class Unreachable(ConnectionError):
    """The broker was not reached: nothing was sent."""


class Commander:
    """The way to nodes over the broker. A connection lives as long as its command: commands are rare, and a standing
    one would be one more to keep."""

    def __init__(self, host: str, port: int, *, username: str | None = None, password: str | None = None) -> None:
        self._host, self._port = host, port
        self._username, self._password = username, password
        self._room = asyncio.Semaphore(AT_ONCE)

    async def exchange(self, topic: str, payload: bytes, accepts: Callable[[bytes], bool]) -> bytes:
        """Publish a command and return the first accepted result's payload, however long that takes; Unreachable where
        the broker is away."""
        async with self._room:
            try:
                async with self._connected() as client:
                    await client.subscribe(f"{topic}/result", qos=1)
                    await client.publish(topic, payload, qos=1)
                    async for message in client.messages:
                        if accepts(bytes(message.payload)):
                            return bytes(message.payload)
            except MqttError as error:
                raise Unreachable(f"the broker at {self._host}:{self._port} was not reached: {error}") from error
        raise AssertionError("messages end with an error only")

    async def tell(self, topic: str, payload: bytes) -> None:
        """Publish something that nobody answers at once; Unreachable where the broker is away."""
        try:
            async with self._room, self._connected() as client:
                await client.publish(topic, payload, qos=1)
        except MqttError as error:
            raise Unreachable(f"the broker at {self._host}:{self._port} was not reached: {error}") from error

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
