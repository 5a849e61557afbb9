"""The gateway's identity: made once, kept, never replaced silently."""

import ssl
import stat
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from gateway.access.identity import CERTIFICATE, ID, KEY, IdentityError, load_or_create


def test_made_at_first_start_and_the_same_ever_after(tmp_path: Path) -> None:
    first = load_or_create(tmp_path / "identity")
    assert load_or_create(tmp_path / "identity") == first
    assert first.gateway_id.startswith("agw-")
    assert load_or_create(tmp_path / "other").fingerprint != first.fingerprint


def test_only_its_owner_may_read_it(tmp_path: Path) -> None:
    identity = load_or_create(tmp_path / "identity")
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "identity", identity.key, identity.certificate)]
    assert modes == [0o700, 0o600, 0o600]
    assert [path.name for path in tmp_path.iterdir()] == ["identity"]


def test_the_certificate_says_who_and_for_how_long(tmp_path: Path) -> None:
    identity = load_or_create(tmp_path / "identity")
    certificate = x509.load_pem_x509_certificate(identity.certificate.read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [f"{identity.gateway_id}.local", "localhost"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]
    assert certificate.not_valid_after_utc - datetime.now(UTC) > timedelta(days=7000)
    key = certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert key.curve.name == "secp256r1"
    der = ssl.PEM_cert_to_DER_cert(identity.certificate.read_text())
    assert identity.fingerprint == sha256(der).hexdigest()


def test_it_is_no_authority_for_other_names(tmp_path: Path) -> None:
    certificate = x509.load_pem_x509_certificate(load_or_create(tmp_path / "identity").certificate.read_bytes())
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


@pytest.mark.parametrize("name", [ID, KEY, CERTIFICATE])
def test_a_lost_file_is_an_error_that_names_it(tmp_path: Path, name: str) -> None:
    load_or_create(tmp_path / "identity")
    (tmp_path / "identity" / name).unlink()
    with pytest.raises(IdentityError, match=rf"lacks {name}.*backup"):
        load_or_create(tmp_path / "identity")


def test_a_damaged_or_foreign_key_is_an_error(tmp_path: Path) -> None:
    identity = load_or_create(tmp_path / "identity")
    other = load_or_create(tmp_path / "other")
    identity.key.write_bytes(other.key.read_bytes())
    with pytest.raises(IdentityError, match="does not belong"):
        load_or_create(tmp_path / "identity")
    identity.key.write_text("no key")
    with pytest.raises(IdentityError, match="is damaged"):
        load_or_create(tmp_path / "identity")


def test_an_interrupted_first_start_leaves_nothing_half_made(tmp_path: Path) -> None:
    """A draft that a power cut left behind is no identity, and the next start makes a whole one."""
    draft = tmp_path / ".identity.0badcafe"
    draft.mkdir()
    (draft / ID).write_text("agw-half")
    assert load_or_create(tmp_path / "identity").gateway_id != "agw-half"


def test_a_folder_that_cannot_be_made_names_itself(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(IdentityError, match="file/identity"):
        load_or_create(tmp_path / "file" / "identity")
