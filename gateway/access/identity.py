"""Who this gateway is: an id, an ECDSA P-256 key and a self-signed certificate, made once and kept."""

import ipaddress
import os
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.x509 import Certificate

VALID = timedelta(days=20 * 365)
ID, KEY, CERTIFICATE = "id", "key.pem", "certificate.pem"


class IdentityError(Exception):
    """The identity cannot be read or made; the message says which file and the way out."""


@dataclass(frozen=True, slots=True)
class Identity:
    """`gateway_id` is `agw-` and 8 hex digits, `certificate` and `key` are PEM files, `fingerprint` is the SHA-256 of
    the certificate's DER form in lower-case hex."""

    gateway_id: str
    certificate: Path
    key: Path
    fingerprint: str


def load_or_create(folder: Path) -> Identity:
    """The identity kept in `folder` (0700, files 0600), made there where it holds none. Blocking; IdentityError where
    the folder is damaged, half filled or cannot be written: an identity is never replaced silently."""
    files = [folder / name for name in (ID, KEY, CERTIFICATE)]
    try:
        present = [file for file in files if file.exists()]
        if not present:
            _create(folder)
        elif len(present) < len(files):
            missing = ", ".join(file.name for file in files if file not in present)
            raise IdentityError(
                f"{folder} lacks {missing}; restore it from a backup, or remove the folder "
                "to become a new gateway (all tokens and pairings end)"
            )
        return _load(folder)
    except OSError as error:
        raise IdentityError(f"{folder}: {error.strerror}; make it readable and writable for this user") from error


def _load(folder: Path) -> Identity:
    from cryptography import x509  # noqa: PLC0415 - costs 60 ms, and most commands need no identity
    from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key  # noqa: PLC0415

    gateway_id = (folder / ID).read_text().strip()
    try:
        certificate = x509.load_pem_x509_certificate((folder / CERTIFICATE).read_bytes())
        key = load_pem_private_key((folder / KEY).read_bytes(), password=None)
    except ValueError as error:
        raise IdentityError(
            f"{folder} is damaged ({error}); restore it from a backup, or remove the folder "
            "to become a new gateway (all tokens and pairings end)"
        ) from error
    if key.public_key() != certificate.public_key() or not gateway_id:
        raise IdentityError(f"{folder}: {KEY} does not belong to {CERTIFICATE}; restore both from one backup")
    fingerprint = sha256(certificate.public_bytes(Encoding.DER)).hexdigest()
    return Identity(gateway_id, folder / CERTIFICATE, folder / KEY, fingerprint)


def _create(folder: Path) -> None:
    """Fill the folder by one rename, so that a power cut leaves a whole identity or none."""
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415
        Encoding,
        NoEncryption,
        PrivateFormat,
    )

    gateway_id = f"agw-{secrets.token_hex(4)}"
    key = ec.generate_private_key(ec.SECP256R1())
    content = {
        ID: f"{gateway_id}\n".encode(),
        KEY: key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        CERTIFICATE: _certificate(gateway_id, key).public_bytes(Encoding.PEM),
    }
    draft = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    draft.mkdir(mode=0o700, parents=True)
    for name, data in content.items():
        _write(draft / name, data)
    _sync(draft)
    if folder.exists():
        folder.rmdir()  # empty, or this was not a first start
    draft.rename(folder)
    _sync(folder.parent)


def _certificate(gateway_id: str, key: "EllipticCurvePrivateKey") -> "Certificate":
    from cryptography import x509  # noqa: PLC0415
    from cryptography.hazmat.primitives import hashes  # noqa: PLC0415
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID  # noqa: PLC0415

    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, gateway_id)])
    names = [x509.DNSName(f"{gateway_id}.local"), x509.DNSName("localhost")]
    loopback = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    # A day back: clients whose clock is slightly behind must not refuse a gateway that was just set up.
    start = datetime.now(UTC) - timedelta(days=1)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + VALID)
        .add_extension(x509.SubjectAlternativeName([*names, loopback]), critical=False)
        # No authority: whoever trusts this certificate trusts this gateway, and nothing that its key might sign.
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def _write(file: Path, data: bytes) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
