"""`gateway device`, `zone` and `tool`: they work while the gateway runs, and while it does not."""

import argparse
import json
import sys
from typing import Any

from gateway.cli import data, words
from gateway.command import Command
from gateway.jail.commands import ApproveTool, RemoveTool, ToolList
from gateway.registry.commands import (
    FIELDS,
    ClaimDevice,
    DeleteDevice,
    DeleteZone,
    DeviceList,
    SaveZone,
    UpdateDevice,
    ZoneList,
)


def device_list(options: argparse.Namespace) -> int:
    """Every device: how it is, where it is, when it was heard."""
    devices = _ask(options, DeviceList())["devices"]
    if options.json:
        print(json.dumps(devices))
        return 0
    for each in devices:
        place = each["zone"] or each["location"]
        ours = "claimed" if each["claimed"] else each["source"]
        heard = f"heard {words.moment(each['last_seen'], seconds=True)}"
        print(f"{each['device']:24} {each['status']:14} {ours:8} {heard:27} {place:16} {each['name']}".rstrip())
    return 0


def device_update(options: argparse.Namespace) -> int:
    """Change what is said of a device."""
    given = {name: getattr(options, name) for name in FIELDS}
    command = UpdateDevice(
        device=options.device, status=options.status, reason=options.reason, dry_run=options.dry_run, **given
    )
    answer = _ask(options, command)
    if options.json:
        print(json.dumps(answer))
        return 0
    for name, change in answer["changed"].items():
        print(f"{name}: {change['before'] or 'none'} -> {change['after'] or 'none'}", file=sys.stderr)
    if not answer["changed"] or answer["dry_run"]:
        print("nothing was changed" if answer["dry_run"] else "it is so already", file=sys.stderr)
    return 0


def device_claim(options: argparse.Namespace) -> int:
    """Say that a device is ours; a node's new key is printed alone on standard output."""
    answer = _ask(options, ClaimDevice(device=options.device, name=options.name, zone=options.zone))
    if answer["key"]:
        print(answer["key"])
    print(f"{options.device} is claimed{'; ' if answer['note'] else ''}{answer['note']}", file=sys.stderr)
    return 0


def device_delete(options: argparse.Namespace) -> int:
    """Forget a device with all of its readings."""
    return _meant(options, DeleteDevice(device=options.device, confirm=options.yes, dry_run=options.dry_run))


def zone_list(options: argparse.Namespace) -> int:
    """Every zone and its devices."""
    zones = _ask(options, ZoneList())["zones"]
    if options.json:
        print(json.dumps(zones))
        return 0
    for each in zones:
        print(f"{each['zone']:24} {each['name']:24} {', '.join(each['devices'])}".rstrip())
    return 0


def zone_save(options: argparse.Namespace) -> int:
    """Make a zone, change one, or put devices into it."""
    given = {name: getattr(options, name) for name in ("name", "building", "floor", "area_sqm", "description")}
    answer = _ask(options, SaveZone(zone=options.zone, devices=tuple(options.device), dry_run=options.dry_run, **given))
    if options.json:
        print(json.dumps(answer))
        return 0
    what = "made" if answer["is_new"] else "saved"
    moved = f", with {', '.join(answer['moved'])} in it" if answer["moved"] else ""
    print(f"zone {options.zone} {'would be' if answer['dry_run'] else 'is'} {what}{moved}", file=sys.stderr)
    return 0


def zone_delete(options: argparse.Namespace) -> int:
    """Forget a zone; its devices stay."""
    return _meant(options, DeleteZone(zone=options.zone, confirm=options.yes, dry_run=options.dry_run))


def tool_list(options: argparse.Namespace) -> int:
    """Every version of every dynamic tool, and how often it was used."""
    tools = _ask(options, ToolList())["tools"]
    if options.json:
        print(json.dumps(tools))
        return 0
    for each in tools:
        state = "runs" if each["runs"] else "approved" if each["approved"] else "waits for approval"
        use = f"{each['calls']} calls, {each['failures']} failed"
        print(f"{each['name']:24} {each['version']:3} {state:18} {use:24} {each['sha256']}")
    return 0


def tool_show(options: argparse.Namespace) -> int:
    """Print the code of a version alone on standard output, for whoever is to approve it."""
    found = [each for each in _ask(options, ToolList())["tools"] if each["name"] == options.name]
    chosen = [each for each in found if options.version in {None, each["version"]}]
    if not chosen:
        print(f"gateway: {options.name!r} has no such version; `gateway tool list` shows them", file=sys.stderr)
        return 1
    print(chosen[-1]["code"], end="")
    tool = {name: value for name, value in chosen[-1].items() if name != "code"}
    print(json.dumps(tool, indent=2), file=sys.stderr)
    return 0


def tool_approve(options: argparse.Namespace) -> int:
    """Let exactly this version run."""
    command = ApproveTool(name=options.name, version=options.version, sha256=options.sha256)
    print(_ask(options, command)["done"], file=sys.stderr)
    return 0


def tool_remove(options: argparse.Namespace) -> int:
    """Remove a dynamic tool with all its versions."""
    return _meant(options, RemoveTool(name=options.name, confirm=options.yes, dry_run=options.dry_run))


def _ask(options: argparse.Namespace, command: Command) -> dict[str, Any]:
    return data.send(command, data.folder(options.data))


def _meant(options: argparse.Namespace, command: DeleteDevice | DeleteZone | RemoveTool) -> int:
    """Something that cannot be undone: what it would do is told where --yes is missing."""
    answer = data.meant(command, data.folder(options.data))
    if options.json:
        print(json.dumps(answer))
        return 0
    said = answer.get("would") or answer.get("done") or (answer.get("result") or {}).get("done")
    going_on = f"{answer.get('kind')} goes on as {answer.get('task_id')}"
    print(f"{said or going_on}{f' {words.UNDONE}' if options.dry_run else ''}", file=sys.stderr)
    return 0
