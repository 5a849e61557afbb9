"""Every attack on the Python jail, as root and as an ordinary user, with every layer and with those only that every
kernel has; then everything that people do with pandas; then what is left behind."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.jail.python_attacks import ATTACKS, ENDLESS

HERE = Path(__file__).parent
LISTED = json.loads((HERE / "attacks" / "python.json").read_text(encoding="utf-8"))
HANG = {"infinite loop", "catch KeyboardInterrupt loop"}
HANG_S, LIMIT_S = 0.4, 60.0
USER = 1234
SITUATIONS = {
    "root": (None, False),
    "root, no Landlock, no namespaces": (None, True),
    "user": (USER, False),
    "user, no Landlock, no namespaces": (USER, True),
}
if os.geteuid() != 0:  # then the user is whoever runs the tests
    SITUATIONS = {name: (None, less) for name, (uid, less) in SITUATIONS.items() if uid is not None}


def _jobs() -> list[dict[str, Any]]:
    attacks = {each["name"]: each["code"] for each in LISTED["attacks"]} | ATTACKS
    jobs = [
        {"name": name, "kind": kind, "code": code, "limit_s": HANG_S if name in HANG else LIMIT_S}
        for name, code in attacks.items()
        for kind in ("analyze", "plot")
        if kind == "analyze" or ("plt" in code and "result" not in code)
    ]
    jobs += [{"name": name, "kind": "analyze", "code": code, "limit_s": HANG_S} for name, code in ENDLESS.items()]
    jobs += [
        {"name": f"ordinary {at}", "kind": "analyze", "code": code, "limit_s": LIMIT_S}
        for at, code in enumerate(LISTED["ordinary"])
    ]
    return jobs


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    """What each situation's attacker says; all of them at once."""
    folder = str(tmp_path_factory.mktemp("jail")) if os.geteuid() != 0 else "/dev/shm/jail"  # root: one of its own
    started = {}
    for name, (uid, less) in SITUATIONS.items():
        process = subprocess.Popen(
            [sys.executable, str(HERE / "attacker.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "GW_TOKEN": "TOPSECRET"},
        )
        assert process.stdin is not None
        process.stdin.write(json.dumps({"uid": uid, "less": less, "folder": folder, "jobs": _jobs()}))
        process.stdin.close()
        process.stdin = None
        started[name] = process
    said = {name: process.communicate() for name, process in started.items()}
    for name, process in started.items():
        assert process.returncode == 0, (name, said[name][1][-2000:])
    return {name: json.loads(output) for name, (output, _) in said.items()}


@pytest.mark.slow
@pytest.mark.parametrize("situation", SITUATIONS)
def test_every_attack_is_stopped(situation: str, reports: Mapping[str, Any]) -> None:
    report = reports[situation]
    attacks = [each for each in report["answers"] if not each["name"].startswith("ordinary")]
    assert len(attacks) >= len(LISTED["attacks"]) + len(ATTACKS) + len(ENDLESS)
    assert [each for each in attacks if "PWNED" in json.dumps(each["result"]) or each["touched"]] == []
    assert [each for each in attacks if each["name"] in {*HANG, *ENDLESS} and not each["error"]] == []
    assert [each for each in attacks if each["took_s"] > LIMIT_S] == []
    for each in attacks:
        json.dumps(each["result"], allow_nan=False, ensure_ascii=False).encode()
        assert all(one.isprintable() for one in each["error"])
        assert len(json.dumps(each)) < 80_000


@pytest.mark.slow
@pytest.mark.parametrize("situation", SITUATIONS)
def test_what_people_do_works(situation: str, reports: Mapping[str, Any]) -> None:
    answers = [each for each in reports[situation]["answers"] if each["name"].startswith("ordinary")]
    assert len(answers) == len(LISTED["ordinary"])
    assert [each for each in answers if each["error"]] == []
    by_code = {code: each["result"] for code, each in zip(LISTED["ordinary"], answers, strict=True)}
    values = sorted(20 + at / 40 for at in range(400))
    assert by_code["result=float(np.percentile(df.value,95))"] == pytest.approx(values[379] + 0.05 * 0.025)
    means = by_code["result=df.groupby('device_id').value.agg(['mean','max','std'])"]["rows"]
    assert [row[:3] for row in means] == [["a", pytest.approx(24.975), 29.95], ["b", pytest.approx(25.0), 29.975]]


@pytest.mark.slow
@pytest.mark.parametrize("situation", SITUATIONS)
def test_nothing_is_left_behind(situation: str, reports: Mapping[str, Any]) -> None:
    """No process, no file, no descriptor, no memory; and it was one zygote all the time."""
    report = reports[situation]
    before, after = report["before"], report["after"]
    assert report["same"]
    assert after["descriptors"] == before["descriptors"]
    assert after["files"] == before["files"]
    assert len(after["processes"]) == len(before["processes"]) == 1
    assert after["own_bytes"] < before["own_bytes"] + (4 << 20)
    assert report["left"] == []


def test_the_situations_differ(reports: Mapping[str, Any]) -> None:
    """What was taken away is away, and the filter of system calls stands in each."""
    for name, (_, less) in SITUATIONS.items():
        layers = set(reports[name]["layers"])
        assert {"limits", "no_new_privs", "seccomp python"} <= layers
        assert ("nobody" in layers) == name.startswith("root")
        if less:
            assert not layers & {"landlock", "namespaces"}
