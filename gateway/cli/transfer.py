"""`gateway export` and `gateway import`: they work while the gateway runs, and while it does not."""

import argparse
import asyncio
import json
import re
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from gateway.cli import data
from gateway.cli.progress import Bar
from gateway.cli.run import DEFAULT_CONFIG
from gateway.store.backups import snapshot
from gateway.store.errors import TransferError
from gateway.store.exchange import export, transfer
from gateway.store.exchange.errands import BeginImport, EndImport, Imported, ImportRows, TakeSnapshot
from gateway.store.exchange.export import Wanted

UNITS = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
SPAN = re.compile(r"(\d{1,6})([mhdw])")


def export_command(options: argparse.Namespace) -> int:
    """Write readings into a file."""
    folder, file, now = data.folder(options.data), options.file, datetime.now(UTC)
    wanted = _wanted(options, now, ZoneInfo("UTC"))  # what is wrong with it is said before anything is asked
    export.expect(file, wanted)
    if not folder.is_dir():
        raise TransferError(f"{folder}: no gateway ever ran here; name its data folder with --data")
    with snapshot.lend(folder) as place, Bar("exporting") as bar:
        taken = data.send(TakeSnapshot(name=place.name, keys=False), folder)
        wanted = _wanted(
            options, now, _zone(options.config or (Path(taken["settings"]) if taken["settings"] else None))
        )
        done = export.export(place, file, wanted, bar.to)
    what = "readings" if wanted.bucket_ms is None else "buckets"
    print(f"{file}: {done.rows} {what}", file=sys.stderr)
    if done.expired_until is not None:
        before = f"{done.expired_until:%Y-%m-%d %H:%M} UTC"
        print(f"before {before} some readings are kept as figures only: --bucket 15m has them", file=sys.stderr)
    if options.json:
        print(json.dumps({"file": str(file), "rows": done.rows}))
    return 0


def import_command(options: argparse.Namespace) -> int:
    """Store the readings of a file that are not stored yet."""
    file, now = options.file, datetime.now(UTC)
    with Bar("checking") as bar:
        rows = transfer.check(file, now, bar.to)
    with Bar("importing") as bar:
        done = asyncio.run(_import(data.folder(options.data), file, rows, now, bar))
    print(f"{file}: {done.stored} of {rows} readings stored, {done.duplicates} were there already", file=sys.stderr)
    if done.expired:
        why = "only figures are kept: nobody can tell whether they are in them"
        print(f"{done.expired} were left out, for of their time {why}", file=sys.stderr)
    if options.json:
        print(done.model_dump_json())
    return 0


def _wanted(options: argparse.Namespace, now: datetime, zone: ZoneInfo) -> Wanted:
    wanted = Wanted(
        moment("--start", options.start, now, zone),
        moment("--end", options.end, now, zone),
        options.device,
        options.metric,
        None if options.bucket is None else _span("--bucket", options.bucket) // timedelta(milliseconds=1),
    )
    if wanted.start and wanted.end and wanted.start >= wanted.end:
        raise TransferError(f"--start {options.start!r} is not before --end {options.end!r}: swap them")
    return wanted


def moment(option: str, text: str | None, now: datetime, zone: ZoneInfo) -> datetime | None:
    """The UTC moment meant by a date or a time (the site's zone where it names none), or by 7d: so long ago."""
    if text is None:
        return None
    if match := SPAN.fullmatch(text):
        return now - timedelta(seconds=int(match[1]) * UNITS[match[2]])
    try:
        found = datetime.fromisoformat(text)
        return (found if found.tzinfo else found.replace(tzinfo=zone)).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise TransferError(f"{option} {text!r} is no time: give 2026-11-20, 2026-11-20T12:00:00Z, or 7d") from error


async def _import(folder: Path, file: Path, rows: int, now: datetime, bar: Bar) -> Imported:
    total = Imported()
    async with data.session(folder) as send:
        await send(BeginImport(file=str(file), rows=rows))
        for block in transfer.read(file, now, bar.to):
            done = Imported.model_validate(await send(ImportRows.pack(block)))
            total = Imported(
                stored=total.stored + done.stored,
                duplicates=total.duplicates + done.duplicates,
                expired=total.expired + done.expired,
            )
        await send(EndImport())
    return total


def _span(option: str, text: str) -> timedelta:
    match = SPAN.fullmatch(text)
    if match is None or not int(match[1]):
        raise TransferError(f"{option} {text!r} is no span: give a number and m, h, d or w, as in 15m, 1h or 1d")
    return timedelta(seconds=int(match[1]) * UNITS[match[2]])


def _zone(path: Path | None) -> ZoneInfo:
    from gateway import config

    file = path or (DEFAULT_CONFIG if DEFAULT_CONFIG.exists() else None)
    return ZoneInfo(config.load(file).site.timezone)
