"""`python -m bench [names…] [--quick]`: run benchmarks one after the other and print one table."""

import argparse
import asyncio
import importlib
import sys
import time
from collections.abc import Sequence
from dataclasses import replace

from bench.figures import Figure, save, table

NAMES = (
    "idle",
    "startup",
    "ble",
    "healing",
    "wires",
    "ingest",
    "tools",
    "surface",
    "jail_sql",
    "jail_python",
    "store",
    "history",
    "torn",
    "bytes",
    "replay",
    "stalls",
    "formats",
    "killing",
    "fleet",
    "logins",
)
"""Idle first: the others import libraries here whose pages would then be shared with the gateway that is weighed."""
OPTIONS = {"history": "rows", "bytes": "minutes", "fleet": "minutes"}
"""What of a benchmark's size can be said here."""
ENDS_WITHIN_S = 1800.0
"""Unless a benchmark has an ENDS_WITHIN_S of its own."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what was named; 1 if one of them could not be measured. A goal that is missed is no failure."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=f"of {', '.join(NAMES)} (default: all)")
    parser.add_argument("--rows", type=int, help="readings of the year that history is about")
    parser.add_argument("--minutes", type=float, help="how long bytes counts, and fleet each load")
    parser.add_argument("--quick", action="store_true", help="small numbers: whether it runs, not how fast it is")
    options = parser.parse_args(arguments)
    if unknown := set(options.names) - set(NAMES):
        parser.error(f"no benchmark is named {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    figures: list[Figure] = []
    failed = False
    for name in [name for name in NAMES if name in options.names or not options.names]:
        began_s = time.perf_counter()
        try:
            found = asyncio.run(_measure(name, options))
        except Exception as error:  # noqa: BLE001 - one that fails must not hide what the others found
            print(f"{name}: not measured: {error!r}", file=sys.stderr, flush=True)
            failed = True
            continue
        figures += found
        file = save(name, found)
        print(f"{name}: {time.perf_counter() - began_s:.0f} s, {file}", file=sys.stderr, flush=True)
    print(table(figures))
    return int(failed)


async def _measure(name: str, options: argparse.Namespace) -> list[Figure]:
    module = importlib.import_module(f"bench.{name}")
    size = module.QUICK if options.quick else module.FULL
    if (option := OPTIONS.get(name)) and (given := getattr(options, option)) is not None:
        size = replace(size, **{option: given})
    async with asyncio.timeout(getattr(module, "ENDS_WITHIN_S", ENDS_WITHIN_S)):
        found: list[Figure] = await module.measure(size)
    return found


if __name__ == "__main__":
    sys.exit(main())
