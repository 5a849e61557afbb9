"""The addresses of this machine, and a word when they change."""

import asyncio
import errno
import ipaddress
import logging
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

log = logging.getLogger(__name__)

# linux/rtnetlink.h: multicast groups and message types
_GROUPS = 0x1 | 0x10 | 0x100  # RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR
_CHANGES = {16, 17, 20, 21}  # RTM_NEWLINK, RTM_DELLINK, RTM_NEWADDR, RTM_DELADDR
_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port


@dataclass(frozen=True, slots=True, order=True)
class Address:
    """One address of one interface; `ip` without a scope, `index` is the interface's."""

    ip: str
    interface: str
    index: int

    @property
    def scoped(self) -> str:
        """As a socket of this machine wants it: link-local IPv6 carries its interface."""
        return (
            f"{self.ip}%{self.interface}" if ipaddress.ip_address(self.ip).is_link_local and ":" in self.ip else self.ip
        )


def addresses() -> tuple[Address, ...]:
    """Every IPv4 and IPv6 address now, loopback included, sorted."""
    import ifaddr  # noqa: PLC0415  starts a process (ldconfig) at import

    return tuple(
        sorted(
            Address(ip.ip if isinstance(ip.ip, str) else ip.ip[0], adapter.name, adapter.index or 0)
            for adapter in ifaddr.get_adapters()
            for ip in adapter.ips
        )
    )


def reachable(all_addresses: tuple[Address, ...]) -> tuple[str, ...]:
    """Those that another machine could use, IPv4 first, link-local last; only loopback where nothing else is there."""
    ips = {address.ip for address in all_addresses}
    outside = {ip for ip in ips if not ipaddress.ip_address(ip).is_loopback}
    return tuple(sorted(outside or ips, key=lambda ip: (ipaddress.ip_address(ip).is_link_local, ":" in ip, ip)))


def multicast_interfaces(all_addresses: tuple[Address, ...]) -> list[str | int]:
    """As zeroconf names them: the address for IPv4, the interface's index for IPv6. Loopback only if alone."""
    outside = set(reachable(all_addresses))
    chosen = [address for address in all_addresses if address.ip in outside and address.ip != "::1"]
    ipv4: list[str | int] = sorted({address.ip for address in chosen if ":" not in address.ip})
    return ipv4 + sorted({address.index for address in chosen if ":" in address.ip})


@asynccontextmanager
async def watching(changed: Callable[[], None]) -> AsyncIterator[None]:
    """Call `changed` on the loop after every message of the kernel that may mean another address or link.

    May call more often than something changed. Where netlink is not to be had: one warning, and no calls.
    """
    loop = asyncio.get_running_loop()
    try:
        netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
    except (AttributeError, OSError) as error:  # AttributeError: not Linux
        log.warning("cannot watch the network addresses, a change will be seen at the next start: %s", error)
        yield
        return
    with netlink:
        netlink.bind((0, _GROUPS))
        loop.add_reader(netlink, lambda: changed() if _drain(netlink) else None)
        try:
            yield
        finally:
            loop.remove_reader(netlink)


def _drain(netlink: socket.socket) -> bool:
    """Read what is waiting; whether an address or link was among it."""
    found = False
    while True:
        try:
            data = netlink.recv(65536)
        except BlockingIOError:
            return found
        except OSError as error:
            if error.errno != errno.ENOBUFS:  # the kernel dropped messages: something changed
                raise
            found = True
            continue
        found = any(kind in _CHANGES for kind in _kinds(data)) or found


def _kinds(data: bytes) -> list[int]:
    """The types of the messages in one datagram; they are aligned to four bytes (NLMSG_ALIGNTO)."""
    kinds, at = [], 0
    while at + _HEADER.size <= len(data):
        length, kind, *_ = _HEADER.unpack_from(data, at)
        kinds.append(kind)
        at += max(_HEADER.size, (length + 3) & ~3)
    return kinds
