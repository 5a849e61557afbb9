"""The SQL jail as root and as an ordinary user, with every layer of the kernel and with those only that all have."""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.jail.attacker import EMPTY

ROOT = Path(__file__).parents[2]
USER = 1234
SITUATIONS = {"root, less": ("", "less"), "user": (str(USER), ""), "user, less": (str(USER), "less")}
"""Root with everything is what the other tests run as."""
if os.geteuid() != 0:
    SITUATIONS = {name: ("", less) for name, (_, less) in SITUATIONS.items() if name != "root, less"}


async def attacked(folder: Path, uid: str, less: str) -> dict[str, Any]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.jail.sql_attacker", str(folder), uid, less),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    said, words = await process.communicate()
    assert process.returncode == 0, words.decode()[-2000:]
    report: dict[str, Any] = json.loads(said)
    return report


@pytest.mark.slow
async def test_every_attack_gets_its_verdict_for_every_user(tmp_path: Path) -> None:
    folder = tmp_path if os.geteuid() != 0 else Path(EMPTY[0]) / "jail"  # root: each has that folder for itself
    reports = await asyncio.gather(*(attacked(folder, uid, less) for uid, less in SITUATIONS.values()))
    for (name, (_, less)), report in zip(SITUATIONS.items(), reports, strict=True):
        assert not report["wrong"], name
        assert not report["changed"], name
        assert {"limits", "no_new_privs", "seccomp sql"} <= set(report["layers"]), name
        assert not less or not {"landlock", "namespaces"} & set(report["layers"]), name
        assert report["uid"] != "0", name
        assert report["capabilities"] == 0, name
        assert report["descriptors"] in (None, ["0", "1", "2"]), name
