"""The sensors' pure parts and BTHome against the vectors that the gateway's drivers are tested with."""

import binascii
import json
import struct

from cryptolib import aes
from node import bthome
from node.sensors import SensorError, bmp280, scd30
from vectors import close, load, raises

UN = binascii.unhexlify


def test_scd30_checksums():
    for each in load("scd30")["crc8"]:
        assert scd30.crc8(UN(each["word"])) == int(each["crc8"], 16)


def test_scd30_writes():
    codes = {name: code for name, code in COMMANDS}
    seen = 0
    for each in load("scd30")["i2c_write"]:
        raw = UN(each["write"])
        command = raw[0] << 8 | raw[1]
        argument = raw[2] << 8 | raw[3] if len(raw) > 2 else None
        assert command in codes.values(), each
        assert scd30.frame(command, argument) == raw
        seen += 1
    assert seen > 10


COMMANDS = (
    ("start", 0x0010),
    ("stop", 0x0104),
    ("ready", 0x0202),
    ("read", 0x0300),
    ("interval", 0x4600),
    ("altitude", 0x5102),
    ("reference", 0x5204),
    ("asc", 0x5306),
    ("offset", 0x5403),
    ("firmware", 0xD100),
    ("reset", 0xD304),
    ("serial", 0xD033),
)


def test_scd30_measurements():
    for each in load("scd30")["measurement_read"]:
        if "co2" not in each:
            raises(SensorError, scd30.words, UN(each["i2c_read_18"]))
            continue
        co2, temperature, humidity = struct.unpack(">fff", scd30.words(UN(each["i2c_read_18"])))
        for value, wanted in ((co2, each["co2"]), (temperature, each["temp"]), (humidity, each["rh"])):
            if wanted is None or wanted == "NaN":
                assert value != value
            else:
                close(value, wanted, abs(wanted) * 1e-6)


def test_scd30_refuses_a_damaged_answer():
    whole = UN("43dbcb8c2e8f41d970e7fff54243bf3a1b74")
    for place in range(18):
        raises(SensorError, scd30.words, whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])


def test_bmp280_compensation():
    found = load("bmp280")
    for each in found["vectors"]:
        coefficients = bmp280.calibration(UN(found["calibrations"][each["calib"]]["bytes_88_9F"]))
        if 0x80000 in (each["adc_P"], each["adc_T"]):
            raises(SensorError, bmp280.compensate, coefficients, UN(each["burst_F7_FC"]))
            continue
        temperature, pressure = bmp280.compensate(coefficients, UN(each["burst_F7_FC"]))
        close(temperature, each["float"]["temp_c"], 0.001)
        close(pressure, each["float"]["press_pa"], 0.05)


def test_bmp280_knows_what_was_not_measured():
    coefficients = bmp280.calibration(UN("706b436718fc7d8e43d6d00b270b8c00f9ff8c3cf8c67017"))
    raises(SensorError, bmp280.compensate, coefficients, UN("800000800000"))
    raises(SensorError, bmp280.calibration, bytes(24))
    raises(SensorError, bmp280.calibration, b"\xff" * 24)


NAMES = {"carbon_dioxide": "co2", "volatile_organic_compounds": "tvoc"}


def ours(expect):
    """The values under our names, None where there are others as well."""
    values = {NAMES.get(name, name): value for name, value in expect.items() if name != "packet_id"}
    return values if all([name in bthome.OBJECTS for name in values]) else None


def test_bthome_says_what_the_vectors_say():
    """Byte for byte, where a vector has our metrics only, in the order and widths that we send."""
    same = 0
    for each in load("bthome")["vectors"]:
        if each["verdict"] != "ok" or ours(each["expect"]) is None:
            continue
        packet_id = each["expect"].get("packet_id")
        data = bthome.objects(ours(each["expect"]), None if packet_id is None else int(packet_id))
        wanted = UN(each["service_data"])
        if each["key"] is None:
            same += bthome.plain(data) == wanted
        else:
            counter = int.from_bytes(wanted[-8:-4], "little")
            address = UN(each["mac"].replace(":", ""))
            same += bthome.encrypted(data, address, counter, aes(UN(each["key"]), 1).encrypt) == wanted
    assert same >= 15, same


def test_bthome_leaves_out_what_cannot_be_said():
    data = bthome.objects({"co2": None, "temperature": 400.0, "humidity": float("nan"), "pressure": 1013.25, "odd": 1})
    assert data == UN("04cd8b01")
    assert bthome.objects({"temperature": -12.34}) == UN("022efb")


def test_bthome_fits_an_advertisement():
    whole = {"temperature": 21.5, "humidity": 45.12, "pressure": 1013.25, "co2": 420}
    data = bthome.objects(whole, 1)
    assert len(data) == 15
    secret = bthome.encrypted(data, bytes(6), 0, aes(bytes(16), 1).encrypt)
    assert len(bthome.advertisement(secret)) == 31
    raises(ValueError, bthome.advertisement, secret + b"\x00")


def test_bthome_frames_are_written_for_the_gateway():
    """Left beside the test for the gateway's driver to read."""
    values = {"battery": 93, "temperature": -3.21, "humidity": 63.27, "pressure": 987.65, "co2": 1250, "voltage": 3.074}
    key, address = UN("231d39c1d7cc1ab1aee224cd096db932"), UN("5448e68f80a5")
    data = bthome.objects(values, 7)
    secret = bthome.encrypted(data, address, 4000000001, aes(key, 1).encrypt)
    with open("../frames.json", "w") as file:
        json.dump([values, binascii.hexlify(bthome.plain(data)).decode(), binascii.hexlify(secret).decode()], file)
