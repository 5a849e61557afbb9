"""paho's client, reading and acknowledging in bulk.

paho asks the kernel three or four times for each packet it reads, and takes longer over it than all that follows. Here
the stream is read in large pieces, the PUBLISH packets in it are taken out (`split`) and handed over all at once, and
paho sees the rest: it connects, subscribes and keeps the connection alive. Acknowledgements leave in one piece.
This rests on two names that paho keeps to itself, `_sock_recv` and `_packet_queue`; a test holds them to what is used.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from paho.mqtt.client import MQTT_ERR_SUCCESS, Client, MQTTMessage
from paho.mqtt.enums import MQTTErrorCode

READ_AHEAD = 64 * 1024
LONGEST_HEAD = 5
PUBLISH, PUBACK = 0x30, 0x40  # MQTT 3.1.1 sections 3.3 and 3.4


class Publish(NamedTuple):
    """One message as the broker sent it; `mid` (1 to 65535) only where it is to be acknowledged: QoS 1."""

    topic: str
    payload: bytes
    mid: int = 0
    retain: bool = False
    dup: bool = False


def frame(data: bytes, at: int) -> tuple[int, int]:
    """(start, end) of what follows the length of the packet at `at`, perhaps beyond `data`; zeros where its length has
    not arrived or is none (paho will say so)."""
    length = 0
    for index in range(at + 1, min(at + LONGEST_HEAD, len(data))):
        length |= (data[index] & 0x7F) << 7 * (index - at - 1)
        if data[index] < 0x80:
            return index + 1, index + 1 + length
    return 0, 0


def split(data: bytes, at: int) -> tuple[list[Publish], int]:
    """The messages of QoS 0 and 1 that stand whole in `data` from `at` on, and where they end: at a packet that is not
    whole, or that paho has to judge."""
    found, last = [], len(data)
    while at + 1 < last and data[at] & 0xF4 == PUBLISH:
        head, start = data[at], at + 2
        end = start + data[at + 1]
        if data[at + 1] >= 0x80:
            start, end = frame(data, at)
        if end > last or end - start < 2:
            break
        topic_end = start + 2 + (data[start] << 8 | data[start + 1])
        payload_at = topic_end + (head & 2)  # QoS 1 has two bytes more
        if payload_at > end:
            break
        mid = data[topic_end] << 8 | data[topic_end + 1] if head & 2 else 0
        topic = data[start + 2 : topic_end].decode(errors="replace")
        found.append(Publish(topic, data[payload_at:end], mid, head & 1 != 0, head & 8 != 0))
        at = end
    return found, at


class BulkClient(Client):
    """`loop` as paho's, but all that one read of the socket brought is handled before it returns.

    `arrived` gets the messages, as many as came together, instead of `on_message`. No QoS 2: nobody subscribes to it.
    """

    def __init__(self, *arguments: Any, arrived: Callable[[Sequence[Publish]], None], **options: Any) -> None:
        self._arrived = arrived
        self._messages: list[Publish] = []
        self._ahead, self._at = b"", 0
        self._owed = 0  # bytes of the packet that paho is reading
        super().__init__(*arguments, **options)
        self.on_message = self._too_large

    def reconnect(self) -> MQTTErrorCode:
        """A new connection; what was read of an old one is forgotten."""
        self._ahead, self._at, self._owed = b"", 0, 0
        self._messages.clear()
        return super().reconnect()

    def loop(self, timeout: float = 1.0) -> MQTTErrorCode:
        """Wait for traffic so many seconds at most and handle it; another code than success ends the connection."""
        code = super().loop(timeout)
        while code == MQTT_ERR_SUCCESS and self._at < len(self._ahead) and (self._owed or self._offered()):
            code = self.loop_read()
        messages, self._messages = self._messages, []
        if messages:
            self._arrived(messages)
        return code

    def acknowledge(self, mids: Iterable[int]) -> None:
        """PUBACK for each of these QoS 1 messages, in this order, as one write."""
        packets = b"".join(b"\x40\x02" + mid.to_bytes(2, "big") for mid in mids)
        if packets:
            self._packet_queue(PUBACK, packets, 0, 1)

    def _sock_recv(self, bufsize: int) -> bytes:
        """What paho reads: the stream without the messages that were taken out of it."""
        if not self._owed and not self._offered():
            more = super()._sock_recv(READ_AHEAD)
            if not more:
                return b""
            self._ahead, self._at = self._ahead[self._at :] + more, 0
            if not self._offered():
                raise BlockingIOError
        if self._at == len(self._ahead):
            self._ahead, self._at = super()._sock_recv(READ_AHEAD), 0
        start = self._at
        self._at = min(start + bufsize, len(self._ahead))  # paho never asks beyond its packet
        self._owed -= self._at - start
        return self._ahead[start : self._at]

    def _offered(self) -> bool:
        """Take out what messages come next; whether a packet follows that is paho's, whole or too large to wait for."""
        messages, self._at = split(self._ahead, self._at)
        self._messages += messages
        _, end = frame(self._ahead, self._at)
        waiting = len(self._ahead) - self._at
        self._owed = end - self._at if end else waiting
        if waiting < self._owed <= READ_AHEAD or (not end and waiting < LONGEST_HEAD):
            self._owed = 0  # the rest of it is on its way
        return self._owed > 0

    def _too_large(self, _client: Client, _userdata: Any, message: MQTTMessage) -> None:
        self._messages.append(Publish(message.topic, bytes(message.payload), message.mid, message.retain, message.dup))
