"""Wi-Fi, then a broker, then a session, again and again: back-off with jitter, and a restart where nothing helps.

`session(host)` is called on each connection, and the connection ends with it. A broker's address comes from the
settings, from the last one that proved to be the gateway's, or from the network by mDNS.
"""

import asyncio
import json
import os
import random

from micropython import const

from node.mqtt import Refused
from node.tasks import first, forget

_WIFI_S = const(20)  # for one attempt: by itself the radio tries for ever, even with a wrong password
_FIRST_S = const(1)
_LAST_S = const(60)
_RESTART_S = const(900)
_CACHE = const("broker.json")


class Link:
    """`up` says whether a session runs. `restart(reason)` is called after _RESTART_S without a broker."""

    def __init__(self, config, wlan, client, clock, progress, session, restart):
        self._networks, self._broker, self._device = config["wifi"], config["broker"], config["device"]
        self._wlan, self._client, self._clock, self._progress = wlan, client, clock, progress
        self._session, self._restart = session, restart
        self._will = None
        self._up_ms = clock.uptime_ms()
        self._candidates = []
        self._suspects = []  # addresses that did not prove to be the gateway's, asked last
        self.up = False
        self.address = None
        self.connects = 0
        self.trouble = self._said = ""

    async def run(self, will):
        """Keep a session for ever. `will` is (topic, payload)."""
        self._will = will
        wait_s = _FIRST_S
        while True:
            self._progress.mark("link", 300)
            began_ms = self._clock.uptime_ms()
            try:
                await self._wifi()
                await self._connected(await self._next_address())
            except Refused as error:
                self.trouble = str(error)
                wait_s = _LAST_S if error.code in (4, 5) else wait_s
            except (OSError, ValueError) as error:
                self.trouble = "%s: %s" % (type(error).__name__, error)
            self._say(self.trouble)
            lasted_s = (self._clock.uptime_ms() - began_ms) // 1000
            if (self._clock.uptime_ms() - self._up_ms) // 1000 >= _RESTART_S:
                self._restart("no broker for %d minutes: %s" % (_RESTART_S // 60, self.trouble))
            wait_s = _FIRST_S if lasted_s > 2 * _LAST_S else wait_s
            await asyncio.sleep_ms(random.randint(wait_s * 500, wait_s * 1000))
            wait_s = min(wait_s * 2, _LAST_S)

    def proven(self):
        """The gateway is behind the present address: ask there first from now on, over restarts too."""
        if self.address in self._suspects:
            self._suspects.remove(self.address)
        if self.address != cached():
            try:
                with open(_CACHE + ".new", "w") as file:
                    json.dump(self.address, file)
                os.rename(_CACHE + ".new", _CACHE)
            except OSError:  # a full flash: it is looked for again
                pass

    def suspect(self):
        """Nothing new is acknowledged there: others are asked first, and it is not remembered."""
        if self.address not in self._suspects:
            self._suspects = (self._suspects + [self.address])[-8:]
        if self.address == cached():
            try:
                os.remove(_CACHE)
            except OSError:  # a flash that takes nothing more: it is asked first once more after a restart
                pass

    def _say(self, words):
        """On the console, for whoever sets it up: once until it changes."""
        if words != self._said:
            self._said = words
            print("node:", words)

    async def _connected(self, address):
        self.address = address
        try:
            await self._client.connect(address[0], address[1], self._will, self._tls())
            self.up = True
            self._say("connected to %s:%d" % address)
            self.connects += 1
            self._up_ms = self._clock.uptime_ms()
            await first(self._client.listen(), self._session(address[0]), self._still_up())
        finally:
            self._up_ms = self._clock.uptime_ms() if self.up else self._up_ms
            self.up = False
            self._client.close()

    async def _still_up(self):
        """Progress while the session stands; the radio's word is only taken for "no"."""
        while True:
            await asyncio.sleep_ms(2000)
            await self._client.care()
            self._progress.mark("link", 60)
            self._up_ms = self._clock.uptime_ms()
            if not self._wlan.isconnected():
                raise OSError("the Wi-Fi is gone")

    async def _wifi(self):
        wlan = self._wlan
        for name, password in self._networks:
            if wlan.isconnected():
                return
            wlan.active(True)
            wlan.config(reconnects=0)
            try:
                wlan.connect(name, password)
                for _ in range(_WIFI_S * 5):
                    if wlan.isconnected():
                        return
                    await asyncio.sleep_ms(200)
                wlan.disconnect()
            except OSError as error:
                self.trouble = "Wi-Fi: %s" % error
            wlan.active(False)  # a clean start: connecting while it connects is an error
            await asyncio.sleep_ms(1000)
            self._progress.mark("link", 300)
        raise OSError("no Wi-Fi")

    async def _next_address(self):
        if self._broker["host"]:
            return self._broker["host"], self._broker["port"]
        if not self._candidates:
            last = cached()
            found = [last] if last else []
            found += [each for each in await search(self._broker["name"]) if each not in found]
            trusted = [each for each in found if each not in self._suspects]
            self._candidates = trusted + [each for each in found or self._suspects if each in self._suspects]
        if not self._candidates:
            raise OSError("no broker answers to mDNS, and none is in the settings")
        return self._candidates.pop(0)

    def _tls(self):
        if not self._broker["ca"]:
            return None
        import tls

        context = tls.SSLContext(tls.PROTOCOL_TLS_CLIENT)
        context.verify_mode = tls.CERT_REQUIRED
        with open(self._broker["ca"], "rb") as file:
            context.load_verify_locations(file.read())
        return context


async def search(name):
    """Who answers to mDNS; the module is loaded for this only."""
    from node import mdns

    try:
        return await mdns.find(name)
    finally:
        forget("node.mdns")


def cached():
    """The address that proved to be the gateway's last, None where there is none."""
    try:
        with open(_CACHE) as file:
            host, port = json.load(file)
        return (host, port) if isinstance(host, str) and isinstance(port, int) else None
    except (OSError, ValueError, TypeError):
        return None
