"""/node.json: who this node is, its networks, its broker, its sensors. `set_interval` lands in /settings.json."""

import binascii
import json

from micropython import const

from node.kept import ConfigError, interval, number, settings

_PATH = const("node.json")
_LETTERS = const("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-")
_INTERVAL_S = const(10)
_RING_KB = const(512)
_NTP_PORT = const(123)


def load():
    """The checked settings as a dict with every default filled in; ConfigError otherwise."""
    try:
        with open(_PATH) as file:
            text = file.read()
        if not text.strip().endswith("}"):  # the parser forgives a missing end
            raise ValueError
        given = json.loads(text)
    except OSError:
        raise ConfigError("/%s is not there: copy it to the board (firmware/README.md)" % _PATH)
    except ValueError:
        raise ConfigError("/%s is not JSON: correct it" % _PATH)
    return checked(given, settings())


def checked(given, kept):
    """The settings of `given` with `kept` laid over the intervals; ConfigError names the first fault."""
    if not isinstance(given, dict):
        raise ConfigError("/%s: one JSON object" % _PATH)
    mode = given.get("mode", "mqtt")
    if mode not in ("mqtt", "bthome"):
        raise ConfigError('mode is "mqtt" or "bthome", not %r' % mode)
    found = {
        "mode": mode,
        "board": given.get("board"),
        "device": _id("device", given.get("device")),
        "name": str(given.get("name", ""))[:100],
        "location": str(given.get("location", ""))[:100],
        "key": _key("key", given.get("key"), 16, 64),
        "wifi": _wifi(given.get("wifi"), mode),
        "broker": _broker(given.get("broker", {})),
        "ntp": given.get("ntp"),
        "ntp_port": number("ntp_port", given.get("ntp_port", _NTP_PORT), 1, 65535),
        "ring_kb": number("ring_kb", given.get("ring_kb", _RING_KB), 32, 8192),
        "led": given.get("led"),
        "i2c": _i2c(given.get("i2c", {})),
        "bthome": given.get("bthome", {}),
    }
    found["sensors"] = _sensors(given.get("sensors"), kept.get("interval_s", {}))
    return found


def _id(what, value):
    if not isinstance(value, str) or not 1 <= len(value) <= 64 or [c for c in value if c not in _LETTERS]:
        raise ConfigError("%s is 1 to 64 of A-Z a-z 0-9 . _ -, not %r" % (what, value))
    return value


def _key(what, value, least, most):
    if value is None:
        return None
    try:
        key = binascii.unhexlify(value)
    except (ValueError, TypeError):
        key = b""
    if not least <= len(key) <= most:
        raise ConfigError("%s is %d to %d bytes in hex, as `gateway node add` prints it" % (what, least, most))
    return key


def _wifi(value, mode):
    networks = [value] if isinstance(value, dict) else value or []
    for network in networks:
        if not isinstance(network, dict) or not isinstance(network.get("ssid"), str):
            raise ConfigError('wifi is {"ssid", "password"} or a list of them')
    if mode == "mqtt" and not networks:
        raise ConfigError('wifi is missing: {"ssid", "password"}')
    return [(network["ssid"], network.get("password")) for network in networks]


def _broker(value):
    if not isinstance(value, dict):
        raise ConfigError('broker is an object: {"host", "port", "user", "password", "ca"}, each may be left out')
    found = {key: value.get(key) for key in ("host", "user", "password", "ca", "name")}
    found["port"] = number("broker.port", value.get("port", 8883 if found["ca"] else 1883), 1, 65535)
    return found


def _i2c(value):
    return {key: number("i2c." + key, value.get(key, pin), 0, 48) for key, pin in (("sda", 21), ("scl", 22))}


def _sensors(given, intervals):
    if not isinstance(given, list) or not given:
        raise ConfigError('sensors is a list such as [{"driver": "scd30", "interval_s": 10}]')
    found = []
    for each in given:
        if not isinstance(each, dict) or "driver" not in each:
            raise ConfigError("each sensor names its driver, not %r" % each)
        name = _id("sensor name", each.get("name", each["driver"]))
        if name in [other["name"] for other in found]:
            raise ConfigError("two sensors are named %s: give each a name of its own" % name)
        interval_s = intervals.get(name, each.get("interval_s", _INTERVAL_S))
        options = each.get("options", {})
        found.append({"driver": each["driver"], "name": name, "interval_s": interval(interval_s), "options": options})
    return found
