"""A child that does what the question says, also what none may: for tests of `gateway.jail.child`."""

import os
import signal
import sys
from typing import Any

from gateway.jail import frames, guard


def answer(header: frames.Header, body: bytes) -> tuple[dict[str, Any], bytes]:
    """{"do": …}"""
    match header["do"]:
        case "echo":
            return header, body
        case "sleep":
            signal.pause()
        case "die":
            print("a last word", file=sys.stderr, flush=True)  # noqa: T201
            os._exit(3)
        case "hang up":
            os.close(0)
            signal.pause()
        case "spoil":
            frames.write(0, bytes.fromhex(header["bytes"]))
            signal.pause()
        case "long":
            return {}, bytes(header["count"])
        case "look":
            descriptors = sorted(map(int, os.listdir("/proc/self/fd")))[:-1]  # the last one is the listing's own
            return {"environment": dict(os.environ), "folder": os.getcwd(), "descriptors": descriptors}, b""
    return {}, b""


if __name__ == "__main__":
    guard.die_with(int(sys.argv[1]))
    if "late" in sys.argv:
        signal.pause()
    if "unready" in sys.argv:
        frames.write(0, frames.pack({"ready": False, "error": "no room"}))
    else:
        frames.serve(answer)
