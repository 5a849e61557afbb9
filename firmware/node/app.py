"""The program: settings, then sensors, ring, link and watchdog as tasks of one loop."""

import asyncio
import gc
import os

import machine
from micropython import const

from node import VERSION
from node.boot import Numbers
from node.clock import Clock
from node.commands import Commands
from node.link import Link
from node.measure import Station
from node.mqtt import Client
from node.ring import Ring
from node.tasks import first, forget
from node.uplink import Uplink
from node.watch import STORAGE, TIMEOUT_MS, Progress, guard

_CRASH = const("crash.txt")


def main():
    """Run for ever; comes back only by an error, and then nothing is left in memory only."""
    from node import config

    settings = config.load()
    del config
    forget("node.config")
    forget("node.kept")
    print("node %s %s starts" % (VERSION, settings["device"]))  # `gateway node provision` waits for it
    if settings["mode"] == "bthome":
        from node import beacon

        beacon.main(settings)
        return
    app = App(settings)
    try:
        asyncio.run(app.run())
    finally:
        app.put_away()


class App:
    """Everything that one node is made of."""

    def __init__(self, settings):
        import esp32
        import network

        gc.collect()
        self.clock = Clock()
        self.progress = Progress(self.clock)
        from node import start

        self.led = start.make_led(settings["led"])
        random32 = int.from_bytes(os.urandom(4), "big")
        self.numbers = Numbers(esp32.NVS("node"), random32, 1)
        self.ring = Ring("ring", settings["ring_kb"] * 1024, self.numbers.boot)
        self._open_ring()
        self.client = Client(settings["device"], settings["broker"]["user"], settings["broker"]["password"])
        self.hello = {"firmware_version": VERSION, "reset_cause": start.cause()}
        self.settings, self.seen = settings, []
        self.work = self._take_up()
        self.uplink = Uplink(settings, self.client, self.ring, self.numbers, self.clock, self.led, self.hello)
        bus = start.make_bus(settings["i2c"])
        parts = self.ring, self.numbers, self.clock, self.progress, self.led, self.uplink.report
        self.station = Station(settings, bus, *parts, self.uplink.wake)
        network.hostname(settings["device"].replace("_", "-").replace(".", "-")[:32])
        self.wlan = network.WLAN(network.WLAN.IF_STA)
        self.link = Link(settings, self.wlan, self.client, self.clock, self.progress, self.uplink.session, self.restart)
        self.client.on_message = self.uplink.heard
        self.uplink.link, self.uplink.station = self.link, self.station
        who = settings["device"], settings["key"], self.numbers.boot
        told = self.diagnose, self.restart, self.uplink.report
        self.uplink.commands = Commands(who, self.station, self.led, *told)
        words = start.last_words(_CRASH)
        if words:
            self.hello["last_words"] = words[:120]
            self.uplink.report("restarted", words)
        forget("node.start")

    async def run(self):
        """All tasks; a fault in any of them, or one that is stuck, ends the program, and the loader starts it anew."""
        watchdog = machine.WDT(timeout=TIMEOUT_MS)
        tasks = [guard(self.progress, watchdog, self._stuck), self._keep()]
        tasks += [self.station.run(place) for place in self.station.places]
        tasks.append(self.link.run(self.uplink.will()))
        if self.led.pin is not None:
            tasks.append(self.led.run())
        if self.work:
            self.work = asyncio.create_task(self.update(self.work))
        await first(*tasks)

    def restart(self, reason):
        """Put everything away, leave word, and start anew."""
        last_words("restart: " + reason)
        self.put_away()
        machine.reset()

    def put_away(self):
        """What is in memory goes to flash; only then is nothing lost by a restart."""
        self.ring.flush()
        if not self.ring.in_memory:
            self.numbers.close()

    def diagnose(self):
        """How this node fares."""
        from node import diagnosis

        try:
            return diagnosis.of(self)
        finally:
            forget("node.diagnosis")

    async def _keep(self):
        """The memory's readings to flash when they have waited long enough; and what the flash could not hold."""
        discarded = failed = 0
        while True:
            self.progress.mark("ring", 60)
            self.ring.flush_due()
            if self.ring.discarded != discarded:
                discarded = self.ring.discarded
                self.uplink.report(
                    "discarded",
                    "%d readings, the ring is full; last of boot %s: %d to %d" % ((discarded,) + self.ring.gone),
                )
            self.uplink.wake.set()
            if self.uplink.offers and not self.work:
                self.work = asyncio.create_task(self.update("update"))
            self.led.fault(STORAGE, self.ring.failed != failed)
            failed = self.ring.failed
            await asyncio.sleep_ms(1000)

    async def update(self, what):
        """A self-test or an update: its modules are there for as long as it takes. A fault in it ends the program."""
        try:
            await __import__("node." + what, None, None, ("run",)).run(self)
        except Exception as error:
            self.restart("%s: %s: %s" % (what, type(error).__name__, error))
        forget("node." + what)
        self.work = None

    def _take_up(self):
        """What is to be done about an update: "trial", "update" or None."""
        from node import slots

        try:
            return slots.begin(self)
        finally:
            forget("node.slots")

    def _open_ring(self):
        self.ring.open()
        if self.numbers.lost is not None:
            self.ring.mark_lost(*self.numbers.lost)
        self.numbers.begin()

    def _stuck(self, name):
        last_words("no progress of " + name)


def last_words(text):
    """For the next start to tell."""
    try:
        with open(_CRASH, "w") as file:
            file.write(text[:180] + "\n")
    except OSError:  # a full flash
        pass
