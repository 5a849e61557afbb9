"""A whole MicroPython image over the air, on boards with two partitions: written, started once, kept or given up."""

import asyncio
import json
import random
import struct
from hashlib import sha256
from pathlib import Path

import pytest

from bench.boards import Board
from gateway.nodes.ota.manifest import Kind
from tests.brokers import needs_mosquitto
from tests.firmware.house import powered
from tests.firmware.updating import NEW, OLD, Bundle, House, answer, board, bundle, house, program

pytestmark = [pytest.mark.slow, needs_mosquitto]
PARTITION_BYTES = 0x28000
NOTED_BYTES = 16 * 4096
QUICK = 100


def image(size: int = 150_001, *, magic: int = 0xE9, broken: bool = False) -> bytes:
    """What the stub of the boot loader takes for one."""
    body = struct.pack("<BI", magic, size - 32) + random.Random(size).randbytes(size - 37)
    return body + (bytes(32) if broken else sha256(body).digest())


def bundled(content: bytes, version: str = NEW) -> Bundle:
    return bundle(version, {"micropython.bin": content}, kind=Kind.IMAGE)


def two_slots(tmp_path: Path, here: House, device: str = "n1", **more: object) -> Board:
    """A board that runs ota_0."""
    one = board(tmp_path, here, device, program(tmp_path / "mpy", OLD), **more)
    for name in ("ota_0", "ota_1"):
        (one.folder / name).write_bytes(b"\xff" * PARTITION_BYTES)
    (one.folder / "otadata.json").write_text(
        json.dumps({"boot": "ota_0", "states": {"ota_0": "valid", "ota_1": "aborted"}})
    )
    return one


def booted(one: Board) -> tuple[str, str]:
    """Which image is started next, and what the boot loader thinks of it."""
    data = json.loads((one.folder / "otadata.json").read_text())
    return data["boot"], data["states"][data["boot"]]


async def test_an_image_is_written_started_and_kept(tmp_path: Path) -> None:
    """The power fails in the middle: what was noted is not asked for again."""
    content = image()
    async with house(tmp_path) as here:
        one = two_slots(tmp_path, here)
        stop = asyncio.Event()

        async def halts(path: str, offset: int, writer: asyncio.StreamWriter, body: bytes) -> bool:
            if path == "manifest.json" or stop.is_set():
                return False
            writer.write(answer(200, body[: NOTED_BYTES + 9000], len(body)))
            await writer.drain()
            stop.set()
            await asyncio.Event().wait()
            return True

        here.shelf.mischief = [halts]
        async with powered(one):
            boot = (await here.online("n1"))["boot"]
            assert (await here.heard.message("n1/capabilities"))["slots"] == "files,image"
            offer = await here.offer("n1", bundled(content))
            await stop.wait()
            await here.heard.until(lambda said: [body for _, body in said if (body.get("percent") or 0) >= 40])
            await one.kill()
            told = await here.ended("n1", offer)
            assert told == {"offer": offer, "phase": "confirmed", "version": NEW}, one.output
            assert ("micropython.bin", NOTED_BYTES) in here.shelf.asked
            assert here.shelf.times("micropython.bin") == 2
            assert booted(one) == ("ota_1", "valid")
            assert (one.folder / "ota_1").read_bytes()[: len(content)] == content
            assert (one.folder / "ota_1").read_bytes()[len(content) : 153 * 1024] == b"\xff" * (
                153 * 1024 - len(content)
            )
            await here.online("n1", firmware_version=NEW)
            await one.kill()
            after = await here.heard.until(
                lambda said: [b for _, b in said if b.get("update", {}).get("offer") == offer]
            )
            assert (after[0]["update"]["phase"], after[0]["firmware_version"]) == ("confirmed", NEW)
            older = await here.offer("n1", bundled(content, "1.3.0"), after[0]["boot"])
            assert (await here.ended("n1", older))["phase"] == "refused"
        assert boot


async def test_an_image_that_does_not_prove_itself_is_given_up(tmp_path: Path) -> None:
    """It has one start; whatever ends that, the boot loader goes back to the old one."""
    async with house(tmp_path) as here:
        one = two_slots(tmp_path, here, speed=QUICK)
        async with powered(one):
            await here.online("n1")
            here.muted.add("n1")
            offer = await here.offer("n1", bundled(image()))
            told = await here.ended("n1", offer)
            reason = "no acknowledgement of a reading of this start came"
            assert told == {"offer": offer, "phase": "rolled_back", "version": NEW, "error": reason}, one.output
            assert booted(one) == ("ota_0", "valid")
            back = await here.heard.message("n1/status", update=told)
            assert back["firmware_version"] == OLD
            offer = await here.offer("n1", bundled(image()), back["boot"])
            await here.heard.message("n1/update/status", offer=offer, phase="testing")
            await one.kill()
            told = await here.ended("n1", offer)
            assert (told["phase"], told["error"]) == (
                "rolled_back",
                "the new image did not start, or did not confirm itself",
            )


BLOCKS = -(-150_001 // 4096)
KEPT = [(1,), (15,), (16,), (17,), (24,), (32, 3), (BLOCKS,), (0, 1), (20, 9, 1)]
"""In which start the power fails at which write: of blocks, or of the boot loader's note that it starts the new one."""
GIVEN_UP = [(BLOCKS + 1,), (0, 2), (BLOCKS // 2, 0, 2)]
"""The power cuts the choice of the next start, or the note that the new image is to stay."""


async def test_the_power_fails_at_any_write_of_an_image(tmp_path: Path) -> None:
    """It goes on where it was, or is back on the old image and says so; never on anything else."""
    content = image()
    async with house(tmp_path) as here:

        async def ends(device: str, deaths: tuple[int, ...], phase: str, which: str) -> None:
            one = two_slots(tmp_path, here, device)
            (one.folder / "dies.json").write_text(json.dumps(deaths))
            async with powered(one):
                offer = await here.offer(device, bundled(content))
                told = await here.ended(device, offer)
            assert (told["phase"], booted(one)) == (phase, (which, "valid")), (deaths, told, one.output)
            assert one.starts == sum(map(bool, deaths)) + (1 if deaths == (BLOCKS + 1,) else 2), (deaths, one.output)
            if which == "ota_1":
                assert (one.folder / which).read_bytes()[: len(content)] == content, deaths

        turn = asyncio.Semaphore(4)

        async def in_turn(number: int, deaths: tuple[int, ...], phase: str, which: str) -> None:
            async with turn:
                await ends(f"n{number}", deaths, phase, which)

        cases = [(each, "confirmed", "ota_1") for each in KEPT] + [(each, "rolled_back", "ota_0") for each in GIVEN_UP]
        async with asyncio.TaskGroup() as group:
            for number, case in enumerate(cases):
                group.create_task(in_turn(number, *case), name=f"n{number}")


async def test_what_is_no_image_is_never_started(tmp_path: Path) -> None:
    async with house(tmp_path) as here:
        one = two_slots(tmp_path, here)
        async with powered(one):
            boot = (await here.online("n1"))["boot"]
            for content, reason in (
                (image(magic=0x7F), "the first byte is 0x7F"),
                (image(broken=True), "ESP_ERR_OTA_VALIDATE_FAILED"),
                (image(PARTITION_BYTES + 1), "the image has 163841 bytes, the partition 163840"),
            ):
                offer = await here.offer("n1", bundled(content), boot)
                told = await here.ended("n1", offer)
                assert told["phase"] == "failed"
                assert reason in told["error"], (told, one.output)
            sent = image()

            async def rots(path: str, _offset: int, writer: asyncio.StreamWriter, _content: bytes) -> bool:
                """The flash loses a bit of its first block while the rest comes."""
                if path == "manifest.json":
                    return False
                writer.write(answer(200, sent[:20000], len(sent)))
                await here.heard.until(lambda said: [body for _, body in said if (body.get("percent") or 0) >= 10])
                with (one.folder / "ota_1").open("r+b") as file:
                    file.seek(100)
                    file.write(bytes([sent[100] ^ 1]))
                writer.write(sent[20000:])
                return True

            here.shelf.mischief = [rots]
            here.heard.said.clear()
            offer = await here.offer("n1", bundled(sent), boot)
            told = await here.ended("n1", offer)
            assert "does not stand in the flash" in told["error"], (told, one.output)
            assert booted(one) == ("ota_0", "valid")
        assert one.resets == 0
