"""`gateway token`, `node`, `forget` and `status`: they work while the gateway runs and while it does not."""

import argparse
import json
import sys

from gateway.cli import data
from gateway.control import ForgetReadings, NodeAdd, Status, TokenCreate, TokenList, TokenRevoke


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
    for token in tokens:
        state = "revoked" if token["revoked"] else f"expires {token['expires'] or 'never'}"
        print(f"{token['name']:24} {token['scope']:8} {state:34} last used {token['last_used'] or 'never'}")
    return 0


def token_revoke(options: argparse.Namespace) -> int:
    """Refuse a token from now on."""
    print(data.send(TokenRevoke(name=options.name), data.folder(options.data))["done"], file=sys.stderr)
    return 0


def node_add(options: argparse.Namespace) -> int:
    """Print the node's new key alone on standard output."""
    print(data.send(NodeAdd(device=options.device), data.folder(options.data))["secret"])
    return 0


def forget(options: argparse.Namespace) -> int:
    """Delete the readings of a device."""
    command = ForgetReadings(device=options.device, confirm=options.yes)
    print(data.send(command, data.folder(options.data))["done"], file=sys.stderr)
    return 0


def status(options: argparse.Namespace) -> int:
    """Print what the running gateway says of itself."""
    answer = data.send(Status(), data.folder(options.data))
    print(json.dumps(answer) if options.json else "\n".join(f"{key:12} {value}" for key, value in answer.items()))
    return 0
