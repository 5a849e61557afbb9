"""What this node is: its capabilities. Loaded while they are told, and forgotten."""

import json


def told(config, version, places):
    """The payload, in parts: a heap in pieces may have no place for the whole and a copy of it."""
    about = {
        "device_name": config["name"] or config["device"],
        "device_type": "esp32",
        "device_location": config["location"],
        "firmware_version": version,
        "sensors": [place.name for place in places],
        "board": config["about"]["board"],
        "mpy": config["about"]["mpy"],
        "slots": config["about"]["slots"],
    }
    parts, mark = [json.dumps(about)[:-1]], ', "metadata": {'
    for place in places:
        metadata = {
            "driver": place.driver,
            "interval_s": place.interval_s,
            "channels": place.sensor.CHANNELS,
            "commands": " ".join(getattr(place.sensor, "COMMANDS", ())),
        }
        parts.append("%s%s: %s" % (mark, json.dumps(place.name), json.dumps(metadata)))
        mark = ", "
    return [part.encode() for part in parts] + [b"}}"]
