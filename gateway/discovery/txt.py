"""The TXT record of `_mcp._tcp` (RFC 6763 section 6), both ways: what a gateway says of itself, never a secret.

There is no official DNS-SD type for MCP; other products announce raw TCP under the same name, hence `proto=http`. One
instance stands for one gateway: it carries the HTTPS port. The plain HTTP port, where there is one, is the key `http`,
so that a browser does not list every gateway twice.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

LIMIT = 255
"""Bytes of one `key=value` string, RFC 6763 section 6.1."""

_FINGERPRINT = re.compile(r"[0-9a-f]{64}")
_PATH = re.compile(r"/[A-Za-z0-9._~/-]*")
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")


@dataclass(frozen=True, slots=True)
class Advert:
    """What the record says. Received from the network it is a hint: only the certificate proves who answers."""

    gateway_id: str
    name: str
    version: str = ""
    mcp_revisions: tuple[str, ...] = ()
    fingerprint: str = ""
    """SHA-256 of the certificate (DER), 64 lower-case hex digits; empty without TLS."""
    tls: bool = True
    path: str = "/mcp"
    pair: str = "/pair"
    auth: str = "bearer"
    http_port: int | None = None


def encode(advert: Advert) -> dict[str, str]:
    """The keys in the order that RFC 6763 section 6.7 wants (txtvers first); ValueError for an id no host can have."""
    if not _ID.fullmatch(advert.gateway_id):
        raise ValueError(f"gateway id {advert.gateway_id!r}: letters, digits, - and _ only, 63 at most")
    keys = {
        "txtvers": "1",
        "proto": "http",
        "path": advert.path,
        "tls": "1" if advert.tls else "0",
        "auth": advert.auth,
        "v": advert.version,
        "mcpv": ",".join(advert.mcp_revisions),
        "id": advert.gateway_id,
        "name": advert.name,
        "pair": advert.pair,
        "fp": normal_fingerprint(advert.fingerprint) if advert.fingerprint else "",
        "http": "" if advert.http_port is None else str(advert.http_port),
    }
    return {key: clip(value, LIMIT - len(key) - 1) for key, value in keys.items() if value}


def decode(properties: Mapping[bytes, bytes | None]) -> Advert | None:
    """Read a record off the wire; None if it is not one of a gateway. What is malformed is left out, nothing raises."""
    # An instance may repeat a key in another case; the first one counts (RFC 6763 section 6.4).
    said: dict[str, str] = {}
    for key, value in properties.items():
        said.setdefault(key.decode("ascii", "replace").lower(), printable((value or b"").decode("utf-8", "replace")))
    gateway_id, path, pair = said.get("id", ""), said.get("path", "/mcp"), said.get("pair", "")
    fingerprint, http = said.get("fp", "").lower(), said.get("http", "")
    if said.get("txtvers", "1") != "1" or said.get("proto") != "http" or not _ID.fullmatch(gateway_id):
        return None
    return Advert(
        gateway_id=gateway_id,
        name=said.get("name", "") or gateway_id,
        version=said.get("v", ""),
        mcp_revisions=tuple(revision for revision in said.get("mcpv", "").split(",") if revision),
        fingerprint=fingerprint if _FINGERPRINT.fullmatch(fingerprint) else "",
        tls=said.get("tls") == "1",
        path=path if _PATH.fullmatch(path) else "/mcp",
        pair=pair if _PATH.fullmatch(pair) else "",
        auth=said.get("auth", ""),
        http_port=int(http) if re.fullmatch(r"[1-9][0-9]{0,4}", http) and int(http) < 65536 else None,
    )


def normal_fingerprint(text: str) -> str:
    """SHA-256 as people and tools write it (colons, spaces, upper case) to 64 lower-case hex digits; ValueError."""
    digits = re.sub(r"[\s:]", "", text).lower().removeprefix("sha256")
    if not _FINGERPRINT.fullmatch(digits):
        raise ValueError(f"fingerprint {text!r}: 64 hex digits of SHA-256 expected, colons allowed")
    return digits


def printable(text: str) -> str:
    """What may be shown on a terminal: strangers choose these words."""
    return "".join(char for char in text if char.isprintable())


def clip(text: str, size: int) -> str:
    """The text in at most so many bytes of UTF-8, cut between characters."""
    return text.encode()[:size].decode("utf-8", "ignore")
