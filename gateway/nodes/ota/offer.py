"""What gateway and node say of an update: the offer, who may download, how far it is. Pure but for what is open.

devices/{id}/update          {"body": TEXT, "mac"}; the mac is over "update", device, TEXT
GET /files/firmware/{offer}/{path}    Authorization: Node {device}:{mac over "download", device, offer}
devices/{id}/update/status   {"offer","phase","percent","version","error"}
"""

import json
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from typing import Any

from gateway.access.policy import is_loopback
from gateway.clock import elapsed_s
from gateway.mac import enveloped, is_mac, mac
from gateway.nodes.ota.manifest import VERSION, parse
from gateway.registry.described import clean

LIVES_S = 6 * 3600.0
OFFER = re.compile(r"[0-9a-f]{16}")
DEVICE = re.compile(r"[A-Za-z0-9._-]{1,64}")
STATUS_BYTES = 4096
SCHEME = "Node"


class OfferError(ValueError):
    """An offer that cannot be made, or a payload about one that cannot be used: one line."""


class Phase(StrEnum):
    """How far a node is with an update, in order; the last five end it."""

    ACCEPTED = "accepted"
    DOWNLOADING = "downloading"
    VERIFYING = "verifying"
    INSTALLING = "installing"
    RESTARTING = "restarting"
    TESTING = "testing"
    CONFIRMED = "confirmed"
    REFUSED = "refused"
    FAILED = "failed"
    ROLLED_BACK = "rolled_back"
    CANCELLED = "cancelled"

    @property
    def is_end(self) -> bool:
        return self in _ENDS


_ENDS = frozenset({Phase.CONFIRMED, Phase.REFUSED, Phase.FAILED, Phase.ROLLED_BACK, Phase.CANCELLED})


@dataclass(frozen=True, slots=True)
class UpdateStatus:
    """What a node says of an update, cleaned; "" and None where it does not say. `percent` is 0 to 100."""

    offer: str
    phase: Phase
    percent: int | None = None
    version: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True)
class Source:
    """Where a node downloads: `host` is "" for the address at which it has its broker."""

    host: str
    port: int
    tls: bool


@dataclass(frozen=True, slots=True)
class Open:
    """An offer that a device may download by; `until_s` by the clock of `Offers`."""

    offer: str
    device: str
    manifest_sha256: str
    until_s: float


def source(host: str, http: tuple[str, int | None], https: tuple[str, int]) -> Source:
    """Where nodes of the network download: over plain HTTP where they reach it, for each file is checked by its hash;
    else (it is off, or listens on loopback only) over HTTPS. `http` and `https` are what listens: address and port."""
    (address, plain), (secure_address, secure) = http, https
    if plain is None or (is_loopback(address) and not is_loopback(secure_address)):
        return Source(host, secure, tls=True)
    return Source(host, plain, tls=False)


def text(offer: str, boot: str, manifest: bytes, source: Source) -> str:
    """An offer's TEXT for this boot of a node; ManifestError where the manifest is none."""
    about = parse(manifest)
    body: dict[str, Any] = {"offer": offer, "boot": boot, "version": about.version, "board": list(about.boards)}
    body |= {"kind": str(about.kind), "host": source.host, "port": source.port, "tls": source.tls}
    body |= {"manifest_sha256": sha256(manifest).hexdigest(), "manifest_bytes": len(manifest)}
    return json.dumps(body, separators=(",", ":"))


def payload(key: bytes, device: str, body: str) -> bytes:
    """What is published at devices/{device}/update."""
    return enveloped(key, body, "update", device)


def authorization(key: bytes, device: str, offer: str) -> str:
    """The header by which a node downloads."""
    return f"{SCHEME} {device}:{mac(key, 'download', device, offer)}"


def decode_status(content: bytes) -> UpdateStatus:
    """A payload of devices/{id}/update/status; OfferError."""
    if len(content) > STATUS_BYTES:
        raise OfferError(f"update/status: {len(content)} bytes are more than {STATUS_BYTES}")
    try:
        body = json.loads(content.decode())
    except (ValueError, RecursionError):
        raise OfferError("update/status: a payload is JSON in UTF-8") from None
    return status_of(body)


def status_of(body: object) -> UpdateStatus:
    """The same of what stands as "update" in a node's online status; OfferError."""
    if not isinstance(body, Mapping):
        raise OfferError(f"update/status: one JSON object, not {ascii(body)[:40]}")
    offer, phase, percent = body.get("offer"), body.get("phase"), body.get("percent")
    if not isinstance(offer, str) or OFFER.fullmatch(offer) is None:
        raise OfferError(f"update/status: offer is 16 hexadecimal digits, not {ascii(offer)[:40]}")
    if not isinstance(phase, str) or phase not in tuple(Phase):
        raise OfferError(f"update/status: phase is one of {', '.join(Phase)}, not {ascii(phase)[:40]}")
    known = percent if type(percent) is int and 0 <= percent <= 100 else None
    version = clean(body.get("version"))
    return UpdateStatus(
        offer, Phase(phase), known, version if VERSION.fullmatch(version) else "", clean(body.get("error"))
    )


class Offers:
    """The offers that are open, at most one a device. `keys` gives a device's key; a clock that nobody can set.
    `source` is where nodes download, once something serves there."""

    def __init__(self, keys: Callable[[str], bytes | None], now_s: Callable[[], float] = elapsed_s) -> None:
        self._keys, self._now_s = keys, now_s
        self._open: dict[str, Open] = {}
        self._nobody = secrets.token_bytes(32)
        self.source: Source | None = None

    def __len__(self) -> int:
        return sum(self._now_s() < each.until_s for each in self._open.values())

    def open(
        self,
        device: str,
        boot: str,
        manifest: bytes,
        source: Source | None = None,
        *,
        offer: str | None = None,
        lives_s: float = LIVES_S,
    ) -> tuple[str, bytes]:
        """Let a device download this, instead of what it could before; (offer, payload to publish). `offer` opens one
        of before a restart again. OfferError where the device has no key, or where nothing serves downloads."""
        key, where = self._key(device), source or self.source
        if where is None:
            raise OfferError("nothing serves downloads: the gateway is starting, or runs without its web server")
        offer = offer or secrets.token_hex(8)
        if OFFER.fullmatch(offer) is None:
            raise OfferError(f"offer {offer[:40]!r} is not 16 hexadecimal digits")
        content = payload(key, device, text(offer, boot, manifest, where))
        now_s = self._now_s()
        self._open = {
            each.offer: each for each in self._open.values() if each.device != device and now_s < each.until_s
        }
        self._open[offer] = Open(offer, device, sha256(manifest).hexdigest(), now_s + lives_s)
        return offer, content

    def cancel(self, device: str, boot: str, offer: str) -> bytes:
        """Close an offer; the payload that tells its node so."""
        self.close(offer)
        body = json.dumps({"cancel": offer, "boot": boot}, separators=(",", ":"))
        return payload(self._key(device), device, body)

    def close(self, offer: str) -> None:
        """Nobody downloads by it any more."""
        self._open.pop(offer, None)

    def find(self, offer: str, device: str) -> Open | None:
        """The open offer of this device, None where it is not, not its own, or too old."""
        found = self._open.get(offer)
        return found if found is not None and found.device == device and self._now_s() < found.until_s else None

    def bearer(self, offer: str, header: str) -> str | None:
        """The device that an Authorization header proves to be, for downloads by this offer; None where it does not."""
        scheme, _, rest = header.strip().partition(" ")
        device, _, said = rest.strip().rpartition(":")
        known = DEVICE.fullmatch(device) and OFFER.fullmatch(offer)
        if scheme.lower() != SCHEME.lower() or not known:
            return None
        key = self._keys(device)
        proven = is_mac(said, key or self._nobody, "download", device, offer)
        return device if proven and key is not None else None

    def _key(self, device: str) -> bytes:
        key = self._keys(device)
        if key is None:
            raise OfferError(
                f"{device} has no key, so it would believe no offer: `gateway node add {device}` makes one"
            )
        return key
