"""A board's file system by its raw REPL: facts, hashes, files that are whole or not there."""

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from gateway.nodes.provision import recognise
from gateway.nodes.provision.errors import OnBoard, ProvisionError
from gateway.nodes.provision.recognise import Facts
from gateway.nodes.provision.repl import RawRepl
from gateway.registry.described import clean

CHUNK = 768
"""Bytes of a file in one piece of code: 1 KB of base64, which a board with little memory takes."""
CONFIG_MOST = 16 * 1024
UNWATCHED_S = 900
"""The program's watchdog cannot be stopped by interrupting the program: it is told to wait for so long instead."""

# A board lacks what its port does not have (a watchdog, a unique id), and raises what its port chose to: nothing there
# depends on either.
TOOLS = f"""
import os, json, hashlib, binascii, sys
try:
    import machine
    machine.WDT(timeout={UNWATCHED_S * 1000})
except Exception:
    pass

def _size(path):
    return os.stat(path)[6]

def _folder(path):
    return bool(os.stat(path)[0] & 0x4000)

def _all(path, found):
    try:
        for name in os.listdir(path):
            name = path + "/" + name
            if _folder(name):
                _all(name, found)
            else:
                found.append(name)
    except OSError:
        pass
    return found

def _sha(path):
    try:
        file = open(path, "rb")
    except OSError:
        return None
    digest = hashlib.sha256()
    while True:
        data = file.read(512)
        if not data:
            break
        digest.update(data)
    file.close()
    return binascii.hexlify(digest.digest()).decode()

def _remove(path):
    try:
        if _folder(path):
            for name in os.listdir(path):
                _remove(path + "/" + name)
            os.rmdir(path)
        else:
            os.remove(path)
    except OSError:
        pass

def _open(path):
    parts = path.split("/")[:-1]
    for count in range(1, len(parts) + 1):
        try:
            os.mkdir("/".join(parts[:count]))
        except OSError:
            pass
    return open(path + ".new", "wb")

def _json(path):
    try:
        with open(path) as file:
            found = json.load(file)
        return found if isinstance(found, dict) else None
    except OSError:
        return {{}}
    except ValueError:
        return None
"""

FACTS = """
import sys, os, json
def _facts():
    it, space, own = sys.implementation, os.statvfs("."), _json("node.json")
    slots = _json("slot.json") or {}
    told = {"version": list(it.version)[:3], "platform": sys.platform, "machine": it._machine, "mpy": it._mpy & 255}
    told["free"], told["block"] = space[0] * space[3], space[0]
    told["id"], told["flash"] = "", 0
    try:
        told["id"] = binascii.hexlify(machine.unique_id()).decode()
        import esp
        told["flash"] = esp.flash_size()
    except Exception:
        pass
    told["device"] = None if own is None else str(own.get("device", ""))
    told["ring"] = sum([_size(name) for name in _all("ring", [])])
    told["active"] = slots.get("active")
    print(json.dumps(told))
_facts()
"""

VERSION = """
import sys
it = sys.implementation
print(sys.platform, ".".join([str(part) for part in it[1][:3]]), getattr(it, "_machine", ""), sep="|")
"""

JUDGE = """
sys.path.insert(0, "{slot}")
from node import config
try:
    config.checked(json.loads(binascii.a2b_base64({settings!r})), {{}})
    print("well")
except config.ConfigError as error:
    print(error)
"""


class Board:
    """What can be asked of a board and done to it. `facts` first: it also brings the tools there."""

    def __init__(self, repl: RawRepl) -> None:
        self._repl = repl

    async def facts(self) -> Facts:
        """Who it is; ProvisionError for a board on which the node's program cannot run."""
        first = (await self._repl.run(VERSION)).strip().split("|", 2)
        if len(first) == 3:
            version = tuple(int(part) for part in first[1].split(".") if part.isdigit())
            chip = recognise.chip_of(first[2])
            early = Facts(version, first[0], first[2][:100], chip, 0, "", 0, 0, 1, "", 0, "a")
            recognise.refuse(early)
        await self._repl.run(TOOLS)
        return recognise.read(self._parsed(await self._repl.run(FACTS)))

    async def config(self) -> dict[str, Any]:
        """The settings that lie there, with what is secret in them; {} where there are none or they are damaged."""
        text = await self._repl.run(f"_n = _json('node.json') or {{}}\nprint(json.dumps(_n)[:{CONFIG_MOST}])")
        found = self._parsed(text)
        return found if isinstance(found, dict) else {}

    async def hashes(self, folders: Iterable[str], files: Iterable[str]) -> dict[str, str]:
        """SHA-256 of every file in these folders and of these files, by path."""
        code = (
            f"_l = []\nfor _f in {list(folders)!r}:\n    _all(_f, _l)\n"
            f"for _f in _l + {list(files)!r}:\n    print(json.dumps([_f, _sha(_f)]))"
        )
        found = (self._parsed(line) for line in (await self._repl.run(code, 60.0)).splitlines() if line.strip())
        return {str(path): str(digest) for path, digest in found if digest}

    async def unfinished(self) -> list[str]:
        """What an interrupted provisioning or update left, of which the final name is another's."""
        return [
            str(name)
            for name in self._parsed(await self._repl.run("print(json.dumps(os.listdir()))"))
            if str(name).endswith((".new", ".old"))
        ]

    async def write(self, path: str, data: bytes) -> None:
        """Write a file beside its place, compare what the flash holds by SHA-256, then put it there by one rename."""
        await self._put_beside(path, data)
        await self._repl.run(f"os.rename({path + '.new'!r}, {path!r})")

    async def judge(self, settings: bytes, slot: str) -> None:
        """Let the program in `slot` check the settings; ProvisionError in its words."""
        said = (await self._repl.run(JUDGE.format(slot=slot, settings=base64.b64encode(settings)))).strip()
        if said != "well":
            raise ProvisionError(f"the node refuses these settings: {clean(said)}")

    async def remove(self, paths: Iterable[str]) -> None:
        """Remove files, and folders with all that is in them."""
        await self._repl.run(f"for _p in {list(paths)!r}:\n    _remove(_p)", 60.0)

    async def erase(self) -> None:
        """Remove everything."""
        await self._repl.run("for _p in os.listdir():\n    _remove(_p)", 120.0)

    async def _put_beside(self, path: str, data: bytes) -> None:
        try:
            await self._repl.run(f"_f = _open({path!r})\n_w = lambda text: _f.write(binascii.a2b_base64(text))")
            for begin in range(0, len(data), CHUNK):
                await self._repl.run(f"_w({base64.b64encode(data[begin : begin + CHUNK])!r})")
            told = await self._repl.run(f"_f.close()\nprint(_sha({path + '.new'!r}))")
        except OnBoard:
            await self._tidy(path + ".new")
            raise
        if told.strip() != hashlib.sha256(data).hexdigest():
            raise ProvisionError(f"{path} is not on the board as it was sent: its flash or the cable is faulty")

    async def _tidy(self, path: str) -> None:
        await self._repl.run(f"try:\n    _f.close()\nexcept Exception:\n    pass\n_remove({path!r})")

    def _parsed(self, text: str) -> Any:
        try:
            return json.loads(text)
        except ValueError:
            raise ProvisionError("the board's answer is damaged: is another program using the port?") from None


def differing(wanted: Mapping[str, bytes], there: Mapping[str, str]) -> list[str]:
    """The paths whose content is not there yet, in order."""
    return [path for path, data in wanted.items() if there.get(path) != hashlib.sha256(data).hexdigest()]
