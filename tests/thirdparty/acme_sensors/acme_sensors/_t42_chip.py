"""A simulated T42 at the byte level; its name begins with an underscore, so it is no driver."""

from drivers.checksum import crc8_sensirion
from drivers.testing.recording import Source


class T42Chip:
    """Answers from the register that was written last."""

    def __init__(self, source: Source, *, address: int = 0x18) -> None:
        self.address = address
        self._source, self._register = source, 0

    def write(self, data: bytes, now_s: float) -> None:
        """The first byte points at a register."""
        self._register = data[0]

    def read(self, size: int, now_s: float) -> bytes:
        """The register's bytes, 0xFF where there are no more."""
        word = round((self._source(now_s).temperature or 0.0) * 256).to_bytes(2, "big", signed=True)
        registers = {0x00: word + bytes((crc8_sensirion(word),)), 0x0F: b"\x42"}
        return registers.get(self._register, b"").ljust(size, b"\xff")[:size]
