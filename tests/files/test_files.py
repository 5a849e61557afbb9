"""What is kept, for whom, how long, and how much of it."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.files.entry import Limits, safe_name, safe_type
from gateway.files.errors import (
    FileMissing,
    FileNotComplete,
    FileTooLarge,
    Interrupted,
    NoRoom,
    UploadComplete,
    WrongHash,
    WrongLength,
    WrongOffset,
)
from gateway.files.files import Files, Make
from gateway.store.db import Store
from gateway.store.file_rows import files as file_rows
from tests.files.shelf import SMALL, opened
from tests.web.house import HandClock

HOUR_S = 3600.0


async def sent(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def whole(files: Files, file_id: str, owner: str | None) -> bytes:
    _, path = await files.fetch(file_id, owner)
    return path.read_bytes()


def on_disk(folder: Path) -> set[str]:
    return {file.name for file in (folder / "data" / "files").iterdir()}


async def test_what_was_put_is_had_back_also_after_a_restart(tmp_path: Path) -> None:
    async with opened(tmp_path) as files:
        made = files.scratch(".csv")
        made.write_bytes(b"a,b\n1,2\n")
        moved = await files.put("../x/days of June.csv", "text/csv; charset=utf-8", made, owner="anna", lives_s=HOUR_S)
        given_ = await files.put("plot.png", "image/png", b"\x89PNG", owner="anna", lives_s=HOUR_S)
        assert not made.exists()
        left = files.scratch()
        left.write_bytes(b"nobody put this")
    async with opened(tmp_path) as files:
        entry = files.get(moved.file_id, "anna")
        assert (entry.name, entry.media_type, entry.size_bytes) == ("_x_days of June.csv", "text/csv", 8)
        assert entry.sha256 == sha256(b"a,b\n1,2\n").hexdigest()
        assert await whole(files, moved.file_id, "anna") == b"a,b\n1,2\n"
        assert await whole(files, given_.file_id, None) == b"\x89PNG"
        assert on_disk(tmp_path) == {moved.file_id, given_.file_id}


async def test_nobody_else_has_it_but_an_admin(tmp_path: Path) -> None:
    async with opened(tmp_path) as files:
        entry = await files.put("x", "text/plain", b"mine", owner="anna", lives_s=HOUR_S)
        promised = files.promise("y", "text/plain", bytes_of(b"also mine"), owner="anna", lives_s=HOUR_S)
        begun = await files.begin("z", "text/plain", owner="anna")
        for file_id in (entry.file_id, promised.file_id, begun.file_id):
            with pytest.raises(FileMissing, match="no such file"):
                files.get(file_id, "ben")
            with pytest.raises(FileMissing):
                await files.remove(file_id, "ben")
            with pytest.raises(FileMissing):
                await files.append(file_id, "ben", 0, sent(b"!"), complete=True)
        assert files.get(entry.file_id, None) == entry
        with pytest.raises(FileMissing):
            files.get("../hot.duckdb", None)


async def test_it_expires_and_is_swept(tmp_path: Path) -> None:
    clock = HandClock()
    async with opened(tmp_path, clock) as files:
        short = await files.put("x", "text/plain", b"x", owner="anna", lives_s=60)
        long = await files.put("y", "text/plain", b"y", owner="anna", lives_s=HOUR_S)
        never_asked = files.promise("z", "text/plain", bytes_of(b"z"), owner="anna", lives_s=60)
        clock.time += timedelta(seconds=60)
        for file_id in (short.file_id, never_asked.file_id):
            with pytest.raises(FileMissing):
                await files.fetch(file_id, "anna")
        assert await files.sweep() == 1
        assert on_disk(tmp_path) == {long.file_id}
        assert files.count == 1
        clock.time += timedelta(hours=1)
    async with opened(tmp_path, clock) as files:  # a start sweeps too
        assert (files.count, on_disk(tmp_path)) == (0, set())


def bytes_of(content: bytes, calls: list[int] | None = None) -> Make:
    async def make() -> bytes:
        if calls is not None:
            calls.append(1)
        await asyncio.sleep(0)
        return content

    return make


async def test_a_promise_is_kept_once_and_only_when_asked(tmp_path: Path) -> None:
    calls: list[int] = []
    async with opened(tmp_path) as files:
        entry = files.promise("rows.csv", "text/csv", bytes_of(b"1,2", calls), owner="anna", lives_s=HOUR_S)
        assert (calls, on_disk(tmp_path)) == ([], set())
        found = await asyncio.gather(*(whole(files, entry.file_id, "anna") for _ in range(5)))
        assert (found, calls) == ([b"1,2"] * 5, [1])
        assert files.get(entry.file_id, "anna").size_bytes == 3
    async with opened(tmp_path) as files:
        assert await whole(files, entry.file_id, "anna") == b"1,2"


async def test_a_promise_that_cannot_be_kept_yet_is_not_forgotten(tmp_path: Path) -> None:
    async with opened(tmp_path) as files:
        hog = await files.put("hog", "text/plain", bytes(300_000), owner="anna", lives_s=HOUR_S)
        entry = files.promise("x", "text/plain", bytes_of(bytes(250_000)), owner="anna", lives_s=HOUR_S)
        with pytest.raises(NoRoom, match="your files take 300000 bytes of 500000 bytes"):
            await files.fetch(entry.file_id, "anna")
        await files.remove(hog.file_id, "anna")
        assert await whole(files, entry.file_id, "anna") == bytes(250_000)


async def test_shares_and_room(tmp_path: Path) -> None:
    async with opened(tmp_path) as files:
        with pytest.raises(FileTooLarge, match="at most 300000 bytes"):
            await files.put("x", "text/plain", bytes(300_001), owner="anna", lives_s=HOUR_S)
        with pytest.raises(FileTooLarge):
            await files.begin("x", "text/plain", owner="anna", size_bytes=300_001)
        await files.put("x", "text/plain", bytes(300_000), owner="anna", lives_s=HOUR_S)
        assert (files.room_bytes("anna"), files.room_bytes("ben")) == (200_000, 300_000)
        await files.begin("y", "text/plain", owner="anna", size_bytes=200_000)  # set aside before a byte came
        refused = files.scratch()
        refused.write_bytes(b"one too many")
        with pytest.raises(NoRoom, match="your files take"):
            await files.put("z", "text/plain", refused, owner="anna", lives_s=HOUR_S)
        assert not refused.exists()
        await files.put("x", "text/plain", bytes(300_000), owner="ben", lives_s=HOUR_S)
        with pytest.raises(NoRoom, match="files take 800000 bytes of 800000 bytes"):
            await files.put("x", "text/plain", b"1", owner="cleo", lives_s=HOUR_S)
        assert files.room_bytes("cleo") == 0
        assert files.stored_bytes == 800_000


async def test_many_small_files_and_a_full_medium(tmp_path: Path) -> None:
    async with opened(tmp_path) as files:
        for _ in range(SMALL.owner_files):
            await files.put("x", "text/plain", b"", owner="anna", lives_s=HOUR_S)
        with pytest.raises(NoRoom, match="8 of 8 files are yours"):
            await files.begin("x", "text/plain", owner="anna")
    async with opened(tmp_path, limits=Limits(least_free_bytes=1 << 60)) as files:
        assert files.room_bytes("ben") == 0
        with pytest.raises(NoRoom, match="stay free for readings"):
            await files.put("x", "text/plain", b"1", owner="ben", lives_s=HOUR_S)


async def test_an_upload_in_pieces(tmp_path: Path) -> None:
    async with opened(tmp_path) as files:
        begun = await files.begin("x.bin", "application/x-firmware", owner="anna", size_bytes=6)
        await files.append(begun.file_id, "anna", 0, sent(b"ab", b"", b"c"), complete=False)
        with pytest.raises(FileNotComplete, match="3 bytes are here") as caught:
            await files.fetch(begun.file_id, "anna")
        assert caught.value.offset == 3
        with pytest.raises(WrongOffset, match="go on at 3, not at 2"):
            await files.append(begun.file_id, "anna", 2, sent(b"cd"), complete=False)
        with pytest.raises(WrongLength, match="3 bytes are here and 6 were declared"):
            await files.append(begun.file_id, "anna", 3, sent(), complete=True)
    async with opened(tmp_path) as files:  # a restart in the midst of it
        assert (await files.offset(begun.file_id, "anna"))[1] == 3
        done = await files.append(begun.file_id, "anna", 3, sent(b"def"), complete=True)
        assert (done.complete, done.size_bytes, done.sha256) == (True, 6, sha256(b"abcdef").hexdigest())
        with pytest.raises(UploadComplete):
            await files.append(begun.file_id, "anna", 6, sent(b"g"), complete=True)
        assert await whole(files, begun.file_id, "anna") == b"abcdef"


async def test_what_contradicts_its_declaration_leaves_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path) as files:
        hashed = await files.begin("x", "", owner="anna", sha256=sha256(b"good").hexdigest())
        with pytest.raises(WrongHash, match="all bytes were discarded"):
            await files.append(hashed.file_id, "anna", 0, sent(b"evil"), complete=True)
        longer = await files.begin("x", "", owner="anna", size_bytes=3)
        with pytest.raises(WrongLength, match="more than the 3 bytes"):
            await files.append(longer.file_id, "anna", 0, sent(b"ab", b"cd"), complete=False)
        late = await files.begin("x", "", owner="anna")
        await files.append(late.file_id, "anna", 0, sent(b"abcd"), complete=False)
        with pytest.raises(WrongLength, match="contradicts"):
            await files.append(late.file_id, "anna", 4, sent(), complete=True, size_bytes=3)
        with pytest.raises(WrongHash, match="64 hexadecimal digits"):
            await files.begin("x", "", owner="anna", sha256="abc")
        assert on_disk(tmp_path) == {late.file_id}
        assert {row.file_id for row in await file_rows(files._store)} == {late.file_id}


async def test_growing_without_a_declared_length_stops_at_the_limit(tmp_path: Path) -> None:
    async with opened(tmp_path) as files:
        begun = await files.begin("x", "", owner="anna")
        with pytest.raises(FileTooLarge):
            await files.append(begun.file_id, "anna", 0, sent(*[bytes(100_000)] * 4), complete=True)
        assert (await files.offset(begun.file_id, "anna"))[1] == 300_000
        other = await files.begin("x", "", owner="anna")
        with pytest.raises(NoRoom):
            await files.append(other.file_id, "anna", 0, sent(*[bytes(100_000)] * 3), complete=True)
        assert files.stored_bytes == 500_000


async def test_who_asks_for_the_offset_has_lost_the_request_before(tmp_path: Path) -> None:
    """The first request hangs after its first chunk; the second gets an offset that holds, and goes on."""
    came = asyncio.Event()

    async def hanging() -> AsyncIterator[bytes]:
        yield b"abc"
        came.set()
        await asyncio.Event().wait()

    async with opened(tmp_path) as files:
        begun = await files.begin("x", "", owner="anna")
        first = asyncio.create_task(files.append(begun.file_id, "anna", 0, hanging(), complete=True))
        await came.wait()
        _, offset = await files.offset(begun.file_id, "anna")
        with pytest.raises(Interrupted, match="at byte 3"):
            await first
        assert offset == 3
        await files.append(begun.file_id, "anna", 3, sent(b"def"), complete=True)
        assert await whole(files, begun.file_id, "anna") == b"abcdef"


async def test_rows_without_bytes_are_forgotten(tmp_path: Path) -> None:
    """As after a restored backup, which holds the table and not the files."""
    async with opened(tmp_path) as files:
        kept = [await files.put("x", "", bytes([n]) * 9, owner="anna", lives_s=HOUR_S) for n in range(3)]
        empty = await files.put("empty", "", b"", owner="anna", lives_s=HOUR_S)
        begun = await files.begin("y", "", owner="anna")
    folder = tmp_path / "data" / "files"
    (folder / kept[0].file_id).unlink()
    (folder / kept[1].file_id).write_bytes(b"short")
    (folder / begun.file_id).unlink()
    async with opened(tmp_path) as files:
        assert (await files.offset(begun.file_id, "anna"))[1] == 0
        for gone in kept[:2]:
            with pytest.raises(FileMissing):
                files.get(gone.file_id, "anna")
        assert on_disk(tmp_path) == {kept[2].file_id, empty.file_id, begun.file_id}


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with Store(tmp_path / "data") as opened_store:
        yield opened_store


@given(
    content=st.binary(max_size=4000),
    cuts=st.lists(st.integers(0, 4000), max_size=6),
    lost=st.lists(st.booleans(), min_size=8, max_size=8),
    declared=st.booleans(),
    restart=st.integers(0, 7),
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_any_cut_gives_the_same_file(
    store: Store, *, content: bytes, cuts: Sequence[int], lost: Sequence[bool], declared: bool, restart: int
) -> None:
    """Pieces that end anywhere, some of which break off halfway, with a restart between two of them."""
    bounds = sorted({0, len(content), *(min(cut, len(content)) for cut in cuts)})
    folder, digest = store.folder / "files", sha256(content).hexdigest()
    async with Files(folder, store, HandClock(), SMALL) as files:
        length = len(content) if declared else None
        begun = await files.begin("x", "", owner="anna", size_bytes=length, sha256=digest)
        for step, end in enumerate(bounds[: restart + 1]):
            await _piece(files, begun.file_id, content, end, breaks=lost[step])
    async with Files(folder, store, HandClock(), SMALL) as files:
        for step, end in enumerate(bounds):
            await _piece(files, begun.file_id, content, end, breaks=lost[step] and step > restart)
        _, here = await files.offset(begun.file_id, "anna")
        entry = await files.append(begun.file_id, "anna", here, sent(content[here:]), complete=True)
        assert (entry.sha256, entry.size_bytes) == (digest, len(content))
        assert await whole(files, begun.file_id, "anna") == content
        await files.remove(begun.file_id, "anna")


async def _piece(files: Files, file_id: str, content: bytes, end: int, *, breaks: bool) -> None:
    """Everything up to `end` that is not here yet; where it breaks, the connection is lost after half of it."""
    _, here = await files.offset(file_id, "anna")
    piece = content[here : max(here, end)]
    half = len(piece) // 2

    async def broken() -> AsyncIterator[bytes]:
        yield piece[:half]
        raise ConnectionResetError

    if not breaks:
        await files.append(file_id, "anna", here, sent(piece), complete=False)
        return
    with pytest.raises(ConnectionResetError):
        await files.append(file_id, "anna", here, broken(), complete=False)
    assert (await files.offset(file_id, "anna"))[1] == here + half


@given(st.text(max_size=300))
def test_any_name_is_made_one_of_a_file(name: str) -> None:
    safe = safe_name(name)
    assert 1 <= len(safe) <= 100
    assert safe == Path(safe).name
    assert safe.isprintable()
    assert not safe.startswith(".")


@given(st.text(max_size=80))
def test_any_kind_is_made_a_media_type(text: str) -> None:
    assert safe_type(text).isascii()
    assert safe_type(text).count("/") == 1
    assert not set(safe_type(f"{text}\r\nx: y")) & set("\r\n; ")
