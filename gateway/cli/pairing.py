"""`gateway pair` and `gateway approve`: first contact, on a gateway that runs."""

import argparse
import json
import sys

from gateway.cli import data
from gateway.control.pairing import AppDecide, PairingOpen


def pair(options: argparse.Namespace) -> int:
    """Print the code alone on standard output; where to type it goes to standard error."""
    view = data.send(PairingOpen(scope=options.scope), data.folder(options.data))
    if options.json:
        print(json.dumps(view))
        return 0
    print(view["code"])
    where = "\n".join(f"  {address}" for address in view["addresses"])
    words = f"type this code within {view['open_s']:.0f} s, for scope {view['scope']}, at\n{where}"
    print(f"{words}\n  certificate {view['fingerprint']}", file=sys.stderr)
    return 0


def approve(options: argparse.Namespace) -> int:
    """Let in or refuse the app that shows a code."""
    command = AppDecide(user_code=options.code, deny=options.deny, scope=options.scope)
    print(data.send(command, data.folder(options.data))["done"], file=sys.stderr)
    return 0
