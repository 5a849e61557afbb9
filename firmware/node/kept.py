"""/settings.json: what commands have set. Loaded for a command and at a start, for a moment."""

import json
import os

from micropython import const

_SETTINGS = const("settings.json")
_INTERVAL_LOW_S = const(2)
_INTERVAL_HIGH_S = const(3600)


class ConfigError(ValueError):
    """One line: the setting, the rule, the way out."""


def settings():
    """What was set; nothing where there is none or it is damaged."""
    try:
        with open(_SETTINGS) as file:
            kept = json.load(file)
        return kept if isinstance(kept, dict) else {}
    except (OSError, ValueError):
        return {}


def keep(changes):
    """Add to what was set; one rename commits it."""
    kept = settings()
    kept.update(changes)
    with open(_SETTINGS + ".new", "w") as file:
        json.dump(kept, file)
    os.rename(_SETTINGS + ".new", _SETTINGS)


def interval(value):
    """Seconds between measurements, or ConfigError."""
    return number("interval_s", value, _INTERVAL_LOW_S, _INTERVAL_HIGH_S)


def number(what, value, low, high):
    """A number in its bounds, or ConfigError."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not low <= value <= high:
        raise ConfigError("%s is a number from %d to %d, not %r" % (what, low, high, value))
    return value
