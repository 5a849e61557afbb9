"""From the sources to the gateway: what `make firmware` runs, and `gateway firmware` with and without a gateway."""

import json
import os
import shutil
import stat
import struct
import sys
from pathlib import Path

import httpx2
import pytest

from gateway.access.principal import Principal, Scope
from gateway.app import offline
from gateway.command import ControlError, Unconfirmed, Would
from gateway.control.base import LOCAL, Plan
from gateway.control.firmware import FirmwareCommands
from gateway.nodes.ota import bundle
from gateway.nodes.ota.commands import FirmwareAdd, FirmwareDistrust, FirmwareList, FirmwareRemove, FirmwareTrust
from gateway.nodes.ota.manifest import Kind
from gateway.store import queries
from gateway.store.db import Store
from tests.nodes.bundles import PUBLIC, shelf, written
from tests.running import command, gateway, program

ROOT = Path(__file__).parent.parent.parent


async def build(folder: Path, *arguments: str, **environment: str) -> tuple[int, str, str]:
    """What `make firmware` runs, with a home of its own: exit code, standard output, standard error."""
    settings = {"XDG_CONFIG_HOME": str(folder / "config"), "SOURCE_DATE_EPOCH": "", "USER": "anna"} | environment
    return await program(
        sys.executable, str(ROOT / "scripts" / "firmware"), "--out", str(folder), *arguments, environment=settings
    )


def trust_line(err: str) -> list[str]:
    """The words after `gateway` of the line that is to be run."""
    return next(line.split()[1:] for line in err.splitlines() if line.startswith("    gateway firmware trust"))


def made(out: str) -> Path:
    """The path that stood alone on standard output."""
    return Path(out.removesuffix("\n"))


def relative(file: Path) -> str:
    return os.path.relpath(file)


def image(chip: int = 9, app: bytes = bytes.fromhex("3254cdab")) -> bytes:
    """The beginning of an application image, and some bytes."""
    head = bytearray(b"\xe9" + bytes(31) + app + bytes(4000))
    struct.pack_into("<H", head, 12, chip)
    return bytes(head)


@pytest.mark.slow
async def test_the_real_firmware_from_its_sources_to_the_gateway(tmp_path: Path) -> None:
    code, out, err = await build(tmp_path)
    assert code == 0, err
    file, key = made(out), tmp_path / "config" / "ambient-gateway" / "firmware-signing.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    words = trust_line(err)
    found = bundle.read(file, [words[2]])
    sources = {path.relative_to(ROOT / "firmware").as_posix() for path in (ROOT / "firmware" / "node").rglob("*.py")}
    assert {f"{path.removesuffix('.mpy')}.py" for path in found.files} == sources
    assert (found.manifest.kind, found.manifest.mpy) == (Kind.FILES, 6)
    data = ("--data", str(tmp_path / "data"))
    async with gateway(tmp_path / "data") as running:
        code, _, err = await command("firmware", "add", str(file), *data)
        assert (code, "no key is trusted yet" in err, err.count("\n")) == (1, True, 1)
        assert await command(*words, *data) == (0, "", "bundles that anna signed are taken from now on\n")
        code, out, err = await command("firmware", "add", relative(file), *data)
        assert (code, out) == (0, f"{found.digest}\n"), err
        code, out, _ = await command("firmware", "list", "--json", *data)
        [listed] = json.loads(out)
        assert (listed["digest"], listed["signed_by"], listed["trusted"]) == (found.digest, "anna", True)
        assert (listed["boards"], listed["mpy"]) == (["esp32", "esp32c3", "esp32c6", "esp32s2", "esp32s3"], 6)
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{running.http}") as http:
            path = f"/files/firmware/{'0' * 16}/manifest.json"
            answer = await http.get(path, headers={"authorization": f"Bearer {running.token}"})
            assert (answer.status_code, answer.headers["www-authenticate"][:5]) == (401, "Node ")
        await running.stop()
    code, out, _ = await command("firmware", "list", *data)  # no gateway runs
    assert (code, found.digest[:12] in out, "signed by anna" in out) == (0, True, True)
    code, _, err = await command("firmware", "remove", listed["version"], *data)
    assert (code, "say so with --yes" in err) == (1, True)


async def test_commands_plan_do_and_leave_a_trace(tmp_path: Path) -> None:
    file = str(written(tmp_path))
    async with offline(tmp_path / "data") as commands:
        with pytest.raises(ValueError, match="no key is trusted yet"):
            await commands.run(FirmwareAdd(file=file))
        trust = FirmwareTrust(key=PUBLIC, name="anna")
        for command_ in (trust, FirmwareAdd(file=file)):
            dry = await commands.run(command_.model_copy(update={"dry_run": True}))
            assert isinstance(dry, Would), dry
            assert "this " in dry.would
            await commands.run(command_)
        with pytest.raises(ValueError, match="trusted already"):
            await commands.run(trust)
        with pytest.raises(Unconfirmed, match=r"this removes firmware 1\.4\.0"):
            await commands.run(FirmwareRemove(firmware="1.4.0"))
        distrusted = await commands.run(FirmwareDistrust(key=PUBLIC))
        assert "1.4.0 stay here and are given to nobody" in str(distrusted)
        [left] = (await commands.run(FirmwareList())).model_dump()["firmware"]
        assert (left["trusted"], left["signed_by"], left["files"]) == (False, PUBLIC, 3)
        await commands.run(FirmwareRemove(firmware=left["digest"][:12], confirm=True))
        assert (await commands.run(FirmwareList())).model_dump()["firmware"] == []
        reader = Principal("reader", Scope.READ)
        for denied in (trust, FirmwareAdd(file=file), FirmwareRemove(firmware="1.4.0", confirm=True)):
            with pytest.raises(ControlError, match="needs scope admin"):
                await commands.run(denied, reader)
    async with Store(tmp_path / "data") as store:
        kept = [(row.action, row.target) for row in await queries.audit_rows(store) if row.allowed]
    expected = {("trust_firmware_key", "anna"), ("add_firmware", "node.zip"), ("distrust_firmware_key", PUBLIC)}
    assert expected | {("remove_firmware", left["digest"][:12])} == set(kept)


async def test_what_is_in_use_is_not_removed(tmp_path: Path) -> None:
    async with shelf(tmp_path) as kept:
        row = await kept.add(await kept.check(written(tmp_path)), "anna")
        users = {row.digest: "rollout 7 gives it to the attic"}
        remove = FirmwareCommands(kept, lambda digest: users.get(digest, "")).handlers()[FirmwareRemove]
        with pytest.raises(ControlError, match="is in use: rollout 7 gives it to the attic"):
            await remove(FirmwareRemove(firmware="1.4.0"), LOCAL)
        users.clear()
        plan = await remove(FirmwareRemove(firmware="1.4.0"), LOCAL)
        assert isinstance(plan, Plan)
        users[row.digest] = "rollout 8 has begun meanwhile"
        with pytest.raises(ControlError, match="rollout 8"):
            await plan.do()
        assert kept.get(row.digest)


@pytest.mark.slow
async def test_the_same_sources_make_the_same_bytes(tmp_path: Path) -> None:
    first, again, later = [
        await build(tmp_path / name, "--source", "--key", str(tmp_path / "key"), SOURCE_DATE_EPOCH=epoch)
        for name, epoch in (("a", "1795000000"), ("b", "1795000000"), ("c", "1795000001"))
    ]
    contents = [made(out).read_bytes() for _, out, _ in (first, again, later)]
    assert contents[0] == contents[1]
    assert contents[0] != contents[2]
    about = bundle.check(contents[0], [trust_line(first[2])[2]]).manifest
    assert (about.mpy, f"{about.created:%s}") == (None, "1795000000")


async def test_what_cannot_be_built_is_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "firmware" / "node"
    folder.mkdir(parents=True)
    key = tmp_path / "open.key"
    key.touch(0o644)
    (tmp_path / "app.bin").write_bytes(image())
    (tmp_path / "merged.bin").write_bytes(image(app=bytes(4)))
    (tmp_path / "text.bin").write_bytes(b"MZ" * 100)
    sources = ("--firmware", str(tmp_path / "firmware"))

    async def refused(*arguments: str) -> str:
        code, out, err = await build(tmp_path, *arguments)
        assert (code, out, err.count("\n")) == (1, "", 1), err
        return err

    (folder / "app.py").write_text("def main(:\n")
    (folder / "__init__.py").write_text("")
    assert "has no VERSION" in await refused(*sources)
    (folder / "__init__.py").write_text('VERSION = "1.4"\n')
    assert "three numbers" in await refused(*sources)
    (folder / "__init__.py").write_text('VERSION = "1.4.0"\n')
    assert "node/app.py" in await refused(*sources)
    assert "is not that of" in await refused(*sources, "--version", "1.5.0")
    shutil.copy(ROOT / "firmware" / "main.py", folder / "app.py")
    assert "may be read by others" in await refused(*sources, "--key", str(key))
    assert "needs --version and --board" in await refused("--image", str(tmp_path / "app.bin"))
    for_image = ("--version", "1.27.0", "--board", "esp32s3")
    assert "no application image" in await refused("--image", str(tmp_path / "merged.bin"), *for_image)
    assert "no application image" in await refused("--image", str(tmp_path / "text.bin"), *for_image)
    other = ("--version", "1.27.0", "--board", "esp32c3")
    assert "built for esp32s3, not for esp32c3" in await refused("--image", str(tmp_path / "app.bin"), *other)
    assert not [each for each in os.listdir(tmp_path) if each.endswith(".zip")]
    code, out, err = await build(tmp_path, "--image", str(tmp_path / "app.bin"), *for_image)
    assert code == 0, err
    found = bundle.read(made(out), [trust_line(err)[2]])
    assert (found.manifest.kind, found.manifest.boards, found.manifest.version) == (Kind.IMAGE, ("esp32s3",), "1.27.0")
