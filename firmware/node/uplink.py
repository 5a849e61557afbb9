"""One session with the gateway: readings out, acknowledgements and commands in, complaints once it is proven.

A session is proven when an acknowledgement came that the node's key signed for this boot. Only then are commands
obeyed, complaints told and the broker's address remembered: whoever answers to mDNS may be anybody.
"""

import asyncio
import time

from micropython import const

from node import wire
from node.ring import NOTHING
from node.watch import CLOCK, NO_NETWORK

_RESEND_MS = const(15000)  # an acknowledgement comes after a commit, every 5 s by default
_RESEND_LAST_MS = const(240000)  # a broker keeps all that is sent again for a gateway that is away
_UNPROVEN_MS = const(180000)
_REFUSED_MS = const(30000)
_AGAIN_S = const(3600)  # a crystal may drift 50 ppm: 0.2 s an hour
_RETRY_S = const(60)


class Uplink:
    """`station`, `ring`, `clock` and the others are the app's; `hello` is what the status tells at each connection."""

    def __init__(self, config, client, ring, numbers, clock, led, hello):
        self._device, self._key, self._ntp = config["device"], config["key"], config["ntp"]
        self._config, self._hello = config, hello
        self._client, self._ring, self._numbers, self._clock, self._led = client, ring, numbers, clock, led
        self._topic = "devices/%s/" % self._device
        self.link = self.station = self.commands = None  # set by the app: they know each other
        self.wake = asyncio.Event()  # set on whatever may be to be done, and every second
        self._reports = {}
        self.proven = False
        self.refused = self.sent = self.acks = 0
        self._refused_here = 0
        self._began = self._advanced = time.ticks_ms()
        self._patience_ms = _RESEND_MS

    def will(self):
        """(topic, payload) of the last will."""
        return self._topic + "status", wire.status(False)

    def report(self, code, text):
        """Tell the gateway as soon as a session with it is proven; the newest of a code counts."""
        if len(self._reports) < 12 or code in self._reports:
            self._reports[code] = str(text)[:180]
            self.wake.set()

    def heard(self, topic, payload):
        """A message that came."""
        self.wake.set()
        if topic == self._topic + "ack":
            self._acked(payload)
        elif topic.startswith(self._topic + "commands/"):
            self.commands.heard(topic[len(self._topic) + 9 :], payload, self.proven)

    async def session(self, host):
        """Serve one connection until it fails."""
        if not self._ring.in_memory:  # something has to be acknowledged, or nothing would prove the gateway
            self._ring.add(self._numbers.next(), NOTHING, self._clock.uptime_ms(), 0, {})
        self._ring.rewind()
        self.proven, self._refused_here = self._key is None, 0
        self._began = self._advanced = time.ticks_ms()
        self._patience_ms = _RESEND_MS
        topic = self._topic
        await self._client.subscribe(topic + "ack", topic + "commands/+")
        about = wire.capabilities(self._config, self._hello["firmware_version"], self.station.described())
        await self._client.publish(topic + "capabilities", about, True)
        hello = wire.status(True, boot=self._numbers.boot, uptime_ms=self._clock.uptime_ms(), **self._hello)
        await self._client.publish(topic + "status", hello, True)
        self._led.fault(NO_NETWORK, False)
        keeping = asyncio.create_task(self._keep_time(host))
        try:
            await self._serve()
        finally:
            keeping.cancel()
            self._led.fault(NO_NETWORK, True)
            self.proven = False

    async def answer(self, command_id, payload):
        """Publish a command's result."""
        await self._client.publish("%scommands/%s/result" % (self._topic, command_id), payload)

    async def _serve(self):
        while True:
            self.wake.clear()
            found = self._ring.next()
            if found is not None:
                record, unix_ms, oldest = found
                if not unix_ms and record[0] == self._numbers.boot:
                    unix_ms = self._clock.unix_ms(record[3])
                if self._ring.in_flight == 1:
                    self._advanced = time.ticks_ms()
                sensor, payload = wire.data(record, oldest, unix_ms)
                await self._client.publish("%ssensors/%s/data" % (self._topic, sensor), payload)
                self.sent += 1
                continue
            await self.commands.obey(self.answer)
            await self._complain()
            self._look()
            if not self.commands.waiting:
                await self.wake.wait()

    async def _complain(self):
        while self.proven and self._reports:
            code = list(self._reports)[0]
            text = self._reports[code]
            await self._client.publish(self._topic + "error", wire.error(code.split(" ")[0], text))
            if self._reports.get(code) == text:
                del self._reports[code]

    def _look(self):
        """Whether acknowledgements come as they should; if not, everything goes out again, or to another broker."""
        now = time.ticks_ms()
        if not self._ring.in_flight or time.ticks_diff(now, self._advanced) < self._patience_ms:
            return
        self._patience_ms = min(2 * self._patience_ms, _RESEND_LAST_MS)
        unproven_ms = _REFUSED_MS if self._refused_here else _UNPROVEN_MS
        if (
            not self.proven
            and self._config["broker"]["host"] is None
            and time.ticks_diff(now, self._began) > unproven_ms
        ):
            self.link.suspect()
            raise OSError("nothing signed by the gateway came from this broker")
        self._advanced = now
        self._ring.rewind()

    def _acked(self, payload):
        try:
            boot, seq = wire.ack(payload, self._device, self._key)
            if boot == self._numbers.boot and seq > self._numbers.seq:
                raise wire.WireError("covers numbers that were never used")
        except wire.WireError as error:
            self.refused += 1
            self._refused_here += 1
            text = "%d acknowledgements refused (%s), last from %s" % (self.refused, error, self.link.address)
            self.report("ack_refused", text)
            return
        self.acks += 1
        if boot == self._numbers.boot and not self.proven:
            self.proven = True
            self.link.proven()
        if self._ring.acked(boot, seq):
            self._advanced = time.ticks_ms()
            self._patience_ms = _RESEND_MS

    async def _keep_time(self, host):
        """Ask for the time until it is known, then every hour."""
        while True:
            wait_s = _AGAIN_S
            try:
                await self._clock.sync(self._ntp or host)
            except (OSError, ValueError):
                wait_s = _RETRY_S
            self._led.fault(CLOCK, bool(self._ntp) and not self._clock.zero_ms)
            await asyncio.sleep(wait_s)
