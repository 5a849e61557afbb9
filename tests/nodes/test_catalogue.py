"""What a node of ours would refuse is said before it is sent; what it may know is sent."""

import ast
import re
from collections.abc import Collection, Mapping
from typing import Any

import pytest

from bench.boards import FIRMWARE
from gateway.nodes.catalogue import COMMANDS, JUDGED, check

SENSORS: Mapping[str, Collection[str] | None] = {"scd30": JUDGED, "pump": ["prime"]}


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("identify", {}),
        ("identify", {"seconds": 1}),
        ("identify", {"seconds": 600.0}),
        ("set_interval", {"interval_s": 2, "sensor": "pump"}),
        ("show_calibration", {"sensor": "scd30"}),
        ("prime", {"anything": [1]}),
    ],
)
def test_what_is_sent(name: str, args: dict[str, Any]) -> None:
    check("n1", name, args, SENSORS)


@pytest.mark.parametrize(
    ("name", "args", "line"),
    [
        ("identify", {"seconds": 0.5}, "args: seconds is a number from 1 to 600, not 0.5"),
        ("identify", {"seconds": True}, "args: seconds is a number from 1 to 600, not True"),
        ("identify", {"seconds": None}, "args: seconds is a number from 1 to 600, not None"),
        ("identify", {"second": 5}, "args: identify has no 'second'; it takes seconds (1 to 600)"),
        ("set_interval", {"sensor": "scd30"}, "args: set_interval needs interval_s (2 to 3600)"),
        ("set_interval", {"interval_s": 5, "sensor": 7}, "args: sensor is one of pump, scd30, not '7'"),
        ("primer", {}, "name: n1 has no command 'primer'; did you mean 'prime'?"),
        ("x", {}, "it knows get_diagnostics, identify, prime, restart, set_interval, show_calibration"),
        ("set_altitude", {"altitude_m": 5}, "use calibrate_sensor, or `gateway calibrate n1/SENSOR"),
    ],
)
def test_what_is_not(name: str, args: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError, match=re.escape(line)):
        check("n1", name, args, SENSORS)


@pytest.mark.parametrize("sensors", [{}, {"scd30": JUDGED, "old": None}])
def test_a_node_that_did_not_tell_what_it_knows_is_asked_itself(sensors: dict[str, Any]) -> None:
    check("n1", "self_destruct", {}, sensors)


def test_the_firmware_knows_these_and_no_others() -> None:
    """By its source: what `_do` compares the name with, and an SCD30's COMMANDS."""
    tree = ast.parse((FIRMWARE / "node" / "orders.py").read_text())
    compared = {
        node.comparators[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Compare)
        and isinstance(node.left, ast.Name)
        and node.left.id == "name"
        and isinstance(node.comparators[0], ast.Constant)
    }
    assert compared == set(COMMANDS)
    tree = ast.parse((FIRMWARE / "node" / "sensors" / "scd30.py").read_text())
    told = next(
        ast.literal_eval(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "COMMANDS"
    )
    assert set(told) == set(JUDGED)
