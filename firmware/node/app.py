"""The program: settings, then sensors, ring, link and watchdog as tasks of one loop."""

import asyncio
import gc
import os

import machine

from node import VERSION
from node.boot import SPACE, Numbers
from node.clock import Clock
from node.commands import Commands
from node.link import Link
from node.measure import Station
from node.mqtt import Client
from node.ring import Ring
from node.tasks import first, forget
from node.uplink import Uplink
from node.watch import STORAGE, TIMEOUT_MS, Led, Progress, guard

RING = "ring"
CRASH = "crash.txt"
CAUSES = {1: "power on", 2: "hard reset", 3: "watchdog", 4: "deep sleep", 5: "soft reset"}


def main():
    """Run for ever; comes back only by an error, and then nothing is left in memory only."""
    from node import config

    settings = config.load()
    del config
    forget("node.config")
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
        self.led = make_led(settings["led"])
        random32 = int.from_bytes(os.urandom(4), "big")
        self.numbers = Numbers(esp32.NVS(SPACE), random32, 1)
        self.ring = Ring(RING, settings["ring_kb"] * 1024, self.numbers.boot)
        self._open_ring()
        self.client = Client(settings["device"], settings["broker"]["user"], settings["broker"]["password"])
        self._hello = {"firmware_version": VERSION, "reset_cause": CAUSES.get(machine.reset_cause(), "unknown")}
        self.uplink = Uplink(settings, self.client, self.ring, self.numbers, self.clock, self.led, self._hello)
        bus = make_bus(settings["i2c"])
        parts = self.ring, self.numbers, self.clock, self.progress, self.led, self.uplink.report
        self.station = Station(settings, bus, *parts, self.uplink.wake)
        network.hostname(settings["device"].replace("_", "-").replace(".", "-")[:32])
        self.wlan = network.WLAN(network.WLAN.IF_STA)
        self.link = Link(settings, self.wlan, self.client, self.clock, self.progress, self.uplink.session, self.restart)
        self.client.on_message = self.uplink.heard
        self.uplink.link, self.uplink.station = self.link, self.station
        self.uplink.commands = Commands(self.station, self.led, self.diagnose, self.restart)
        self._tell_last_words()

    async def run(self):
        """All tasks; a fault in any of them, or one that is stuck, ends the program, and the loader starts it anew."""
        watchdog = machine.WDT(timeout=TIMEOUT_MS)
        tasks = [guard(self.progress, watchdog, self._stuck), self._keep()]
        tasks += [self.station.run(place) for place in self.station.places]
        tasks.append(self.link.run(self.uplink.will()))
        if self.led.pin is not None:
            tasks.append(self.led.run())
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
        gc.collect()
        ring, link, uplink = self.ring, self.link, self.uplink
        return {
            "firmware_version": VERSION,
            "boot": self.numbers.boot,
            "seq": self.numbers.seq,
            "uptime_ms": self.clock.uptime_ms(),
            "reset_cause": self._hello["reset_cause"],
            "clock": "ntp" if self.clock.zero_ms else "none",
            "heap": {"used": gc.mem_alloc(), "free": gc.mem_free()},
            "rssi_dbm": self._rssi(),
            "broker": "%s:%d" % self.link.address,
            "connects": link.connects,
            "ring": {
                "memory": ring.in_memory,
                "flash_bytes": ring.flash_bytes,
                "in_flight": ring.in_flight,
                "discarded": ring.discarded,
                "damaged": ring.damaged,
                "flushes": ring.flushes,
                "failed": ring.failed,
            },
            "sent": uplink.sent,
            "acks": uplink.acks,
            "refused": uplink.refused,
            "failures": {place.name: place.failures for place in self.station.places},
        }

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
            self.led.fault(STORAGE, self.ring.failed != failed)
            failed = self.ring.failed
            await asyncio.sleep_ms(1000)

    def _open_ring(self):
        self.ring.open()
        if self.numbers.lost is not None:
            self.ring.mark_lost(*self.numbers.lost)
        self.numbers.begin()

    def _rssi(self):
        try:
            return self.wlan.status("rssi")
        except (OSError, ValueError):
            return None

    def _stuck(self, name):
        last_words("no progress of " + name)

    def _tell_last_words(self):
        try:
            with open(CRASH) as file:
                words = file.readline().strip()
            os.remove(CRASH)
        except OSError:
            return
        self._hello["last_words"] = words[:120]
        self.uplink.report("restarted", words)


def last_words(text):
    """For the next start to tell."""
    try:
        with open(CRASH, "w") as file:
            file.write(text[:180] + "\n")
    except OSError:  # a full flash
        pass


def make_bus(pins):
    """SoftI2C: its time-out is what a sensor may stretch the clock, which an SCD30 does for 150 ms."""
    return machine.SoftI2C(scl=machine.Pin(pins["scl"]), sda=machine.Pin(pins["sda"]), freq=50000, timeout=200000)


def make_led(given):
    """The LED of the settings: a pin's number or {"pin", "on"}; none where there is none."""
    if given is None:
        return Led(None, 1)
    found = given if isinstance(given, dict) else {"pin": given}
    return Led(machine.Pin(found["pin"], machine.Pin.OUT), found.get("on", 1))
