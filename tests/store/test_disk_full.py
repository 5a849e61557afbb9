"""A full disk, a real one (ext4 on a loop device): reads go on, nothing acknowledged is lost, it resumes by itself."""

import asyncio
import itertools
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gateway.ingest.pipeline import Pipeline
from gateway.store import engine, queries
from gateway.store.db import Store
from gateway.store.errors import StoreFull
from tests.store.builders import local, numbered, reading

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(
        os.geteuid() != 0 or not shutil.which("mkfs.ext4") or not Path("/dev/loop-control").exists(),
        reason="needs root, mkfs.ext4 and loop devices",
    ),
]
MEDIUM_MB = 16


@pytest.fixture
def medium(tmp_path: Path) -> Iterator[Path]:
    """A medium of its own; what is on it is the test's."""
    image, place = tmp_path / "image", tmp_path / "medium"
    with image.open("wb") as file:
        file.truncate(MEDIUM_MB << 20)
    place.mkdir()
    run("mkfs.ext4", "-q", "-m", "0", str(image))
    run("mount", "-o", "loop", str(image), str(place))
    try:
        yield place
    finally:
        run("umount", str(place))


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=30)


def fill(medium: Path, leave_bytes: int = 0) -> None:
    """Take all room but so much."""
    with (medium / "filler").open("ab", buffering=0) as file:
        for size in (1 << 16, 1 << 9):
            with_room = True
            while with_room:
                try:
                    file.write(bytes(size))
                except OSError:
                    with_room = False
    if leave_bytes:
        os.truncate(medium / "filler", (medium / "filler").stat().st_size - leave_bytes)


def free(medium: Path) -> None:
    (medium / "filler").unlink()


async def kinds(store: Store) -> list[str]:
    return [event.kind for event in await queries.events(store)][::-1]


async def values(store: Store, device: str) -> list[float]:
    """Everything that is stored of a device, in order."""
    ids = [each.series_id for each in store.series().values() if each.device == device]
    return await store.ask(
        lambda view: [value for (value,) in view.db.execute(f"select value from {view.raw(ids)} order by 1").fetchall()]
    )


async def test_reads_go_on_readings_wait_and_all_is_stored_once(medium: Path) -> None:
    failed, acknowledged, full = asyncio.Event(), list[int](), threading.Event()
    async with Store(medium / "data") as store:
        async with Pipeline(
            store.append, flush_interval_s=0.05, capacity=50, on_failure=lambda _text: failed.set()
        ) as pipeline:
            await pipeline.put(local(reading(0.0)))
            await pipeline.flush()
            fill(medium)
            stop = threading.Event()
            sender = threading.Thread(target=send, args=(pipeline, acknowledged.append, full, stop), name="sender")
            sender.start()
            try:
                for number in range(1, 200):
                    await pipeline.put(local(reading(float(number), number)))
                await failed.wait()
                for _ in range(20):
                    assert (await queries.counts(store)).readings == 1 + len(acknowledged)
                assert await asyncio.to_thread(full.wait, 60), "the sender was never held back"
                assert queries.latest(store, device="attic")[0].value == 0.0
                before = len(acknowledged)
                free(medium)
                await asyncio.to_thread(sender.join)
            finally:
                stop.set()
                sender.join()
            await pipeline.flush()
            assert (before < len(acknowledged), pipeline.counts.dropped) == (True, 0)
        assert acknowledged == list(range(1, SENT + 1))
        assert await values(store, "node") == [400.0 + seq for seq in acknowledged]
        assert await values(store, "attic") == [float(number) for number in range(200)]
        assert await kinds(store) == ["store_full", "store_room"]


SENT = 300


def send(pipeline: Pipeline, done: Callable[[int], None], full: threading.Event, stop: threading.Event) -> None:
    """What a broker's thread does: one message after the other, held back while there is no room for them."""
    for seq in range(1, SENT + 1):
        if pipeline.pending >= 50:
            full.set()
        pipeline.offer(numbered(seq), lambda seq=seq: done(seq), stop)  # type: ignore[misc]


@pytest.mark.parametrize("leave_kb", [400, 1500])
async def test_a_log_that_cannot_be_folded_grows_on_and_is_folded_later(
    medium: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, leave_kb: int
) -> None:
    monkeypatch.setattr(engine, "CHECKPOINT_AT_MB", 0.2)
    monkeypatch.setattr(engine, "ROOM_TO_FOLD_BYTES", 4 << 20)
    async with Store(medium / "data") as store:
        await store.append([numbered(1)])
        fill(medium, leave_kb << 10)
        stored = 1
        with pytest.raises(StoreFull):  # noqa: PT012 - it is the loop that ends so
            for seq in itertools.count(2):
                await store.append([numbered(seq), local(*(reading(float(n), seq) for n in range(99)))])
                stored += 100
        for _ in range(3):
            with pytest.raises(StoreFull, match="free some space"):
                await store.append([numbered(seq)])
            assert (await queries.counts(store)).readings == stored
        assert stored > 1000
        assert caplog.text.count("re-opening") < 5, "not at each batch"
        log_bytes = (medium / "data" / "hot.duckdb.wal").stat().st_size
        assert log_bytes > 200_000
        free(medium)
        for more in range(3):
            assert (await store.append([numbered(seq + more)])).stored == 1
        assert (medium / "data" / "hot.duckdb.wal").stat().st_size < log_bytes
        assert await kinds(store) == ["store_full", "store_room"]
    async with Store(medium / "data") as store:
        assert (await queries.counts(store)).readings == stored + 3
        assert store.lost_batches is None


async def test_it_starts_and_answers_on_a_full_medium(medium: Path) -> None:
    async with Store(medium / "data") as store:
        await store.append([numbered(1)])
        await store.append([numbered(2)])
        fill(medium)
        # As after a crash: the log is there.
        shutil.copytree(medium / "data", medium.parent / "crashed")
    shutil.copytree(medium.parent / "crashed", medium / "data", dirs_exist_ok=True)
    fill(medium)
    async with Store(medium / "data") as store:
        assert (await queries.counts(store)).readings == 2
        with pytest.raises(StoreFull):
            await store.append([local(*(reading(float(n)) for n in range(5000)))])
        assert (await queries.counts(store)).readings == 2
        free(medium)
        await store.append([numbered(3)])
        assert await kinds(store) == ["store_full", "store_room"]
