"""What a node says over MQTT and what it believes: JSON in UTF-8, one object a message. Pure."""

import binascii
import hashlib
import json

from micropython import const

_MAC_DIGITS = const(32)


class WireError(ValueError):
    """A payload that cannot be used; one line."""


def data(record, oldest, timestamp_ms):
    """(sensor, payload) of a held record (boot, seq, sensor, uptime_ms, value). `timestamp_ms` 0: no clock."""
    boot, seq, sensor, uptime_ms, value = record
    body = {
        "boot": boot,
        "seq": seq,
        "oldest": oldest,
        "uptime_ms": uptime_ms,
        "clock": "ntp" if timestamp_ms else "none",
        "value": {metric: {"reading": number} for metric, number in value.items()},
    }
    if timestamp_ms:
        body["timestamp"] = timestamp_ms
    return sensor, json.dumps(body).encode()


def status(online, **more):
    """Online with what is to be told, or the last will."""
    more["status"] = "online" if online else "offline"
    return json.dumps(more).encode()


def error(code, message):
    """A complaint of this node."""
    return json.dumps({"code": code, "message": message}).encode()


def ack(payload, device, key):
    """(boot, seq) that is on the gateway's disk; WireError where it is malformed or the key did not sign it."""
    body = plain(payload)
    boot, seq = body.get("boot"), body.get("seq")
    if not isinstance(boot, str) or not isinstance(seq, int) or isinstance(seq, bool) or seq < 1:
        raise WireError("an acknowledgement names boot and seq")
    if key is not None and not same(body.get("mac"), mac(key, device, boot, seq)):
        raise WireError("wrong mac")
    return boot, seq


def signed(payload, key, *about):
    """The object in the body of {"body", "mac"}; WireError where the key did not sign it after the lines `about`."""
    outer = plain(payload)
    text = outer.get("body")
    if not isinstance(text, str):
        raise WireError("not signed with this node's key")
    if not same(outer.get("mac"), mac(key, *(about + (text,)))):
        raise WireError("wrong mac: not signed with this node's key")
    return plain(text.encode())


def mac(key, *lines):
    """32 hex digits of HMAC-SHA256 over these lines, joined by newlines."""
    return hmac_sha256(key, "\n".join([str(line) for line in lines]).encode())[:_MAC_DIGITS]


def hmac_sha256(key, *texts):
    """Hex digits, over some bytes one after the other; stock MicroPython has no hmac module (RFC 2104)."""
    if len(key) > 64:
        key = hashlib.sha256(key).digest()
    key = key + bytes(64 - len(key))
    inner = hashlib.sha256(bytes(b ^ 0x36 for b in key))
    for text in texts:
        inner.update(text)
    outer = hashlib.sha256(bytes(b ^ 0x5C for b in key))
    outer.update(inner.digest())
    return binascii.hexlify(outer.digest()).decode()


def same(given, wanted):
    """Whether two texts are equal, in a time that does not depend on where they differ."""
    if not isinstance(given, str) or len(given.encode()) != len(wanted):
        return False
    differs = 0
    for a, b in zip(given.encode(), wanted.encode()):  # a text's letters would be kept for ever, each as a name
        differs |= a ^ b
    return differs == 0


def plain(payload):
    """The object in a payload that nobody signed; WireError where it is none."""
    try:
        body = json.loads(payload) if payload.strip().endswith(b"}") else None  # the parser forgives a missing end
    except (ValueError, UnicodeError, RuntimeError):  # RuntimeError: nested too deeply
        raise WireError("not JSON")
    if not isinstance(body, dict):
        raise WireError("not an object")
    return body
