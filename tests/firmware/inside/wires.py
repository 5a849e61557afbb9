"""wire, config, boot, mdns and mqtt's pure parts."""

import binascii
import json
import os
import struct

import esp32
from node import boot, config, kept, mdns, mqtt, orders, wire
from vectors import load, raises


def test_acknowledgements_of_the_vectors():
    for each in load("wire")["acks"]:
        key = binascii.unhexlify(each["key"]) if each["key"] else None
        if each["covers"] is None:
            raises(wire.WireError, wire.ack, each["payload"].encode(), each["device"], key)
        else:
            assert list(wire.ack(each["payload"].encode(), each["device"], key)) == each["covers"], each


def test_commands_of_the_vectors():
    for each in load("wire")["commands"]:
        key = binascii.unhexlify(each["key"]) if each.get("key") else None
        told = each["payload"].encode(), "bedroom-1", key, each.get("id", "")
        if each["means"] is None:
            raises(wire.WireError, orders.command, *told)
        else:
            assert list(orders.command(*told)) == each["means"] + each.get("for", [None, 0]), each


def test_offers_of_the_vectors():
    for each in load("wire")["offers"]:
        told = each["payload"].encode(), binascii.unhexlify(each["key"]), "update", each["device"]
        if each["means"] is None:
            raises(wire.WireError, wire.signed, *told)
        else:
            assert wire.signed(*told) == each["means"], each


def test_results_of_the_vectors():
    for each in load("wire")["results"]:
        if each["signed"]:
            text = each["payload"].split(', "mac": "')[0]
            for parts in ([text.encode()], [text[:9].encode(), text[9:].encode()]):
                told = orders.signed(parts, binascii.unhexlify(each["key"]), each["device"], each["id"])
                assert b"".join(told).decode() == each["payload"], each
        elif each["signed"] is None:
            parts = orders.result(each["means"][1])
            assert json.loads(b"".join(orders.signed(parts, None, "", ""))) == json.loads(each["payload"])


def test_data_of_the_vectors_is_written_for_the_gateway():
    """Left beside the test for the gateway's decoder to read."""
    with open("../told.json", "w") as file:
        json.dump(
            [
                wire.data(each["record"], each["oldest"], each["timestamp_ms"])[1].decode()
                for each in load("wire")["data"]
            ],
            file,
        )


def test_what_nobody_wrote_on_purpose_is_refused():
    for payload in (b"\xff\xfe", b"[" * 200, b"{}", b"null", b'{"boot":"1-0","seq":1.5}', b"1" * 4000):
        raises(wire.WireError, wire.ack, payload, "n", None)
        raises(wire.WireError, orders.command, payload)


def test_texts_are_compared_whole():
    assert wire.same("abc", "abc")
    assert not wire.same("abd", "abc")
    assert not wire.same("ab", "abc")
    assert not wire.same(None, "abc")


def given(**more):
    found = {"device": "n1", "wifi": {"ssid": "s", "password": "p"}, "sensors": [{"driver": "scd30"}]}
    found.update(more)
    return found


def test_settings_have_defaults():
    found = config.checked(given(), {})
    assert found["broker"]["port"] == 1883 and found["broker"]["host"] is None
    assert found["ring_kb"] == 512 and found["mode"] == "mqtt" and found["key"] is None
    assert found["sensors"] == [{"driver": "scd30", "name": "scd30", "interval_s": 10, "options": {}}]
    assert config.checked(given(broker={"ca": "ca.der"}), {})["broker"]["port"] == 8883
    assert config.checked(given(), {"interval_s": {"scd30": 30}})["sensors"][0]["interval_s"] == 30


def test_wrong_settings_are_named():
    wrong = [
        ({"device": "a b"}, "device"),
        ({"device": None}, "device"),
        ({"device": "x" * 65}, "device"),
        ({"key": "xyz"}, "key"),
        ({"key": "00"}, "key"),
        ({"wifi": None}, "wifi"),
        ({"wifi": [{"password": "p"}]}, "wifi"),
        ({"sensors": []}, "sensors"),
        ({"sensors": [{}]}, "driver"),
        ({"mode": "lora"}, "mode"),
        ({"sensors": [{"driver": "a"}, {"driver": "a"}]}, "two sensors"),
        ({"broker": []}, "broker"),
        ({"sensors": [{"driver": "a", "interval_s": 1}]}, "interval_s"),
        ({"broker": {"port": 70000}}, "port"),
        ({"sensors": [{"driver": "a", "interval_s": True}]}, "interval_s"),
        ({"ring_kb": 1}, "ring_kb"),
    ]
    for change, word in wrong:
        said = raises(config.ConfigError, config.checked, given(**change), {})
        assert word in said, "%s: %s" % (change, said)
    raises(config.ConfigError, config.load)
    with open("node.json", "w") as file:
        file.write("{")
    assert "JSON" in raises(config.ConfigError, config.load)


def test_what_commands_set_is_kept():
    kept.keep({"interval_s": {"scd30": 30}})
    kept.keep({"other": 1})
    assert kept.settings() == {"interval_s": {"scd30": 30}, "other": 1}
    with open("settings.json", "w") as file:
        file.write('{"interval_s"')
    assert kept.settings() == {}


def test_numbers_are_reserved_before_they_are_used():
    first = boot.Numbers(esp32.NVS("node"), 0xFFFFFFFF, 5)
    assert first.lost is None and first.boot == "1-ffffffff"
    first.begin()
    assert [first.next() for _ in range(7)] == [1, 2, 3, 4, 5, 6, 7]
    second = boot.Numbers(esp32.NVS("node"), 7, 5)
    assert second.boot == "2-00000007"
    assert second.lost == ("1-ffffffff", 10), second.lost
    second.begin()
    assert boot.Numbers(esp32.NVS("node"), 8, 5).lost is None  # it used no number
    second.next()
    second.close()
    assert boot.Numbers(esp32.NVS("node"), 9, 5).lost is None  # it put everything away
    assert second.next() == 2
    assert boot.Numbers(esp32.NVS("node"), 9, 5).lost == ("2-00000007", 6)


def test_reserving_wears_little():
    numbers = boot.Numbers(esp32.NVS("node"), 1, 10)
    numbers.begin()
    before = esp32.NVS.writes
    for _ in range(1000):
        numbers.next()
    assert esp32.NVS.writes - before == 100


def test_lengths_and_texts():
    for size, raw in ((0, b"\x00"), (127, b"\x7f"), (128, b"\x80\x01"), (16383, b"\xff\x7f"), (16384, b"\x80\x80\x01")):
        assert mqtt.length(size) == raw
    assert mqtt.text("\u00b5") == b"\x00\x02\xc2\xb5"


def test_an_answer_of_zeroconf():
    packet = binascii.unhexlify(os.getenv("MDNS"))
    assert mdns.answers(packet) == [("Hall", "192.168.7.9", 1884)], mdns.answers(packet)


def test_damaged_answers_are_none():
    packet = binascii.unhexlify(os.getenv("MDNS"))
    for end in range(len(packet)):
        mdns.answers(packet[:end])
    for place in range(len(packet)):
        for bit in (1, 0x80, 0xC0):
            mdns.answers(packet[:place] + bytes([packet[place] ^ bit]) + packet[place + 1 :])
    assert mdns.answers(mdns.question(5)) == []
    looping = struct.pack(">HHHHHH", 0, 0x8400, 1, 0, 0, 0) + b"\xc0\x0c"
    assert mdns.answers(looping) == []
