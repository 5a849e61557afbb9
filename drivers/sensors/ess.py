"""The Environmental Sensing Service (0x181A) over GATT: any device that offers its values so.

Values and their special codes are those of the GATT Specification Supplement. ES trigger settings and measurement
descriptors are left as the device has them.
"""

import math
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

from drivers.bus import Advert, BleCentral, Characteristic, GattLink, ble_address
from drivers.errors import BadData, DriverError, NoDevice, WrongDevice
from drivers.model import Channel, Quality, Quantity, Reason, Sample

SERVICE = "0000181a-0000-1000-8000-00805f9b34fb"
BASE = "0000{:04x}-0000-1000-8000-00805f9b34fb"
REPEATS = 3  # channels of one quantity
SFLOAT = 0  # "over" of an IEEE 11073 16-bit float
NAN, NRES, PLUS_INFINITY, MINUS_INFINITY, RESERVED = 0x07FF, 0x0800, 0x07FE, 0x0802, 0x0801


class Entry(NamedTuple):
    """One characteristic: value = little-endian integer * scale / over, raw bounds, raw special values."""

    name: str
    size: int
    over: int = 1
    signed: bool = False
    quantity: Quantity | None = None
    low: int | None = None
    high: int | None = None
    unknown: int | None = None
    beyond: int | None = None
    scale: float = 1


def _dust(name: str, quantity: Quantity | None = None, scale: float = 1e9) -> Entry:
    return Entry(name, 2, SFLOAT, quantity=quantity, scale=scale)  # kg/m3 on the air, ug/m3 here


TABLE: Mapping[int, Entry] = {
    0x2A2C: Entry("magnetic declination", 2, 100, high=35_999),
    0x2A6C: Entry("elevation", 3, 100, signed=True),
    0x2A6D: Entry("pressure", 4, 1000, quantity=Quantity.PRESSURE),  # 0.1 Pa on the air, hPa here
    0x2A6E: Entry("temperature", 2, 100, True, Quantity.TEMPERATURE, -27_315, 32_767, -0x8000),
    0x2A6F: Entry("humidity", 2, 100, False, Quantity.HUMIDITY, 0, 10_000, 0xFFFF),
    0x2A70: Entry("true wind speed", 2, 100),
    0x2A71: Entry("true wind direction", 2, 100, high=35_999),
    0x2A72: Entry("apparent wind speed", 2, 100),
    0x2A73: Entry("apparent wind direction", 2, 100, high=35_999),
    0x2A74: Entry("gust factor", 1, 10),
    0x2A75: Entry("pollen concentration", 3),
    0x2A76: Entry("uv index", 1),
    0x2A77: Entry("irradiance", 2, 10),
    0x2A78: Entry("rainfall", 2, 1000),
    0x2A79: Entry("wind chill", 1, signed=True),
    0x2A7A: Entry("heat index", 1, signed=True),
    0x2A7B: Entry("dew point", 1, signed=True),
    0x2AA3: Entry("pressure trend", 1, high=9, unknown=0),
    0x2AFB: Entry("illuminance", 3, 100, False, Quantity.ILLUMINANCE, 0, 0xFFFFFE, 0xFFFFFF),
    0x2B0D: Entry("temperature 8", 1, 2, True, Quantity.TEMPERATURE, -128, 126, 0x7F),
    0x2B8C: Entry("co2", 2, 1, False, Quantity.CO2, 0, 65_533, 0xFFFF, 0xFFFE),
    0x2BCF: _dust("ammonia"),
    0x2BD0: _dust("carbon monoxide"),
    0x2BD1: _dust("methane", scale=1),  # ppb
    0x2BD2: _dust("nitrogen dioxide"),
    0x2BD3: _dust("non-methane voc"),  # no total: it leaves methane out
    0x2BD4: _dust("ozone"),
    0x2BD5: _dust("pm1"),
    0x2BD6: _dust("pm2.5", Quantity.PM25),
    0x2BD7: _dust("pm10", Quantity.PM10),
    0x2BD8: _dust("sulfur dioxide"),
    0x2BE4: Entry("noise", 1, 1, False, None, 0, 253, 0xFF, 0xFE),
    0x2BE7: Entry("voc", 2, 1, False, None, 0, 65_533, 0xFFFF, 0xFFFE),  # ppb: no ug/m3 without the gases' names
    0x2C1B: Entry("humidity 8", 1, 2, False, Quantity.HUMIDITY, 0, 200, 0xFF),
    0x2A19: Entry("battery", 1, 1, False, Quantity.BATTERY, 0, 100),  # of the Battery Service
}
BY_UUID = {BASE.format(number): entry for number, entry in TABLE.items()}


@dataclass(frozen=True, slots=True)
class EssOptions:
    """Which device. "read" connects for each reading and lets the device sleep between; "notify" stays connected."""

    address: str = ""
    mode: Literal["read", "notify"] = "read"

    def __post_init__(self) -> None:
        if self.address:
            object.__setattr__(self, "address", ble_address(self.address))
        if self.mode not in ("read", "notify"):
            raise ValueError(f"mode {self.mode!r}: one of read, notify")


class Ess:
    """One device with the service. Of several values of a kind, the second by handle is `<quantity>_2`, and so on."""

    BUS: ClassVar[type] = BleCentral
    Options: ClassVar[type[EssOptions]] = EssOptions
    CHANNELS: ClassVar[tuple[Channel, ...]] = tuple(
        Channel(quantity, low, high, name="" if n == 1 else f"{quantity.value}_{n}")
        for quantity, low, high in (
            *((Quantity.TEMPERATURE, -273.15, 327.67), (Quantity.HUMIDITY, 0, 100), (Quantity.PRESSURE, 300, 1100)),
            *((Quantity.CO2, 0, 65_533), (Quantity.ILLUMINANCE, 0, 167_772.14), (Quantity.BATTERY, 0, 100)),
            *((Quantity.PM25, 0, 1e6), (Quantity.PM10, 0, 1e6)),
        )
        for n in range(1, REPEATS + 1)
    )

    def __init__(self, central: BleCentral, options: EssOptions) -> None:
        self._central, self._options = central, options
        self._open = AsyncExitStack()
        self._link: GattLink | None = None
        self._wanted: dict[int, tuple[str, Entry]] = {}
        self._unread = True

    async def start(self) -> None:
        """Connect and look what it offers, subscribe in "notify"; WrongDevice if it offers nothing that is measured."""
        await self._close()
        try:
            link = await self._connected()
            if self._options.mode == "read":
                await self._close()
                return
            notifying = {c.handle for c in link.characteristics if c.notifies}
            if not notifying & self._wanted.keys():
                raise WrongDevice(f'{self._options.address} notifies of nothing: set mode = "read" in its options')
            for handle in sorted(notifying & self._wanted.keys()):
                await link.subscribe(handle)
            self._unread = True
        except BaseException:
            await self._close()
            raise

    async def read(self) -> tuple[Sample, ...]:
        """All values ("read"), or those notified next ("notify"); BadData for a prohibited or misshapen one."""
        if self._options.mode == "read":
            try:
                return await self._all(await self._connected())
            finally:
                await self._close()
        if self._link is None:
            await self.start()
        assert self._link is not None
        try:
            if self._unread:  # only now that it is subscribed, or a change between would be missed
                found = await self._all(self._link)
                self._unread = False
                return found
            return self._samples(await self._link.notified())
        except NoDevice:
            await self._close()
            raise

    async def stop(self) -> None:
        """Let the device go; never raises."""
        await self._close()

    async def _connected(self) -> GattLink:
        if not self._options.address:
            raise WrongDevice("no address: put `address` of the device into its options; a scan lists those in reach")
        self._link = link = await self._open.enter_async_context(self._central.connect(self._options.address))
        self._wanted = channels(link.characteristics)
        if not self._wanted:
            raise WrongDevice(
                f"{self._options.address} offers no value of the Environmental Sensing Service that is known here: "
                "check the address"
            )
        return link

    async def _close(self) -> None:
        self._link = None
        opened, self._open = self._open, AsyncExitStack()
        try:
            await opened.aclose()
        except DriverError:
            return  # it was being let go of anyway

    async def _all(self, link: GattLink) -> tuple[Sample, ...]:
        readable = [c.handle for c in link.characteristics if c.reads and c.handle in self._wanted]
        return self._samples({handle: await link.read(handle) for handle in readable})

    def _samples(self, raw: Mapping[int, bytes]) -> tuple[Sample, ...]:
        wanted = ((handle, *self._wanted[handle]) for handle in sorted(raw) if handle in self._wanted)
        return tuple(sample(channel, decode(entry, raw[handle])) for handle, channel, entry in wanted)


class Reading(NamedTuple):
    """A value in its unit, NaN where the device does not know it; `beyond` where it is at least so much."""

    value: float
    beyond: bool = False


def channels(offered: tuple[Characteristic, ...]) -> dict[int, tuple[str, Entry]]:
    """The channel and the entry of each handle that is measured in our quantities."""
    found: dict[int, tuple[str, Entry]] = {}
    count: dict[Quantity, int] = {}
    for each in sorted(offered, key=lambda c: c.handle):
        entry = BY_UUID.get(each.uuid)
        if entry is None or entry.quantity is None:
            continue
        n = count[entry.quantity] = count.get(entry.quantity, 0) + 1
        if n <= REPEATS:
            found[each.handle] = (entry.quantity.value if n == 1 else f"{entry.quantity.value}_{n}", entry)
    return found


def decode(entry: Entry, raw: bytes) -> Reading:
    """One value; BadData for a wrong length or a prohibited one."""
    if len(raw) != entry.size:
        raise BadData(f"{entry.name}: {len(raw)} bytes instead of {entry.size}: {raw.hex(' ')}")
    number = int.from_bytes(raw, "little", signed=entry.signed)
    if entry.over == SFLOAT:
        return _sfloat(number, entry.scale)
    if number == entry.unknown:
        return Reading(math.nan)
    if number == entry.beyond:
        return Reading(number * entry.scale / entry.over, beyond=True)
    if (entry.low is not None and number < entry.low) or (entry.high is not None and number > entry.high):
        raise BadData(f"{entry.name}: {raw.hex(' ')} is a prohibited value")
    return Reading(number * entry.scale / entry.over)


def sample(channel: str, reading: Reading) -> Sample:
    """What is not known is bad; what left the measuring range is bad and keeps the range's end."""
    if math.isnan(reading.value):
        return Sample(channel, math.nan, Quality.BAD, Reason.NOT_A_NUMBER)
    if reading.beyond:
        return Sample(channel, reading.value, Quality.BAD, Reason.OUT_OF_RANGE)
    return Sample(channel, reading.value)


def _sfloat(number: int, scale: float) -> Reading:
    """IEEE 11073-20601: 4 bits of decimal exponent, 12 bits of mantissa, both signed."""
    if number in (NAN, NRES, RESERVED, PLUS_INFINITY, MINUS_INFINITY):
        return Reading(math.nan)
    mantissa, exponent = number & 0x0FFF, number >> 12
    mantissa -= 0x1000 if mantissa >= 0x0800 else 0
    exponent -= 0x10 if exponent >= 0x08 else 0
    return Reading(float(f"{mantissa}e{exponent}") * scale)


def offers(advert: Advert) -> tuple[str, ...] | None:
    """What a device that advertises the service measures is only known once connected; None if it does not."""
    return ("after connecting",) if SERVICE in advert.service_uuids else None


DRIVER = Ess
