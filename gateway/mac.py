"""What a node and its gateway sign with the key that only they have: HMAC-SHA256 over lines, its first 32 digits."""

import hashlib
import hmac
import json

MAC_DIGITS = 32


def mac(key: bytes, *lines: object) -> str:
    """The signature of these lines, joined by newlines: 32 hexadecimal digits."""
    text = "\n".join(map(str, lines))
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()[:MAC_DIGITS]


def is_mac(given: object, key: bytes, *lines: object) -> bool:
    """Whether a stranger's word is that signature; takes as long for a wrong one as for a right one."""
    said = given.encode(errors="replace") if isinstance(given, str) else b""
    return hmac.compare_digest(said, mac(key, *lines).encode())


def enveloped(key: bytes, text: str, *before: object) -> bytes:
    """{"body": text, "mac"}: a text under the signature of it and the lines before it."""
    return json.dumps({"body": text, "mac": mac(key, *before, text)}, separators=(",", ":")).encode()
