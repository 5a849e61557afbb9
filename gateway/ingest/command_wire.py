"""Commands to a node and their results: JSON in UTF-8, signed where the node has a key. Pure."""

import json
import re
from collections.abc import Mapping
from typing import Any

from gateway.ingest import wire
from gateway.ingest.wire import WireError
from gateway.mac import MAC_DIGITS, enveloped, is_mac, mac

_END = re.compile(rb', ?"mac": ?"([0-9a-f]{%d})"\}' % MAC_DIGITS)


def encode_command(topic: str, name: str, args: Mapping[str, Any], seal: tuple[bytes, str, int] | None = None) -> bytes:
    """A command to a node. With a seal (key, boot, n) it is signed for the device and id of its topic, good for this
    boot only, and once. Who told no boot ("") may know nothing of seals and finds name and args beside."""
    body: dict[str, Any] = {"name": name, "args": dict(args)}
    if seal is None:
        return json.dumps(body, separators=(",", ":")).encode()
    key, boot, n = seal
    where, text = wire.route(topic), json.dumps({**body, "boot": boot, "n": n}, separators=(",", ":"))
    sealed = enveloped(key, text, "command", where.device, where.name)
    return sealed if boot else json.dumps({**body, **json.loads(sealed)}, separators=(",", ":")).encode()


def unsealed(topic: str, payload: bytes, key: bytes, *before: str) -> dict[str, Any]:
    """The object in an envelope {"body", "mac"}; WireError where the key did not sign it after these lines."""
    outer = wire.object_of(topic, payload)
    text = outer.get("body")
    if not isinstance(text, str) or not is_mac(outer.get("mac"), key, *before, text):
        raise WireError(topic, "the mac is not that of this device's key", outer.get("mac"))
    return wire.object_of(topic, text.encode(errors="replace"))


def decode_command(topic: str, payload: bytes, key: bytes | None = None) -> tuple[str, dict[str, Any]]:
    """(name, args) of a command; WireError where a device with a key gets one that the key did not sign."""
    where = wire.route(topic)
    body = unsealed(topic, payload, key, "command", where.device, where.name) if key else wire.object_of(topic, payload)
    if key and (not isinstance(body.get("boot"), str) or wire.whole_number(topic, body, "n") is None):
        raise WireError(topic, "a signed command names boot and n")
    name, args = body.get("name"), body.get("args", {})
    if not isinstance(name, str) or wire.ID.fullmatch(name) is None:
        raise WireError(topic, "a command's name is 1 to 64 of A-Z a-z 0-9 . _ -", name)
    if not isinstance(args, dict):
        raise WireError(topic, "args is an object", args)
    return name, wire.clean_value(args)


def encode_result(result: Any = None, error: str | None = None) -> bytes:
    """A node's answer to a command: {"ok": true, "result"} or {"ok": false, "error"}."""
    body = {"ok": True, "result": result} if error is None else {"ok": False, "error": error}
    return json.dumps(body, separators=(",", ":")).encode()


def decode_result(topic: str, payload: bytes) -> tuple[bool, Any]:
    """(ok, result or error text) of a command, cleaned."""
    body = wire.object_of(topic, payload)
    if not isinstance(body.get("ok"), bool):
        raise WireError(topic, "ok is true or false", body.get("ok"))
    key = "result" if body["ok"] else "error"
    return body["ok"], wire.clean_value({key: body.get(key)})[key]


def decode_refusal(topic: str, payload: bytes) -> tuple[str, int] | None:
    """(boot, n) of a node that refused a command because it is in this boot, or has heard this number; else None."""
    body = wire.object_of(topic, payload)
    boot, n = body.get("boot"), body.get("n")
    known = isinstance(boot, str) and wire.ID.fullmatch(boot) is not None and type(n) is int and 0 <= n < wire.SEQ_LIMIT
    return (boot, n) if body.get("ok") is False and known else None  # type: ignore[return-value]


def sign_result(topic: str, payload: bytes, key: bytes) -> bytes:
    """A result with the mac as its last member: over the object without it, for the device and id of its topic."""
    where, text = wire.route(topic), payload.decode()
    return f'{text[:-1]},"mac":"{mac(key, "result", where.device, where.name, text)}"}}'.encode()


def is_signed(topic: str, payload: bytes, key: bytes) -> bool | None:
    """Whether this key signed a result; None where nobody did."""
    end = payload.rfind(b",")
    found = _END.fullmatch(payload, end) if end >= 0 else None
    if found is None:
        return None
    where, text = wire.route(topic), (payload[:end] + b"}").decode(errors="replace")
    return is_mac(found[1].decode(), key, "result", where.device, where.name, text)
