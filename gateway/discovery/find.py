"""Find gateways on the local network: browse `_mcp._tcp`. Whatever answers is a hint; anybody may answer anything."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gateway.discovery.addresses import addresses
from gateway.discovery.mdns import MCP, responder
from gateway.discovery.txt import Advert, decode, printable

# zeroconf is imported where it is used: its ifaddr starts a process (ldconfig) at import.
if TYPE_CHECKING:
    from zeroconf import Zeroconf
    from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

log = logging.getLogger(__name__)

_QUEUE = 256
"""Answers waiting to be looked at; a flood beyond is dropped."""


@dataclass(frozen=True, slots=True)
class Found:
    """One answer. `addresses` as a socket here takes them (link-local IPv6 with its interface), IPv4 first."""

    name: str
    gateway_id: str
    addresses: tuple[str, ...]
    port: int
    tls: bool
    path: str
    fingerprint: str
    version: str
    mcp_revisions: tuple[str, ...]
    instance: str = ""
    txt: Mapping[str, str] = field(default_factory=dict, hash=False)

    def urls(self) -> tuple[str, ...]:
        """Where its MCP endpoint should be, one per address."""
        scheme = "https" if self.tls else "http"
        return tuple(f"{scheme}://{bracketed(address)}:{self.port}{self.path}" for address in self.addresses)


def bracketed(address: str) -> str:
    """An address as the host of a URL."""
    return f"[{address}]" if ":" in address else address


async def find(timeout_s: float, gateway_id: str | None = None) -> list[Found]:
    """Every gateway that answers within the time, the last word of each; with an id, done at its first answer.

    OSError if no interface can do multicast.
    """
    found: dict[str, Found] = {}
    async with aclosing(browse(timeout_s)) as answers:
        async for answer in answers:
            found[answer.instance] = answer
            if answer.gateway_id == gateway_id:
                return [answer]
    if gateway_id is not None:
        return []
    return sorted(found.values(), key=lambda one: (one.name, one.gateway_id, one.instance))


async def browse(timeout_s: float) -> AsyncGenerator[Found, None]:
    """Answers as they come until the time is up; an instance comes again when it says something else. OSError."""
    from zeroconf import ServiceStateChange  # noqa: PLC0415
    from zeroconf.asyncio import AsyncServiceBrowser  # noqa: PLC0415

    names: asyncio.Queue[str] = asyncio.Queue(_QUEUE)

    def heard(zeroconf: "Zeroconf", service_type: str, name: str, state_change: ServiceStateChange) -> None:
        if state_change is not ServiceStateChange.Removed and not names.full():
            names.put_nowait(name)

    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    said: dict[str, Found] = {}
    async with responder(addresses()) as zeroconf, AsyncServiceBrowser(zeroconf.zeroconf, MCP, handlers=[heard]):
        pending: set[asyncio.Task[Found | None]] = set()
        hearing = asyncio.create_task(names.get(), name="mdns answer")
        try:
            while (left := deadline - loop.time()) > 0:
                await asyncio.wait({hearing, *pending}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
                if hearing.done():
                    # Each name is resolved on its own: one that never answers does not hold up the others.
                    pending.add(asyncio.create_task(_resolve(zeroconf, hearing.result(), left), name="mdns resolve"))
                    hearing = asyncio.create_task(names.get(), name="mdns answer")
                for task in [task for task in pending if task.done()]:
                    pending.discard(task)
                    found = task.result()
                    if found and said.get(found.instance) != found:
                        said[found.instance] = found
                        yield found
        finally:
            for waiting in (hearing, *pending):
                waiting.cancel()
            await asyncio.wait({hearing, *pending})


async def _resolve(zeroconf: "AsyncZeroconf", name: str, timeout_s: float) -> Found | None:
    """Ask for port, TXT and addresses of one instance; None if it does not say, or is not a gateway."""
    from zeroconf import Error as ZeroconfError  # noqa: PLC0415
    from zeroconf.asyncio import AsyncServiceInfo  # noqa: PLC0415

    info = AsyncServiceInfo(MCP, name)
    try:
        complete = await info.async_request(zeroconf.zeroconf, max(100.0, timeout_s * 1000))
    except ZeroconfError as error:
        log.debug("%r: %s", name, error)
        return None
    advert = decode(info.properties) if complete else None
    if advert is None or not info.port:
        return None
    return _found(info, advert)


def _found(info: "AsyncServiceInfo", advert: Advert) -> Found:
    said = {key.decode("ascii", "replace"): value for key, value in info.properties.items()}
    return Found(
        name=advert.name,
        gateway_id=advert.gateway_id,
        addresses=tuple(sorted(set(info.parsed_scoped_addresses()), key=lambda ip: ("%" in ip, ":" in ip, ip))),
        port=info.port or 0,
        tls=advert.tls,
        path=advert.path,
        fingerprint=advert.fingerprint,
        version=advert.version,
        mcp_revisions=advert.mcp_revisions,
        instance=printable(info.get_name()),
        txt={printable(key): printable((value or b"").decode("utf-8", "replace")) for key, value in said.items()},
    )
