"""kill -9 at every step of a backup and of a restore: what was there stays, what is there is whole."""

import shutil
import sys
from pathlib import Path

import pytest

from gateway.store.backups import snapshot, vault
from gateway.store.db import Store
from gateway.store.keeper import Keeper
from tests.running import program
from tests.store.archives import NOW, PASSPHRASE, Clock, back_up, contents, fill, identity, write
from tests.store.builders import local, reading
from tests.store.killed import SCENARIOS

STEPS_AT_LEAST = {"folder": 15, "tar": 3, "new-folder": 15, "new-tar": 3, "restore": 15, "new-restore": 10}


async def taken(data: Path, place: Path) -> None:
    """A snapshot that stays."""
    with snapshot.lend(data) as lent:
        async with Store(data) as store:
            await snapshot.take(store, lent.name, NOW, keys=True)
        shutil.copytree(lent, place)


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_kills_at_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scenario: str) -> None:
    monkeypatch.setattr(vault, "COST", 1 << 4)
    start = tmp_path / "start"
    start.mkdir()
    await fill(tmp_path / "data", hours=6)
    if "restore" in scenario:
        await back_up(tmp_path / "data", f"{tmp_path}/backup.tar", passphrase=PASSPHRASE)
        if scenario == "restore":
            await fill(tmp_path / "old", hours=2)
            shutil.copytree(tmp_path / "old", start / "data")
    else:
        await taken(tmp_path / "data", tmp_path / "first")
        async with Store(tmp_path / "data") as store:
            await store.append([local(reading(1.0, -90_000.0))])
            await Keeper(store, Clock()).seal()
        await taken(tmp_path / "data", tmp_path / "second")
        if not scenario.startswith("new"):
            write(tmp_path / "first", f"{start}/{SCENARIOS[scenario][1]}", PASSPHRASE, identity(tmp_path / "data"))
    before = contents(start)
    code, out, err = await program(sys.executable, "-m", "tests.store.killed", scenario, str(tmp_path))
    assert code == 0, err
    assert int(out) >= STEPS_AT_LEAST[scenario]
    assert contents(start) == before
