"""Announce this gateway on the local network by multicast DNS (RFC 6762, RFC 6763).

`_mcp._tcp` stands for the HTTPS endpoint, with the TXT keys of `txt.py`; `_http._tcp` leads people to the page;
`_mqtt._tcp` leads nodes to the broker. Plain HTTP is the key `http` of the first, not an instance of its own.
"""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import TYPE_CHECKING, Self

from gateway.discovery.addresses import Address, addresses, multicast_interfaces, reachable, watching
from gateway.discovery.txt import Advert, clip, encode

# zeroconf is imported where it is used: its ifaddr starts a process (ldconfig) at import.
if TYPE_CHECKING:
    from zeroconf import ServiceInfo
    from zeroconf.asyncio import AsyncZeroconf

log = logging.getLogger(__name__)

MCP, HTTP, MQTT = "_mcp._tcp.local.", "_http._tcp.local.", "_mqtt._tcp.local."
_SETTLE_S = 0.3
"""An interface that comes up sends a burst of messages; one look is enough."""


@dataclass(frozen=True, slots=True)
class Announcement:
    """What to announce; a port of None is not. `mqtt` is the broker's port and that with TLS, 0 for none."""

    name: str
    gateway_id: str
    fingerprint: str
    https_port: int
    http_port: int | None = None
    mqtt: tuple[int, int] | None = None
    version: str = ""
    mcp_revisions: tuple[str, ...] = ()

    @property
    def instance(self) -> str:
        """`Name (last four of the id)`: readable, and unlike the neighbour's."""
        suffix = f" ({self.gateway_id[-4:]})"
        return clip(self.name, 63 - len(suffix)).replace(".", " ").strip() + suffix  # a label holds 63 bytes

    def services(self, ips: tuple[str, ...]) -> "list[ServiceInfo]":
        """The records for these addresses."""
        from zeroconf import ServiceInfo  # noqa: PLC0415

        advert = Advert(
            self.gateway_id, self.name, self.version, self.mcp_revisions, self.fingerprint, http_port=self.http_port
        )
        port, tls_port = self.mqtt or (None, 0)
        broker = {"txtvers": "1", "id": self.gateway_id} | ({"tls": str(tls_port)} if tls_port else {})
        ports: list[tuple[str, int | None, dict[str, str]]] = [
            (MCP, self.https_port, encode(advert)),
            (HTTP, self.http_port, {"path": "/"}),
            (MQTT, port, broker),
        ]
        return [
            ServiceInfo(
                kind,
                f"{self.instance}.{kind}",
                port=port,
                properties=properties,
                server=f"{self.gateway_id}.local.",
                addresses=[_packed(ip) for ip in ips],
            )
            for kind, port, properties in ports
            if port is not None
        ]


class Announcer:
    """`async with Announcer(...)`: announced while inside, with this machine's addresses as they change.

    Entering does not wait for the network, and nothing is raised for the network's sake: without multicast it warns,
    and tries again when an address changes. A port of None is not announced; `mqtt` only while the broker listens off
    loopback.
    """

    def __init__(
        self,
        *,
        name: str,
        gateway_id: str,
        fingerprint: str,
        http_port: int | None,
        https_port: int,
        version: str,
        mcp_revisions: Sequence[str],
        mqtt: tuple[int, int] | None = None,
    ) -> None:
        self._announcement = Announcement(
            name, gateway_id, fingerprint, https_port, http_port, mqtt, version, tuple(mcp_revisions)
        )
        self._stack = contextlib.AsyncExitStack()
        self._changed = asyncio.Event()
        self._zeroconf: AsyncZeroconf | None = None
        self._infos: list[ServiceInfo] = []
        self._ips: tuple[str, ...] = ()

    @property
    def instance(self) -> str | None:
        """The name under which the gateway is announced now (a conflict makes it another), None if it is not."""
        return self._infos[0].get_name() if self._infos else None

    async def broker(self, mqtt: tuple[int, int] | None) -> None:
        """From now on the broker listens there, or on loopback only."""
        self._announcement = replace(self._announcement, mqtt=mqtt)
        self._changed.set()

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(watching(self._changed.set))
        task = asyncio.create_task(self._follow(), name="mdns announcer")
        task.add_done_callback(_report)
        self._stack.push_async_callback(_stop, task)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()
        await self._close()

    async def _follow(self) -> None:
        while True:
            await self._refresh()
            await self._changed.wait()
            await asyncio.sleep(_SETTLE_S)
            self._changed.clear()

    async def _refresh(self) -> None:
        """Make what is announced agree with the addresses of now."""
        from zeroconf import Error as ZeroconfError  # noqa: PLC0415

        now = addresses()
        try:
            if self._zeroconf is None:
                await self._open(now)
            else:
                await self._update(self._zeroconf, now)
        except (OSError, RuntimeError, ZeroconfError) as error:
            log.warning("not announced on the local network, assistants need its address until it is: %s", error)
            await self._close()

    async def _open(self, now: tuple[Address, ...]) -> None:
        self._zeroconf = zeroconf = responder(now)
        self._ips = reachable(now)
        infos = self._announcement.services(self._ips)
        # The name is probed for first; a taken one becomes "Name-2", never a fight (RFC 6762 section 9).
        sent = await asyncio.gather(*[zeroconf.async_register_service(info, allow_name_change=True) for info in infos])
        self._infos = infos
        await asyncio.gather(*sent)
        log.info("announced as %r with %s", self.instance, ", ".join(self._ips))

    async def _update(self, zeroconf: "AsyncZeroconf", now: tuple[Address, ...]) -> None:
        # Not only for new addresses: a fresh IPv6 address cannot be bound until it is known to be unique, and the
        # kernel's second word about it shows no difference here. Where nothing is to do, nothing is done.
        await zeroconf.async_update_interfaces(multicast_interfaces(now))
        await self._follow_broker(zeroconf)
        if (ips := reachable(now)) == self._ips:
            return
        for info in self._infos:
            info.addresses = [_packed(ip) for ip in ips]
        self._ips = ips
        await asyncio.gather(*[await zeroconf.async_update_service(info) for info in self._infos])
        log.info("addresses changed, announced with %s", ", ".join(ips) or "none")

    async def _follow_broker(self, zeroconf: "AsyncZeroconf") -> None:
        """Add or take away the broker's record where that changed."""
        wanted = next((info for info in self._announcement.services(self._ips) if info.type == MQTT), None)
        known = next((info for info in self._infos if info.type == MQTT), None)
        if known is not None and (wanted is None or (wanted.port, wanted.text) != (known.port, known.text)):
            self._infos.remove(known)
            await (await zeroconf.async_unregister_service(known))
            known = None
        if wanted is not None and known is None:
            sent = await zeroconf.async_register_service(wanted, allow_name_change=True)
            self._infos.append(wanted)
            await sent

    async def _close(self) -> None:
        """Say goodbye (TTL 0) and let go of the sockets."""
        zeroconf, self._zeroconf, self._infos = self._zeroconf, None, []
        if zeroconf is not None:
            try:
                await zeroconf.async_close()
            except (OSError, RuntimeError) as error:
                log.warning("no goodbye on the local network: %s", error)


def responder(now: tuple[Address, ...]) -> "AsyncZeroconf":
    """A multicast DNS speaker on all these interfaces, IPv4 and IPv6; OSError where there is no multicast."""
    from zeroconf.asyncio import AsyncZeroconf  # noqa: PLC0415

    interfaces = multicast_interfaces(now)
    if not interfaces:
        raise OSError("no network interface is up")
    try:
        return AsyncZeroconf(interfaces)
    except OSError:  # a kernel without IPv6 has no socket for both
        return AsyncZeroconf([interface for interface in interfaces if isinstance(interface, str)])


def _packed(ip: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in ip else socket.AF_INET, ip)


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        log.error("the mDNS announcer stopped", exc_info=error)


async def _stop(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])
