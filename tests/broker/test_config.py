"""What mosquitto is told, as text."""

import asyncio
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from gateway.broker import choice
from gateway.broker.choice import BrokerKind, choose, start
from gateway.broker.config import MAX_INFLIGHT, Doors, mosquitto_conf
from gateway.broker.errors import BrokerError
from gateway.broker.local import Address, People
from gateway.hosts import is_loopback
from tests.brokers import needs_mosquitto


def lines(host: str = "127.0.0.1", **more: Any) -> list[str]:
    return mosquitto_conf(Doors(host, 1883, 40000, **more), Path("/data/broker"), "gateway").splitlines()


def test_one_listener_on_loopback_with_room_for_batches() -> None:
    got = lines()
    listeners = ["listener 1883 127.0.0.1", "listener 40000 127.0.0.1"]
    assert [line for line in got if line.startswith("listener")] == listeners
    assert "persistence_location /data/broker/" in got
    assert MAX_INFLIGHT > 1000
    assert f"max_inflight_messages {MAX_INFLIGHT}" in got


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "example.org", "127.0.0.1.example.org", ""])
def test_never_anonymous_off_loopback(host: str) -> None:
    assert not is_loopback(host)
    with pytest.raises(BrokerError, match="loopback only"):
        lines(host)
    guarded = lines(host, guarded=True, tls_port=8883)
    assert "allow_anonymous false" in guarded
    assert "allow_anonymous true" not in guarded
    assert {"password_file /data/broker/passwords", "acl_file /data/broker/topics"} <= set(guarded)
    doors = [line for line in guarded if line.startswith(("listener", "use_username"))]
    assert doors == [
        f"listener 1883 {host}".strip(),
        "use_username_as_clientid true",
        f"listener 8883 {host}".strip(),
        "use_username_as_clientid true",
        "listener 40000 127.0.0.1",
    ]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.0.1", "::1", "localhost"])
def test_loopback(host: str) -> None:
    assert "allow_anonymous true" in lines(host)


def test_a_folder_cannot_smuggle_a_line_in() -> None:
    with pytest.raises(BrokerError, match="rename"):
        mosquitto_conf(Doors("127.0.0.1", 1883), Path("/data\nlistener 1884 0.0.0.0"), "gateway")


@needs_mosquitto
def test_mosquitto_is_taken_where_it_is_installed() -> None:
    assert choose("auto").kind is BrokerKind.MOSQUITTO
    assert choose("auto").window == MAX_INFLIGHT
    assert not choose("auto").warning


def test_the_embedded_broker_says_what_it_does_not_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "find", lambda: None)
    chosen = choose("auto")
    assert chosen.kind is BrokerKind.EMBEDDED
    assert "keeps nothing" in chosen.warning
    assert chosen.reason == "mosquitto is not installed"
    assert chosen.flush_within_s < 5  # amqtt gives up on a message after five seconds


def test_what_is_not_there_is_refused_with_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "find", lambda: None)
    monkeypatch.setattr(choice, "installed", lambda: False)
    for kind in ("auto", "mosquitto", "embedded"):
        with pytest.raises(BrokerError, match="install"):
            choose(kind)
    with pytest.raises(BrokerError, match="external"):
        choose("rabbit")


def test_an_external_broker_needs_no_child() -> None:
    async def main() -> None:
        people = People(list, bool)
        assert start(choose("external"), Address("broker.lan", 1883), Path("unused"), people, now=datetime.now) is None

    asyncio.run(main())
