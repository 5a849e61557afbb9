"""What is kept of updates: slot.json, which main.py reads as well, and update.json. Loaded at each start, for a moment.

update.json is the update under way: the offer's fields, "tries" (how often it was taken up again), for an image
"blocks" (that are written) and, once it is to be started, the partition "pending"; or how it ended: {"offer",
"version", "phase", "error"}. image.json is the version of the image in a partition: {"label", "version"}.
"""

import json
import os
import sys

from micropython import const

from node import VERSION

STATE = "slot.json"
PATH = "update.json"
_IMAGE = const("image.json")
_TRIES_MOST = const(10)
_OTA = const(0x10)  # of a partition's subtypes: ota_0 and those behind it
_OTHERS = const("refused failed cancelled rolled_back")


def running():
    """The slot that this program was started from; "" where no loader did."""
    return sys.path[0] if sys.path[0] in ("a", "b") else ""


def read(path=PATH):
    """A state, that of the update unless told otherwise; {} where there is none or it is damaged."""
    try:
        with open(path) as file:
            found = json.load(file)
        return found if isinstance(found, dict) else {}
    except (OSError, ValueError):
        return {}


def write(path, body):
    """One rename commits it."""
    with open(path + ".new", "w") as file:
        json.dump(body, file)
    os.rename(path + ".new", path)


def ended(found):
    """Whether a state is that of an update that is over."""
    phase = found.get("phase", "-")
    return phase == "confirmed" or phase in _OTHERS.split(" ")


def label():
    """Of the partition that runs, "" where the board's firmware is in one piece."""
    try:
        from esp32 import Partition

        found = Partition(Partition.RUNNING).info()
        return found[4] if found[1] & _OTA else ""
    except (ImportError, OSError):
        return ""


def numbers(version):
    """The three numbers of a version, None where it is none."""
    parts = version.split(".") if isinstance(version, str) and len(version) < 20 else ()
    if len(parts) != 3 or not all([part.isdigit() for part in parts]):
        return None
    return tuple([int(part) for part in parts])


def version():
    """What this node runs: the program's version, or the image's where one that is newer was installed."""
    if not label():
        return VERSION
    found = read() if "pending" in read() else read(_IMAGE)
    runs = found.get("version") if label() in (found.get("pending"), found.get("label")) else None
    return runs if (numbers(runs) or ()) > numbers(VERSION) else VERSION


def board(given):
    """(board, mpy, slots) for the capabilities; `given` is the setting."""
    about = sys.implementation
    chip = getattr(about, "_machine", "").split(" ")[-1].lower()  # "ESP32C3 module with ESP32C3"
    mpy = getattr(about, "_mpy", 0) & 0xFF
    return {"board": given or chip, "mpy": mpy or None, "slots": "files,image" if label() else "files"}


def outcome():
    """How the last update ended: {"offer", "phase", "version", "error"}; None where none did, or one is under way."""
    state, found = read(STATE), read()
    phase, error = found.get("phase"), found.get("error")
    if not found:
        found = state
        if "failed" in state:
            phase, error = "rolled_back", state.get("why")
        elif "pending" not in state and state.get("active") != running():
            phase, error = "rolled_back", "slot %s does not start any more" % state.get("active")
        elif "pending" not in state:
            phase = "confirmed"
    if not ended({"phase": phase or "-"}) or "offer" not in found:
        return None
    return {"offer": found["offer"], "phase": phase, "version": found.get("version"), "error": (error or "")[:180]}


def end(found, phase, error):
    """An update is over before it was started; or that of an image is."""
    kept = {"offer": found.get("offer"), "version": found.get("version"), "phase": phase, "error": error[:180]}
    write(PATH, kept)


def keep_image(found):
    """The image that runs is to stay."""
    write(_IMAGE, {"label": label(), "version": found["version"]})
    end(found, "confirmed", "")


def begin(app):
    """Look how far an update is, and what board it is; "trial" or "update" where something is to be done about it."""
    app.settings["about"] = board(app.settings["board"])
    app.hello["firmware_version"] = version()
    try:
        return _do()
    except OSError:  # a full flash: the next start looks again
        return None
    finally:
        found = outcome()
        if found:
            app.hello["update"] = found


def _do():
    state, found = read(STATE), read()
    if found and found.get("offer") == state.get("offer"):  # it came as far as slot.json
        os.remove(PATH)
        found = {}
    if state.get("pending") and state["pending"] == running():
        return "trial"
    if not found or ended(found):
        return None
    if "pending" in found:
        if label() == found["pending"]:
            return "trial"
        end(found, "rolled_back", found.get("why", "the new image did not start, or did not confirm itself"))
        return None
    found["tries"] = found.get("tries", 0) + 1
    if found["tries"] > _TRIES_MOST:
        end(found, "failed", "interrupted by %d restarts" % _TRIES_MOST)
        return None
    write(PATH, found)
    return "update"
