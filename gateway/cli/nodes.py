"""`gateway node`: logins at the local broker; they work while the gateway runs, and while it does not."""

import argparse
import base64
import json
import sys
from typing import Any

from gateway.cli import data, words
from gateway.control import NodeAdd, NodeLogins, NodeRevoke, NodeRotate, ViewAuthority


def node_add(options: argparse.Namespace) -> int:
    """Print the node's new key and password on standard output, once."""
    command = NodeAdd(
        device=options.device, write=tuple(options.write), read=tuple(options.read), dry_run=options.dry_run
    )
    return _issued(options, data.send(command, data.folder(options.data)))


def node_rotate(options: argparse.Namespace) -> int:
    """Print the new password, and with --key the new key, on standard output, once."""
    command = NodeRotate(device=options.device, key=options.key, dry_run=options.dry_run)
    return _issued(options, data.send(command, data.folder(options.data)))


def node_revoke(options: argparse.Namespace) -> int:
    """End a login."""
    command = NodeRevoke(device=options.device, confirm=options.yes, dry_run=options.dry_run)
    answer = data.meant(command, data.folder(options.data))
    if options.json:
        print(json.dumps(answer))
    else:
        print(words.would(answer) if options.dry_run else answer["done"], file=sys.stderr)
    return 0


def node_list(options: argparse.Namespace) -> int:
    """Every login, never its secret."""
    answer = data.send(NodeLogins(), data.folder(options.data))
    if options.json:
        print(json.dumps(answer["logins"]))
    else:
        for each in answer["logins"]:
            print(f"{each['device']:24} {_state(each):36} {_heard(each):31} {_topics(each)}".rstrip())
    if answer["note"]:
        print(answer["note"], file=sys.stderr)
    return 0


def node_ca(options: argparse.Namespace) -> int:
    """Print the certificate that nodes trust: PEM, or its DER bytes."""
    answer = data.send(ViewAuthority(), data.folder(options.data))
    if options.der:
        sys.stdout.buffer.write(base64.b64decode(answer["der_base64"]))
        sys.stdout.buffer.flush()
    else:
        print(answer["pem"], end="")
    return 0


def _issued(options: argparse.Namespace, answer: dict[str, Any]) -> int:
    if answer.get("dry_run"):
        if options.json:
            print(json.dumps(answer))
        else:
            print(words.would(answer), file=sys.stderr)
        return 0
    if options.json:
        told = ("device", "key", "user", "password")
        print(json.dumps({name: answer[name] for name in told}))
    else:
        print(_lines(answer))
        print("it is not shown again", file=sys.stderr)
    if answer["note"]:
        print(answer["note"], file=sys.stderr)
    return 0


def _lines(answer: dict[str, Any]) -> str:
    """As it stands in a node's node.json; alone where it is one secret."""
    key, password = answer["key"], answer["password"]
    if key is None or password is None:
        return str(key or password)
    broker = json.dumps({"user": answer["user"], "password": password})
    return f'"key": "{key}",\n"broker": {broker}'


def _state(login: dict[str, Any]) -> str:
    if login["revoked"]:
        return f"revoked {words.moment(login['revoked'])}"
    if login["rotated"]:
        return f"rotated {words.moment(login['rotated'])}"
    return f"since {words.moment(login['created'])}"


def _heard(login: dict[str, Any]) -> str:
    if login["connected_since"]:
        return f"connected {words.moment(login['connected_since'])}"
    return f"heard {words.moment(login['last_heard'])}" if login["last_heard"] else "not connected"


def _topics(login: dict[str, Any]) -> str:
    if login["kind"] == "node":
        return "node" if login["has_key"] else "node without a key"
    return f"writes {', '.join(login['may_write']) or 'nothing'}; reads {', '.join(login['may_read']) or 'nothing'}"
