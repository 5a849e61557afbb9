"""BTHome v2 beacons over Bluetooth LE; the frames themselves are read in `_bthome`."""

import asyncio
import math
from dataclasses import dataclass, field
from typing import ClassVar

from drivers.bus import Advert, BleInbox, ble_address
from drivers.errors import BadData, BusTimeout, DriverError, WrongDevice
from drivers.model import Channel, Quantity, Sample
from drivers.sensors._bthome import KEY_BYTES, REPEATS, UUID, Frame, Memory, decode, encrypted, payload, samples, take

STALE_S = 15.0  # what waited longer in the inbox would be dated wrongly


@dataclass(frozen=True, slots=True)
class BthomeOptions:
    """Which beacon, and its key (32 hexadecimal digits) where it encrypts.

    Nothing of it for `timeout_s` is an error, but for a beacon that only speaks when something happens.
    `counter_restart` takes a fall of the encrypted counter to below 100 for a changed battery: it also lets a recording
    of the device's first frames in.
    """

    address: str = ""
    bind_key: str = field(default="", repr=False)
    timeout_s: float = 45.0
    counter_restart: bool = False

    def __post_init__(self) -> None:
        if self.address:
            object.__setattr__(self, "address", ble_address(self.address))
        digits = self.bind_key
        if digits and (len(digits) != 2 * KEY_BYTES or set(digits) - set("0123456789abcdefABCDEF")):
            raise ValueError(f"bind_key: 32 hexadecimal digits, these are {len(digits)} characters (not shown: secret)")
        if not 0 < self.timeout_s < math.inf:
            raise ValueError(f"timeout_s {self.timeout_s!r}: seconds above 0")

    @property
    def key(self) -> bytes | None:
        """The key as 16 bytes, None for a beacon in plain."""
        return bytes.fromhex(self.bind_key) if self.bind_key else None


class Bthome:
    """One beacon, known by its address; it is never asked, so `start` only says that we listen.

    A frame that is refused is passed over for as long as a good one comes within `timeout_s`: anybody can send under
    the beacon's address, and shall not silence it.
    """

    BUS: ClassVar[type] = BleInbox
    Options: ClassVar[type[BthomeOptions]] = BthomeOptions
    CHANNELS: ClassVar[tuple[Channel, ...]] = (
        *(
            Channel(quantity, low, high, name="" if n == 1 else f"{quantity.value}_{n}")
            for quantity, low, high in (
                *((Quantity.TEMPERATURE, -273.15, 327.67), (Quantity.HUMIDITY, 0, 100), (Quantity.PRESSURE, 300, 1100)),
                *((Quantity.CO2, 0, 40_000), (Quantity.BATTERY, 0, 100), (Quantity.VOLTAGE, 0, 6553.5)),
                *((Quantity.ILLUMINANCE, 0, 167_772.15), (Quantity.PM25, 0, 65_535), (Quantity.PM10, 0, 65_535)),
                *((Quantity.TVOC, 0, 65_535), (Quantity.MOISTURE, 0, 100), (Quantity.COUNT, -(2.0**31), 2.0**32)),
                *((Quantity.POWER, -(2.0**31) / 100, 2.0**31 / 100), (Quantity.ENERGY, 0, 2.0**32)),
                (Quantity.CURRENT, -32.768, 65.535),
            )
            for n in range(1, REPEATS + 1)
        ),
        Channel(Quantity.RSSI, -127, 20),
    )

    def __init__(self, inbox: BleInbox, options: BthomeOptions) -> None:
        self._inbox, self._options = inbox, options
        self._memory = Memory()

    @property
    def patience_s(self) -> float:
        """As Patient: a beacon is waited for."""
        return self._options.timeout_s + 10

    async def start(self) -> None:
        """Begin to listen; WrongDevice where no address is configured."""
        if not self._options.address:
            raise WrongDevice("no address: put `address` of the beacon into its options; a scan lists those in reach")
        await self._inbox.listen(self._options.address)

    async def read(self) -> tuple[Sample, ...]:
        """The next new frame's values. After `timeout_s` without one: BadData if frames had to be refused, WrongDevice
        if that address only ever sends something else, nothing from a trigger-based beacon, else BusTimeout."""
        refused: DriverError | None = None
        others = 0
        try:
            async with asyncio.timeout(self._options.timeout_s):
                while True:
                    advert = await self._inbox.next(self._options.address)
                    try:
                        data = payload(advert.service_data)
                        frame = None if data is None else self._take(data, advert.time_s)
                    except BadData as error:
                        refused = error
                        continue
                    others += data is None
                    if frame is not None and asyncio.get_running_loop().time() - advert.time_s <= STALE_S:
                        return samples(frame, advert.rssi)
        except TimeoutError:
            return self._silence(refused, others)

    async def stop(self) -> None:
        """Nothing to do: a beacon does not know that it is heard."""

    def _take(self, data: bytes, time_s: float) -> Frame | None:
        options = self._options
        frame, self._memory = take(
            data, options.address, time_s, self._memory, options.key, counter_restart=options.counter_restart
        )
        return frame

    def _silence(self, refused: DriverError | None, others: int) -> tuple[Sample, ...]:
        who = f"{self._options.address} in {self._options.timeout_s:g} s"
        if refused is not None:
            raise BadData(f"nothing acceptable of {who}; the last: {refused}")
        if others and self._memory == Memory():
            raise WrongDevice(f"{others} adverts of {who}, none of them BTHome: check the address, or its firmware")
        if self._memory.triggered:
            return ()
        raise BusTimeout(f"nothing new of {who}: out of reach, its battery is flat, or timeout_s is below its period")


def offers(advert: Advert) -> tuple[str, ...] | None:
    """What the beacon that sent this would measure ("encrypted" if that takes its key); None if it is no BTHome v2."""
    data = advert.service_data.get(UUID)
    if not data:
        return None
    try:
        if encrypted(data):
            return ("encrypted",)
        return tuple(sample.channel for sample in samples(decode(data, advert.address), advert.rssi))
    except BadData:
        return None


DRIVER = Bthome
