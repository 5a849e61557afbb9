"""Reading and writing headers. Pure, but for `hardened`, which wraps a send."""

import ipaddress
from collections.abc import Collection
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import Message, Scope, Send

LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})
PLAIN_COOKIE = "agw_session"
TLS_COOKIE = "__Host-agw_session"
"""Browsers share cookies between a host's ports: the one given over TLS must not be set or read over plain HTTP."""
SECURITY = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",  # not no-referrer: browsers then post our own forms with Origin null
    "cross-origin-resource-policy": "same-origin",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cache-control": "no-store",
}


def host_name(host: str) -> str:
    """The name or address in a Host header or in a bare address: lower case, no port, no trailing dot, no brackets, no
    IPv6 zone; "" where it is neither."""
    text = host.strip().lower()
    if text.startswith("["):
        address, bracket, port = text[1:].partition("]")
        return _address(address) if bracket and (not port or _is_port(port[1:])) else ""
    if text.count(":") == 1:
        text, _, port = text.partition(":")
        if not _is_port(port):
            return ""
    if ":" in text:
        return _address(text)
    text = text.removesuffix(".")
    return text if text and all(c.isalnum() or c in "-._" for c in text) else ""


def authority(host: str) -> str:
    """A Host header as it may stand in an address: the name as `host_name` gives it, and the port where there is one;
    "" where it is no host."""
    name, text = host_name(host), host.strip()
    port = text.rpartition("]")[2] if text.startswith("[") else text[text.find(":") :] if text.count(":") == 1 else ""
    return (f"[{name}]" if ":" in name else name) + port if name else ""


def origin_host(origin: str) -> str:
    """The host of a web page's origin; "" for null and whatever is no http(s) origin."""
    try:
        parts = urlsplit(origin)
        return host_name(parts.netloc) if parts.scheme in {"http", "https"} and not parts.path else ""
    except ValueError:
        return ""


def cookie_name(scope: Scope) -> str:
    """What the session's cookie is called over this transport."""
    return TLS_COOKIE if scope.get("scheme") == "https" else PLAIN_COOKIE


def cookie(headers: Headers, scope: Scope, name: str | None = None) -> str:
    """A cookie's value ("" without one); by default the session's."""
    try:
        found = SimpleCookie("; ".join(headers.getlist("cookie"))).get(name or cookie_name(scope))
    except CookieError:
        return ""
    return found.value if found is not None else ""


def hardened(send: Send) -> Send:
    """A send that adds the security headers which the response did not set itself."""

    async def wrapped(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(raw=message.setdefault("headers", []))
            for name, value in SECURITY.items():
                headers.setdefault(name, value)
        await send(message)

    return wrapped


def names(gateway_id: str, hostname: str, extra: Collection[str] = ()) -> frozenset[str]:
    """The host names of a gateway besides its addresses: its own, its machine's, each also in .local, and the
    configured ones."""
    short = hostname.lower().removesuffix(".").removesuffix(".local")
    own = {gateway_id, f"{gateway_id}.local", hostname, short, f"{short}.local", *extra}
    return frozenset(name for name in map(host_name, own) if name) | LOCAL


def _address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text.partition("%")[0]))
    except ValueError:
        return ""


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 5
