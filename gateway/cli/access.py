"""`gateway token`, `forget` and `status`: they work while the gateway runs and while it does not."""

import argparse
import json
import sys
from datetime import UTC, datetime
from typing import Any

from gateway.cli import data
from gateway.control import ForgetReadings, Status, TokenCreate, TokenList, TokenRevoke, TokenRotate


def token_create(options: argparse.Namespace) -> int:
    """Print the new token alone on standard output."""
    command = TokenCreate(name=options.name, scope=options.scope, expires_days=options.days)
    print(data.send(command, data.folder(options.data))["secret"])
    print(f"token {options.name!r} with scope {options.scope}; it is not shown again", file=sys.stderr)
    return 0


def token_list(options: argparse.Namespace) -> int:
    """Print every token without its secret."""
    tokens = data.send(TokenList(), data.folder(options.data))["tokens"]
    if options.json:
        print(json.dumps(tokens))
        return 0
    now = datetime.now(UTC)
    for token in tokens:
        print(f"{token['name']:24} {token['scope']:8} {_state(token, now):34} last used {_day(token['last_used'])}")
    return 0


def _state(token: dict[str, Any], now: datetime) -> str:
    """Whether and until when it may be used, in words."""
    if token["revoked"]:
        return f"revoked {_day(token['revoked'])}"
    if token["renewed_until"] and datetime.fromisoformat(token["renewed_until"]) > now:
        return f"renewed by its app, until {token['renewed_until'][:10]}"
    if token["expires"]:
        over = datetime.fromisoformat(token["expires"]) <= now
        return f"{'expired' if over else 'expires'} {_day(token['expires'])}"
    return "expires never"


def _day(time: str | None) -> str:
    """To the minute, in UTC as everything the gateway keeps."""
    return f"{datetime.fromisoformat(time):%Y-%m-%d %H:%M} UTC" if time else "never"


def token_rotate(options: argparse.Namespace) -> int:
    """Print the token's new secret alone on standard output."""
    print(data.send(TokenRotate(name=options.name, confirm=True), data.folder(options.data))["secret"])
    print(f"the secret of {options.name!r} before this one is refused from now on", file=sys.stderr)
    return 0


def token_revoke(options: argparse.Namespace) -> int:
    """Refuse a token from now on."""
    print(data.send(TokenRevoke(name=options.name, confirm=True), data.folder(options.data))["done"], file=sys.stderr)
    return 0


def forget(options: argparse.Namespace) -> int:
    """Delete the readings of a device."""
    command = ForgetReadings(device=options.device, confirm=options.yes)
    print(data.meant(command, data.folder(options.data))["done"], file=sys.stderr)
    return 0


def status(options: argparse.Namespace) -> int:
    """Print what the running gateway says of itself."""
    answer = data.send(Status(), data.folder(options.data))
    print(json.dumps(answer) if options.json else "\n".join(f"{key:12} {value}" for key, value in answer.items()))
    return 0
