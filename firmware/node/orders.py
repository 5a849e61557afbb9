"""Commands that wait: judged, then done one at a time, each with an answer. Loaded while there are any.

`identify`, `restart`, `set_interval`, `get_diagnostics`, and a sensor's own (an SCD30's calibration).
"""

import json

from micropython import const

from node import wire
from node.tasks import forget, within

_WAITING_MOST = const(4)
_SEEN_MOST = const(8)
_WITHIN_MS = const(30000)
_MAC_DIGITS = const(32)


class Orders:
    """`kept` remembers what was heard; the others are as Commands has them."""

    def __init__(self, kept, who, station, led, diagnose, restart, report):
        self._kept = kept
        self._device, self._key, self._boot = who
        self._station, self._led, self._report = station, led, report
        self._diagnose, self._restart = diagnose, restart
        self.waiting = []
        self._doing = self._after = None

    def heard(self, command_id, payload):
        """Take a command in."""
        kept = self._kept
        name, args, boot, refusal, more = "", {}, None, None, None
        try:
            name, args, boot, n = command(payload, self._device, self._key, command_id)
            kept.seen = kept.seen[1 - _SEEN_MOST :] + [command_id]
            if boot is not None and (boot != self._boot or n <= kept.n):
                refusal = "it is for another boot" if boot != self._boot else "its number was used before"
                more = {"boot": self._boot, "n": kept.n}
            else:
                kept.n = n  # also of one that has to be repeated: nobody else may
                refusal = self._busy(name)
        except wire.WireError as error:
            refusal = str(error)
        if self._key is not None and refusal and boot != "" and not refusal.startswith("busy"):  # "": it only asks
            kept.refused += 1
            self._report("command_refused", "%d commands refused, the last one because: %s" % (kept.refused, refusal))
        if refusal is None or len(self.waiting) < 2 * _WAITING_MOST:
            self.waiting.append((command_id, name, args, refusal, more))

    def _busy(self, name):
        """Why another of this name has to wait, None where it has not."""
        under_way = [each[1] for each in self.waiting if not each[3]]
        if name == self._doing or name in under_way:
            return "busy: another %s is under way" % name[:40]
        return "busy: %d commands are waiting" % _WAITING_MOST if len(under_way) >= _WAITING_MOST else None

    async def obey(self, answer):
        """Do the next that waits and `answer` it with (command id, payload)."""
        if not self.waiting:
            return
        command_id, name, args, refusal, more = self.waiting.pop(0)
        if refusal is None:
            self._doing = name
            try:
                told = result(await within(self._do(name, args), _WITHIN_MS))
            except Exception as error:  # the gateway is told whatever it was
                refusal = "%s" % error if isinstance(error, ValueError) else "%s: %s" % (type(error).__name__, error)
            finally:
                self._doing = None
        if refusal:
            told = result(None, refusal[:180], more)
        await answer(command_id, *signed(told, self._key, self._device, command_id))
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
        from node import kept

        try:
            interval_s = kept.interval(args.get("interval_s"))
            places = [self._station.place(args["sensor"])] if args.get("sensor") else self._station.places
            intervals = kept.settings().get("interval_s", {})
            for place in places:
                intervals[place.name] = interval_s
            kept.keep({"interval_s": intervals})
        finally:
            forget("node.kept")
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
        return await wanted[0].sensor.command(name, args)


def command(payload, device="", key=None, command_id=""):
    """(name, args, boot, n) of a command; WireError where it is none, or the key did not sign it for device and id.
    Without a key boot is None: it is for whichever."""
    body = wire.plain(payload) if key is None else wire.signed(payload, key, "command", device, command_id)
    name, args = body.get("name"), body.get("args", {})
    if not isinstance(name, str) or not isinstance(args, dict):
        raise wire.WireError("a command is {name, args}")
    if key is None:
        return name, args, None, 0
    boot, n = body.get("boot"), body.get("n")
    if not isinstance(boot, str) or not isinstance(n, int) or isinstance(n, bool):
        raise wire.WireError("a signed command names boot and n")
    return name, args, boot, n


def result(value=None, failure=None, more=None):
    """The answer to a command, without its end; an object in small parts, for the heap is in pieces. `more` is what a
    refusal tells beside its reason."""
    if failure is not None:
        body = {"ok": False, "error": failure}
        body.update(more or {})
        return [json.dumps(body)[:-1].encode()]
    if not isinstance(value, dict):
        return [b'{"ok": true, "result": ', json.dumps(value).encode()]
    parts, mark = [], '{"ok": true, "result": {'
    for name, told in value.items():
        parts.append(("%s%s: %s" % (mark, json.dumps(name), json.dumps(told))).encode())
        mark = ", "
    return parts + [b"}" if parts else b'{"ok": true, "result": {}']


def signed(parts, key, device, command_id):
    """A result with its end: where there is a key, the mac over the object without it is the last member."""
    if key is None:
        return parts + [b"}"]
    before = ("result\n%s\n%s\n" % (device, command_id)).encode()
    digits = wire.hmac_sha256(key, before, *(parts + [b"}"]))[:_MAC_DIGITS]
    return parts + [(', "mac": "%s"}' % digits).encode()]
