"""One session with the gateway: readings out, acknowledgements and commands in, complaints once it is proven.

A session is proven when an acknowledgement came that the node's key signed for this boot, and that covers a number
which was never sent before this session: an older one anybody may have heard. Only then are complaints told, the time
taken from that host and the broker's address remembered: whoever answers to mDNS may be anybody. A broker from which
nothing new is acknowledged for long is left, proven or not.
"""

import asyncio
import json
import time

from micropython import const

from node import wire
from node.ring import NOTHING
from node.tasks import forget
from node.watch import CLOCK, NO_NETWORK

_RESEND_MS = const(15000)  # an acknowledgement comes after a commit, every 5 s by default
_RESEND_LAST_MS = const(240000)  # a broker keeps all that is sent again for a gateway that is away
_NOTHING_NEW_MS = const(180000)
_REFUSED_MS = const(30000)
_AGAIN_S = const(3600)  # a crystal may drift 50 ppm: 0.2 s an hour
_RETRY_S = const(60)


class Uplink:
    """`station`, `ring`, `clock` and the others are the app's; `hello` is what the status tells at each connection."""

    def __init__(self, config, client, ring, numbers, clock, led, hello):
        self._device, self._key = config["device"], config["key"]
        self._ntp, self._ntp_port = config["ntp"], config["ntp_port"]
        self._config, self._hello = config, hello
        self._client, self._ring, self._numbers, self._clock, self._led = client, ring, numbers, clock, led
        self._topic = "devices/%s/" % self._device
        self.link = self.station = self.commands = None  # set by the app: they know each other
        self.wake = asyncio.Event()  # set on whatever may be to be done, and every second
        self._reports = {}
        self.offers, self.updates = [], []  # of updates: what came, and what is to be told
        self.acked = 0  # the highest number of this boot that the gateway has
        self.proven = False
        self.refused = self.sent = self.acks = 0
        self._refused_here = 0
        self._top = 0  # the highest number of this boot that was ever sent
        self._fresh = 1  # what has to be acknowledged to prove that the gateway hears this session
        self._since = None  # since when something waits and nothing new is acknowledged
        self._advanced = time.ticks_ms()
        self._patience_ms = _RESEND_MS

    def will(self):
        """(topic, payload) of the last will."""
        return self._topic + "status", wire.status(False)

    def report(self, code, text):
        """Tell the gateway as soon as a session with it is proven; the newest of a code counts."""
        if len(self._reports) < 12 or code in self._reports:
            if code not in self._reports:
                print("node:", code, str(text)[:180])
            self._reports[code] = str(text)[:180]
            self.wake.set()

    def heard(self, topic, payload):
        """A message that came."""
        self.wake.set()
        if topic == self._topic + "ack":
            self._acked(payload)
        elif topic.startswith(self._topic + "commands/"):
            self.commands.heard(topic[len(self._topic) + 9 :], payload)
        elif len(self.offers) < 3 and len(payload) <= 2048:  # an update; whoever sends more of them is no gateway
            self.offers.append(payload)

    def tell(self, body):
        """Tell how far an update is; of each phase only the newest."""
        told = self.updates
        if told and (told[-1]["offer"], told[-1]["phase"]) == (body["offer"], body["phase"]):
            told.pop()
        self.updates = told[-9:] + [body]
        self.wake.set()

    async def session(self, host):
        """Serve one connection until it fails."""
        if self._numbers.seq <= self._top:  # something new has to be acknowledged, or nothing would prove the gateway
            self._ring.add(self._numbers.next(), NOTHING, self._clock.uptime_ms(), 0, {})
        self._fresh, self._since = self._top + 1, None
        self._ring.rewind()
        self.proven, self._refused_here = self._key is None, 0
        self._advanced = time.ticks_ms()
        self._patience_ms = _RESEND_MS
        topic = self._topic
        await self._client.subscribe(topic + "ack", topic + "commands/+", topic + "update")
        await self._introduce()
        hello = wire.status(True, boot=self._numbers.boot, uptime_ms=self._clock.uptime_ms(), **self._hello)
        await self._client.publish(topic + "status", hello, retain=True)
        self._led.fault(NO_NETWORK, False)
        keeping = asyncio.create_task(self._keep_time(host))
        try:
            await self._serve()
        finally:
            keeping.cancel()
            self._led.fault(NO_NETWORK, True)
            self.proven = False

    async def _introduce(self):
        self.station.retold = False
        from node import about

        try:
            told = about.told(self._config, self._hello["firmware_version"], self.station.places)
        finally:
            forget("node.about")
        await self._client.publish(self._topic + "capabilities", *told, retain=True)

    async def answer(self, command_id, *payload):
        """Publish a command's result, in parts."""
        await self._client.publish("%scommands/%s/result" % (self._topic, command_id), *payload)

    async def _serve(self):
        while True:
            self.wake.clear()
            while self.updates:
                body = self.updates[0]
                await self._client.publish(self._topic + "update/status", json.dumps(body).encode())
                if body in self.updates:
                    self.updates.remove(body)
            found = self._ring.next()
            if found is not None:
                record, unix_ms, oldest = found
                if record[0] == self._numbers.boot:
                    unix_ms = unix_ms or self._clock.unix_ms(record[3])
                    self._top = max(self._top, record[1])
                if self._ring.in_flight == 1:
                    self._advanced = time.ticks_ms()
                if self._since is None:
                    self._since = time.ticks_ms()
                sensor, payload = wire.data(record, oldest, unix_ms)
                await self._client.publish("%ssensors/%s/data" % (self._topic, sensor), payload)
                self.sent += 1
                continue
            await self.commands.obey(self.answer)
            if self.station.retold:
                await self._introduce()
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
        self._advanced = now
        patience_ms = _REFUSED_MS if self._refused_here and not self.proven else _NOTHING_NEW_MS
        waited_ms = time.ticks_diff(now, self._since)
        if self._config["broker"]["host"] is None and waited_ms > patience_ms:
            text = "nothing new was acknowledged for %d s by %s:%d" % ((waited_ms // 1000,) + self.link.address)
            self.report("nothing_new", text)
            self.link.suspect()
            raise OSError(text)
        self._ring.rewind()

    def _acked(self, payload):
        try:
            boot, seq = wire.ack(payload, self._device, self._key)
            if boot == self._numbers.boot and seq > self._top:
                raise wire.WireError("covers numbers that were never sent")
        except wire.WireError as error:
            self.refused += 1
            self._refused_here += 1
            text = "%d acknowledgements refused (%s), last from %s" % (self.refused, error, self.link.address)
            self.report("ack_refused", text)
            return
        self.acks += 1
        if boot == self._numbers.boot and seq >= self._fresh and not self.proven:
            self.proven = True
            self.link.proven()
        if boot == self._numbers.boot:
            self.acked = max(self.acked, seq)
        if self._ring.acked(boot, seq):
            self._advanced = time.ticks_ms()
            self._since = self._advanced if self._ring.in_flight else None
            self._patience_ms = _RESEND_MS

    async def _keep_time(self, host):
        """Ask for the time until it is known, then every hour; the broker's host only once it proved itself."""
        while not self._ntp and not self.proven:
            await asyncio.sleep_ms(500)
        while True:
            wait_s = _AGAIN_S
            try:
                await self._clock.sync(self._ntp or host, self._ntp_port)
            except (OSError, ValueError, MemoryError):
                wait_s = _RETRY_S
            self._led.fault(CLOCK, bool(self._ntp) and not self._clock.zero_ms)
            await asyncio.sleep(wait_s)
