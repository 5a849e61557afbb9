"""`gateway firmware`: keys and bundles; they work while the gateway runs, and while it does not."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from gateway.cli import data, words
from gateway.command import Command
from gateway.nodes.ota.commands import (
    FirmwareAdd,
    FirmwareDistrust,
    FirmwareKeys,
    FirmwareList,
    FirmwareRemove,
    FirmwareTrust,
)
from gateway.nodes.ota.shelf import SHORT


def trust(options: argparse.Namespace) -> int:
    """Take bundles that a key signed."""
    return _told(options, FirmwareTrust(key=options.key, name=options.name, dry_run=options.dry_run))


def distrust(options: argparse.Namespace) -> int:
    """Take no more bundles of a key."""
    return _told(options, FirmwareDistrust(key=options.key, dry_run=options.dry_run))


def keys(options: argparse.Namespace) -> int:
    """Every key whose bundles are taken."""
    found = _ask(options, FirmwareKeys())["keys"]
    if options.json:
        print(json.dumps(found))
        return 0
    for each in found:
        print(f"{each['key']}  {each['name']:24} since {each['added'][:10]}, by {each['added_by']}")
    return 0


def add(options: argparse.Namespace) -> int:
    """Take a bundle in; its digest is printed alone on standard output."""
    answer = _ask(options, FirmwareAdd(file=str(Path(options.bundle).absolute()), dry_run=options.dry_run))
    if options.json:
        print(json.dumps(answer))
        return 0
    if options.dry_run:
        print(words.would(answer), file=sys.stderr)
        return 0
    print(answer["digest"])
    boards, signer = ", ".join(answer["boards"]), answer["signed_by"]
    print(f"version {answer['version']} for {boards}, signed by {signer}: it is here", file=sys.stderr)
    return 0


def listing(options: argparse.Namespace) -> int:
    """Every bundle that is here, the newest version first."""
    found = _ask(options, FirmwareList())["firmware"]
    if options.json:
        print(json.dumps(found))
        return 0
    for each in found:
        form = each["kind"] if each["kind"] == "image" else "source" if each["mpy"] is None else f"mpy {each['mpy']}"
        what = f"{each['version']:12} {each['digest'][:SHORT]}  {form:7} {each['size_bytes']:>9} bytes"
        signed = each["signed_by"] if each["trusted"] else "a key that is not trusted any more: nobody gets it"
        used = f"  in use: {each['in_use']}" if each["in_use"] else ""
        print(f"{what}  {' '.join(each['boards']):24} signed by {signed}{used}")
    return 0


def remove(options: argparse.Namespace) -> int:
    """Forget a bundle."""
    command = FirmwareRemove(firmware=options.firmware, confirm=options.yes, dry_run=options.dry_run)
    return _said(options, data.meant(command, data.folder(options.data)))


def _told(options: argparse.Namespace, command: Command) -> int:
    return _said(options, _ask(options, command))


def _said(options: argparse.Namespace, answer: dict[str, Any]) -> int:
    if options.json:
        print(json.dumps(answer))
        return 0
    print(answer.get("done") or words.would(answer), file=sys.stderr)
    return 0


def _ask(options: argparse.Namespace, command: Command) -> dict[str, Any]:
    return data.send(command, data.folder(options.data))
