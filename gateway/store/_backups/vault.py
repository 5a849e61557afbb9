"""Files under a passphrase: scrypt makes the key (RFC 7914), AES-256-GCM seals chunk by chunk, so memory stays flat.

The construction is STREAM (Hoang, Reyhanitabar, Rogaway, Vizár 2015) as in the age file format: each file has a key of
its own, HKDF-SHA256 of the master key and 16 random bytes that stand first; each chunk has a nonce of its number and a
mark on the last one. So chunks cannot be swapped, dropped, repeated or taken from another file.
"""

import hashlib
import hmac
import secrets
import unicodedata
from collections.abc import Iterator
from typing import Annotated, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

from gateway.store.errors import BackupError

CHUNK_BYTES = 1 << 20
SALT_BYTES = 16
TAG_BYTES = 16
LEAST_LETTERS = 8
COST = 1 << 16
"""scrypt's N with r = 8: 64 MB and some tenths of a second for each guess."""


class Source(Protocol):
    """What bytes are read from."""

    def read(self, size: int, /) -> bytes: ...


class Lock(BaseModel):
    """How a passphrase becomes the key, and what tells a wrong one. Hexadecimal digits."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kdf: Literal["scrypt"] = "scrypt"
    n: Annotated[int, Field(ge=2, le=1 << 18)]
    r: Literal[8] = 8
    p: Literal[1] = 1
    salt: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    check: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def new_lock(passphrase: str) -> tuple[Lock, bytes]:
    """A lock and its key; BackupError where the passphrase is too short to keep anybody out."""
    if len(passphrase) < LEAST_LETTERS:
        raise BackupError(
            f"a passphrase of {len(passphrase)} characters: take at least {LEAST_LETTERS}, some words are best"
        )
    salt = secrets.token_bytes(SALT_BYTES)
    key = _key(passphrase, salt, COST)
    return Lock(n=COST, salt=salt.hex(), check=mac(key, b"check")), key


def unlock(lock: Lock, passphrase: str) -> bytes | None:
    """The key; None where the passphrase is a wrong one."""
    try:
        key = _key(passphrase, bytes.fromhex(lock.salt), lock.n)
    except ValueError:  # a cost that is no power of two: damaged, so no passphrase fits
        return None
    return key if hmac.compare_digest(lock.check, mac(key, b"check")) else None


def mac(key: bytes, data: bytes) -> str:
    """HMAC-SHA256 in hexadecimal digits."""
    return hmac.new(key, data, hashlib.sha256).hexdigest()


def sealed_bytes(size: int) -> int:
    """How many bytes a file of this size has when sealed."""
    return SALT_BYTES + size + TAG_BYTES * max(1, -(-size // CHUNK_BYTES))


def seal(source: Source, key: bytes, name: str) -> Iterator[bytes]:
    """The sealed form of what is read; it opens under the same key and name only."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415 - 60 ms that few commands need

    salt = secrets.token_bytes(SALT_BYTES)
    cipher = AESGCM(_file_key(key, salt))
    yield salt
    for nonce, chunk in _numbered(source, CHUNK_BYTES):
        yield cipher.encrypt(nonce, chunk, name.encode())


def unseal(source: Source, key: bytes, name: str) -> Iterator[bytes]:
    """What was sealed, chunk by chunk, each one proven; ValueError where it was changed, cut, or has another name."""
    from cryptography.exceptions import InvalidTag  # noqa: PLC0415
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415

    salt = read(source, SALT_BYTES)
    cipher = AESGCM(_file_key(key, salt))
    for nonce, chunk in _numbered(source, CHUNK_BYTES + TAG_BYTES):
        try:
            yield cipher.decrypt(nonce, chunk, name.encode())
        except InvalidTag as error:
            raise ValueError("it was changed or cut since it was sealed") from error


def read(source: Source, size: int) -> bytes:
    """So many bytes, fewer only at the end."""
    parts, missing = [], size
    while missing and (part := source.read(missing)):
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)


def _numbered(source: Source, size: int) -> Iterator[tuple[bytes, bytes]]:
    """(nonce, chunk): an 11-byte number and a byte that is 1 for the last chunk; at least one chunk."""
    chunk, number = read(source, size), 0
    while True:
        following = read(source, size) if len(chunk) == size else b""
        yield number.to_bytes(11) + bytes((not following,)), chunk
        if not following:
            return
        chunk, number = following, number + 1


def _key(passphrase: str, salt: bytes, cost: int) -> bytes:
    letters = unicodedata.normalize("NFC", passphrase).encode()  # keyboards differ in how they write an umlaut
    return hashlib.scrypt(letters, salt=salt, n=cost, r=8, p=1, maxmem=256 * cost * 8, dklen=32)


def _file_key(key: bytes, salt: bytes) -> bytes:
    from cryptography.hazmat.primitives.hashes import SHA256  # noqa: PLC0415
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF  # noqa: PLC0415

    return HKDF(SHA256(), 32, salt, b"ambient-gateway backup file").derive(key)
