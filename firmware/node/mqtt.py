"""A small MQTT 3.1.1 client for asyncio: QoS 1 out, QoS 0 and 1 in, one reader, every wait bounded.

It never reconnects by itself and keeps no message: `publish` returns when the broker has acknowledged and raises
where it did not, and who called keeps the message until then.
"""

import asyncio
import struct
import time
from asyncio import open_connection  # here, where the heap is whole: asyncio loads its parts when they are named

from micropython import const

from node.tasks import within

_CONNECT_MS = const(15000)
_ANSWER_MS = const(10000)
_BODY_MOST = const(5120)
_COPY_MOST = const(384)
_IPPROTO_TCP = const(6)
_TCP_NODELAY = const(1)
_TIMED_OUT = const(110)


class Refused(Exception):
    """The broker does not want us: `code` 4 or 5 are wrong credentials."""

    def __init__(self, code):
        super().__init__("the broker refused the connection, code %d" % code)
        self.code = code


class Client:
    """One connection; `on_message(topic, payload)` is called for what was published while we were listening."""

    def __init__(self, client_id, user=None, password=None, keepalive_s=30):
        self._id, self._user, self._password = client_id, user, password
        self.on_message, self._keepalive_s = None, keepalive_s
        self._stream = None
        self._turn, self._line = asyncio.Lock(), asyncio.Lock()
        self._answered = asyncio.Event()
        self._packet_id = 0
        self._wanted = None  # the first byte and the id of the answer that is waited for
        self._asked = None  # since when, or since when for the answer to a ping
        self._code = 0
        self._wrote = time.ticks_ms()

    async def connect(self, host, port, will, tls=None):
        """Open a clean session; `will` is (topic, payload), retained. OSError, or Refused."""
        opening = open_connection(host, port, tls, host) if tls else open_connection(host, port)
        self._stream, _ = await within(opening, _CONNECT_MS)
        if not tls:  # what leaves in pieces must not wait for an answer to the first (RFC 1122, 4.2.3.4)
            self._stream.s.setsockopt(_IPPROTO_TCP, _TCP_NODELAY, 1)
        self._turn, self._line = asyncio.Lock(), asyncio.Lock()  # the old ones may have been held when a task ended
        self._wanted = self._asked = None
        flags = 0x02 | 0x04 | 0x08 | 0x20  # clean session; will of QoS 1, retained
        body = text(self._id) + text(will[0]) + text(will[1])
        if self._user is not None:
            flags |= 0x80
            body += text(self._user)
            if self._password is not None:
                flags |= 0x40
                body += text(self._password)
        await self._write(0x10, b"\x00\x04MQTT\x04" + struct.pack(">BH", flags, self._keepalive_s) + body)
        try:
            answer = await within(self._stream.readexactly(4), _CONNECT_MS)
        except EOFError:
            raise OSError("the broker closed the connection")
        if answer[:2] != b"\x20\x02":
            raise OSError("no MQTT broker answers there")
        if answer[3]:
            raise Refused(answer[3])

    async def listen(self):
        """Take in packets until the connection ends; `care` sees to it that it does."""
        while True:
            try:
                await self._packet((await self._stream.readexactly(1))[0])
            except EOFError:
                raise OSError("the broker closed the connection")

    async def care(self):
        """To be called every two seconds: pings where nothing was written for long; OSError where no answer came.

        All time-outs of a connection are here, so that its tasks are few: whoever waits is cancelled with it.
        """
        now = time.ticks_ms()
        if self._asked is not None:
            if time.ticks_diff(now, self._asked) > _ANSWER_MS:
                raise OSError(_TIMED_OUT)
        elif time.ticks_diff(now, self._wrote) > self._keepalive_s * 500:
            self._asked = now
            await within(self._write(0xC0, b""), _ANSWER_MS)  # a dead line's buffer may be full

    async def publish(self, topic, *payload, retain=False):
        """Send a payload, in parts, with QoS 1 and wait for the broker's acknowledgement; OSError where that does not
        come in time."""
        async with self._turn:
            packet_id = self._next_id()
            begin = text(topic) + struct.pack(">H", packet_id)
            await self._exchange((0x40, packet_id), 0x33 if retain else 0x32, begin, *payload)

    async def subscribe(self, *topics):
        """With QoS 1; OSError where the broker does not answer or does not allow it."""
        async with self._turn:
            packet_id = self._next_id()
            body = struct.pack(">H", packet_id) + b"".join([text(topic) + b"\x01" for topic in topics])
            await self._exchange((0x90, packet_id), 0x82, body)
            if self._code & 0x80:
                raise OSError("the broker does not allow the subscription")

    def close(self):
        """Let go of the socket; whoever waits on it has to be cancelled before."""
        if self._stream is not None:
            try:
                self._stream.s.close()
            except OSError:
                pass
            self._stream = None

    async def _exchange(self, answer, kind, *parts):
        self._answered.clear()
        self._wanted, self._asked = answer, time.ticks_ms()
        await self._write(kind, *parts)
        await self._answered.wait()

    async def _write(self, kind, *parts):
        async with self._line:
            self._wrote = time.ticks_ms()
            size = sum([len(part) for part in parts])
            parts = (bytes([kind]) + length(size),) + parts
            for part in parts if size > _COPY_MOST else (b"".join(parts),):  # one segment, if a copy of it is small
                self._stream.write(part)
            await self._stream.drain()

    async def _packet(self, head):
        size = shift = 0
        while True:
            byte = (await self._stream.readexactly(1))[0]
            size |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                break
            if shift > 21:
                raise OSError("a packet's length is broken")
        if size > _BODY_MOST:
            await self._skip(head, size)
            return
        body = await self._stream.readexactly(size) if size else b""
        kind = head & 0xF0
        if kind == 0x30:
            await self._message(head, body)
        elif kind in (0x40, 0x90) and size >= 2:
            self._code = body[-1] if kind == 0x90 else 0
            if self._wanted == (kind, struct.unpack(">H", body)[0]):
                self._wanted = self._asked = None
                self._answered.set()
        elif kind == 0xD0 and self._wanted is None:
            self._asked = None

    async def _message(self, head, body):
        end = 2 + struct.unpack(">H", body)[0]
        topic = body[2:end]
        if head & 0x06:
            await self._write(0x40, body[end : end + 2])
            end += 2
        if not head & 0x01:  # retained ones are old: no command, and no acknowledgement that counts
            self.on_message(topic.decode(), body[end:])

    async def _skip(self, head, size):
        """A message that is larger than any for us: read past it, acknowledge it, or it comes again."""
        begin = await self._stream.readexactly(2)
        topic = struct.unpack(">H", begin)[0]
        left = size - 2 - topic
        await self._past(topic)
        if head & 0x06 and left >= 2:
            await self._write(0x40, await self._stream.readexactly(2))
            left -= 2
        await self._past(left)

    async def _past(self, size):
        while size > 0:
            size -= len(await self._stream.readexactly(min(size, 256)))

    def _next_id(self):
        self._packet_id = self._packet_id % 65535 + 1
        return self._packet_id


def text(value):
    """A string or bytes with its length in front."""
    data = value.encode() if isinstance(value, str) else value
    return struct.pack(">H", len(data)) + data


def length(size):
    """A packet's remaining length."""
    found = b""
    while True:
        size, digit = size >> 7, size & 0x7F
        if not size:
            return found + bytes([digit])
        found += bytes([digit | 0x80])
