"""The arguments of `gateway node provision`; imported at every start of the command line."""

import argparse
from collections.abc import Callable
from pathlib import Path

Lazily = Callable[[str, str], Callable[[argparse.Namespace], int]]


def add(acts: "argparse._SubParsersAction[argparse.ArgumentParser]", lazily: Lazily) -> argparse.ArgumentParser:
    """The command; `lazily` names what runs it."""
    make = acts.add_parser("provision", help="make an ESP32 on a USB port a node of this gateway")
    make.add_argument("port", metavar="PORT", help="as in /dev/ttyUSB0")
    make.add_argument("--device", required=True, metavar="ID", help="what it is called: as in bedroom-1")
    make.add_argument("--wifi", metavar="SSID", help="its network; the password is asked for")
    make.add_argument("--wifi-password-file", type=Path, metavar="FILE", help="its first line is the password")
    for name in ("name", "location"):
        make.add_argument(f"--{name}")
    make.add_argument("--broker", metavar="HOST[:PORT]", help="default: it looks for the gateway by mDNS")
    sensor = "as in scd30 or bmp280:interval=60; may be repeated"
    make.add_argument("--sensor", action="append", default=[], metavar="DRIVER[:NAME=VALUE,…]", help=sensor)
    for name, what in (("sda", "pin, default 21"), ("scl", "pin, default 22"), ("led", "pin of a light")):
        make.add_argument(f"--{name}", type=int, metavar="PIN", help=what)
    make.add_argument("--ring-kb", type=int, metavar="N", help="how much flash unsent readings may take, default 512")
    make.add_argument("--ca", action="store_true", help="talk TLS: the gateway's certificate goes along")
    make.add_argument("--bundle", type=Path, metavar="FILE", help="a signed bundle, not the gateway's own firmware")
    make.add_argument("--flash", type=Path, metavar="FILE.bin", help="put this MicroPython on the chip first (esptool)")
    make.add_argument("--rotate", action="store_true", help="another key and password; those before end")
    make.add_argument("--replace", action="store_true", help="of a board that was another device; its readings go")
    make.add_argument("--erase", action="store_true", help="begin with an empty file system; unsent readings go")
    make.add_argument("--yes", action="store_true", help="it cannot be undone")
    make.add_argument("--dry-run", action="store_true", help="look at the board and say what would be done")
    make.set_defaults(run=lazily("provision", "provision"))
    return make
