"""The TXT record: both ways, and whatever a stranger may send."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.discovery.mdns import Announcement
from gateway.discovery.txt import LIMIT, Advert, decode, encode, normal_fingerprint

IDS = st.text(string.ascii_letters + string.digits, min_size=1, max_size=40)
NAMES = st.text(min_size=1, max_size=40).filter(str.isprintable)
ADVERTS = st.builds(
    Advert,
    gateway_id=IDS,
    name=NAMES,
    version=st.sampled_from(["", "0.1.0", "1.0.0rc1"]),
    mcp_revisions=st.lists(st.sampled_from(["2024-11-05", "2025-11-25", "2026-07-28"]), unique=True).map(tuple),
    fingerprint=st.binary(min_size=32, max_size=32).map(bytes.hex),
    tls=st.booleans(),
    http_port=st.none() | st.integers(1, 65535),
)


def on_the_wire(keys: dict[str, str]) -> dict[bytes, bytes | None]:
    return {key.encode(): value.encode() for key, value in keys.items()}


@given(ADVERTS)
def test_round_trip(advert: Advert) -> None:
    assert decode(on_the_wire(encode(advert))) == advert


@given(st.text(min_size=1, max_size=400).filter(str.isprintable))
def test_strings_fit_and_stay_text(name: str) -> None:
    keys = encode(Advert("gw1", name))
    assert all(len(f"{key}={value}".encode()) <= LIMIT for key, value in keys.items())
    assert name.startswith(keys["name"])
    assert next(iter(keys)) == "txtvers"


@given(st.dictionaries(st.binary(max_size=12), st.none() | st.binary(max_size=60), max_size=12))
def test_nothing_a_stranger_sends_raises(properties: dict[bytes, bytes | None]) -> None:
    decode(properties)
    decoded = decode({**properties, b"proto": b"http", b"id": b"gw1", b"txtvers": b"1"})
    assert decoded is None or decoded.name.isprintable()


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        (b"fp", b"12", ("fingerprint", "")),
        (b"path", b"//evil.example/\x1b[2J", ("path", "/mcp")),
        (b"http", b"99999", ("http_port", None)),
        (b"name", b"\x1b[31mroot", ("name", "[31mroot")),
        (b"TLS", b"1", ("tls", True)),
    ],
)
def test_malformed_values_are_left_out(key: bytes, value: bytes, expected: tuple[str, object]) -> None:
    decoded = decode({b"proto": b"http", b"id": b"gw1", key: value})
    assert decoded is not None
    assert getattr(decoded, expected[0]) == expected[1]


@pytest.mark.parametrize(
    "properties", [{}, {b"proto": b"tcp", b"id": b"gw1"}, {b"proto": b"http"}, {b"proto": b"http", b"id": b"a b"}]
)
def test_other_products_are_not_gateways(properties: dict[bytes, bytes | None]) -> None:
    assert decode(properties) is None


def test_an_id_that_no_host_can_have_is_refused() -> None:
    with pytest.raises(ValueError, match="letters, digits"):
        encode(Advert("küche.local", "Küche"))


def test_fingerprints_in_any_spelling() -> None:
    spelled = "SHA256:" + ":".join(["AB"] * 32)
    assert normal_fingerprint(spelled) == "ab" * 32
    with pytest.raises(ValueError, match="64 hex digits"):
        normal_fingerprint("ab" * 31)


def keys(text: bytes) -> list[bytes]:
    """The keys of a TXT record (RFC 6763 section 6.3): a gateway may well be named "token"."""
    found = []
    while text:
        entry, text = text[1 : 1 + text[0]], text[1 + text[0] :]
        found.append(entry.partition(b"=")[0])
    return found


@given(NAMES, IDS)
def test_an_instance_is_one_dns_label(name: str, gateway_id: str) -> None:
    announcement = Announcement(name, gateway_id, "ab" * 32, 8443, 8080, (1883, 8883))
    assert len(announcement.instance.encode()) <= 63
    assert "." not in announcement.instance
    services = announcement.services(("192.0.2.1", "fe80::1"))
    assert [service.type.split(".")[0] for service in services] == ["_mcp", "_http", "_mqtt"]
    assert keys(services[2].text) == [b"txtvers", b"id", b"tls"]
    assert not any(b"token" in key.lower() for service in services for key in keys(service.text))
