"""The gateway's own certificate authority: nodes trust it for the broker's TLS port, and nothing else knows it.

One PEM file in the identity's folder, its certificate and its key, so that one rename makes or replaces it.
"""

import ipaddress
import os
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.access.identity import IdentityError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.x509 import Certificate, Name
    from cryptography.x509.general_name import GeneralName

FILE = "authority.pem"
VALID = timedelta(days=20 * 365)
SERVER_VALID = timedelta(days=825)
RENEW_BEFORE = timedelta(days=60)
BEGINNING = datetime(2000, 1, 1, tzinfo=UTC) - timedelta(days=1)
"""A board that never reached a time server believes in the first of January 2000, and checks dates all the same."""


@dataclass(frozen=True, slots=True)
class Authority:
    """`certificate` signs servers of this gateway."""

    certificate: "Certificate"
    key: "EllipticCurvePrivateKey"

    @property
    def pem(self) -> str:
        """The certificate for whoever shall trust it."""
        from cryptography.hazmat.primitives.serialization import Encoding  # noqa: PLC0415

        return self.certificate.public_bytes(Encoding.PEM).decode()

    @property
    def der(self) -> bytes:
        """The same in the form that a node reads."""
        from cryptography.hazmat.primitives.serialization import Encoding  # noqa: PLC0415

        return self.certificate.public_bytes(Encoding.DER)

    def server(self, hosts: Iterable[str], now: datetime) -> tuple[bytes, bytes]:
        """A new certificate for these names and addresses, and its key; both PEM."""
        from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415
        from cryptography.hazmat.primitives.serialization import Encoding  # noqa: PLC0415

        key = ec.generate_private_key(ec.SECP256R1())
        names = sorted(set(hosts))
        made = _signed(_name(names[0]), key, (self.certificate.subject, self.key), now + SERVER_VALID, names)
        return made.public_bytes(Encoding.PEM), _private(key)

    def serves(self, pem: bytes, hosts: Iterable[str], now: datetime) -> bool:
        """Whether a server's certificate is ours, for exactly these, and good for some time yet."""
        from cryptography import x509  # noqa: PLC0415
        from cryptography.exceptions import InvalidSignature  # noqa: PLC0415

        try:
            found = x509.load_pem_x509_certificate(pem)
            found.verify_directly_issued_by(self.certificate)
            said = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
            return False
        wanted = x509.SubjectAlternativeName(_alternatives(sorted(set(hosts))))
        return said == wanted and now + RENEW_BEFORE < found.not_valid_after_utc


def load_or_create(folder: Path, gateway_id: str) -> Authority:
    """The authority kept in the identity's folder, made there at its first use. Blocking; IdentityError where the
    file is damaged or cannot be written: nodes trust it, so it is never replaced silently."""
    file = folder / FILE
    try:
        if not file.exists():
            _create(file, gateway_id)
        return _load(file)
    except OSError as error:
        raise IdentityError(f"{file}: {error.strerror}; make it readable and writable for this user") from error


def _load(file: Path) -> Authority:
    from cryptography import x509  # noqa: PLC0415 - costs 60 ms, and most commands need none of it
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415

    content = file.read_bytes()
    try:
        certificate = x509.load_pem_x509_certificate(content)
        key = load_pem_private_key(content, password=None)
    except ValueError as error:
        raise IdentityError(
            f"{file} is damaged ({error}); restore it from a backup, or remove it for another authority "
            "(every node that speaks TLS then needs its certificate)"
        ) from error
    if not isinstance(key, EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise IdentityError(f"{file}: the key is not the certificate's; restore it from a backup")
    return Authority(certificate, key)


def _create(file: Path, gateway_id: str) -> None:
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import Encoding  # noqa: PLC0415

    key, name = ec.generate_private_key(ec.SECP256R1()), _name(f"{gateway_id} broker")
    made = _signed(name, key, (name, key), datetime.now(UTC) + VALID)
    keep(file, made.public_bytes(Encoding.PEM) + _private(key))


def keep(file: Path, content: bytes) -> None:
    """Write a private file (0600) durably, by one rename."""
    draft = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    draft.replace(file)
    folder = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _signed(
    subject: "Name",
    key: "EllipticCurvePrivateKey",
    by: "tuple[Name, EllipticCurvePrivateKey]",
    until: datetime,
    hosts: list[str] | None = None,
) -> "Certificate":
    """A certificate by `by`: a server's for `hosts`, or an authority's."""
    from cryptography import x509  # noqa: PLC0415
    from cryptography.hazmat.primitives import hashes  # noqa: PLC0415
    from cryptography.x509.oid import ExtendedKeyUsageOID  # noqa: PLC0415

    is_authority = hosts is None
    issuer, signer = by
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(BEGINNING)
        .not_valid_after(until)
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=0 if is_authority else None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )
    if hosts is not None:
        made = made.add_extension(x509.SubjectAlternativeName(_alternatives(hosts)), critical=False)
        made = made.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    return made.sign(signer, hashes.SHA256())


def _alternatives(hosts: list[str]) -> "list[GeneralName]":
    """Addresses stand there as names too: small TLS libraries compare only those with what they connected to."""
    from cryptography import x509  # noqa: PLC0415

    found: list[GeneralName] = []
    for host in hosts:
        try:
            found.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            found.append(x509.DNSName(host))
        else:
            found.append(x509.DNSName(host))
    return found


def _name(text: str) -> "Name":
    from cryptography import x509  # noqa: PLC0415
    from cryptography.x509.oid import NameOID  # noqa: PLC0415

    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])


def _private(key: "EllipticCurvePrivateKey") -> bytes:
    from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415
        Encoding,
        NoEncryption,
        PrivateFormat,
    )

    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
