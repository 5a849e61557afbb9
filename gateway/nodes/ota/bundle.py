"""A firmware bundle: one zip of stored files, its manifest signed (Ed25519, RFC 8032). Taken whole or refused.

manifest.json   what `manifest.parse` reads      manifest.sig   64 bytes over manifest.json's bytes
node/...        or micropython.bin: exactly the files of the manifest
"""

import os
import re
import stat
import struct
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import NoReturn
from zipfile import ZIP_STORED, BadZipFile, ZipFile, ZipInfo

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from gateway.nodes.ota.manifest import (
    FILES,
    IMAGE_BYTES,
    IMAGE_MAGIC,
    MANIFEST_BYTES,
    PATH_LENGTH,
    Kind,
    Manifest,
    ManifestError,
    compose,
    parse,
)

MANIFEST, SIGNATURE = "manifest.json", "manifest.sig"
SIGNATURE_BYTES = 64
KEY = re.compile(r"[0-9a-f]{64}")
BUNDLE_BYTES = IMAGE_BYTES + (64 << 10)
DATE = (1980, 1, 1, 0, 0, 0)
"""The oldest that a zip can say: the same content makes the same bytes whenever it is built."""
_END = struct.Struct("<4s4H2LH")
"""End of central directory (APPNOTE 4.3.16): signature, disks, entries here, in all, size, offset, comment's length."""
_ENTRY_BYTES = 46 + PATH_LENGTH
_LOCATOR64, _LOCATOR64_BYTES = b"PK\x06\x07", 20


class BundleError(ValueError):
    """Why a bundle is not taken: what is wrong with it and what to do, in one line."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """One that was checked. `content` are the manifest's bytes as they were signed, by the key `signed_by` (hex)."""

    manifest: Manifest
    content: bytes
    signature: bytes
    signed_by: str
    files: Mapping[str, bytes]

    @property
    def digest(self) -> str:
        """The SHA-256 of the manifest, by which the bundle is known."""
        return sha256(self.content).hexdigest()


def read(file: Path, keys: Collection[str]) -> Bundle:
    """Check the bundle in a file, whoever wrote it; blocks. BundleError."""
    try:
        handle = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe would keep us waiting
        try:
            content = _read(handle)
        finally:
            os.close(handle)
        return check(content, keys)
    except OSError as error:
        way_out = "the gateway itself reads it, so put it where the gateway's user may"
        raise BundleError(f"{file}: {error.strerror}: {way_out}") from error
    except (ManifestError, BundleError) as error:
        raise BundleError(f"{file}: {error}") from None


def check(content: bytes, keys: Collection[str]) -> Bundle:
    """The bundle that these bytes are, signed by one of these keys (hex); BundleError or ManifestError."""
    if len(content) > BUNDLE_BYTES:
        _refuse(f"it has more than {BUNDLE_BYTES} bytes, which no bundle has")
    _expect_small_directory(content)
    try:
        with ZipFile(BytesIO(content)) as found:
            return _checked(found, keys)
    except (ManifestError, BundleError):
        raise
    except (BadZipFile, EOFError, OSError, RuntimeError, ValueError, struct.error, OverflowError) as error:
        raise BundleError(f"it is damaged ({ascii(str(error))[:120]}): build it again, or copy it again") from None


def build(manifest: Manifest, files: Mapping[str, bytes], key: Ed25519PrivateKey) -> bytes:
    """A bundle of these files; ManifestError where they are none. The same input makes the same bytes."""
    content = compose(manifest)
    parts = {each.path: files[each.path] for each in manifest.files}
    return pack({MANIFEST: content, SIGNATURE: key.sign(content)} | parts)


def pack(files: Mapping[str, bytes]) -> bytes:
    """A zip of stored files in this order, without anything that differs from machine to machine."""
    target = BytesIO()
    with ZipFile(target, "w", ZIP_STORED) as made:
        for name, content in files.items():
            about = ZipInfo(name, DATE)
            about.create_system, about.external_attr = 3, (stat.S_IFREG | 0o644) << 16
            made.writestr(about, content, ZIP_STORED)
    return target.getvalue()


def public_hex(key: Ed25519PrivateKey) -> str:
    """The public key of a signing key, as people pass it on."""
    return key.public_key().public_bytes_raw().hex()


def expect_key(text: str) -> str:
    """A public key as it is kept; BundleError."""
    if KEY.fullmatch(text.strip().lower()) is None:
        _refuse(f"key {text[:80]!a} is not 64 hexadecimal digits: `make firmware` prints the line to run")
    return text.strip().lower()


def _read(handle: int) -> bytes:
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        _refuse("it is no file: name a bundle that `make firmware` wrote")
    with os.fdopen(handle, "rb", closefd=False) as stream:
        return stream.read(BUNDLE_BYTES + 1)


def _checked(found: ZipFile, keys: Collection[str]) -> Bundle:
    entries = _entries(found)
    content = _content(found, entries, MANIFEST, MANIFEST_BYTES)
    signature = _content(found, entries, SIGNATURE, SIGNATURE_BYTES)
    signed_by = _signer(content, signature, keys)
    manifest = parse(content)
    wanted = {each.path for each in manifest.files} | {MANIFEST, SIGNATURE}
    if missing := sorted(wanted - set(entries)):
        _refuse(f"{missing[0]} is missing: build it again")
    if more := sorted(set(entries) - wanted):
        _refuse(f"{more[0]!a} is not in its manifest: a bundle holds nothing else")
    files: dict[str, bytes] = {}
    for each in manifest.files:
        if entries[each.path].file_size != each.size_bytes:
            _refuse(f"{each.path} has {entries[each.path].file_size} bytes, its manifest says {each.size_bytes}")
        files[each.path] = _content(found, entries, each.path, each.size_bytes)
        if sha256(files[each.path]).hexdigest() != each.sha256:
            _refuse(f"{each.path} is not the file of its manifest (another SHA-256): build it again")
    if manifest.kind is Kind.IMAGE and next(iter(files.values()))[:1] != bytes([IMAGE_MAGIC]):
        _refuse(f"its image does not begin with 0x{IMAGE_MAGIC:02X}: give the application image (micropython.bin)")
    return Bundle(manifest, content, signature, signed_by, files)


def _entries(found: ZipFile) -> dict[str, ZipInfo]:
    """What lies in it by name; every entry a plain stored file."""
    entries: dict[str, ZipInfo] = {}
    for each in found.infolist():
        name = each.orig_filename
        if name in entries:
            _refuse(f"{name!a} is in it twice: build it again with `make firmware`")
        if stat.S_IFMT(each.external_attr >> 16) not in {0, stat.S_IFREG}:
            _refuse(f"{name!a} is no plain file: a bundle holds no folders and no links")
        if each.compress_type != ZIP_STORED or each.flag_bits or each.compress_size != each.file_size:
            _refuse(f"{name!a} is compressed or encrypted: a bundle is stored as it is")
        entries[name] = each
    return entries


def _content(found: ZipFile, entries: Mapping[str, ZipInfo], name: str, most: int) -> bytes:
    if name not in entries:
        _refuse(f"{name} is missing: this is no firmware bundle; `make firmware` writes one")
    if entries[name].file_size > most:
        _refuse(f"{name} has {entries[name].file_size} bytes, at most {most} are read")
    return found.read(entries[name])


def _signer(content: bytes, signature: bytes, keys: Collection[str]) -> str:
    """Which of the keys signed it."""
    if not keys:
        _refuse("no key is trusted yet: `gateway firmware trust KEY --name NAME`, with the key of whoever built it")
    signers = [key for key in keys if _signed(content, signature, key)]
    if not signers:
        _refuse(
            f"none of the {len(keys)} trusted keys signed it: it was changed on its way, or trust the key of whoever "
            "built it with `gateway firmware trust KEY --name NAME`"
        )
    return signers[0]


def _signed(content: bytes, signature: bytes, key: str) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(key)).verify(signature, content)
    except (InvalidSignature, ValueError):
        return False
    return True


def _expect_small_directory(content: bytes) -> None:
    """Before the list of files is read into memory: it is where it belongs, and short."""
    if len(content) < _END.size:
        _refuse("it is no zip: give a bundle that `make firmware` wrote")
    mark, disk, first, here, entries, size, offset, comment = _END.unpack(content[-_END.size :])
    if mark != b"PK\x05\x06" or comment or disk or first or here != entries:
        _refuse("it does not end as a zip does: it is cut off, or something hangs behind it; copy it again")
    if content[-_END.size - _LOCATOR64_BYTES :][:4] == _LOCATOR64:
        _refuse("it is a zip of more than 4 GB by its own word: `make firmware` writes none")
    if entries > FILES + 2 or size > entries * _ENTRY_BYTES or offset + size != len(content) - _END.size:
        _refuse(f"it lists {entries} files in {size} bytes: a bundle has at most {FILES + 2}, each named in short")


def _refuse(text: str) -> NoReturn:
    raise BundleError(text)
