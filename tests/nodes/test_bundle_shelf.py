"""The shelf: what was added is there after a restart, whole; nothing is there by half; who may sign."""

import random
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from gateway.nodes.ota import bundle
from gateway.nodes.ota.bundle import MANIFEST, BundleError
from gateway.nodes.ota.manifest import Kind
from gateway.nodes.ota.shelf import MOST_KEYS, FirmwareMissing, Shelf
from gateway.store import queries
from gateway.store.backups import snapshot
from gateway.store.backups.restore import SET_UP, _rows
from gateway.store.db import Store
from tests.nodes.bundles import IMAGE, PROGRAM, PUBLIC, STRANGER, built, manifest, shelf, written
from tests.web.house import HandClock

ROOT = Path(__file__).parent.parent.parent


def is_whole(made: Shelf, digest: str) -> bool:
    about = made.get(digest).about
    paths = [made.part(digest, each.path) for each in about.files]
    return all(found and sha256(found[0].read_bytes()).hexdigest() == found[1].sha256 for found in paths)


async def added(made: Shelf, folder: Path, content: bytes | None = None) -> str:
    return (await made.add(await made.check(written(folder, content)), "anna")).digest


async def test_what_was_added_is_there_after_a_restart(tmp_path: Path) -> None:
    async with shelf(tmp_path) as made:
        digest = await added(made, tmp_path)
        assert await added(made, tmp_path) == digest  # the same again is the same
        other = await added(made, tmp_path, built(manifest("1.10.0")))
    async with shelf(tmp_path) as made:
        assert [each.digest for each in made.all()] == [other, digest]
        assert is_whole(made, digest)
        found = made.get(digest)
        assert (found.row.version, found.row.boards, found.row.added_by) == ("1.4.0", ("esp32", "esp32s3"), "anna")
        assert (found.about, found.trusted) == (manifest(), True)
        content = made.part(digest, MANIFEST)
        assert content is not None
        assert sha256(content[0].read_bytes()).hexdigest() == digest == sha256(found.content).hexdigest()
        assert made.part(digest, "node/none.py") is None
        assert made.part(digest, "../hot.duckdb") is None
        assert made.find("1.4.0").digest == made.find(digest[:8]).digest == digest
        for name in ("9.9.9", "", "1."):
            with pytest.raises(FirmwareMissing, match=r"1\.4\.0"):
                made.find(name)
        await made.remove(digest)
        assert [each.name for each in (tmp_path / "data" / "firmware").iterdir()] == [other]
        with pytest.raises(FirmwareMissing):
            await made.remove(digest)
    async with shelf(tmp_path) as made:
        assert [each.digest for each in made.all()] == [other]


async def test_a_version_means_one_content(tmp_path: Path) -> None:
    other = PROGRAM | {"node/app.py": b"#"}
    async with shelf(tmp_path) as made:
        await added(made, tmp_path)
        with pytest.raises(BundleError, match=r"version 1\.4\.0 for esp32, esp32s3 is here with other content"):
            await added(made, tmp_path, built(manifest(files=other), other))
        await added(made, tmp_path, built(manifest(files=other, boards=("esp32c3",)), other))
        await added(made, tmp_path, built(manifest(files=IMAGE, kind=Kind.IMAGE), IMAGE))
        assert len(made.all()) == 3


async def test_a_key_that_is_not_trusted_any_more_gives_nothing_away(tmp_path: Path) -> None:
    async with shelf(tmp_path) as made:
        digest = await added(made, tmp_path)
        checked = await made.check(written(tmp_path, built(manifest("2.0.0"))))
        await made.distrust("anna")
        assert made.part(digest, "node/app.py") is None
        assert made.part(digest, MANIFEST) is None
        assert not made.get(digest).trusted
        with pytest.raises(BundleError, match="not trusted any more"):
            await made.add(checked, "anna")
        with pytest.raises(FirmwareMissing, match="there is none"):
            await made.distrust("anna")
    async with shelf(tmp_path, trusting=False) as made:
        assert made.keys == ()
        await made.trust(PUBLIC, "again", "local")
        assert made.part(digest, MANIFEST) is not None


async def test_keys_have_names_and_names_one_key(tmp_path: Path) -> None:
    other = bundle.public_hex(STRANGER)
    async with shelf(tmp_path) as made:
        for key, name, rule in (
            (PUBLIC, "ben", "trusted already, as 'anna'"),
            (other, "anna", "taken by another key"),
            (other, "a b", "is no name"),
            (other, "", "is no name"),
            (other[:-1], "ben", "64 hexadecimal digits"),
            ("\N{SNOWMAN}" * 64, "ben", "64 hexadecimal digits"),
        ):
            with pytest.raises(BundleError, match=rule):
                await made.trust(key, name, "local")
        await made.trust(f" {other.upper()}\n", "ben", "local")
        assert [(each.key, each.name) for each in made.keys] == [(PUBLIC, "anna"), (other, "ben")]
        await added(made, tmp_path, built(key=STRANGER))
        assert made.all()[0].row.signed_by == other
        for number in range(MOST_KEYS - 2):
            await made.trust(f"{number:064x}", f"key-{number}", "local")
        with pytest.raises(BundleError, match="distrust one first"):
            await made.trust("f" * 64, "one-more", "local")


async def test_what_lies_about_without_a_row_goes_and_what_is_not_whole_is_told(tmp_path: Path) -> None:
    clock = HandClock()
    async with shelf(tmp_path) as made:
        digest, other = await added(made, tmp_path), await added(made, tmp_path, built(manifest("1.5.0")))
        kept = await added(made, tmp_path, built(manifest("1.6.0")))
    folder = tmp_path / "data" / "firmware"
    (folder / ".new-0011").mkdir()
    (folder / ".new-0011" / MANIFEST).write_bytes(b"{")
    (folder / ("0" * 64)).mkdir()
    (folder / "note").write_text("x")
    next((folder / digest).glob("[0-9a-f]*")).write_bytes(b"short")
    shutil.rmtree(folder / other)  # as after a backup was restored, which has no files
    async with Store(tmp_path / "data") as store, Shelf(folder, store, clock) as made:
        assert [each.digest for each in made.all()] == [kept]
        assert is_whole(made, kept)
        assert [each.name for each in folder.iterdir()] == [kept]
        told = [each.message for each in await queries.events(store)]
        assert sum("add its bundle again" in line for line in told) == 2
        assert await added(made, tmp_path) == digest


async def test_readings_go_before_firmware_where_there_is_little_room(tmp_path: Path) -> None:
    async with Store(tmp_path / "data") as store, Shelf(tmp_path / "f", store, HandClock(), 1 << 60) as made:
        await made.trust(PUBLIC, "anna", "local")
        with pytest.raises(BundleError, match="stay free for readings"):
            await made.check(written(tmp_path))
        assert list((tmp_path / "f").iterdir()) == []


@pytest.mark.parametrize("keys", [True, False])
async def test_a_backup_has_the_trusted_keys_where_it_has_keys(tmp_path: Path, keys: bool) -> None:
    async with Store(tmp_path / "data") as store, Shelf(tmp_path / "f", store, HandClock()) as made:
        await made.trust(PUBLIC, "anna", "local")
        with snapshot.lend(tmp_path / "data") as place:
            await snapshot.take(store, place.name, HandClock().now(), keys=keys)
            assert _rows(place / snapshot.HOT_FILE, SET_UP)["firmware_key"][1] == (
                [[PUBLIC, "anna", HandClock().now().replace(tzinfo=None), "local"]] if keys else []
            )


def add_until_killed(folder: Path, seed: str, lines: int, chance: random.Random) -> list[list[str]]:
    """What the adder said before it was killed, somewhere after so many lines."""
    command = [sys.executable, "-m", "tests.nodes.adder", str(folder), seed]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        try:
            assert child.stdout.readline() == "open\n"
            said = [child.stdout.readline() for _ in range(lines)]
            sum(range(chance.randrange(400_000)))  # some idle work instead of a pause
        finally:
            child.kill()
        said += child.stdout.readlines()
    return [line.split() for line in said if line.endswith("\n")]


@pytest.mark.slow
async def test_three_kills_leave_nothing_by_half(tmp_path: Path) -> None:
    chance = random.Random(7)
    here: set[str] = set()
    for seed in range(3):
        said = add_until_killed(tmp_path, str(seed), chance.randrange(1, 20), chance)
        last = said[-1]
        for verb, digest in said:
            if verb == "added":
                here.add(digest)
            elif verb == "removed":
                here.discard(digest)
        unsure = {last[1]} if last[0] in {"adding", "removing"} else set()
        async with shelf(tmp_path) as made:
            found = {each.digest for each in made.all()}
            assert found - unsure == here - unsure
            assert all(is_whole(made, digest) for digest in found)
            assert {each.name for each in (tmp_path / "data" / "firmware").iterdir()} == found
            here = found
    assert here
