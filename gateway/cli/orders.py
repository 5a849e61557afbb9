"""`gateway node command` and `identify`: they need the gateway to run, because it knows the way to the node."""

import argparse
import json
import sys
from collections.abc import Iterable
from typing import Any

from gateway.cli import data, words
from gateway.control import ControlError, SendCommand


def node_command(options: argparse.Namespace) -> int:
    """Send a command and print its result as JSON; 1 where the node says no."""
    return _sent(options, options.command_name, arguments(options.arguments))


def node_identify(options: argparse.Namespace) -> int:
    """Let a node blink."""
    return _sent(options, "identify", {"seconds": options.seconds})


def arguments(words: Iterable[str]) -> dict[str, Any]:
    """KEY=VALUE as a node takes them: JSON where it is JSON, else text."""
    found: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not (name and equals):
            raise ControlError(f"{word!r}: expected KEY=VALUE, as in interval_s=30")
        if name in found:
            raise ControlError(f"{name}: given twice")
        try:
            found[name] = json.loads(text)
        except ValueError:
            found[name] = text
    return found


def _sent(options: argparse.Namespace, name: str, args: dict[str, Any]) -> int:
    command = SendCommand(
        device=options.device, name=name, args=args, timeout_s=options.timeout_s, dry_run=options.dry_run
    )
    answer = data.send(command, data.folder(options.data))
    if options.json:
        print(json.dumps(answer))
    elif "would" in answer:
        print(words.would(answer), file=sys.stderr)
    elif answer["ok"]:
        print(json.dumps(answer["result"], ensure_ascii=False))
    else:
        print(f"{options.device} says no: {answer['error']}", file=sys.stderr)
    return 0 if answer.get("ok", True) else 1
