"""What stands on the port: a board with MicroPython, one without, or none at all. Pure."""

import re
from dataclasses import dataclass
from typing import Any

from gateway.nodes.provision.errors import ProvisionError
from gateway.registry.described import clean

OLDEST = (1, 24)
_MARKS = (b"ets Jun", b"ets Jul", b"ESP-ROM:", b"rst:0x", b"invalid header")
_ROM = re.compile(rb"ESP-ROM:(esp32[a-z]*\d*)")
_CHIP = re.compile(r"ESP32-?([A-Z]\d+)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Facts:
    """A board as it describes itself. Sizes in bytes, 0 where unknown; `device` is whose node.json lies there, "" where
    none does, None where it cannot be read."""

    version: tuple[int, ...]
    platform: str
    machine: str
    chip: str
    mpy: int
    board_id: str
    flash_bytes: int
    free_bytes: int
    block_bytes: int
    device: str | None
    ring_bytes: int
    active: str


def read(told: Any) -> Facts:
    """From what our code printed on the board; ProvisionError where that is something else."""
    try:
        machine = clean(told["machine"])
        return Facts(
            tuple(int(part) for part in told["version"][:3]),
            clean(told["platform"]),
            machine,
            chip_of(machine),
            int(told["mpy"]),
            clean(told["id"]),
            int(told["flash"]),
            int(told["free"]),
            max(1, int(told["block"])),
            clean(told["device"]) if told["device"] is not None else None,
            int(told["ring"]),
            "b" if told["active"] == "b" else "a",
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ProvisionError(f"the board describes itself in words that are not ours ({error!r})") from None


def chip_of(machine: str) -> str:
    """As in "Generic ESP32S3 module with ESP32S3": esp32s3; "" for what is none."""
    found = _CHIP.findall(machine)
    return f"esp32{found[-1].lower()}" if found else ""


def refuse(facts: Facts) -> None:
    """ProvisionError where the node's program cannot run on such a board."""
    if facts.platform != "esp32":
        raise ProvisionError(
            f"this is MicroPython on {facts.platform or 'something unknown'} ({facts.machine}); the node's program "
            "needs an ESP32: is it another board's port?"
        )
    if facts.version < OLDEST:
        raise ProvisionError(
            f"MicroPython {'.'.join(map(str, facts.version))} is too old, 1.24 or later is needed: "
            f"{flash_words(facts.chip)}"
        )


def silent(heard: bytes, port: str) -> str:
    """What to say where no MicroPython answered: by what was heard instead."""
    rom = _ROM.findall(heard)
    chip = rom[-1].decode() if rom else "esp32" if any(mark in heard for mark in _MARKS) else ""
    if chip:
        return f"{port}: a board without MicroPython ({chip} from its start-up words): {flash_words(chip, port)}"
    if heard.strip(b"\0\r\n\t >"):
        shown = clean(heard[-80:].decode("ascii", "ignore")) or f"{len(heard)} bytes"
        return (
            f"{port}: something speaks there, and it is not MicroPython at 115200 baud ({shown!r}): is it the right "
            f"port? For an ESP32: {flash_words('', port)}"
        )
    return (
        f"{port}: nothing answers. Is it the right port, and the cable one for data? A board that sleeps: press its "
        f"reset button and repeat. A new one has no MicroPython yet: {flash_words('', port)}"
    )


def flash_words(chip: str, port: str = "PORT") -> str:
    """How MicroPython gets onto such a chip."""
    image = f"{chip.upper().replace('ESP32', 'ESP32_GENERIC_', 1).rstrip('_')}.bin" if chip else "ESP32_GENERIC….bin"
    return f"download {image} from micropython.org and repeat with --flash {image}"
