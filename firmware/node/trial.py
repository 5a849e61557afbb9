"""The self-test of what was installed, at its first starts: what worked before works, and the gateway has a reading.

Where that does not come true in time it is noted why, and the node starts anew: a slot has three starts (main.py counts
them), an image one (the boot loader falls back). A broker that is away that long ends the new version too: the old
one is known to have reached it.
"""

import asyncio

from micropython import const

from node import VERSION, slots
from node.tasks import forget

_DEADLINE_MS = const(300000)


async def run(app):
    """Confirm what runs, or restart."""
    try:
        await _run(app)
    finally:
        for name in ("image", "slots"):
            forget("node." + name)


async def _run(app):
    state = slots.read(slots.STATE)
    is_image = state.get("pending") != slots.running()
    about = slots.read() if is_image else state
    said = {"offer": about.get("offer"), "phase": "testing", "version": about.get("version")}
    app.uplink.tell(said)
    why = await judge(app, about, None if is_image else about.get("version"))
    if why:
        about["why"] = why[:120]
        slots.write(slots.PATH if is_image else slots.STATE, about)
        app.restart("the self-test of %s: %s" % (about.get("version"), why))
        return
    if is_image:
        from node import image

        image.confirm(about)
    else:
        slots.write(slots.STATE, {"active": slots.running(), "offer": said["offer"], "version": said["version"]})
    app.hello["update"] = slots.outcome()
    app.uplink.tell(dict(said, phase="confirmed"))


async def judge(app, about, version):
    """None once all is well, or what was missing to the end; `version` is what the program has to be."""
    if version is not None and slots.numbers(version) != slots.numbers(VERSION):
        return "its files say that they are version %s" % VERSION
    began_ms, mark, why = app.clock.uptime_ms(), None, ""
    while app.clock.uptime_ms() - began_ms < _DEADLINE_MS:
        dead = [name for name in about.get("sensors", ()) if not works(app.station, name)]
        if dead:
            mark, why = None, "sensor %s does not answer" % ", ".join(dead)
        elif mark is None:
            mark = max(1, app.numbers.seq)
        elif not app.link.up:
            why = "no connection: %s" % (app.link.trouble or "nothing tried yet")
        elif app.uplink.acked < mark:
            why = "no acknowledgement of a reading of this start came"
        else:
            return None
        await asyncio.sleep_ms(500)
    return why


def works(station, name):
    """Whether this sensor's newest measurement came."""
    return bool([place for place in station.places if place.name == name and place.failing is False])
