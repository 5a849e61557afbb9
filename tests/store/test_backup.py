"""Backups: what was there comes back, whatever is wrong with one is said before anything changes."""

import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import pytest

from gateway.store import queries
from gateway.store.backups import archive, restore, snapshot, vault
from gateway.store.backups.archive import Archive
from gateway.store.db import Store
from gateway.store.errors import BackupError, StoreError, StoreLocked
from gateway.store.schema import SCHEMA
from tests.store.archives import (
    NODE_KEY,
    NOW,
    PASSPHRASE,
    TOKEN_HASH,
    back_up,
    bring_back,
    contents,
    fill,
    nothing,
    opened,
    verify,
)
from tests.store.builders import local, numbered, reading

TARGETS = ("backup/", "backup.tar")
SECRETS = (None, PASSPHRASE)


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """A passphrase costs some tenths of a second by intent."""
    monkeypatch.setattr(vault, "COST", 1 << 4)


@contextmanager
def unlocked(place: Path, passphrase: str | None) -> Iterator[Archive]:
    with archive.opened(place) as found:
        if passphrase is not None:
            found.unlock(passphrase)
        yield found


def refusal(place: Path, folder: Path, passphrase: str | None) -> str | None:
    """What a restore says where it refuses, in one line; None where it does not."""
    try:
        bring_back(place, folder, passphrase=passphrase)
    except BackupError as error:
        return None if "\n" in str(error) else str(error)
    return None


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("target", TARGETS)
async def test_what_was_there_comes_back(tmp_path: Path, target: str, secret: str | None) -> None:
    rows = await fill(tmp_path / "data")
    made, written = await back_up(tmp_path / "data", f"{tmp_path}/{target}", passphrase=secret)
    assert (written.kept, written.damaged) == (0, [])
    assert made.readings == len(rows)
    assert verify(tmp_path / target, secret) == made
    assert bring_back(tmp_path / target, tmp_path / "new", passphrase=secret) is False
    assert await opened(tmp_path / "new") == rows
    async with Store(tmp_path / "new") as store:
        shown = await store.read(lambda db: db.execute("select count(*) from measurements").fetchall())
        assert shown == [(len(rows),)], "views name files of the folder they were made in"
    assert {file.name for file in (tmp_path / "new" / "segments").iterdir()} == {
        file.name for file in (tmp_path / "data" / "segments").iterdir()
    }
    assert not list((tmp_path / "data").glob(".snapshot-*"))


async def test_keys_leave_the_house_under_a_passphrase_only(tmp_path: Path) -> None:
    await fill(tmp_path / "data")
    for target, secret in (("open/", None), ("locked/", PASSPHRASE), ("open.tar", None), ("locked.tar", PASSPHRASE)):
        made, _ = await back_up(tmp_path / "data", f"{tmp_path}/{target}", passphrase=secret)
        assert made.keys is (secret is not None)
        place = tmp_path / target
        lying = b"".join(contents(place).values()) if place.is_dir() else place.read_bytes()
        assert not [each for each in (TOKEN_HASH.encode(), NODE_KEY, b"key.pem of data") if each in lying]
        bring_back(place, tmp_path / f"new-{place.name}", passphrase=secret)
        async with Store(tmp_path / f"new-{place.name}") as store:
            kept = ([each.sha256 for each in await queries.tokens(store)], await queries.node_keys(store))
        assert kept == (([TOKEN_HASH], {"node": NODE_KEY}) if secret else ([], {}))
        identity = tmp_path / f"new-{place.name}" / "identity"
        assert identity.exists() is (secret is not None)
        if secret:
            assert (identity / "key.pem").read_text() == "key.pem of data\n"
            assert (identity.stat().st_mode & 0o777, (identity / "key.pem").stat().st_mode & 0o777) == (0o700, 0o600)


@pytest.mark.parametrize("secret", SECRETS)
async def test_a_folder_gets_only_what_it_has_not_got(tmp_path: Path, secret: str | None) -> None:
    await fill(tmp_path / "data")
    target = f"{tmp_path}/backup/"
    _, first = await back_up(tmp_path / "data", target, passphrase=secret)
    before = contents(tmp_path / "backup" / "segments")
    assert before
    async with Store(tmp_path / "data") as store:
        await store.append([local(reading(1.0, 3_000_000))])
    made, second = await back_up(tmp_path / "data", target, passphrase=secret)
    assert (second.kept, second.added) == (len(before), first.added - len(before))
    assert contents(tmp_path / "backup" / "segments") == before
    listed = {each.path for each in made.entries} | {"header.json", "manifest.json"}
    assert set(contents(tmp_path / "backup")) == listed, "files of the backup before are left over"
    bring_back(tmp_path / "backup", tmp_path / "new", passphrase=secret)
    assert await opened(tmp_path / "new") == await opened(tmp_path / "data")


async def test_a_segment_that_is_gone_leaves_the_folder_and_one_that_rotted_is_told(tmp_path: Path) -> None:
    await fill(tmp_path / "data")
    await back_up(tmp_path / "data", f"{tmp_path}/backup/")
    (tmp_path / "backup" / "segments" / "99999999-hour.raw.0123456789abcdef.parquet").write_text("of a month ago")
    (tmp_path / "backup" / "segments" / "notes.txt").write_text("somebody's own")
    await back_up(tmp_path / "data", f"{tmp_path}/backup/")
    names = {file.name for file in (tmp_path / "backup" / "segments").iterdir()}
    assert "notes.txt" in names
    assert not [name for name in names if name.startswith("99999999")]
    segment = next((tmp_path / "data" / "segments").glob("*.raw.parquet"))
    rotten = bytearray(segment.read_bytes())
    rotten[100] ^= 1
    segment.write_bytes(rotten)
    _, written = await back_up(tmp_path / "data", f"{tmp_path}/other/")
    assert written.damaged == [f"segments/{segment.name}"]
    verify(tmp_path / "other")


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("target", TARGETS)
async def test_a_flipped_bit_or_a_cut_is_found_and_nothing_changes(
    tmp_path: Path, target: str, secret: str | None
) -> None:
    rows = await fill(tmp_path / "data")
    await back_up(tmp_path / "data", f"{tmp_path}/{target}", passphrase=secret)
    place = tmp_path / target
    files = [each for each in place.rglob("*") if each.is_file()] if place.is_dir() else [place]
    chance, refused = random.Random(5), 0
    for file in files:
        good = file.read_bytes()
        for way in range(4 if place.is_dir() else 32):
            at = chance.randrange(len(good))
            bad = (
                good[:at] if way % 4 == 3 else good[:at] + bytes([good[at] ^ 1 << chance.randrange(8)]) + good[at + 1 :]
            )
            file.write_bytes(bad)
            words = refusal(place, tmp_path / "new", secret)
            if words is not None:
                assert words.startswith(str(place)), words
                assert not (tmp_path / "new").exists(), (file, way, at)
                refused += 1
                if secret is not None and file.suffix == ".sealed":
                    with pytest.raises(BackupError, match=file.name):  # without the passphrase too
                        verify(place)
            else:
                # Between the members of a tar file lie bytes that mean nothing.
                assert place.is_file()
                assert await opened(tmp_path / "new") == rows
                shutil.rmtree(tmp_path / "new")
        file.write_bytes(good)
    assert refused >= (4 * len(files) if place.is_dir() else 20)
    verify(place, secret)


async def test_words_for_what_is_wrong(tmp_path: Path) -> None:
    await fill(tmp_path / "data")
    made, _ = await back_up(tmp_path / "data", f"{tmp_path}/locked/", passphrase=PASSPHRASE)
    await back_up(tmp_path / "data", f"{tmp_path}/open/")
    for given, word in ((None, "is encrypted: give its passphrase"), ("wrong", "wrong passphrase")):
        with pytest.raises(BackupError, match=word):
            bring_back(tmp_path / "locked", tmp_path / "new", passphrase=given)
        with pytest.raises(BackupError, match=word):
            await back_up(tmp_path / "data", f"{tmp_path}/locked/", passphrase=given)
    with pytest.raises(BackupError, match="begun without a passphrase: name another folder"):
        await back_up(tmp_path / "data", f"{tmp_path}/open/", passphrase=PASSPHRASE)
    with pytest.raises(BackupError, match="5 characters: take at least 8"):
        await back_up(tmp_path / "data", f"{tmp_path}/x.tar", passphrase="short")
    with pytest.raises(BackupError, match="holds the backup of agw-00000001: name another folder"):
        await back_up(tmp_path / "data", f"{tmp_path}/open/", gateway_id="agw-2")
    with pytest.raises(BackupError, match="there is no backup"):
        bring_back(tmp_path / "nowhere", tmp_path / "new")
    with pytest.raises(BackupError, match="not a backup of this gateway"):
        bring_back(tmp_path / "data" / "hot.duckdb", tmp_path / "new")
    with pytest.raises(BackupError, match=r"holds other files: name a folder of its own, such as .*gateway-backup/"):
        await back_up(tmp_path / "data", f"{tmp_path}/data/identity/")
    with pytest.raises(BackupError, match="is something else than a backup: choose another name"):
        await back_up(tmp_path / "data", f"{tmp_path}/data/hot.duckdb")
    segment = next(each for each in made.entries if each.name.startswith("segments"))
    (tmp_path / "locked" / segment.path).unlink()
    with pytest.raises(BackupError, match=f"{segment.path} cannot be read .*: take another backup"):
        verify(tmp_path / "locked")
    (tmp_path / "open" / "manifest.json").unlink()
    with pytest.raises(BackupError, match=r"has no manifest\.json: it was never finished"):
        verify(tmp_path / "open")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("target", TARGETS)
async def test_a_backup_of_a_newer_version(tmp_path: Path, target: str) -> None:
    await fill(tmp_path / "data")
    made, _ = await back_up(tmp_path / "data", f"{tmp_path}/{target}", opens_from=SCHEMA + 1)
    assert verify(tmp_path / target) == made
    with pytest.raises(BackupError, match=r"was made by version 1\.2\.3, whose data .* install that version"):
        bring_back(tmp_path / target, tmp_path / "new")
    if target == "backup/":
        (tmp_path / "backup" / "header.json").write_text('{"ambient_gateway_backup": 2, "more": []}')
        with pytest.raises(BackupError, match="made by a newer version of the gateway: install that one"):
            verify(tmp_path / "backup")


async def test_a_manifest_that_was_written_by_somebody_else(tmp_path: Path) -> None:
    await fill(tmp_path / "data")
    await back_up(tmp_path / "data", f"{tmp_path}/open/")
    manifest = tmp_path / "open" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"batch": 1', '"batch": 3'))
    with pytest.raises(BackupError, match=r"manifest\.json is not what was written there"):
        verify(tmp_path / "open")
    made, _ = await back_up(tmp_path / "data", f"{tmp_path}/backup/", passphrase=PASSPHRASE)
    forged = made.model_copy(update={"entries": made.entries[:1]}).proven(None)
    (tmp_path / "backup" / "manifest.json").write_text(forged.model_dump_json())
    with pytest.raises(BackupError, match=r"manifest\.json is not what was written there"):
        verify(tmp_path / "backup", PASSPHRASE)
    for name in ("../../etc/passwd", "hot.lock", "segments/../../x", "identity/key.pem/x"):
        text = made.model_dump_json().replace("hot.duckdb", name, 1)
        (tmp_path / "backup" / "manifest.json").write_text(text)
        with pytest.raises(BackupError, match=r"manifest\.json"):
            verify(tmp_path / "backup")


async def test_a_folder_that_holds_data_or_runs_is_left_alone(tmp_path: Path) -> None:
    rows = await fill(tmp_path / "data")
    await back_up(tmp_path / "data", f"{tmp_path}/b.tar", passphrase=PASSPHRASE)
    await fill(tmp_path / "other", hours=2)
    async with Store(tmp_path / "other") as store:
        for number in range(5):
            await store.append([local(reading(1.0, number))])
    other = await opened(tmp_path / "other")
    before = contents(tmp_path / "other")
    with pytest.raises(BackupError, match="holds data: choose another folder with --data, or --force"):
        bring_back(tmp_path / "b.tar", tmp_path / "other", passphrase=PASSPHRASE)
    assert contents(tmp_path / "other") == before
    async with Store(tmp_path / "other"):
        with pytest.raises(StoreLocked, match="stop that gateway"):
            bring_back(tmp_path / "b.tar", tmp_path / "other", passphrase=PASSPHRASE, force=True)
    (tmp_path / "other" / "broker").mkdir()
    before = contents(tmp_path / "other")
    assert bring_back(tmp_path / "b.tar", tmp_path / "other", passphrase=PASSPHRASE, force=True) is True
    aside = contents(tmp_path / "other" / "before-restore-1")
    assert aside == before
    assert (tmp_path / "other" / "broker").exists(), "the broker's queue was nobody's yet"
    assert await opened(tmp_path / "other") == rows
    async with Store(tmp_path / "other") as store:
        assert [each.kind for each in await queries.events(store)] == ["store_restored"], (
            "no batch of the old data is lost"
        )
    assert (tmp_path / "other" / "identity" / "id").read_text() == "id of data\n"
    shutil.copytree(tmp_path / "other" / "before-restore-1", tmp_path / "back")
    assert await opened(tmp_path / "back") == other


async def test_without_keys_a_gateway_stays_who_it_is(tmp_path: Path) -> None:
    rows = await fill(tmp_path / "data")
    await back_up(tmp_path / "data", f"{tmp_path}/b.tar")
    await fill(tmp_path / "other", hours=2)
    bring_back(tmp_path / "b.tar", tmp_path / "other", force=True)
    assert (tmp_path / "other" / "identity" / "id").read_text() == "id of other\n"
    assert await opened(tmp_path / "other") == rows


async def test_the_first_start_says_what_is_missing_and_nodes_send_it_again(tmp_path: Path) -> None:
    rows = await fill(tmp_path / "data")
    await back_up(tmp_path / "data", f"{tmp_path}/b.tar")
    async with Store(tmp_path / "data") as store:
        await store.append([numbered(seq) for seq in range(11, 21)])
    bring_back(tmp_path / "b.tar", tmp_path / "new")
    async with Store(tmp_path / "new") as store:
        (event,) = await queries.events(store)
        assert event.kind == "store_restored"
        assert f"this is a backup of {NOW:%Y-%m-%d %H:%M:%S} UTC, batch 1" in event.message
        assert "no token and no node's key was in it" in event.message
        assert (event.detail["first_batch"], event.detail["after"]) == (2, NOW.isoformat())
        # The ring of the node still holds 15 to 20: 11 to 14 were acknowledged and are gone.
        commit = await store.append([numbered(seq, 15) for seq in range(15, 21)])
        assert (commit.stored, commit.marks) == (6, {("node", "1-aa"): 20})
        assert [(gap.first_seq, gap.last_seq) for gap in commit.gaps] == [(11, 14)]
        again = await store.append([numbered(seq, 15) for seq in range(15, 21)])
        assert (again.stored, again.duplicates) == (0, 6)
    async with Store(tmp_path / "new") as store:
        assert len(await queries.events(store)) == 1, "it is said once"
    assert len(await opened(tmp_path / "new")) == len(rows) + 6


async def test_settings_only(tmp_path: Path) -> None:
    rows = await fill(tmp_path / "data")
    settings = tmp_path / "gateway.toml"
    settings.write_text("[site]\nname = 'attic'\n")
    await back_up(tmp_path / "data", f"{tmp_path}/b/", passphrase=PASSPHRASE, others={"gateway.toml": settings})
    other = await fill(tmp_path / "other", hours=2)
    with unlocked(tmp_path / "b", PASSPHRASE) as found:
        with pytest.raises(BackupError, match="--force replaces them"):
            await restore.what_people_set_up(found, tmp_path / "other", force=False, progress=nothing)
        assert (tmp_path / "other" / "identity" / "id").read_text() == "id of other\n"
        for folder, force in (("other", True), ("new", False)):
            await restore.what_people_set_up(found, tmp_path / folder, force=force, progress=nothing)
            assert (tmp_path / folder / "identity" / "id").read_text() == "id of data\n"
            async with Store(tmp_path / folder) as store:
                assert await queries.node_keys(store) == {"node": NODE_KEY}
        assert await opened(tmp_path / "other") == other != rows
        assert (tmp_path / "other" / "before-restore-1" / "identity" / "id").read_text() == "id of other\n"
        assert await opened(tmp_path / "new") == []
        target = tmp_path / "there.toml"
        assert restore.settings(found, target, force=False)
        assert not restore.settings(found, target, force=False), "it is there already"
        target.write_text("# mine")
        for refuse in (restore.settings, restore.expect_settings):
            with pytest.raises(BackupError, match="says something else than the backup"):
                refuse(found, target, force=False)
        assert restore.settings(found, target, force=True)
    assert (target.read_text(), (tmp_path / "there.toml.before-restore-1").read_text()) == (
        settings.read_text(),
        "# mine",
    )


async def test_a_snapshot_is_one_moment_beside_appends(tmp_path: Path) -> None:
    await fill(tmp_path / "data")
    async with Store(tmp_path / "data") as store:
        with snapshot.lend(tmp_path / "data") as place, snapshot.lend(tmp_path / "data") as other:
            await snapshot.take(store, place.name, NOW, keys=False)
            assert other.exists(), "a folder that was lent is left alone"
            before = snapshot.look(place)
            await store.append([local(reading(1.0, 9_000_000))])
            assert snapshot.look(place) == before
            inode = next((place / "segments").iterdir()).stat().st_ino
            assert inode in {file.stat().st_ino for file in (tmp_path / "data" / "segments").iterdir()}, "a link"
            with pytest.raises(StoreError, match="name one that `lend` made"):
                await snapshot.take(store, "../elsewhere", NOW, keys=False)
        assert not place.exists()
        assert await store.read(
            lambda db: db.execute("select count(*) from duckdb_databases() where not internal").fetchall()
        ) == [(1,)]
        left = tmp_path / "data" / ".snapshot-left"
        left.mkdir()
        with snapshot.lend(tmp_path / "data"):
            assert not left.exists(), "its lender is dead"


def test_a_lock_in_numbers() -> None:
    lock, key = vault.new_lock(PASSPHRASE)
    assert vault.unlock(lock, PASSPHRASE) == key
    assert vault.unlock(lock, PASSPHRASE + " ") is None
    assert vault.unlock(lock.model_copy(update={"n": 17}), PASSPHRASE) is None
    composed, decomposed = "gr\u00fcne T\u00fcr", "gru\u0308ne Tu\u0308r"
    lock, key = vault.new_lock(composed)
    assert vault.unlock(lock, decomposed) == key


def test_sealed_chunks_stay_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vault, "CHUNK_BYTES", 10)
    key = bytes(32)
    for size in (0, 1, 9, 10, 11, 20, 35):
        plain = random.Random(size).randbytes(size)
        sealed = b"".join(vault.seal(BytesIO(plain), key, "a"))
        assert len(sealed) == vault.sealed_bytes(size)
        assert b"".join(vault.unseal(BytesIO(sealed), key, "a")) == plain
        assert sealed != b"".join(vault.seal(BytesIO(plain), key, "a"))
    salt, chunks = sealed[:16], [sealed[at : at + 26] for at in range(16, len(sealed), 26)]
    other = b"".join(vault.seal(BytesIO(plain), key, "a"))
    for spoilt in (
        salt + b"".join(chunks[:-1]),
        salt + b"".join([chunks[1], chunks[0], *chunks[2:]]),
        salt + b"".join([*chunks, chunks[-1]]),
        salt + b"".join([other[16:42], *chunks[1:]]),
        salt[1:] + b"0" + b"".join(chunks),
        sealed[:-1],
        b"",
    ):
        with pytest.raises(ValueError, match="changed or cut"):
            b"".join(vault.unseal(BytesIO(spoilt), key, "a"))
    for wrong in ((key, "b"), (bytes(31) + b"1", "a")):
        with pytest.raises(ValueError, match="changed or cut"):
            b"".join(vault.unseal(BytesIO(sealed), *wrong))


async def test_a_hot_file_that_is_damaged_before_it_was_backed_up(tmp_path: Path) -> None:
    await fill(tmp_path / "data")
    with snapshot.lend(tmp_path / "data") as place:
        async with Store(tmp_path / "data") as store:
            await snapshot.take(store, place.name, NOW, keys=False)
        with (place / "hot.duckdb").open("r+b") as stream:
            stream.truncate(5000)
        with pytest.raises(BackupError, match="the copy is not whole"):
            snapshot.look(place)
