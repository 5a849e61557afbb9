"""What a driver may ask of a wire."""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol


class I2cBus(Protocol):
    """One I2C bus shared by many devices. Addresses are 7 bit, right-aligned; calls are serialised by the bus.

    Raises NoDevice when the address is not acknowledged, BusTimeout when the line hangs, BusError otherwise.
    """

    async def write(self, address: int, data: bytes) -> None:
        """One write transfer, ended by a stop."""

    async def read(self, address: int, size: int) -> bytes:
        """One read transfer of exactly `size` bytes, ended by a stop."""

    async def write_read(self, address: int, data: bytes, size: int) -> bytes:
        """Write, repeated start, read of exactly `size` bytes, stop."""


class SerialPort(Protocol):
    """One serial port, raw bytes, owned by one user: one task reads, any may write.

    Raises BusTimeout when nothing comes or goes in time, NoDevice while it is unplugged (it is opened again by the next
    use), BusError otherwise.
    """

    async def write(self, data: bytes) -> None:
        """Hand all of it to the operating system, in one piece."""

    async def read(self, limit: int, timeout_s: float) -> bytes:
        """What has come in, at most `limit` bytes; waits for the first one."""

    async def readline(self, limit: int, timeout_s: float) -> bytes:
        """The next line without its end; BadData for one of more than `limit` bytes, which is skipped."""

    async def discard(self) -> None:
        """Forget what has come in so far."""


class ModbusLine(Protocol):
    """One Modbus line shared by many units (1 to 247); requests are serialised by the line.

    Raises BusTimeout where nothing answers, BadData for an answer that is damaged or another's, Refused (a BadData)
    for an exception answer, and what the port raises.
    """

    async def read_registers(self, unit: int, register: int, count: int, function: int = 3) -> tuple[int, ...]:
        """`count` words (1 to 125) from `register` on; function 3 reads holding, 4 input registers."""

    async def write_register(self, unit: int, register: int, value: int) -> None:
        """Write one word (function 6) and compare the echo."""


@dataclass(frozen=True, slots=True)
class Advert:
    """What one Bluetooth LE device was heard to say; `time_s` is the loop's time, `rssi` dBm, None where not told.

    Addresses are upper case with colons, UUIDs lower case and of full length.
    """

    address: str
    time_s: float
    rssi: int | None = None
    service_data: Mapping[str, bytes] = field(default_factory=dict)
    manufacturer_data: Mapping[int, bytes] = field(default_factory=dict)
    service_uuids: tuple[str, ...] = ()
    name: str = ""


class BleInbox(Protocol):
    """What Bluetooth LE devices say by themselves, the newest of each address; older ones are overwritten.

    Anybody may send under any address. Raises BusUnavailable or another BusError while the radio is not listening.
    """

    async def listen(self, address: str) -> None:
        """From now on keep what this address says, whatever else is on the air; again does nothing."""

    async def next(self, address: str) -> Advert:
        """The newest advert of the address that was not given out yet, waiting for it without end."""


@dataclass(frozen=True, slots=True)
class Characteristic:
    """One value a connected device offers; several may share a UUID, a handle is unique."""

    handle: int
    uuid: str
    service: str
    reads: bool = True
    notifies: bool = False


class GattLink(Protocol):
    """One connected device. Raises NoDevice once the connection is lost, BusTimeout, BusError otherwise."""

    @property
    def characteristics(self) -> tuple[Characteristic, ...]:
        """Everything it offers, by handle."""

    async def read(self, handle: int) -> bytes:
        """The present value."""

    async def subscribe(self, handle: int) -> None:
        """Ask for notifications of this value."""

    async def notified(self) -> Mapping[int, bytes]:
        """The newest value of each handle notified since the last call, waiting for at least one."""


class BleCentral(Protocol):
    """An adapter that connects to Bluetooth LE devices, one attempt at a time."""

    def connect(self, address: str) -> AbstractAsyncContextManager[GattLink]:
        """Connected inside `async with`; NoDevice where the device is not heard, BusTimeout, BusError otherwise."""


def ble_address(address: str) -> str:
    """The address in upper case with colons; ValueError for anything else."""
    parts = address.upper().replace("-", ":").split(":")
    if len(parts) != 6 or any(len(part) != 2 or set(part) - set("0123456789ABCDEF") for part in parts):
        raise ValueError(f"address {address!r}: six bytes as in A4:C1:38:8D:18:B2")
    return ":".join(parts)
