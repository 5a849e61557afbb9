"""Updates over the air: real MicroPython, a real broker, files over HTTP; whatever is wrong ends with its reason."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.boards import Board
from gateway.nodes.ota.manifest import Kind
from tests.brokers import needs_mosquitto
from tests.firmware.house import powered
from tests.firmware.test_heap import NARROW, bare
from tests.firmware.updating import DEAD, NEW, OLD, Bundle, House, Reply, answer, board, bundle, house, program, sources

pytestmark = [pytest.mark.slow, needs_mosquitto]
QUICK = 100
LEAST = {"node/app.py": b"main = None\n"}
IMAGE = {"micropython.bin": b"\xe9" + bytes(5000)}
UPDATE_KB = 100
"""Beside what the interpreter takes: an ESP32 without PSRAM has so much at least."""


def slot(one: Board) -> dict[str, object]:
    found: dict[str, object] = json.loads((one.folder / "slot.json").read_text())
    return found


def measuring(here: House) -> Reply:
    """Keeps the node waiting in the midst of its download until it has measured once more, and was acknowledged."""

    def acknowledged(said: list[tuple[str, dict[str, object]]]) -> int:
        return len([topic for topic, _ in said if topic.endswith("/ack")])

    async def waits(path: str, _offset: int, _writer: asyncio.StreamWriter, _content: bytes) -> bool:
        if path == "node/wire.mpy":
            before = acknowledged(here.heard.said)
            await here.heard.until(lambda said: acknowledged(said) > before)
        return False

    return waits


async def test_a_board_is_updated_while_it_measures(tmp_path: Path) -> None:
    """On a 32-bit build, with the heap that an ESP32 has; then told once more, and updated back into the first slot."""
    old, new = program(tmp_path / "mpy", OLD), program(tmp_path / "mpy")
    async with house(tmp_path) as here:
        options = ("-X", f"heapsize={bare(NARROW) + UPDATE_KB * 1024}")
        one = board(tmp_path, here, "n1", old, interpreter=NARROW, options=options)
        async with powered(one):
            before = await here.online("n1")
            assert before["firmware_version"] == OLD
            assert "update" not in before
            about = await here.heard.message("n1/capabilities")
            assert [about[key] for key in ("board", "mpy", "slots")] == ["esp32", 6, "files"]
            here.shelf.mischief = [measuring(here)]
            offer = await here.offer("n1", new)
            assert await here.ended("n1", offer) == {"offer": offer, "phase": "confirmed", "version": NEW}, one.output
            assert here.phases("n1", offer) == [
                *("accepted", "downloading", "verifying", "installing", "restarting", "testing", "confirmed")
            ]
            after = await here.online("n1", firmware_version=NEW)
            assert after["boot"] != before["boot"]
            assert slot(one) == {"active": "b", "offer": offer, "version": NEW}
            assert new.stands_in(one.folder / "b")
            assert old.stands_in(one.folder / "a")
            assert not (one.folder / "update.json").exists()
            assert here.shelf.times("node/wire.mpy") == 1
            await one.kill()
            again = await here.online("n1", update={"offer": offer, "phase": "confirmed", "version": NEW, "error": ""})
            assert again["boot"] not in (before["boot"], after["boot"])
            newer = program(tmp_path / "mpy", "1.10.0")
            offer = await here.offer("n1", newer, again["boot"])
            assert (await here.ended("n1", offer))["phase"] == "confirmed"
            assert slot(one) == {"active": "a", "offer": offer, "version": "1.10.0"}
            assert newer.stands_in(one.folder / "a")
    assert one.resets == 2


async def test_what_a_node_refuses(tmp_path: Path) -> None:
    """Wrong keys and replays are only complained of; the rest is told with its reason, and nothing is asked for."""
    old = program(tmp_path / "mpy", "1.4.0")
    async with house(tmp_path) as here:
        one = board(tmp_path, here, "n1", old)
        async with powered(one):
            boot = (await here.online("n1"))["boot"]
            await here.offer("n1", bundle("2.0.0", LEAST), key=b"f" * 32)
            complaint = await here.heard.message("n1/error", code="update_refused")
            assert "wrong mac" in complaint["message"]
            for version, change, reason in (
                ("1.4.0", {}, "version 1.4.0 is not above 1.4.0, which runs"),
                ("1.3.99", {}, "version 1.3.99 is not above 1.4.0, which runs"),
                ("1.10.0", {"version": "1.10"}, "the version is three numbers"),
                ("1.10.0", {"board": ["esp32c3"]}, "it is not for this board, esp32"),
                ("1.10.0", {"boot": "1-00000000"}, "it is for another boot"),
                ("1.10.0", {"kind": "image"}, "this board has no second partition for an image"),
                ("1.10.0", {"kind": "rom"}, "kind is files or image"),
                ("1.10.0", {"manifest_bytes": 20000}, "a manifest has 1 to 16384 bytes"),
                ("1.10.0", {"manifest_sha256": "ab"}, "manifest_sha256 is 64 hexadecimal digits"),
                ("1.10.0", {"port": 70000}, "no place to download from"),
                ("1.10.0", {"host": None}, "no place to download from"),
                ("1.10.0", {"tls": 1}, "tls is true or false"),
            ):
                offer = await here.offer("n1", bundle(version, LEAST), boot, change=change)
                told = await here.ended("n1", offer)
                assert (told["phase"], told.get("error")) == ("refused", reason), told
            assert not here.shelf.asked
            await here.cancel("n1", boot, "0123456789abcdef")
            assert (await here.ended("n1", "0123456789abcdef"))["phase"] == "cancelled"
            late = await here.offer("n1", bundle("1.10.0", LEAST), boot, offer="0123456789abcdef")
            await here.said("n1", late, "refused", "it was seen before")
            assert not here.shelf.asked
            await one.kill()
            again = await here.heard.until(lambda said: [body for _, body in said if body.get("boot", boot) != boot])
            assert again[0]["update"]["error"] == "tls is true or false"
        assert one.resets == 0
        assert not (one.folder / "slot.json").exists()


async def test_without_a_key_it_believes_no_offer(tmp_path: Path) -> None:
    async with house(tmp_path) as here:
        one = Board(tmp_path / "n1", {**here.settings("n1"), "key": None}, speed=20)
        async with powered(one):
            await here.offer("n1", bundle("9.0.0", {"node/app.py": b""}))
            complaint = await here.heard.message("n1/error", code="update_refused")
            assert "no key" in complaint["message"]
    assert not here.shelf.asked


FLIPPED, RESET, HANGS, SHORT, LONG, GARBAGE = (
    f"node/{name}.mpy" for name in ("app", "ring", "link", "mqtt", "wire", "watch")
)


def once(path: str, reply: Reply) -> Reply:
    """This misbehaviour at the first request for a path."""
    left = [path]

    async def answers(asked: str, offset: int, writer: asyncio.StreamWriter, content: bytes) -> bool:
        if asked not in left:
            return False
        left.remove(asked)
        return await reply(asked, offset, writer, content)

    return answers


async def flips(_path: str, offset: int, writer: asyncio.StreamWriter, content: bytes) -> bool:
    body = bytearray(content[offset:])
    body[len(body) // 2] ^= 8
    writer.write(answer(200, bytes(body)))
    return True


async def breaks(_path: str, offset: int, writer: asyncio.StreamWriter, content: bytes) -> bool:
    writer.write(answer(200, content[offset : offset + 700], len(content) - offset))
    await writer.drain()
    writer.close()
    return True


async def silent(_path: str, _offset: int, writer: asyncio.StreamWriter, content: bytes) -> bool:
    """Half of it, and then nothing more for as long as the node waits."""
    writer.write(answer(200, content[:900], len(content)))
    await writer.drain()
    await asyncio.Event().wait()
    return True


async def longer(_path: str, offset: int, writer: asyncio.StreamWriter, content: bytes) -> bool:
    writer.write(answer(200, content[offset:] + b"more", len(content) - offset))
    return True


async def misjudged(_path: str, offset: int, writer: asyncio.StreamWriter, content: bytes) -> bool:
    writer.write(answer(200, content[offset:] + b"more"))
    return True


async def garbage(_path: str, _offset: int, writer: asyncio.StreamWriter, _content: bytes) -> bool:
    writer.write(b"\x00\xff" * 3000)
    return True


async def nothing(path: str, _offset: int, writer: asyncio.StreamWriter, _content: bytes) -> bool:
    if path == "manifest.json":
        return False
    writer.write(answer(404, b"{}"))
    return True


async def always_flips(path: str, offset: int, writer: asyncio.StreamWriter, content: bytes) -> bool:
    return path == FLIPPED and await flips(path, offset, writer, content)


def no_ranges_for(path: str) -> Reply:
    async def whole(asked: str, offset: int, writer: asyncio.StreamWriter, content: bytes) -> bool:
        if asked != path or not offset:
            return False
        writer.write(answer(200, content))
        return True

    return whole


def written(folder: Path) -> list[Path]:
    return [path for path in folder.glob("node/*.mpy") if path.stat().st_size]


def rots(folder: Path) -> Reply:
    """The flash loses a bit of what is written already, while the next file comes."""
    done: list[Path] = []

    async def flips_there(_path: str, _offset: int, _writer: asyncio.StreamWriter, _content: bytes) -> bool:
        if not done:
            done.extend(written(folder)[:1])
            for path in done:
                path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])
        return False

    return flips_there


@contextmanager
def misbehaving(here: House, *mischief: Reply) -> Iterator[None]:
    here.shelf.mischief = list(mischief)
    here.shelf.asked.clear()
    yield
    here.shelf.mischief = []


async def test_a_download_that_goes_wrong(tmp_path: Path) -> None:
    """What can be mended is asked for again, from where it broke; what cannot ends the update and leaves nothing."""
    old, new = program(tmp_path / "mpy", OLD), program(tmp_path / "mpy")
    async with house(tmp_path) as here:
        one = board(tmp_path, here, "n1", old)
        async with powered(one):
            boot = (await here.online("n1"))["boot"]

            async def fails(reason: str, what: Bundle = new, **change: object) -> None:
                offer = await here.offer("n1", what, boot, change=change)
                told = await here.ended("n1", offer)
                assert reason in told["error"], (told, one.output)
                assert told["phase"] in ("failed", "refused")
                assert not list(one.folder.glob("*.new"))

            with misbehaving(here, nothing):
                await fails("HTTP 404")
            with misbehaving(here, always_flips):
                await fails(f"{FLIPPED} came 3 times with a wrong hash")
                assert here.shelf.asked.count((FLIPPED, 0)) == 3
            await fails("manifest.json came 3 times with a wrong hash", manifest_sha256="ab" * 32)
            await fails("bytes instead of 9", manifest_bytes=9)
            await fails("the manifest is of another version", version="9.0.0")
            elsewhere = bundle(NEW, new.files, boards=("esp32c3",), mpy=6)
            await fails("the manifest is not for this board", elsewhere, board=["esp32"])
            await fails("the manifest is of another kind", bundle(NEW, IMAGE, kind=Kind.IMAGE), kind="files")
            await fails(".mpy files of version 5, this MicroPython loads 6", bundle(NEW, new.files, mpy=5))
            with misbehaving(here, rots(one.folder / "b.new")):
                await fails("does not stand in the flash as it came")
            await here.cancelled_while("n1", new, boot)
            assert not list(one.folder.glob("*.new"))
            assert not (one.folder / "slot.json").exists()

            mended = {FLIPPED: flips, RESET: breaks, HANGS: silent, SHORT: misjudged, LONG: longer, GARBAGE: garbage}
            with misbehaving(here, *(once(path, reply) for path, reply in mended.items()), no_ranges_for(HANGS)):
                offer = await here.offer("n1", new, boot)
                assert (await here.ended("n1", offer))["phase"] == "confirmed", one.output
                assert {path: count for path in mended if (count := here.shelf.times(path)) < 2} == {LONG: 1}
                assert (RESET, 700) in here.shelf.asked
                assert [offset for path, offset in here.shelf.asked if path == HANGS] == [0, 900, 0]
            assert new.stands_in(one.folder / "b")
    assert one.resets == 1


STOPS = {
    "import": (
        "node/app.py",
        "import nothing_of_that_name\n",
        "slot b: ImportError: no module named 'nothing_of_that_name'",
    ),
    "crash": ("node/app.py", "def main():\n    raise ValueError('no idea')\n", "slot b: ValueError: no idea"),
    "hang": ("node/app.py", "def main():\n    while True:\n        pass\n", "it never confirmed itself"),
}
"""What is wrong with a version: the file, what stands in it instead, what the gateway is told."""


def spoiled(*pairs: tuple[str, str, str]) -> dict[str, bytes]:
    """Files of the firmware with a text in each replaced."""
    found: dict[str, bytes] = {}
    for path, old, new in pairs:
        text = found.get(path, sources()[path]).decode()
        assert old in text
        found[path] = text.replace(old, new).encode()
    return found


async def test_a_version_that_does_not_work_is_rolled_back(tmp_path: Path) -> None:
    """By itself, after as many starts as the loader gives it, and the reason is told; five boards side by side."""
    old = program(tmp_path / "mpy", OLD)
    offline = spoiled(("node/link.py", "await self._wifi()", "raise OSError('no idea of radio')"))
    dead = spoiled()
    dead["node/sensors/wallclock.py"] = DEAD
    deaf = spoiled(("node/uplink.py", "self._acked(payload)", "pass"))
    cases = {name: ({path: text.encode()}, reason) for name, (path, text, reason) in STOPS.items()} | {
        "offline": (offline, "no connection: OSError: no idea of radio"),
        "sensor": (dead, "sensor wallclock does not answer"),
        "deaf": (deaf, "no acknowledgement of a reading of this start came"),
        "liar": ({"node/__init__.py": b'VERSION = "1.3.9"\n'}, "its files say that they are version 1.3.9"),
    }
    async with house(tmp_path) as here:

        async def one(name: str, changes: dict[str, bytes], reason: str) -> None:
            new = program(tmp_path / f"mpy-{name}", NEW, changes)
            node = board(tmp_path, here, name, old, speed=QUICK, environment={"BITES": "1"} if name == "hang" else {})
            async with powered(node):
                offer = await here.offer(name, new)
                told = await here.ended(name, offer, 60)
                assert told == {"offer": offer, "phase": "rolled_back", "version": NEW, "error": reason}, node.output
                after = await here.heard.message(f"{name}/status", update=told)
                assert after["firmware_version"] == OLD
                assert slot(node)["active"] == "a"
                starts = 2 if name == "import" else 5
                assert node.starts == starts, (name, node.starts, node.output)

        async with asyncio.TaskGroup() as group:
            for name, (changes, reason) in cases.items():
                group.create_task(one(name, changes, reason), name=name)
