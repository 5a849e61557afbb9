"""The arguments of `gateway firmware update` and its like; imported at every start of the command line."""

import argparse
from collections.abc import Callable

Lazily = Callable[[str, str], Callable[[argparse.Namespace], int]]


def add(kinds: "argparse._SubParsersAction[argparse.ArgumentParser]", lazily: Lazily) -> None:
    """The commands around rollouts; `lazily` names what runs them."""
    _add_update(kinds)
    nodes = kinds.add_parser("nodes", help="who runs what, and what became of the last update")
    rollouts = kinds.add_parser("rollouts", help="the last rollouts")
    rollouts.add_argument("--limit", type=int, default=20, metavar="N", help="so many (default 20)")
    rollout = kinds.add_parser("rollout", help="one rollout, device by device")
    rollout.add_argument("--wait", action="store_true", help="until it has ended, or pauses")
    pause = kinds.add_parser("pause", help="offer nothing new; what is under way goes on")
    resume = kinds.add_parser("resume", help="go on with a paused rollout, and accept its failures so far")
    abort = kinds.add_parser("abort", help="end a rollout: cancel what can be, leave the rest to its own end")
    for kind in (rollout, pause, resume, abort):
        kind.add_argument("rollout", metavar="ROLLOUT")
    for kind in (pause, resume, abort):
        kind.add_argument("--dry-run", action="store_true", help="say what would be done")
    for kind in (pause, abort):
        kind.add_argument("--reason", default="", help="why; the events keep it")
    every = {"nodes": nodes, "rollouts": rollouts, "rollout": rollout, "pause": pause, "resume": resume, "abort": abort}
    for name, kind in every.items():
        kind.set_defaults(run=lazily("rollouts", name))
    kinds.choices["update"].set_defaults(run=lazily("rollouts", "update"))


def _add_update(kinds: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    update = kinds.add_parser("update", help="roll a firmware out to nodes; the rollout's id is printed alone")
    update.add_argument("--device", action="append", default=[], metavar="ID", help="this one; may be repeated")
    update.add_argument("--zone", metavar="ID", help="every node of a zone")
    update.add_argument("--board", metavar="NAME", help="every node of a board, such as esp32s3")
    update.add_argument("--type", metavar="NAME", help="every node of a device type")
    update.add_argument("--all", action="store_true", help="every node")
    update.add_argument("--version", metavar="VERSION|DIGEST", help="default: the newest bundle here that fits")
    update.add_argument("--canary", type=int, default=1, metavar="N", help="so many first, until they are well (1)")
    update.add_argument("--at-once", type=int, default=3, metavar="N", help="so many at once after that (3)")
    update.add_argument(
        "--pause-at", type=float, default=0.2, metavar="SHARE", help="pause at this share of failures (0.2; 1: never)"
    )
    update.add_argument("--no-readings", action="store_true", help="do not wait for good readings after the update")
    update.add_argument("--yes", action="store_true", help="it is meant: the nodes restart")
    update.add_argument("--dry-run", action="store_true", help="say who would be updated, and who not and why")
    update.add_argument("--wait", action="store_true", help="until it has ended, or pauses")
