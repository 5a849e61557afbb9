"""paho's client, reading and acknowledging in bulk.

paho asks the kernel three or four times for each packet it reads, and twice for each acknowledgement it sends. A queue
of fifty thousand messages is read through one buffer here, and a batch of acknowledgements leaves in one piece. This
rests on two names that paho keeps to itself, `_sock_recv` and `_packet_queue`; a test holds them to what is used here.
"""

from collections.abc import Iterable
from typing import Any

from paho.mqtt.client import MQTT_ERR_SUCCESS, Client
from paho.mqtt.enums import MQTTErrorCode

READ_AHEAD = 64 * 1024
PUBACK = 0x40  # MQTT 3.1.1 section 3.4


class BulkClient(Client):
    """`loop` as paho's, but all that one read of the socket brought is handled before it returns."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._ahead = b""
        self._ahead_at = 0
        super().__init__(*arguments, **options)

    def reconnect(self) -> MQTTErrorCode:
        """A new connection; what was read of an old one is forgotten."""
        self._ahead, self._ahead_at = b"", 0
        return super().reconnect()

    def loop(self, timeout: float = 1.0) -> MQTTErrorCode:
        """Wait for traffic so many seconds at most and handle it; another code than success ends the connection."""
        code = super().loop(timeout)
        while code == MQTT_ERR_SUCCESS and self._ahead_at < len(self._ahead):
            code = self.loop_read()
        return code

    def acknowledge(self, mids: Iterable[int]) -> None:
        """PUBACK for each of these QoS 1 messages, in this order, as one write."""
        packets = b"".join(b"\x40\x02" + mid.to_bytes(2, "big") for mid in mids)
        if packets:
            self._packet_queue(PUBACK, packets, 0, 1)

    def _sock_recv(self, bufsize: int) -> bytes:
        if self._ahead_at >= len(self._ahead):
            self._ahead = super()._sock_recv(max(bufsize, READ_AHEAD))
            self._ahead_at = 0
        start = self._ahead_at
        self._ahead_at = min(start + bufsize, len(self._ahead))
        return self._ahead[start : self._ahead_at]
