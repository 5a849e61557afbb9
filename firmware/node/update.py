"""An update from offer to restart. Loaded while there is one, and forgotten afterwards.

An offer is taken if the node's key signed it for this boot. What is downloaded goes into a folder of its own beside
the slot that runs, is hashed on its way and once more from the flash, and only then gets the other slot's name; one
rename of slot.json puts it on trial. Whenever the power fails, the slot that runs stays as it is, and update.json says
where to go on.
"""

import asyncio
import binascii
import json
import os
import random

from micropython import const

from node import slots, wire
from node.fetch import Denied, fetch
from node.folders import digest, drop, is_whole, make, room, size_of
from node.offer import DIGITS, Refused, expect_manifest, expect_offer
from node.tasks import forget

_MARGIN_BYTES = const(32768)  # littlefs needs room to move in, and so does the ring
_STUCK_MS = const(900000)
_LASTS_MS = const(7200000)
_BAD_MOST = const(3)
_DENIED_MOST = const(5)  # after a restart the gateway may make a new offer first
_SENSORS_S = const(60)


class Ended(Exception):
    """The update is over: the phase that ends it, and why."""


async def run(app):
    """Go on with the update that is under way, and take in what was offered."""
    try:
        await _run(app)
    finally:
        for name in ("image", "offer", "fetch", "folders", "slots"):
            forget("node." + name)


async def _run(app):
    progress = slots.read()
    if progress and not slots.ended(progress):
        await Update(app, progress).run()
    while app.uplink.offers:
        body = opened(app, app.uplink.offers.pop(0))
        if body is None:
            continue
        if "cancel" in body:
            _cancelled(app, body)
        elif body.get("boot") != app.numbers.boot:  # somebody may repeat what he heard: nothing is kept of it
            tell(app, body, "refused", "it is for another boot")
        elif body["offer"] in app.seen:
            tell(app, body, "refused", "it was seen before")
        elif (slots.outcome() or {}).get("offer") == body["offer"]:  # the gateway missed how it ended
            _again(app)
        else:
            await _taken(app, body)


def opened(app, payload):
    """The signed object of a message, None where there is none; complaints go to the gateway."""
    try:
        if app.settings["key"] is None:
            raise wire.WireError("this node has no key, so it believes no offer")
        body = wire.signed(payload, app.settings["key"], "update", app.settings["device"])
        name = body.get("cancel", body.get("offer"))
        if not isinstance(name, str) or len(name) != 16 or [c for c in name if c not in DIGITS]:
            raise wire.WireError("an offer has 16 hexadecimal digits")
        return body
    except wire.WireError as error:
        app.uplink.report("update_refused", error)
        return None


def tell(app, about, phase, error="", percent=None):
    """Tell the gateway how far it is."""
    body = {"offer": about["offer"], "phase": phase, "version": about.get("version")}
    if error:
        body["error"] = error[:180]
    if percent is not None:
        body["percent"] = percent
    app.uplink.tell(body)


def _again(app):
    """Say once more how the last one ended."""
    app.hello["update"] = found = slots.outcome()
    tell(app, found, found["phase"], found["error"])


def _cancelled(app, body):
    """Nothing is under way: an offer that comes after its cancel is none."""
    if body.get("boot") != app.numbers.boot:
        return
    if (slots.outcome() or {}).get("offer") == body["cancel"]:
        _again(app)
        return
    app.seen = app.seen[-7:] + [body["cancel"]]
    tell(app, {"offer": body["cancel"]}, "cancelled", "it was not under way")


async def _taken(app, body):
    app.seen = app.seen[-7:] + [body["offer"]]
    try:
        expect_offer(body, app.settings["about"])
    except Refused as error:
        tell(app, body, "refused", str(error))
        slots.end(body, "refused", str(error))
        app.hello["update"] = slots.outcome()
        return
    progress = {key: body[key] for key in ("offer", "version", "kind", "host", "port", "tls")}
    progress["manifest_sha256"], progress["manifest_bytes"] = body["manifest_sha256"], body["manifest_bytes"]
    slots.write(slots.PATH, progress)
    app.hello.pop("update", None)
    tell(app, body, "accepted")
    await Update(app, progress).run()


class Update:
    """One update; `about` is what update.json holds."""

    def __init__(self, app, about):
        self.app, self.about = app, about
        self.began_ms = self.moved_ms = app.clock.uptime_ms()
        self.total = self.done = 0
        self._told = -1
        self._wait_s, self._denied = 1, 0

    async def run(self):
        """Do all of it; comes back only where it did not come to a restart."""
        try:
            manifest = await self._manifest()
            if self.about["kind"] == "image":
                from node import image

                await image.install(self, manifest["files"][0])
            else:
                await self._files(manifest)
            self.tell("restarting")
            for _ in range(20):  # for the gateway to hear of it
                if not self.app.uplink.updates:
                    break
                await asyncio.sleep_ms(500)
        except Ended as end:
            self._end(*end.args)
        except Refused as error:
            self._end("refused", str(error))
        except Exception as error:
            self._end("failed", "%s: %s" % (type(error).__name__, error))
        else:
            self.app.restart("update to %s" % self.about["version"])

    def tell(self, phase, error="", percent=None):
        """Tell the gateway how far this one is."""
        tell(self.app, self.about, phase, error, percent)

    async def working(self):
        """The sensors that work: after the update they have to as well. Shortly after a start it waits for them."""
        places = self.app.station.places
        for _ in range(_SENSORS_S):
            if not [place for place in places if place.failing is None]:
                break
            await asyncio.sleep_ms(1000)
        return [place.name for place in places if place.failing is False]

    def moved(self, count):
        """So many bytes more are there."""
        self.moved_ms = self.app.clock.uptime_ms()
        self._wait_s, self._denied = 1, 0
        self.done += count
        percent = self.done * 100 // max(1, self.total)
        if self.total and percent // 10 != self._told:
            self._told = percent // 10
            self.tell("downloading", percent=percent)

    def mind(self):
        """Take in what came meanwhile; Ended where this one is cancelled or lasts too long."""
        app = self.app
        while app.uplink.offers:
            payload = app.uplink.offers.pop(0)
            body = opened(app, payload)
            if body is None or body.get("boot") != app.numbers.boot:
                continue
            if body.get("cancel") == self.about["offer"]:
                raise Ended("cancelled", "it was told to")
            if "offer" in body and body["offer"] not in app.seen and self._replaced(body):
                app.uplink.offers.insert(0, payload)
                raise Ended("cancelled", "another update was offered")
        if app.clock.uptime_ms() - self.began_ms > _LASTS_MS:
            raise Ended("failed", "not done within %d minutes" % (_LASTS_MS // 60000))

    def _replaced(self, body):
        """Go on under a newer offer of the same files; whether it is one of others."""
        try:
            expect_offer(body, self.app.settings["about"])
        except Refused as error:
            tell(self.app, body, "refused", str(error))
            return False
        if body["manifest_sha256"] != self.about["manifest_sha256"]:
            return True
        self.app.seen = self.app.seen[-7:] + [body["offer"]]
        for key in ("offer", "host", "port", "tls"):
            self.about[key] = body[key]
        slots.write(slots.PATH, self.about)
        self._denied = 0
        self.tell("accepted")
        return False

    async def get(self, path, offset, size, take):
        """`fetch` a file of the offer, with back-off after a failure: None then; Ended where it is no use."""
        about, app = self.about, self.app

        def taken(block):
            take(block)
            self.moved(len(block))
            self.mind()

        try:
            self.mind()
            host = about["host"] or (app.link.address[0] if app.link.address else None)
            if host is None:
                raise OSError("no broker yet")
            said = "%s:%s" % (
                app.settings["device"],
                wire.mac(app.settings["key"], "download", app.settings["device"], about["offer"]),
            )
            where = "/files/firmware/%s/%s" % (about["offer"], path)
            return await fetch((host, about["port"], about["tls"]), where, "Node " + said, offset, size, taken)
        except OSError as error:
            await self._failed(path, error)
        return None

    async def _failed(self, path, error):
        if isinstance(error, Denied):
            self._denied += 1
            if self._denied >= _DENIED_MOST:
                raise Ended("failed", "the gateway does not give %s: %s" % (path, error))
        if self.app.clock.uptime_ms() - self.moved_ms > _STUCK_MS:
            raise Ended("failed", "nothing came for %d minutes: %s" % (_STUCK_MS // 60000, error))
        for _ in range(random.randint(self._wait_s, 2 * self._wait_s)):
            await asyncio.sleep_ms(1000)
            self.mind()
        self._wait_s = min(2 * self._wait_s, 32)

    # Files.

    def folder(self):
        """Where it is put together, and the slot that it becomes."""
        slot = "b" if slots.running() == "a" else "a"
        return (slot + ".new", slot) if self.about["kind"] == "files" else ("image.new", None)

    async def _manifest(self):
        """The manifest, from flash if it is there already."""
        folder, slot = self.folder()
        about = self.about
        for place in (slot, folder) if slot else (folder,):
            path = place + "/manifest.json"
            if await is_whole(path, about["manifest_sha256"]):
                break
            drop(place)
        else:
            os.mkdir(folder)
            self.tell("downloading", percent=0)
            await self._download("manifest.json", path, about["manifest_bytes"], about["manifest_sha256"])
        with open(path) as file:
            manifest = json.load(file)
        expect_manifest(manifest, about, self.app.settings["about"])
        self.total, self.done = sum([each["bytes"] for each in manifest["files"]]), 0
        return manifest

    async def _files(self, manifest):
        folder, slot = self.folder()
        if size_of(slot) < 0:
            free, needs = room(folder, manifest["files"])
            if free - needs < _MARGIN_BYTES:
                short = needs + _MARGIN_BYTES - free
                raise Ended("refused", "not enough flash: %d bytes more have to be free" % short)
            for each in manifest["files"]:
                make(folder, each["path"])
                await self._download(each["path"], folder + "/" + each["path"], each["bytes"], each["sha256"])
        else:  # it was complete when the power failed
            folder = slot
        self.tell("verifying")
        for each in manifest["files"]:
            self.mind()
            if not await is_whole(folder + "/" + each["path"], each["sha256"]):
                drop(folder)
                raise Ended("failed", "%s does not stand in the flash as it came" % each["path"])
        self.tell("installing")
        if folder != slot:
            os.rename(folder, slot)
        about, runs = self.about, slots.running()
        pending = {"active": runs, "pending": slot, "tries": 0, "offer": about["offer"], "version": about["version"]}
        pending["sensors"] = await self.working()
        slots.write(slots.STATE, pending)
        os.remove(slots.PATH)

    async def _download(self, path, target, size, sha256):
        bad = 0
        while True:
            if size_of(target) > size:
                os.remove(target)
            found, have = await digest(target)
            with open(target, "ab") as file:

                def take(block, file=file, found=found):
                    file.write(block)
                    found.update(block)

                self.done += have
                ranged = await self.get(path, have, size, take) if have < size else True
            if size_of(target) == size:
                if binascii.hexlify(found.digest()).decode() == sha256:
                    return
                bad += 1
                ranged = False
            if bad >= _BAD_MOST:
                raise Ended("failed", "%s came %d times with a wrong hash" % (path, bad))
            self.done -= size_of(target)
            if ranged is False:
                os.remove(target)

    def _end(self, phase, error):
        for each in self.folder()[0], "image.new":
            drop(each)
        slots.end(self.about, phase, error)
        self.app.hello["update"] = slots.outcome()
        self.tell(phase, error)
