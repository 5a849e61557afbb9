"""Backup, restore, export and import as people use them: real processes, while readings come in."""

import asyncio
import json
import re
import signal
import sys
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from gateway.__main__ import main
from gateway.store import queries
from gateway.store.db import Store
from gateway.store.errors import BackupError
from tests.running import START_WITHIN_S, Running, command, gateway, program
from tests.store.archives import verify

pytestmark = pytest.mark.slow

SETTINGS = """
[mqtt]
broker = "off"
[discovery]
mdns = false
[site]
timezone = "Asia/Kathmandu"
[store]
flush_interval_s = 0.3
[[device]]
id = "attic"
[[device.sensor]]
driver = "bmp280"
bus = "replay:{recording}"
interval_s = 0.2
"""


def settings(folder: Path) -> Path:
    """A sensor that always says the same, five times a second."""
    recording = folder / "constant.csv"
    rows = "".join(f"{offset},612.5,21.25,43.75,1003.5\n" for offset in (0, 60, 120))
    recording.write_text("offset_s,co2,temperature,humidity,pressure\n" + rows)
    file = folder / "gateway.toml"
    file.write_text(SETTINGS.format(recording=recording))
    return file


async def heard(running: Running) -> None:
    """Wait until a new batch was committed."""
    async with running.client() as client, client.listen(resource_subscriptions=["device://attic/status"]) as changes:
        async for _ in changes:
            return


async def answers(running: Running, token: str, start: str, end: str) -> str:
    """What an assistant is told of a range."""
    async with running.client(token=token) as client:
        series = await client.call_tool(
            "get_time_series", {"device": "attic", "metric": "temperature", "start": start, "end": end}
        )
        figures = await client.call_tool(
            "get_statistics", {"device": "attic", "metric": "pressure", "start": start, "end": end}
        )
    assert not series.is_error, series.content
    assert not figures.is_error, figures.content
    told = json.dumps([series.structured_content, figures.structured_content])
    assert '"total": 0' not in told
    return re.sub(r'"(now|age_s)": ("[^"]*"|[0-9.]+)', "", told)


async def done(*arguments: str) -> tuple[str, str]:
    """A `gateway` command that has to succeed: standard output and standard error."""
    code, out, err = await command(*arguments)
    assert code == 0, err
    return out, err


async def test_backup_while_readings_come_in_then_life_elsewhere(tmp_path: Path) -> None:
    config, data, new = settings(tmp_path), tmp_path / "data", tmp_path / "new"
    secret = tmp_path / "secret"
    secret.write_text("correct horse battery\n")
    locked = ("--passphrase-file", str(secret))
    async with gateway(data, "--config", str(config)) as running:
        token, fingerprint = running.token, running.fingerprint
        await heard(running)
        where = ("--data", str(data), "--json")
        out, err = await done("backup", f"{tmp_path}/usb/", *locked, *where)
        assert "files added" in err
        first = json.loads(out)
        assert first["keys"] is True
        await heard(running)
        out, _ = await done("backup", f"{tmp_path}/usb/", *locked, *where)
        made = json.loads(out)
        await heard(running)
        code, _, err = await command("restore", f"{tmp_path}/usb", *locked, "--data", str(data), "--force")
        assert (code, "stop that gateway" in err) == (1, True)
        end = datetime.fromisoformat(first["moment"])  # what was measured before that is on disk since long
        start, end = (end - timedelta(hours=1)).isoformat(), end.isoformat()
        before = await answers(running, token, start, end)
        await running.stop()
    assert made["readings"] > 0
    out, err = await done("backup", "--verify", f"{tmp_path}/usb", *locked)
    assert f"{made['readings']} readings" in err
    copy = tmp_path / "new.toml"
    _, err = await done("restore", f"{tmp_path}/usb", *locked, "--data", str(new), "--config", str(copy))
    assert str(new) in err
    assert copy.read_text() == config.read_text()
    async with gateway(new, "--config", str(copy)) as running:
        assert running.fingerprint == fingerprint
        after = await answers(running, token, start, end)
        await running.stop()
    assert after == before
    async with Store(new) as store:
        kinds = [event.kind for event in await queries.events(store)]
    assert kinds.count("store_restored") == 1


def is_whole(place: Path) -> bool | None:
    """Whether a backup is what was written; None where it never was finished."""
    try:
        verify(place)
    except BackupError as error:
        return None if "there is no backup" in str(error) or "never finished" in str(error) else False
    return True


def asking(data: Path, asked: "asyncio.Task[tuple[int, str, str]]") -> None:
    """Return when a backup has made the folder that the gateway is to fill (or has ended)."""
    while not left(data) and not asked.done():
        pass


def left(data: Path) -> list[Path]:
    """Folders of snapshots that nobody removed."""
    return list(data.glob(".snapshot-*"))


async def test_kills_beside_a_running_gateway(tmp_path: Path) -> None:
    """The backup's own process, at some steps, and the gateway while it is asked."""
    config, data = settings(tmp_path), tmp_path / "data"
    target = f"{tmp_path}/usb/"
    async with gateway(data, "--config", str(config)) as running:
        await heard(running)
        for step in (2, 6, 10):
            code, _, _ = await program(
                *(sys.executable, "-m", "tests.killed_cli", str(step)), "backup", target, "--data", str(data)
            )
            assert code == -signal.SIGKILL
            assert is_whole(tmp_path / "usb") in {True, None}
            await heard(running)
        await done("backup", target, "--data", str(data))
        assert is_whole(tmp_path / "usb")
        assert left(data) == []
        running.process.send_signal(signal.SIGSTOP)
        asked = asyncio.create_task(command("backup", f"{tmp_path}/x.tar", "--data", str(data)), name="backup")
        async with asyncio.timeout(START_WITHIN_S):
            await asyncio.to_thread(asking, data, asked)
        running.process.kill()
        code, _, err = await asked
        assert is_whole(tmp_path / "x.tar") is (True if code == 0 else None), err
    await done("backup", f"{tmp_path}/y.tar", "--data", str(data))
    assert is_whole(tmp_path / "y.tar")
    assert left(data) == []


def a_week(file: Path) -> Path:
    """72 readings of a sensor that the gateway does not know."""
    lines = [
        f"2026-11-0{day}T0{hour}:00:00Z,shed,dht,temperature,{day}.{hour}" for day in range(1, 9) for hour in range(9)
    ]
    file.write_text("time,device,sensor,metric,value\n" + "\n".join(lines) + "\n")
    return file


async def test_export_and_import_beside_a_running_gateway(tmp_path: Path) -> None:
    old, where = a_week(tmp_path / "old.csv"), ("--data", str(tmp_path / "data"))
    async with gateway(tmp_path / "data", "--config", str(settings(tmp_path))) as running:
        out, err = await done("import", str(old), *where, "--json")
        assert json.loads(out) == {"stored": 72, "duplicates": 0, "expired": 0}
        assert "72 of 72 readings stored" in err
        assert json.loads((await done("import", str(old), *where, "--json"))[0])["duplicates"] == 72
        async with running.client() as client:
            listed = await client.call_tool("list_devices", {})
        assert '"shed"' in json.dumps(listed.structured_content)
        await done("export", f"{tmp_path}/shed.csv", *where, "--device", "shed", "--start", "2026-11-03T05:45")
        await running.stop()
    exported = (tmp_path / "shed.csv").read_text().splitlines()
    assert len(exported) == 1 + 54, "the site's midnight is 18:15 UTC"
    assert exported[1] == "2026-11-03T00:00:00.000Z,shed,dht,temperature,temperature,3.0,degC,good,"


def test_export_and_import_without_a_gateway(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, where = a_week(tmp_path / "old.csv"), ("--data", str(tmp_path / "data"))
    for stored in (72, 0):
        assert main(["import", str(old), *where]) == 0
        assert f"{stored} of 72 readings stored, {72 - stored} were there already" in capsys.readouterr().err
    assert main(["export", f"{tmp_path}/all.parquet", *where, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"file": f"{tmp_path}/all.parquet", "rows": 72}
    assert main(["import", f"{tmp_path}/all.parquet", "--data", str(tmp_path / "other")]) == 0
    assert main(["export", f"{tmp_path}/again.csv", "--data", str(tmp_path / "other")]) == 0
    assert main(["export", f"{tmp_path}/all.csv", *where]) == 0
    assert (tmp_path / "again.csv").read_text() == (tmp_path / "all.csv").read_text()
    assert main(["export", f"{tmp_path}/days.csv", *where, "--bucket", "1d"]) == 0
    days = (tmp_path / "days.csv").read_text().splitlines()
    assert days[1] == "2026-11-01T00:00:00.000Z,shed,dht,temperature,temperature,degC,9,0,0,1.0,1.4,1.8,1.8"
    capsys.readouterr()
    with old.open("a") as stream:
        stream.write("2026-11-09T00:00:00Z,shed,dht,temperature,warm\n")
    assert main(["import", str(old), *where]) == 1
    said = capsys.readouterr()
    assert said.err.startswith(f"gateway: {old} line 74: value 'warm' is not a number: write it as in 21.5")
    assert said.out == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("backup", "{data}/b.tar", "--data", "{data}"), "is inside the data folder: a medium that fails takes both"),
        (("backup", "{tmp}/b.tar", "--data", "{tmp}/none"), "no gateway ever ran here"),
        (("export", "{tmp}/b.csv", "--data", "{tmp}/none"), "no gateway ever ran here"),
        (("export", "{tmp}/b.csv", "--data", "{data}", "--start", "noon"), "--start 'noon' is no time"),
        (("export", "{tmp}/b.csv", "--data", "{data}", "--bucket", "0h"), "--bucket '0h' is no span"),
        (("export", "{tmp}/b.csv", "--data", "{data}", "--start", "1h", "--end", "2h"), "is not before --end"),
        (("restore", "{tmp}/none", "--data", "{data}"), "there is no backup"),
        (("backup", "{tmp}/b.tar", "--data", "{data}", "--passphrase-file", "{tmp}/none"), "cannot be read"),
    ],
)
def test_words_for_what_cannot_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], words: str
) -> None:
    (tmp_path / "data").mkdir()
    code = main([each.format(tmp=tmp_path, data=tmp_path / "data") for each in arguments])
    out, err = capsys.readouterr()
    assert (code, out) == (1, "")
    assert words in err
    assert err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == [tmp_path / "data"]


async def test_forgotten_readings_are_gone_from_a_running_gateway(tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with gateway(data, "--config", str(settings(tmp_path))) as running:
        await heard(running)
        code, _, error = await command("forget", "attic", "--data", str(data))
        assert (code, "cannot be undone" in error) == (1, True)
        code, _, error = await command("forget", "atic", "--yes", "--data", str(data))
        assert (code, "did you mean 'attic'" in error) == (1, True)
        code, _, error = await command("forget", "attic", "--yes", "--data", str(data))
        assert (code, "hold nothing now" in error) == (0, True)
        await heard(running)  # what comes in afterwards is stored
        await running.stop()
    async with Store(data) as store:
        (deleted,) = [
            row for row in await queries.audit_rows(store) if row.action == "forget_readings" and row.allowed
        ][:1]
        ids = [each.series_id for each in queries.find_series(store, device="attic")]
        oldest = await store.ask(
            lambda view: view.db.execute(f"select epoch_ms(min(ts)) from {view.raw(ids)}").fetchall()
        )
    assert oldest[0][0] > deleted.time.timestamp() * 1000 - 1000
