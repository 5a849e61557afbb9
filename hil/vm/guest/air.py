"""Virtual Bluetooth: a bumble controller that the kernel sees through /dev/vhci, and what else is on its air.

Beacons are advertising PDUs; a device that can be connected to is a whole bumble host with a GATT server.
"""

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from bumble import hci, ll
from bumble.controller import Controller
from bumble.core import UUID, AdvertisingData, PhysicalTransport
from bumble.device import Device
from bumble.gatt import Characteristic, CharacteristicValue, Service
from bumble.hci import Address
from bumble.host import Host
from bumble.link import LocalLink
from bumble.transport import open_transport

PERIOD_S = 0.1
FLAGS = b"\x02\x01\x06"
TEMPERATURE, HUMIDITY, PRESSURE, SENSING = 0x2A6E, 0x2A6F, 0x2A6D, 0x181A

CONNECTED = (  # what both events about a new connection say
    *("status", "connection_handle", "role", "peer_address_type", "peer_address", "connection_interval"),
    *("peripheral_latency", "supervision_timeout", "central_clock_accuracy"),
)


def bthome(data: bytes) -> bytes:
    """The advertisement of a BTHome v2 beacon with this service data."""
    told = b"\x16\xd2\xfc" + data
    return FLAGS + bytes((len(told),)) + told


class Adapter(Controller):
    """The gateway's adapter. With `deaf_until` set ("scan" or "reset") it reports nothing until that is asked of it."""

    deaf_until: str | None = None

    def on_ll_advertising_pdu(self, packet: ll.AdvertisingPdu) -> None:
        if self.deaf_until is None:
            super().on_ll_advertising_pdu(packet)

    def send_hci_packet(self, packet: hci.HCI_Packet) -> None:
        """bumble 0.0.236 never sends the enhanced event that it says it can: Linux would wait 20 s for it."""
        if isinstance(packet, hci.HCI_LE_Connection_Complete_Event):
            packet = hci.HCI_LE_Enhanced_Connection_Complete_Event(
                local_resolvable_private_address=Address.ANY,
                peer_resolvable_private_address=Address.ANY,
                **{name: getattr(packet, name) for name in CONNECTED},
            )
        super().send_hci_packet(packet)

    def on_hci_reset_command(self, command: Any) -> Any:
        self.le_scan_enable = False
        self._cured("reset")
        return super().on_hci_reset_command(command)

    def on_hci_le_set_scan_enable_command(self, command: Any) -> Any:
        if command.le_scan_enable:
            self._cured("scan")
        return super().on_hci_le_set_scan_enable_command(command)

    def on_hci_le_set_extended_scan_enable_command(self, command: Any) -> Any:
        if command.enable:
            self._cured("scan")
        return super().on_hci_le_set_extended_scan_enable_command(command)

    def _cured(self, by: str) -> None:
        if self.deaf_until == by:
            self.deaf_until = None


class Link(LocalLink):
    """bumble 0.0.236 sends LE data from the sender's random address, but Linux connects from its public one."""

    def send_acl_data(
        self, sender_controller: Controller, destination_address: Address, transport: PhysicalTransport, data: bytes
    ) -> None:
        peer = self.find_le_controller(destination_address)
        if peer is None:
            return
        source = sender_controller.random_address
        if source not in peer.le_connections:
            source = sender_controller.public_address
        asyncio.get_running_loop().call_soon(peer.on_link_acl_data, source, transport, data)


class Sensor:
    """A device with Environmental Sensing: temperature (notifies), humidity and pressure, in the units of the air."""

    def __init__(self, link: Link, address: str) -> None:
        host = Host()
        host.controller = Controller("sensor", link=link)
        self._device = Device(name="porch", address=Address(address), host=host)
        self.raw = {TEMPERATURE: struct.pack("<h", 2150), HUMIDITY: b"\xa0\x11", PRESSURE: struct.pack("<I", 1013252)}
        properties = Characteristic.Properties.READ | Characteristic.Properties.NOTIFY
        self._values = {
            number: Characteristic(
                UUID.from_16_bits(number),
                properties if number == TEMPERATURE else Characteristic.Properties.READ,
                Characteristic.READABLE,
                CharacteristicValue(read=lambda _, number=number: self.raw[number]),
            )
            for number in self.raw
        }
        self._device.add_service(Service(UUID.from_16_bits(SENSING), list(self._values.values())))

    async def advertise(self) -> None:
        """Be found and connected to, again after each connection."""
        told = AdvertisingData(
            [
                (AdvertisingData.FLAGS, b"\x06"),
                (AdvertisingData.COMPLETE_LIST_OF_16_BIT_SERVICE_CLASS_UUIDS, SENSING.to_bytes(2, "little")),
                (AdvertisingData.COMPLETE_LOCAL_NAME, b"porch"),
            ]
        )
        await self._device.power_on()
        await self._device.start_advertising(
            advertising_data=bytes(told),
            auto_restart=True,
            advertising_interval_min=PERIOD_S * 1000,
            advertising_interval_max=PERIOD_S * 1000,
        )

    async def notify(self, hundredths: int) -> None:
        """The temperature changed; tell those who subscribed."""
        self.raw[TEMPERATURE] = struct.pack("<h", hundredths)
        await self._device.notify_subscribers(self._values[TEMPERATURE], self.raw[TEMPERATURE])

    async def hang_up(self) -> None:
        """Drop every connection."""
        for connection in list(self._device.connections.values()):
            await connection.disconnect()


class Air:
    """What an adapter hears. Beacons go on saying the same until they are told otherwise."""

    def __init__(self) -> None:
        self.link = Link()
        self.adapter: Adapter | None = None
        self._beacons: dict[str, bytes] = {}
        self._timer: asyncio.TimerHandle | None = None

    def say(self, address: str, advertisement: bytes) -> None:
        """From now on this device advertises so."""
        self._beacons[address] = advertisement
        if self._timer is None:
            self._send()

    def hush(self) -> None:
        """Nobody says anything."""
        self._beacons.clear()

    def _send(self) -> None:
        for address, advertisement in self._beacons.items():
            sender = Address(address, Address.PUBLIC_DEVICE_ADDRESS)
            for controller in self.link.controllers:
                controller.on_ll_advertising_pdu(ll.AdvInd(sender, advertisement))
        self._timer = asyncio.get_running_loop().call_later(PERIOD_S, self._send)

    @asynccontextmanager
    async def plugged(self) -> AsyncIterator[Adapter]:
        """The adapter, plugged into this machine inside."""
        transport = await open_transport("vhci")
        self.adapter = Adapter(
            "gateway",
            host_source=transport.source,
            host_sink=transport.sink,
            link=self.link,
            public_address="F0:F0:F0:00:00:01",
        )
        try:
            yield self.adapter
        finally:
            self.link.remove_controller(self.adapter)
            self.adapter = None
            await transport.close()

    def close(self) -> None:
        """Silence for good."""
        if self._timer is not None:
            self._timer.cancel()
