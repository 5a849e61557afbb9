"""What the gateway's life costs its card: bytes written, counted by the kernel where the data lies.

Flash cards die of writing. The block device's own counter tells of everything that reached it, journals and neighbours
included; where the file system has no device of its own (overlay, network), this process's share has to do.
"""

import os
from dataclasses import dataclass
from pathlib import Path

SECTOR_BYTES = 512  # Documentation/block/stat.rst: always, whatever the device's own sectors are
SECTORS_WRITTEN = 6
YEAR_S = 365.25 * 86_400.0
TB = 1e12


@dataclass(frozen=True, slots=True)
class Wear:
    """`written_bytes` in `elapsed_s`, in which so many `readings` were stored; `source` says who counted. The card's
    makers rate it for `rating_tb` terabytes (None: unknown)."""

    source: str
    written_bytes: int
    elapsed_s: float
    readings: int
    rating_tb: float | None = None

    @property
    def bytes_a_reading(self) -> float | None:
        """None before the first reading."""
        return self.written_bytes / self.readings if self.readings else None

    @property
    def tb_a_year(self) -> float | None:
        """At the pace since the start; None before a minute has passed."""
        return self.written_bytes / TB * YEAR_S / self.elapsed_s if self.elapsed_s >= 60 else None

    @property
    def years(self) -> float | None:
        """How long the card's rating lasts at this pace; None where one of both is unknown."""
        if self.rating_tb is None or not self.tb_a_year:
            return None
        return self.rating_tb / self.tb_a_year


def source(folder: Path, sysfs: Path = Path("/sys/dev/block")) -> Path:
    """The kernel's counter for the device that holds this folder, or for this process where there is none."""
    device = os.stat(folder).st_dev
    stat = sysfs / f"{os.major(device)}:{os.minor(device)}" / "stat"
    return stat if stat.exists() else Path("/proc/self/io")


def written_bytes(counter: Path) -> int:
    """What the counter says now."""
    text = counter.read_text(encoding="ascii")
    if counter.name == "io":
        return int(dict(line.split(": ") for line in text.splitlines())["write_bytes"])
    return int(text.split()[SECTORS_WRITTEN]) * SECTOR_BYTES


def described(counter: Path) -> str:
    """Who counted, in words."""
    if counter.name == "io":
        return "this process only: the data folder has no block device of its own"
    return f"block device {counter.parent.resolve().name}"
