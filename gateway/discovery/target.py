"""Whom the bridge may talk to: from what the user said, the pins, and what answers, to one verified endpoint."""

import asyncio
import logging
import os
import ssl
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, urlsplit

from gateway.discovery.find import Found, browse, find
from gateway.discovery.pins import Pin, PinError, Pins, default_file
from gateway.discovery.tls import fetch_certificate, fingerprint_of, pinned, unverified
from gateway.discovery.txt import normal_fingerprint
from gateway.hosts import is_loopback

log = logging.getLogger(__name__)

TOKEN_VARIABLE = "AMBIENT_GATEWAY_TOKEN"  # noqa: S105  the name of a variable
PAIR_HINT = "gateway connect --token TOKEN --fingerprint FINGERPRINT"
_LOOK_S = 3.0
"""For one handshake on a local network."""
_HEAD_START_S = 0.5
"""Of the last known address before the network is asked."""
_MOST_ADDRESSES = 16
"""Of one answer: a liar may list thousands."""


@dataclass(frozen=True, slots=True)
class ConnectOptions:
    """What `gateway connect` was told: `fingerprint` in any usual spelling, `gateway` an id or name of a pin."""

    url: str | None = None
    token: str | None = None
    fingerprint: str | None = None
    gateway: str | None = None
    insecure: bool = False
    find_timeout_s: float = 3.0
    retry_s: float = 20.0
    """How long a request waits for a gateway that is away before it is answered with an error."""
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)

    @property
    def given_token(self) -> str | None:
        """The option before the variable; the pin file comes after both."""
        return self.token or self.environment.get(TOKEN_VARIABLE) or None

    @property
    def pins(self) -> Pins:
        return Pins(default_file(self.environment))


class BridgeError(Exception):
    """Why there is no answer, in words for the user. `passing`: trying again may help."""

    def __init__(self, words: str, *, passing: bool = False) -> None:
        super().__init__(words)
        self.passing = passing


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """A verified endpoint: `context` lets nobody but the meant peer answer, and `token` may be sent to it."""

    scheme: str
    host: str
    """As a socket takes it: link-local IPv6 with its interface."""
    port: int
    path: str
    context: ssl.SSLContext
    token: str | None
    fingerprint: str = ""
    """Empty where no certificate was checked."""
    gateway_id: str = ""
    name: str = ""

    @property
    def authority(self) -> str:
        """HOST:PORT for people and the Host header; a scope means nothing to the other side."""
        host = self.host.partition("%")[0]
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.path}"


@dataclass(frozen=True, slots=True)
class _Who:
    """Whom to look for, and what may be told to nobody else."""

    fingerprint: str
    token: str
    pin: Pin | None

    def may_be(self, found: Found) -> bool:
        """Whether a look is worth it; the fingerprint on the network is only a claim."""
        claimed = found.fingerprint == self.fingerprint
        return found.tls and (claimed or (self.pin is not None and found.gateway_id == self.pin.gateway_id))


class Locator:
    """Finds the one gateway that is meant. A token leaves this class only inside a Target whose peer is proven."""

    def __init__(self, options: ConnectOptions) -> None:
        self._options = options
        self._strangers: dict[str, str] = {}  # authority -> fingerprint that was not the one

    async def locate(self) -> Target:
        """One try; BridgeError."""
        self._strangers.clear()
        try:
            fingerprint = normal_fingerprint(self._options.fingerprint) if self._options.fingerprint else None
            if self._options.url:
                return await self._by_url(urlsplit(self._options.url), fingerprint)
            return await self._by_identity(fingerprint)
        except (PinError, ValueError) as error:
            raise BridgeError(str(error)) from error

    def accepted(self, target: Target) -> None:
        """The gateway took the token: store the pin at first contact, and where the gateway was met."""
        if not target.fingerprint or not target.token:
            return
        address = f"[{target.host}]:{target.port}" if ":" in target.host else f"{target.host}:{target.port}"
        try:
            known = self._options.pins.by_fingerprint(target.fingerprint)
            if known is None or (self._options.fingerprint and known.token != target.token):
                pin = Pin(target.gateway_id, target.name, target.fingerprint, target.token, address, target.path)
                self._options.pins.save(pin)
                log.info("paired with %s at %s; kept in %s", target.name, target.authority, self._options.pins.file)
            else:
                self._options.pins.moved(target.fingerprint, address)
        except PinError as error:
            log.warning("%s", error)

    # --- by identity: the certificate is known, the address is looked for -------------------------------------------

    async def _by_identity(self, fingerprint: str | None) -> Target:
        pin = self._pin(fingerprint)
        fingerprint = fingerprint or (pin.fingerprint if pin else None)
        if fingerprint is None:
            raise await self._not_paired()
        token = self._options.given_token or (pin.token if pin else None)
        if not token:
            raise BridgeError(f"no token for the gateway with fingerprint {fingerprint}. Run once: {PAIR_HINT}")
        who = _Who(fingerprint, token, pin)
        looks: set[asyncio.Task[Target | None]] = set()
        if pin and pin.address:
            host, port = split_authority(pin.address)
            known = asyncio.create_task(self._look([host], port, pin.path, who), name="look at the last address")
            await asyncio.wait({known}, timeout=_HEAD_START_S)
            if known.done() and (target := known.result()):
                return target
            looks.add(known)
        target = await self._search(who, looks)
        if target is None:
            raise self._not_met(who)
        return target

    def _pin(self, fingerprint: str | None) -> Pin | None:
        """The pin that is meant; BridgeError if that is not clear."""
        pins = self._options.pins.all()
        if fingerprint:
            return next((pin for pin in pins if pin.fingerprint == fingerprint), None)
        wanted = self._options.gateway
        names = ", ".join(f"{pin.gateway_id} ({pin.name})" for pin in pins) or "none"
        if wanted:
            pins = [pin for pin in pins if wanted.casefold() in {pin.gateway_id.casefold(), pin.name.casefold()}]
            if not pins:
                raise BridgeError(f"--gateway {wanted}: not paired with this computer. Paired: {names}")
        if len(pins) > 1:
            raise BridgeError(f"this computer is paired with several gateways: {names}. Choose one with --gateway ID")
        return pins[0] if pins else None

    async def _search(self, who: "_Who", looks: set[asyncio.Task[Target | None]]) -> Target | None:
        """Browse until somebody proves the certificate; the ones who cannot do not hold it up."""
        async with aclosing(browse(self._options.find_timeout_s)) as answers:
            answer: asyncio.Task[Found | None] | None = asyncio.create_task(_next(answers), name="browse")
            try:
                while looks or answer:
                    await asyncio.wait(looks | ({answer} if answer else set()), return_when=asyncio.FIRST_COMPLETED)
                    for task in [task for task in looks if task.done()]:
                        looks.discard(task)
                        if target := task.result():
                            return target
                    if answer and answer.done():
                        found = _browsed(answer)
                        if found and who.may_be(found):
                            path = who.pin.path if who.pin else found.path
                            look = self._look(found.addresses, found.port, path, who, found)
                            looks.add(asyncio.create_task(look, name=f"look at {found.instance}"))
                        answer = asyncio.create_task(_next(answers), name="browse") if found else None
            finally:
                await _cancel(looks | ({answer} if answer else set()))
        return None

    async def _look(
        self, hosts: Sequence[str], port: int, path: str, who: "_Who", found: Found | None = None
    ) -> Target | None:
        """The first of these addresses that shows the certificate; nothing is said to any of them."""

        async def one(host: str) -> Target | None:
            try:
                certificate = await fetch_certificate(host, port, _LOOK_S)
            except (OSError, TimeoutError) as error:
                log.debug("%s port %d: %r", host, port, error)
                return None
            if (seen := fingerprint_of(certificate)) != who.fingerprint:
                self._strangers[f"{host} port {port}"] = seen
                return None
            named = who.pin or found
            names = (named.gateway_id, named.name) if named else ("", host)
            return Target("https", host, port, path, pinned(certificate), who.token, who.fingerprint, *names)

        tasks = {asyncio.create_task(one(host), name=f"look at {host}") for host in hosts[:_MOST_ADDRESSES]}
        try:
            for finished in asyncio.as_completed(tasks):
                if target := await finished:
                    return target
        finally:
            await _cancel(tasks)
        return None

    async def _not_paired(self) -> BridgeError:
        try:
            found = await find(self._options.find_timeout_s)
        except OSError as error:
            return BridgeError(f"cannot look for gateways on the network: {error}", passing=True)
        if not found:
            return BridgeError(
                "no gateway was found on the local network, and this computer is not paired with one. Is it switched"
                " on, and on the same network? Otherwise give its address with --url and its --fingerprint"
            )
        names = ", ".join(f"{one.name} ({one.gateway_id})" for one in found)
        return BridgeError(
            f"found {names}, but this computer is not paired with it, and an answer on the network proves nothing."
            f" Run once in a terminal: {PAIR_HINT}   (the gateway's terminal, page or label shows both)"
        )

    def _not_met(self, who: "_Who") -> BridgeError:
        pin = who.pin
        named = f"gateway {pin.name} ({pin.gateway_id})" if pin else "the gateway"
        if self._strangers:
            return self._stranger(named, who.fingerprint)
        return BridgeError(
            f"{named} with fingerprint {who.fingerprint} does not answer"
            + (f" at {pin.address}" if pin and pin.address else "")
            + " and was not found on the local network. Is it switched on, and on the same network?",
            passing=True,
        )

    def _stranger(self, who: str, fingerprint: str) -> BridgeError:
        seen = "; ".join(f"{where} showed {found}" for where, found in self._strangers.items())
        return BridgeError(
            f"the certificate is not that of {who}: expected fingerprint {fingerprint}, but {seen}. Nothing was sent"
            f" there, no token left this computer. If the gateway was set up anew, pair again: {PAIR_HINT}"
        )

    # --- by address: the user said where, the certificate says who --------------------------------------------------

    async def _by_url(self, url: SplitResult, fingerprint: str | None) -> Target:
        host, path = url.hostname or "", url.path if url.path not in ("", "/") else "/mcp"
        if url.scheme not in ("http", "https") or not host or url.username:
            raise BridgeError(f"--url {self._options.url}: https://HOST:PORT/mcp expected")
        path += f"?{url.query}" if url.query else ""
        port = url.port or (443 if url.scheme == "https" else 80)
        chosen = self._pin(None) if self._options.gateway else None
        token = self._options.given_token
        if url.scheme == "http":
            if not is_loopback(host) and not self._options.insecure:
                raise BridgeError(
                    f"--url {self._options.url} is not encrypted: anybody on the network could take the token."
                    " Use https with --fingerprint, or add --insecure if you know what you do"
                )
            if is_loopback(host) and chosen:
                token = token or chosen.token
            return Target("http", host, port, path, unverified(), token)
        return await self._by_https_url(host, port, path, fingerprint or (chosen.fingerprint if chosen else None))

    async def _by_https_url(self, host: str, port: int, path: str, fingerprint: str | None) -> Target:
        try:
            certificate = await fetch_certificate(host, port, _LOOK_S)
        except (OSError, TimeoutError) as error:
            reason = str(error) or type(error).__name__
            raise BridgeError(f"{self._options.url} cannot be reached: {reason}", passing=True) from error
        seen = fingerprint_of(certificate)
        if fingerprint is None:
            # The certificate says which of the paired gateways this is; the address says which it should have been.
            pins = self._options.pins.all()
            expected = next((pin.fingerprint for pin in pins if _same_place(pin.address, host, port)), None)
            fingerprint = seen if any(pin.fingerprint == seen for pin in pins) else expected
        if fingerprint is not None:
            if seen != fingerprint:
                self._strangers[f"{host} port {port}"] = seen
                raise self._stranger("the gateway", fingerprint)
            pin = self._options.pins.by_fingerprint(fingerprint)
            token = self._options.given_token or (pin.token if pin else None)
            names = (pin.gateway_id, pin.name) if pin else ("", host)
            return Target("https", host, port, path, pinned(certificate), token, fingerprint, *names)
        if self._options.insecure or is_loopback(host):
            return Target("https", host, port, path, unverified(), self._options.given_token)
        raise BridgeError(
            f"{self._options.url} shows a certificate with fingerprint {seen}, and this computer is paired with no such"
            f" gateway. Compare it with the gateway's terminal, page or label, then add --fingerprint and --token once"
        )


def split_authority(text: str) -> tuple[str, int]:
    """`HOST:PORT` or `[IPV6]:PORT`; ValueError."""
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


def _same_place(address: str, host: str, port: int) -> bool:
    return bool(address) and split_authority(address) == (host, port)


def _browsed(answer: asyncio.Task[Found | None]) -> Found | None:
    """What browsing came up with; None at its end, also where there is no multicast."""
    try:
        return answer.result()
    except OSError as error:
        log.warning("cannot look for gateways on the network: %s", error)
        return None


async def _next(answers: AsyncGenerator[Found, None]) -> Found | None:
    return await anext(answers, None)


async def _cancel(tasks: set[Any]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
