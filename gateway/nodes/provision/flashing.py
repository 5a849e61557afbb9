"""MicroPython onto a chip, by esptool where it is installed."""

import asyncio
import importlib.util
import shutil
import sys
from pathlib import Path

from gateway.nodes.provision.errors import ProvisionError

MAGIC = 0xE9
CHIPS = {
    0x0000: "esp32",
    0x0002: "esp32s2",
    0x0005: "esp32c3",
    0x0009: "esp32s3",
    0x000C: "esp32c2",
    0x000D: "esp32c6",
    0x0012: "esp32p4",
    0x0017: "esp32c5",
}
"""esp_chip_id_t, bytes 12 and 13 of an image's header (esp_image_header_t)."""
OFFSETS = {
    **dict.fromkeys(("esp32", "esp32s2"), 0x1000),
    **dict.fromkeys(("esp32s3", "esp32c2", "esp32c3", "esp32c6"), 0),
    **dict.fromkeys(("esp32c5", "esp32p4"), 0x2000),
}
"""Where a chip's ROM looks for its bootloader, with which MicroPython's image begins."""
WITHIN_S = 300.0


def chip_of_image(image: Path) -> str:
    """The chip that an image was built for; ProvisionError where it is no image."""
    try:
        with image.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise ProvisionError(f"{image}: {error.strerror}: download it from micropython.org") from error
    chip = CHIPS.get(int.from_bytes(head[12:14], "little")) if len(head) == 16 and head[0] == MAGIC else None
    if chip is None:
        raise ProvisionError(f"{image} is no image for an ESP32: download the .bin of your chip from micropython.org")
    return chip


def tool() -> list[str]:
    """How esptool is called; ProvisionError where it is not installed."""
    if importlib.util.find_spec("esptool") is not None:
        return [sys.executable, "-m", "esptool"]
    for name in ("esptool", "esptool.py"):
        if found := shutil.which(name):
            return [found]
    raise ProvisionError(f"esptool is not installed: `{sys.executable} -m pip install esptool`")


def commands(port: str, chip: str, image: Path) -> list[list[str]]:
    """What esptool is told: everything away, then the image in its place. Another chip than this one it refuses."""
    base = ["--chip", chip, "--port", port]
    return [
        [*base, "erase-flash"],
        [*base, "--baud", "460800", "write-flash", hex(OFFSETS[chip]), str(image)],
    ]


async def flash(port: str, image: Path) -> str:
    """Put MicroPython there; the chip. What esptool says goes to standard error."""
    chip, esptool = await asyncio.to_thread(chip_of_image, image), tool()
    for words in commands(port, chip, image):
        process = await asyncio.create_subprocess_exec(*esptool, *words, stdout=sys.stderr)
        try:
            async with asyncio.timeout(WITHIN_S):
                code = await process.wait()
        except TimeoutError:
            raise ProvisionError(f"esptool did not end within {WITHIN_S:g} s: hold the board's BOOT button") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if code:
            raise ProvisionError(
                "esptool failed; what it says stands above. Holding BOOT while it connects often helps"
            )
    return chip
