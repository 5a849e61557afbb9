"""A sensor on a node: judged as a wired one, and what its node may answer becomes a value or an error that says it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from drivers.api import Calibratable, Calibration
from drivers.errors import BadData, BusError, BusTimeout, DriverError, NotReady
from gateway.calibration import remote
from gateway.calibration.changes import Altitude, Recalibration
from gateway.calibration.remote import RemoteSensor
from gateway.calibration.service import Calibrations, Declined
from gateway.store import commands
from gateway.store.db import Store
from gateway.store.types import Event
from tests.calibration.scene import LoopClock, Scene

HELD = {
    "self_calibration": False,
    "temperature_offset_degc": 1.5,
    "altitude_m": 0,
    "pressure_hpa": None,
    "reference_ppm": 400,
    "firmware": "3.66",
}
KNOWS = "recalibrate_sensor set_self_calibration set_temperature_offset set_altitude set_pressure"


class Node:
    """Answers with what it holds, or with `answer`."""

    def __init__(self, answer: tuple[bool, Any] | Exception | None = None) -> None:
        self.answer, self.held, self.heard = answer, dict(HELD), list[tuple[str, dict[str, Any]]]()

    async def send(self, device: str, name: str, args: Mapping[str, Any], timeout_s: float) -> tuple[bool, Any]:
        assert (device, args["sensor"], timeout_s) == ("n1", "scd30", 30)
        more = {key: value for key, value in args.items() if key != "sensor"}
        self.heard.append((name, more))
        if isinstance(self.answer, Exception):
            raise self.answer
        self.held |= {key: value for key, value in more.items() if key in self.held}
        return self.answer or (True, dict(self.held))


@pytest.mark.parametrize(
    ("answer", "kind", "text"),
    [
        (TimeoutError("n1 did not answer"), BusTimeout, "n1 did not answer"),
        (ConnectionError("the broker is away"), BusError, "the broker is away"),
        ((False, "the SCD30 gave no measurement for a minute"), NotReady, "n1 says: the SCD30 gave no measurement"),
        ((False, "OSError: [Errno 19] ENODEV"), BadData, "n1 says: OSError"),
        ((True, None), BadData, "n1 told no calibration"),
        ((True, {**HELD, "altitude_m": "0"}), BadData, "n1 told no calibration"),
        ((True, {**HELD, "pressure_hpa": "x"}), BadData, "n1 told no calibration"),
    ],
)
async def test_what_a_node_may_answer(answer: Any, kind: type[DriverError], text: str) -> None:
    with pytest.raises(kind, match=text):
        await RemoteSensor("n1", "scd30", Node(answer).send).set_altitude(5)


async def test_each_operation_is_the_nodes_own_command() -> None:
    node = Node()
    sensor = RemoteSensor("n1", "scd30", node.send)
    assert isinstance(sensor, Calibratable)
    assert await sensor.read_calibration() == Calibration(**HELD)  # type: ignore[arg-type]
    await sensor.recalibrate(430)
    await sensor.set_self_calibration(True)
    await sensor.set_temperature_offset(2.5)
    assert (await sensor.set_altitude(420)).altitude_m == 420
    await sensor.set_pressure(None)
    assert node.heard == [
        ("show_calibration", {}),
        ("recalibrate_sensor", {"reference_ppm": 430}),
        ("set_self_calibration", {"on": True}),
        ("set_temperature_offset", {"offset_degc": 2.5}),
        ("set_altitude", {"altitude_m": 420}),
        ("set_pressure", {"pressure_hpa": None}),
    ]


async def test_it_is_judged_and_written_down_as_a_wired_one(tmp_path: Path) -> None:
    node, events, air = Node(), list[Event](), Scene()

    async def recent(_device: str, _sensor: str, metric: str) -> Any:
        return air.points if metric == "co2" else ()

    async def record(event: Event) -> None:
        events.append(event)

    async with Store(tmp_path) as store:
        for device, more in (("n1", {"commands": KNOWS}), ("n2", {"commands": KNOWS}), ("n3", {})):
            await commands.save_sensor(store, device, "scd30", sensor_type="scd30", metadata=more)
        keys = {"n1": b"k", "n3": b"k"}
        service = Calibrations(
            [],
            recent=recent,
            record=record,
            note=events.append,
            doubt=lambda *_: None,
            clock=LoopClock(),
            find=lambda device, sensor: remote.find(store, keys.get, node.send, device, sensor),
        )
        for device, sensor in (("n2", "scd30"), ("n3", "scd30"), ("n1", "bmp280")):
            with pytest.raises(LookupError, match="no wired sensor that can be calibrated"):
                await service.show(device, sensor)
        with pytest.raises(Declined, match="no usable CO2 reading"):
            await service.apply("n1", "scd30", Recalibration(430), by="me")
        with pytest.raises(ValueError, match="altitude_m"):
            await service.apply("n1", "scd30", Altitude(-5), by="me")
        assert node.heard == []
        air.calm()
        await service.apply("n1", "scd30", Recalibration(620), by="me")
        assert node.heard[-1] == ("recalibrate_sensor", {"reference_ppm": 620})
        assert [(each.device, each.detail["by"]) for each in events] == [("n1", "me")]
