"""What is said of an update: the offer's words and mac, a node's status, who may download."""

import hashlib
import hmac
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.nodes.ota import offer as offers
from gateway.nodes.ota.manifest import compose
from gateway.nodes.ota.offer import OfferError, Offers, Phase, Source, UpdateStatus, decode_status, source, status_of
from tests.nodes.bundles import manifest
from tests.web.house import Seconds

KEYS = {"attic-1": bytes(range(32)), "cellar-1": bytes(range(32, 64))}
CONTENT = compose(manifest())
HERE = Source("192.168.1.10", 8443, tls=True)


def mac(key: bytes, text: str) -> str:
    """As the protocol says it, word by word."""
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()[:32]


def opened(payload: bytes, device: str = "attic-1") -> dict[str, Any]:
    """What a node reads in an offer, after it checked the mac."""
    said = json.loads(payload)
    assert set(said) == {"body", "mac"}
    assert said["mac"] == mac(KEYS[device], f"update\n{device}\n{said['body']}")
    body: dict[str, Any] = json.loads(said["body"])
    return body


def test_an_offer_says_what_the_protocol_asks_for() -> None:
    made = Offers(KEYS.get, Seconds())
    with pytest.raises(OfferError, match="nothing serves downloads"):
        made.open("attic-1", "17-9f", CONTENT)
    made.source = HERE
    offer, payload = made.open("attic-1", "17-9f", CONTENT)
    assert opened(payload) == {
        "offer": offer,
        "boot": "17-9f",
        "version": "1.4.0",
        "board": ["esp32", "esp32s3"],
        "kind": "files",
        "host": "192.168.1.10",
        "port": 8443,
        "tls": True,
        "manifest_sha256": hashlib.sha256(CONTENT).hexdigest(),
        "manifest_bytes": len(CONTENT),
    }
    assert opened(made.cancel("attic-1", "17-9f", offer)) == {"cancel": offer, "boot": "17-9f"}
    assert made.find(offer, "attic-1") is None
    with pytest.raises(OfferError, match="`gateway node add nobody`"):
        made.open("nobody", "1-1", CONTENT, HERE)
    with pytest.raises(OfferError, match="16 hexadecimal"):
        made.open("attic-1", "1-1", CONTENT, HERE, offer="x")


def test_one_offer_a_device_for_a_time() -> None:
    seconds = Seconds()
    made = Offers(KEYS.get, seconds)
    first, _ = made.open("attic-1", "1-1", CONTENT, HERE)
    second, _ = made.open("attic-1", "1-1", CONTENT, HERE, lives_s=60)
    third, _ = made.open("cellar-1", "1-1", CONTENT, HERE)
    assert made.find(first, "attic-1") is None
    assert made.find(second, "cellar-1") is None
    found = made.find(second, "attic-1")
    assert found is not None
    assert found.manifest_sha256 == hashlib.sha256(CONTENT).hexdigest()
    seconds.now += 60
    assert made.find(second, "attic-1") is None
    assert len(made) == 1
    made.close(third)
    made.close(third)
    assert len(made) == 0


def test_a_header_proves_a_device_for_one_offer() -> None:
    made, offer = Offers(KEYS.get, Seconds()), "0123456789abcdef"
    signed = mac(KEYS["attic-1"], f"download\nattic-1\n{offer}")
    header = f"Node attic-1:{signed}"
    assert header == offers.authorization(KEYS["attic-1"], "attic-1", offer)
    assert made.bearer(offer, header) == "attic-1"
    assert made.bearer(offer, header.replace("Node ", "node  ")) == "attic-1"
    assert made.bearer("f" * 16, header) is None
    assert made.bearer("", header) is None
    assert made.bearer(offer, header[:-1]) is None


@given(st.text(max_size=80), st.text(max_size=20))
def test_any_header_is_refused(header: str, offer: str) -> None:
    assert Offers(KEYS.get, Seconds()).bearer(offer, f"Node attic-1:{header}") is None
    assert Offers(KEYS.get, Seconds()).bearer(offer, header) is None


def test_where_nodes_download() -> None:
    everywhere, loopback = "0.0.0.0", "127.0.0.1"
    assert source("", (everywhere, 8080), (everywhere, 8443)) == Source("", 8080, tls=False)
    assert source("", (everywhere, None), (everywhere, 8443)) == Source("", 8443, tls=True)  # plain = "off"
    assert source("", (loopback, 8080), (everywhere, 8443)) == Source("", 8443, tls=True)
    assert source("", (loopback, 8080), (loopback, 8443)) == Source("", 8080, tls=False)


def test_a_status_is_cleaned() -> None:
    whole = {"offer": "0" * 16, "phase": "downloading", "percent": 40, "version": "1.4.0", "error": ""}
    expected = UpdateStatus("0" * 16, Phase.DOWNLOADING, 40, "1.4.0", "")
    assert decode_status(json.dumps(whole).encode()) == expected
    assert status_of(whole) == expected
    odd = whole | {"phase": "rolled_back", "percent": True, "version": "<b>", "error": "a\n\x1b[31mb" + "c" * 900}
    found = status_of(odd)
    assert (found.percent, found.version, found.phase.is_end) == (None, "", True)
    assert found.error.startswith("a")
    assert len(found.error) <= 128
    assert found.error.isprintable()
    assert [each.is_end for each in Phase] == [False] * 6 + [True] * 5


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[]",
        b"[" * 4000,
        b"\xff",
        b"x" * 5000,
        b'{"offer":"0123456789abcdef"}',
        b'{"offer":"0123456789abcdef","phase":"flying"}',
        b'{"offer":"0123456789abcdef","phase":[]}',
        b'{"offer":"0123456789ABCDEF","phase":"failed"}',
        b'{"offer":7,"phase":"failed"}',
    ],
)
def test_a_status_that_is_none_is_refused_in_one_line(content: bytes) -> None:
    with pytest.raises(OfferError) as refused:
        decode_status(content)
    assert str(refused.value).isprintable()


@given(st.binary(max_size=300))
def test_any_status_is_a_value_or_refused(content: bytes) -> None:
    with pytest.raises(OfferError):
        decode_status(content)
