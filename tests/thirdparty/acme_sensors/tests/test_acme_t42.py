"""The driver keeps to the gateway's contract, is found by name, and reads what the chip measures."""

import pytest
from acme_sensors._t42_chip import T42Chip
from acme_sensors.acme_t42 import AcmeT42, T42Options, decode

from drivers import registry
from drivers.model import Sample
from drivers.testing.buses import SimulatedI2c
from drivers.testing.conformance import CHECKS, DriverCase
from drivers.testing.recording import Wave
from drivers.testing.virtual import run_virtual


class Other:
    """Some other chip at the same address."""

    address = 0x18

    def write(self, data: bytes, now_s: float) -> None:
        """Takes anything."""

    def read(self, size: int, now_s: float) -> bytes:
        return b"\x07" * size


CASE = DriverCase(AcmeT42, lambda: SimulatedI2c([T42Chip(Wave())]), lambda: SimulatedI2c([Other()]))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_conformance(check):
    run_virtual(check(CASE))


def test_the_gateway_finds_it():
    assert registry.load("acme_t42") is AcmeT42
    assert "_t42_chip" not in registry.available()


@pytest.mark.parametrize("celsius", [-12.5, 0.0, 21.25])
def test_it_reads_what_the_chip_measures(celsius):
    async def main():
        chip = T42Chip(Wave(temperature=celsius, swing=0), address=0x19)
        driver = AcmeT42(SimulatedI2c([chip]), T42Options(address=0x19))
        await driver.start()
        return await driver.read()

    assert run_virtual(main()) == (Sample("temperature", celsius),)


def test_the_worked_example_of_the_data_sheet():
    assert decode(bytes.fromhex("beef92")) == pytest.approx(-65.066, abs=0.001)


def test_a_wrong_address_says_which_are_right():
    with pytest.raises(ValueError, match="0x18 or 0x19"):
        T42Options(address=0x20)
