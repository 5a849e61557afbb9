"""`gateway firmware update`, `rollouts`, `rollout`, `pause`, `resume`, `abort`, `nodes`."""

import argparse
import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from gateway import control
from gateway.cli import data, words
from gateway.cli.progress import Bar
from gateway.command import ControlError
from gateway.nodes.ota.rollout_commands import (
    AbortRollout,
    NodeFirmwareList,
    OfRollout,
    PauseRollout,
    ResumeRollout,
    RolloutList,
    RolloutShow,
    Rules,
    UpdateFirmware,
)

WAIT_S = 10.0
UNWELL = 1
"""The exit code of a rollout that did not come through."""


def update(options: argparse.Namespace) -> int:
    """Roll a firmware out; the rollout's id is printed alone on standard output."""
    rules = Rules(
        canary=options.canary, at_once=options.at_once, pause_at=options.pause_at, readings=not options.no_readings
    )
    command = UpdateFirmware(
        firmware=options.version or "",
        devices=tuple(options.device),
        zone=options.zone or "",
        board=options.board or "",
        type=options.type or "",
        everyone=options.all,
        rules=rules,
        dry_run=options.dry_run,
        confirm=options.yes,
    )
    folder = data.folder(options.data)
    if options.dry_run:
        return _previewed(options, data.send(command, folder))
    if not options.yes:
        found = data.send(command.model_copy(update={"dry_run": True}), folder)
        _previewed(options, found)
        raise ControlError("this restarts nodes with another program: say so with --yes")
    begun = data.send(command, folder)
    if not options.wait:
        print(json.dumps(begun) if options.json else begun["rollout"])
        print(f"follow it with `gateway firmware rollout {begun['rollout']} --wait`", file=sys.stderr)
        return 0
    return _waited(options, begun, folder)


def rollouts(options: argparse.Namespace) -> int:
    """The last rollouts, the newest first."""
    found = data.send(RolloutList(limit=options.limit), data.folder(options.data))["rollouts"]
    if options.json:
        print(json.dumps(found))
        return 0
    for each in found:
        begun = words.moment(each["created"])
        state = f"{each['state']}{' ' if each['reason'] else ''}{each['reason']}"
        print(f"{each['rollout']:10} {each['version']:10} {begun}  {state:32} {_counts(each)}  ({each['targets']})")
    return 0


def rollout(options: argparse.Namespace) -> int:
    """One rollout, device by device."""
    folder = data.folder(options.data)
    found = data.send(RolloutShow(rollout=options.rollout), folder)
    if options.wait:
        return _waited(options, found, folder)
    return _shown(options, found)


def pause(options: argparse.Namespace) -> int:
    """Offer nothing new."""
    return _told(options, PauseRollout(rollout=options.rollout, reason=options.reason, dry_run=options.dry_run))


def resume(options: argparse.Namespace) -> int:
    """Go on with a paused one."""
    return _told(options, ResumeRollout(rollout=options.rollout, dry_run=options.dry_run))


def abort(options: argparse.Namespace) -> int:
    """End it, and cancel what can be."""
    return _told(options, AbortRollout(rollout=options.rollout, reason=options.reason, dry_run=options.dry_run))


def nodes(options: argparse.Namespace) -> int:
    """Who runs what, since when, and what became of the last update."""
    found = data.send(NodeFirmwareList(), data.folder(options.data))["nodes"]
    if options.json:
        print(json.dumps(found))
        return 0
    for each in found:
        last = each["last_update"]
        was = f"{last['state']}{': ' if last['reason'] else ''}{last['reason']}" if last else ""
        behind = f"behind {each['behind']}" if each["behind"] else ""
        since = words.moment(each["since"])
        print(f"{each['device']:24} {each['version']:16} since {since}  {each['board']:10} {behind:16} {was}".rstrip())
    return 0


def _told(options: argparse.Namespace, command: OfRollout) -> int:
    answer = data.send(command, data.folder(options.data))
    if options.json:
        print(json.dumps(answer))
    elif options.dry_run:
        print(words.would(answer), file=sys.stderr)
    else:
        print(f"rollout {answer['rollout']} is {answer['state']}: {_counts(answer)}", file=sys.stderr)
    return 0


def _previewed(options: argparse.Namespace, found: dict[str, Any]) -> int:
    if options.json:
        print(json.dumps(found))
        return 0
    print(f"version {found['version']} ({found['firmware'][:12]}) for {found['targets']}:", file=sys.stderr)
    for each in found["updates"]:
        waits = "" if each["online"] else "; offline now, it is waited for"
        print(f"  {each['device']:24} {each['runs']} -> {found['version']}{waits}", file=sys.stderr)
    for each in found["skipped"]:
        print(f"  {each['device']:24} left out: {each['reason']}", file=sys.stderr)
    return 0


def _shown(options: argparse.Namespace, found: dict[str, Any]) -> int:
    if options.json:
        print(json.dumps(found))
        return 0
    reason = f": {found['reason']}" if found["reason"] else ""
    print(f"rollout {found['rollout']} of {found['version']} to {found['targets']} is {found['state']}{reason}")
    for each in found["devices"]:
        percent = f" {each['percent']} %" if each["state"] == "downloading" else ""
        print(f"  {each['device']:24} {each['state']}{percent:8} {each['reason']}".rstrip())
    print(_counts(found))
    return 0


def _waited(options: argparse.Namespace, found: dict[str, Any], folder: Path) -> int:
    """Until it has ended or paused, with a bar on a terminal and a line a change elsewhere."""
    found = asyncio.run(_followed(found, folder, is_quiet=options.json))
    _shown(options, found)
    is_well = found["state"] == "done" and not set(found["counts"]) & {"failed", "rolled_back", "refused"}
    return 0 if is_well else UNWELL


async def _followed(found: dict[str, Any], folder: Path, *, is_quiet: bool) -> dict[str, Any]:
    said = ""
    with Bar(f"updating to {found['version']}") as bar:
        while found["state"] == "running" or (found["state"] == "aborted" and not found["ended"]):
            bar.to(found["progress"])
            line = f"{found['progress']:4.0%} {_counts(found)}"
            if line != said and not is_quiet and not sys.stderr.isatty():
                print(line, file=sys.stderr, flush=True)
            said = line
            command = RolloutShow(rollout=found["rollout"], wait_s=WAIT_S, after=found["revision"])
            answer = await control.ask(folder, command)
            if answer is None:  # and never the store itself, which the gateway wants back
                again = f"`gateway firmware rollout {found['rollout']} --wait`"
                raise ControlError(f"the gateway is gone; the rollout goes on when it is back: {again}")
            found = answer
    return found


def _counts(found: dict[str, Any]) -> str:
    return ", ".join(f"{many} {state.replace('_', ' ')}" for state, many in found["counts"].items())
