"""JSON-RPC as the bridge needs it, pure: what a message is, which headers it travels with, may it be sent twice."""

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

VERSION_KEY = "io.modelcontextprotocol/protocolVersion"
"""In `params._meta` of every request since 2026-07-28; earlier requests never carry it."""

FAILED = -32000
"""The bridge could not get an answer (range of JSON-RPC 2.0 section 5.1 for implementations)."""
PARSE_ERROR = -32700

_REPEATABLE = frozenset(
    {
        "initialize",
        "ping",
        "server/discover",
        "tools/list",
        "prompts/list",
        "prompts/get",
        "resources/list",
        "resources/templates/list",
        "resources/read",
        "resources/subscribe",
        "resources/unsubscribe",
        "completion/complete",
        "logging/setLevel",
    }
)
# What `Mcp-Name` repeats (2026-07-28, transports: standard headers).
_NAMED_BY = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}

_PLAIN = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")
_SENTINEL = re.compile(r"=\?base64\?.*\?=")

Id = str | int | float


@dataclass(frozen=True, slots=True)
class Message:
    """One message of the assistant's app: the bytes as they came, and what the bridge has to know of them."""

    raw: bytes
    method: str = ""
    """Empty for an answer to a request of the gateway."""
    id: Id | None = None
    """None for notifications; of an answer, the gateway's id."""
    params: Mapping[str, Any] | None = None

    @property
    def is_request(self) -> bool:
        return self.id is not None and bool(self.method)

    @property
    def version(self) -> str | None:
        """The protocol revision that a modern request names, None for one of the session era."""
        meta = (self.params or {}).get("_meta")
        version = meta.get(VERSION_KEY) if isinstance(meta, dict) else None
        return version if isinstance(version, str) else None

    @property
    def repeatable(self) -> bool:
        """Sending it twice does no more than sending it once."""
        return self.method in _REPEATABLE

    @property
    def cancels(self) -> Id | None:
        """The id of the request that this notification takes back."""
        found = (self.params or {}).get("requestId") if self.method == "notifications/cancelled" else None
        return found if isinstance(found, str | int) else None


def parse(line: bytes) -> Message:
    """Read one line; ValueError if it is not one JSON-RPC message (batches ended with 2025-06-18)."""
    decoded = _loads(line)
    if not isinstance(decoded, dict):
        raise ValueError("one JSON object a line expected")
    method, params, found = decoded.get("method", ""), decoded.get("params"), decoded.get("id")
    if not isinstance(method, str) or (not method and found is None):
        raise ValueError("neither a method nor an id")
    if found is not None and (isinstance(found, bool) or not isinstance(found, str | int | float)):
        raise ValueError("an id is a string or a number")
    return Message(line.strip(), method, found, params if isinstance(params, dict) else None)


def modern_headers(message: Message, version: str) -> dict[str, str]:
    """The standard headers of a 2026-07-28 request, which repeat what the body says."""
    headers = {"mcp-protocol-version": version, "mcp-method": header_value(message.method)}
    name = (message.params or {}).get(_NAMED_BY.get(message.method, ""))
    return headers | ({"mcp-name": header_value(name)} if isinstance(name, str) else {})


def header_value(value: str) -> str:
    """As it is where a header can carry it, else `=?base64?...?=` (2026-07-28, transports: encoding of values)."""
    if (not value or _PLAIN.fullmatch(value)) and not _SENTINEL.fullmatch(value):
        return value
    return f"=?base64?{base64.b64encode(value.encode()).decode()}?="


def error(found: Id | None, code: int, words: str) -> bytes:
    """An error answer."""
    return json.dumps({"jsonrpc": "2.0", "id": found, "error": {"code": code, "message": words}}).encode()


def one_line(text: str | bytes) -> bytes:
    """A JSON text for a stream of lines: a line break inside it can only be white space between tokens."""
    data = text.encode() if isinstance(text, str) else text
    return data.replace(b"\r", b" ").replace(b"\n", b" ").strip()


def answers(text: str | bytes, found: Id | None) -> bool:
    """Whether this message is the answer to that request; ValueError if it is no JSON-RPC message."""
    decoded = _loads(text)
    if not isinstance(decoded, dict) or decoded.get("jsonrpc") != "2.0":
        raise ValueError("no JSON-RPC message")
    return "method" not in decoded and found is not None and decoded.get("id") == found


def _loads(text: str | bytes) -> Any:
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def request(found: Id, method: str, params: Mapping[str, Any] | None) -> Message:
    """A request of the bridge itself."""
    body = {"jsonrpc": "2.0", "id": found, "method": method} | ({} if params is None else {"params": params})
    return Message(json.dumps(body).encode(), method, found, params)


def notification(method: str) -> Message:
    """A notification of the bridge itself."""
    return Message(json.dumps({"jsonrpc": "2.0", "method": method}).encode(), method)
