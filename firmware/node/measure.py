"""Each sensor at its own interval, into the ring; a sensor that fails is started anew and holds up no other."""

import asyncio

from micropython import const

from node.sensors import SensorError, open_sensor
from node.watch import SENSOR

_RETRY_S = const(10)
_PATIENCE_S = const(120)  # a sensor's own waits, a reset of it among them


class Station:
    """The sensors of one node. `report(code, text)` hears of one that fails, and that it works again;
    `wake` is set after each measurement."""

    def __init__(self, config, bus, ring, numbers, clock, progress, led, report, wake):
        self._ring, self._numbers, self._clock = ring, numbers, clock
        self._progress, self._led, self._report = progress, led, report
        self.places = [Place(each, open_sensor(each["driver"], bus, each["options"])) for each in config["sensors"]]
        self._wake = wake
        self.retold = False  # whether something that the node tells of itself has changed since
        numbers.block = self.window()

    def window(self):
        """How many readings there are in ten seconds: so many are in memory at most, and reserved at a time."""
        return sum([max(1, int(10 // place.interval_s) + 1) for place in self.places])

    def place(self, name):
        """The place of a sensor's name, ValueError where there is none; the only one where no name is given."""
        for place in self.places:
            if place.name == name or (name is None and len(self.places) == 1):
                return place
        raise ValueError("sensor is one of %s" % ", ".join([place.name for place in self.places]))

    def set_interval(self, place, interval_s):
        """From the next measurement on."""
        place.interval_s = interval_s
        self._numbers.block = self.window()
        place.changed = self.retold = True

    async def run(self, place):
        """Measure for ever."""
        due_ms = self._clock.uptime_ms()
        while True:
            self._progress.mark(place.name, place.interval_s + _PATIENCE_S)
            works = await self._once(place)
            step_ms = int(max(place.interval_s, 0 if works else _RETRY_S) * 1000)
            due_ms = max(due_ms + step_ms, self._clock.uptime_ms())
            place.changed = False
            while not place.changed and (left_ms := due_ms - self._clock.uptime_ms()) > 0:
                await asyncio.sleep_ms(min(left_ms, 5000))
            if place.changed:
                due_ms = self._clock.uptime_ms()

    async def _once(self, place):
        try:
            if not place.started:
                await place.sensor.start()
                place.started = True
            value = await place.sensor.read()  # one that never comes back is the watchdog's
        except (OSError, SensorError, ValueError) as error:
            place.started = False
            place.failures += 1
            if not place.failing:
                self._report("sensor " + place.name, "%s: %s" % (type(error).__name__, error))
            place.failing = True
            self._led.fault(SENSOR, True)
            return False
        if place.failing:
            self._report("sensor " + place.name, "answers again after %d failures" % place.failures)
            self._led.fault(SENSOR, any([other.failing for other in self.places if other is not place]))
        place.failing = False
        uptime_ms = self._clock.uptime_ms()
        self._ring.add(self._numbers.next(), place.name, uptime_ms, self._clock.unix_ms(uptime_ms), value)
        self._wake.set()
        return True


class Place:
    """A sensor and how it fares."""

    def __init__(self, config, sensor):
        self.name, self.driver, self.interval_s = config["name"], config["driver"], config["interval_s"]
        self.sensor = sensor
        self.started, self.failing = False, None  # None until the first measurement
        self.failures = 0
        self.changed = False
