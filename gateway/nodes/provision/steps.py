"""The order in which a board is made a node, such that a cable pulled out at any moment leaves what can be mended.

A board that works gets the new program into the slot that does not run, and changes to it by one rename. One that was
never finished has no node.json, which is written last: its loader says on the console what is missing, and the next
provisioning writes what is not there yet. Readings that wait in flash stay, unless they are another device's.
"""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gateway.nodes.provision import recognise, settings
from gateway.nodes.provision.board import Board, differing
from gateway.nodes.provision.errors import NoAnswer, ProvisionError
from gateway.nodes.provision.program import LOADER, Program
from gateway.nodes.provision.recognise import Facts
from gateway.nodes.provision.repl import START_S, RawRepl
from gateway.nodes.provision.settings import Login, Wanted
from gateway.registry.described import clean

NODE, SLOT, UPDATE = "node.json", "slot.json", "update.json"
OF_A_DEVICE = ("ring", NODE, "settings.json", "broker.json", "crash.txt")
"""What belongs to one device only, in the order of its removal: readings go before what says whose they are."""
SPARE_BYTES = 64 << 10
PROGRAM_WITHIN_S = 30.0
NOBODY_THERE = " (nothing answers at its address: look at its wires, and at --sda and --scl)"
_STARTS = re.compile(r"^node \S+ \S+ starts$")

Say = Callable[[str], None]
Progress = Callable[[float], None]
"""How much of the files is on the board, from 0 to 1."""


@dataclass(frozen=True, slots=True)
class How:
    """What may be done to what lies on the board. `erase` empties its file system first."""

    replace: bool = False
    erase: bool = False
    rotate: bool = False
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class Parts:
    """What it takes beside the board: the loader, the program for an .mpy version and a board, the broker's CA (DER),
    and a login, asked for only when everything else is on the board."""

    loader: bytes
    program: Callable[[int, str], Awaitable[Program]]
    login: Callable[[], Awaitable[Login]]
    ca: bytes | None = None


@dataclass(slots=True)
class Outcome:
    """What was found and done; `written` are the files that were not there yet."""

    device: str
    chip: str = ""
    board_id: str = ""
    micropython: str = ""
    firmware: str = ""
    compiled: bool = False
    slot: str = ""
    written: list[str] = field(default_factory=list)
    ring_bytes: int = 0
    interval_s: float = 10.0
    started: bool = False
    reading: bool | None = None


class Provisioning:
    """One board, once: `run` does it, `started` watches what comes of it."""

    def __init__(self, repl: RawRepl, port: str, wanted: Wanted, how: How, *, say: Say, progress: Progress) -> None:
        self._repl, self._board, self._port = repl, Board(repl), port
        self._wanted, self._how, self._say, self._progress = wanted, how, say, progress
        self.outcome = Outcome(wanted.device)

    async def run(self, parts: Parts) -> Outcome:
        """Everything up to the reset; ProvisionError says what stands in the way."""
        facts = await self._recognise()
        known = await self._known(facts)
        settings.complete(self._wanted, known)
        program = await parts.program(facts.mpy, str(known.get("board") or facts.chip))
        self.outcome.firmware, self.outcome.compiled = program.version, program.mpy is not None
        if self._how.dry_run:
            self._tell_plan(facts, program)
            return self.outcome
        await self._clear(facts, known)
        free_bytes = await self._write_program(facts, known, program, parts)
        await self._write_settings(known, self._fitting_ring(free_bytes + self.outcome.ring_bytes, program), parts)
        return self.outcome

    async def started(self) -> bool:
        """Reset, and watch the console until the program says that it runs, or why not."""
        self._say("starting it")
        await self._repl.reset()
        end = asyncio.get_running_loop().time() + PROGRAM_WITHIN_S
        failing = False
        while (left := end - asyncio.get_running_loop().time()) > 0:
            line = await self._repl.line(left)
            if line is None:
                break
            if _STARTS.match(line):
                self._say(f"it says: {line}")
                self.outcome.started = True
                return True
            if failing and line and not line.startswith((" ", "Traceback")):
                raise ProvisionError(f"the program does not start: {clean(line)}")
            failing = failing or line.startswith("Traceback")
        raise ProvisionError(
            f"the program said nothing for {PROGRAM_WITHIN_S:g} s: `mpremote connect {self._port}` shows its console"
        )

    async def follow(self) -> None:
        """Pass on what the program says of its network and sensors, until cancelled."""
        while True:
            line = await self._repl.line(START_S)
            if line and line.startswith("node: "):
                hint = NOBODY_THERE if "ENODEV" in line else ""
                self._say(f"it says: {clean(line[6:])}{hint}")

    async def _recognise(self) -> Facts:
        self._say(f"asking the board on {self._port}")
        try:
            await self._repl.enter()
        except NoAnswer as error:
            raise ProvisionError(recognise.silent(error.heard, self._port)) from None
        facts = await self._board.facts()
        recognise.refuse(facts)
        out, version = self.outcome, ".".join(map(str, facts.version))
        out.chip, out.board_id, out.micropython = facts.chip, facts.board_id, version
        flash = f"{facts.flash_bytes >> 20} MB flash, " if facts.flash_bytes else ""
        self._say(
            f"found {facts.chip} {facts.board_id}, MicroPython {version}, {flash}{facts.free_bytes >> 10} KB are free"
        )
        return facts

    async def _known(self, facts: Facts) -> Mapping[str, Any]:
        """The board's own settings where they are this device's; ProvisionError where it is another's."""
        own, ring = self._wanted.device, f"{facts.ring_bytes >> 10} KB of unsent readings"
        if facts.device == own and not self._how.erase:
            self.outcome.ring_bytes = facts.ring_bytes
            if facts.ring_bytes:
                self._say(f"{ring} stay")
            return await self._board.config()
        if facts.device and facts.device != own and not (self._how.replace or self._how.erase):
            loss = f" and deletes {ring}: let the gateway have them first" if facts.ring_bytes else ""
            raise ProvisionError(f"this board is {facts.device!r} already: --replace makes it {own!r}{loss}")
        if not facts.device and facts.ring_bytes and not (self._how.replace or self._how.erase):
            raise ProvisionError(f"{ring} of an unknown node wait there: --replace deletes them")
        return {}

    def _tell_plan(self, facts: Facts, program: Program) -> None:
        kind = "compiled" if program.mpy is not None else "as sources"
        if self._how.erase:
            self._say("would empty its file system")
        elif facts.ring_bytes and facts.device != self._wanted.device:
            self._say(f"would delete {facts.ring_bytes >> 10} KB of unsent readings")
        size = f"{len(program.files)} files, {program.size_bytes >> 10} KB"
        self._say(f"would write firmware {program.version} ({kind}, {size}) and node.json of {self._wanted.device!r}")

    async def _clear(self, facts: Facts, known: Mapping[str, Any]) -> None:
        if self._how.erase:
            self._say("emptying its file system; unsent readings go with it")
            await self._board.erase()
        elif not known:
            if facts.ring_bytes:
                whose = facts.device or "an unknown node"
                self._say(f"deleting {facts.ring_bytes >> 10} KB of unsent readings of {whose}")
            await self._board.remove(OF_A_DEVICE)

    async def _write_program(self, facts: Facts, known: Mapping[str, Any], program: Program, parts: Parts) -> int:
        """The loader, the program and which slot it is in; how many bytes of the flash are free afterwards."""
        there = await self._board.hashes(("a", "b"), (LOADER, SLOT, settings.CA))
        slot = self._slot(facts, known, program, there)
        wanted = {f"{slot}/{path}": data for path, data in program.files.items()}
        old = [path for path in there if path.startswith(f"{slot}/") and path not in wanted]
        await self._board.remove([*old, *await self._board.unfinished(), UPDATE])
        files = {LOADER: parts.loader, **wanted, **({settings.CA: parts.ca} if parts.ca is not None else {})}
        changes = differing(files, there)
        free = (await self._board.facts()).free_bytes
        needed = sum(-(-len(files[path]) // facts.block_bytes) * facts.block_bytes for path in changes)
        if needed + SPARE_BYTES > free:
            raise ProvisionError(
                f"{needed >> 10} KB and {SPARE_BYTES >> 10} KB to work with are needed, {free >> 10} KB of the flash "
                "are free: --erase empties it"
            )
        news = f"{len(changes)} of {len(files)} files are new" if changes else "every file is there already"
        self._say(f"writing firmware {program.version} into slot {slot}: {news}")
        for count, path in enumerate(changes, 1):
            await self._board.write(path, files[path])
            self.outcome.written.append(path)
            self._progress(count / len(changes))
        self.outcome.slot = slot
        state = json.dumps({"active": slot}).encode()
        if differing({SLOT: state}, there):
            await self._board.write(SLOT, state)
            self.outcome.written.append(SLOT)
        return free - needed

    def _slot(self, facts: Facts, known: Mapping[str, Any], program: Program, there: Mapping[str, str]) -> str:
        """Where the program goes: not over one that works."""
        if not known:
            return "a"
        active = facts.active
        wanted = {f"{active}/{path}": data for path, data in program.files.items()}
        if not differing(wanted, there):
            return active
        return "b" if active == "a" else "a"

    def _fitting_ring(self, free_bytes: int, program: Program) -> int | None:
        """A ring smaller than the default where the flash is small: another program has to fit beside it."""
        room_kb = (free_bytes - program.size_bytes - SPARE_BYTES) >> 10
        if room_kb >= settings.RING_KB:
            return None
        fitting = max(settings.RING_LEAST_KB, room_kb)
        if self._wanted.ring_kb is None:
            self._say(f"readings may take {fitting} KB of this flash, not {settings.RING_KB} KB")
        return fitting

    async def _write_settings(self, known: Mapping[str, Any], ring_kb: int | None, parts: Parts) -> None:
        """Last: it is what makes the board a node. A login is asked for only when the rest of it is right."""
        login = None if self._how.rotate else settings.login_of(known)
        trial = settings.compose(self._wanted, known, login or settings.NOBODY, ring_kb)
        await self._board.judge(json.dumps(trial).encode(), self.outcome.slot)
        if login is None:
            login = await parts.login()
        else:
            self._say("its key and password stay as they are (--rotate makes others)")
        self._say("writing node.json")
        made = settings.compose(self._wanted, known, login, ring_kb)
        await self._board.write(NODE, json.dumps(made).encode())
        self.outcome.interval_s = min(float(each.get("interval_s", 10)) for each in made["sensors"])
        self.outcome.written.append(NODE)
