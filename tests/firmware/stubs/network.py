"""`network` for the unix port: a station that is on the air when it was told to connect, unless a file says no."""

import os

STA_IF, AP_IF = 0, 1
STAT_GOT_IP = 1010
DOWN = "wifi-is-down"


def hostname(name=None):
    assert name is None or len(name) <= 32
    return name


class WLAN:
    IF_STA, IF_AP = 0, 1

    def __init__(self, interface=0):
        self._connected = False

    def active(self, on=None):
        if on is False:
            self._connected = False
        return True

    def connect(self, ssid=None, key=None):
        if self._connected:
            raise OSError("Wifi Internal State Error")
        self._connected = True

    def disconnect(self):
        self._connected = False

    def isconnected(self):
        try:
            os.stat(DOWN)
        except OSError:
            return self._connected
        return False

    def config(self, name=None, **settings):
        return b"\x24\x0a\xc4\x00\x01\x10" if name == "mac" else None

    def ifconfig(self):
        return ("127.0.0.1", "255.0.0.0", "127.0.0.1", "127.0.0.1")

    def status(self, what=None):
        return -55 if what == "rssi" else STAT_GOT_IP
