"""What the gateway may tell a node to do: one at a time, at most one of a kind waiting, each with an answer.

`identify`, `restart`, `set_interval`, `get_diagnostics`, and a sensor's own (an SCD30's calibration).
"""

from micropython import const

from node import wire
from node.tasks import forget, within

_WAITING_MOST = const(4)
_SEEN_MOST = const(8)
_WITHIN_MS = const(30000)
UNPROVEN = "not yet: no acknowledgement signed with this node's key came over this connection"


class Commands:
    """`station` has the sensors; `diagnose()` is a dict; `restart(reason)` does not come back."""

    def __init__(self, station, led, diagnose, restart):
        self._station, self._led = station, led
        self._diagnose, self._restart = diagnose, restart
        self._waiting = []
        self._seen = []
        self._after = None

    @property
    def waiting(self):
        """Whether something is to be done."""
        return bool(self._waiting)

    def heard(self, command_id, payload, proven):
        """Take a command in; a repetition of one that was heard is none."""
        if "/" in command_id or command_id in self._seen:
            return
        self._seen = self._seen[1 - _SEEN_MOST :] + [command_id]
        name, args, refusal = "", {}, None
        try:
            name, args = wire.command(payload)
        except wire.WireError as error:
            refusal = str(error)
        if not proven:
            refusal = UNPROVEN
        elif name in [each[1] for each in self._waiting]:
            refusal = "busy: another %s is waiting" % name
        elif len(self._waiting) >= _WAITING_MOST:
            refusal = "busy: %d commands are waiting" % _WAITING_MOST
        if len(self._waiting) < 2 * _WAITING_MOST:
            self._waiting.append((command_id, name, args, refusal))

    async def obey(self, answer):
        """Do the next that waits and `answer` it with (command id, payload)."""
        if not self._waiting:
            return
        command_id, name, args, refusal = self._waiting.pop(0)
        if refusal is None:
            try:
                value = await within(self._do(name, args), _WITHIN_MS)
            except Exception as error:  # the gateway is told whatever it was
                refusal = "%s" % error if isinstance(error, ValueError) else "%s: %s" % (type(error).__name__, error)
        await answer(command_id, wire.result(failure=refusal[:180]) if refusal else wire.result(value))
        if self._after:
            self._restart(self._after)

    async def _do(self, name, args):
        if name == "identify":
            seconds = args.get("seconds", 10)
            if not isinstance(seconds, (int, float)) or not 1 <= seconds <= 600:
                raise ValueError("seconds is a number from 1 to 600")
            self._led.identify(seconds)
            return {"blinks_s": seconds}
        if name == "restart":
            self._after = "told to"
            return {"restarts": True}
        if name == "set_interval":
            return self._set_interval(args)
        if name == "get_diagnostics":
            return self._diagnose()
        return await self._calibrate(name, args)

    def _set_interval(self, args):
        from node import config

        interval_s = config.interval(args.get("interval_s"))
        places = [self._station.place(args["sensor"])] if args.get("sensor") else self._station.places
        kept = config.settings().get("interval_s", {})
        for place in places:
            kept[place.name] = interval_s
        config.keep({"interval_s": kept})
        forget("node.config")
        for place in places:
            self._station.set_interval(place, interval_s)
        return {place.name: place.interval_s for place in self._station.places}

    async def _calibrate(self, name, args):
        able = [place for place in self._station.places if hasattr(place.sensor, "COMMANDS")]
        wanted = [place for place in able if args.get("sensor") in (None, place.name)]
        known = name == "show_calibration" or any([name in place.sensor.COMMANDS for place in able])
        if not known:
            raise ValueError("no command %r here" % name[:40])
        if len(wanted) != 1:
            raise ValueError("sensor is one of %s" % ", ".join([place.name for place in able]))
        sensor = wanted[0].sensor
        if name == "show_calibration":
            return await sensor.calibration()
        return await sensor.command(name, args)
