"""A store with hot and sealed readings, backups of it, and what must come back."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from gateway.store import commands
from gateway.store.backups import archive, backup, restore, snapshot
from gateway.store.backups.archive import Manifest
from gateway.store.backups.backup import Written
from gateway.store.db import Store
from gateway.store.keeper import Keeper
from gateway.store.types import TokenRow
from tests.store.builders import T0, local, numbered, reading

PASSPHRASE = "correct horse battery"
GATEWAY = "agw-00000001"
TOKEN_HASH = "5ecde" * 12
NODE_KEY = bytes(range(32))
NOW = T0 + timedelta(hours=30, minutes=5)

Rows = list[tuple[int, int, float | None, int]]


class Clock:
    """Stands at NOW."""

    def now(self) -> datetime:
        return NOW

    def trusted(self) -> bool:
        return True


def nothing(_: float) -> None:
    """Progress that nobody watches."""


async def fill(folder: Path, hours: int = 30) -> Rows:
    """A data folder with three days of readings, all but the last hour sealed, with keys and an identity."""
    async with Store(folder) as store:
        values = [local(reading(400.0 + n, n * 600.0, device=f"room-{n % 3}")) for n in range(hours * 6)]
        await store.append([*values, *(numbered(seq) for seq in range(1, 11))])
        await Keeper(store, Clock()).seal()
        await commands.save_token(store, TokenRow("t1", "first", 0, TOKEN_HASH, T0))
        await commands.save_node_key(store, "node", NODE_KEY)
        rows = await readings(store)
    (folder / "identity").mkdir(exist_ok=True)
    for name in ("id", "key.pem", "certificate.pem"):
        (folder / "identity" / name).write_text(f"{name} of {folder.name}\n")
    return rows


async def readings(store: Store) -> Rows:
    """Every reading, hot and sealed."""
    query = "select series_id, epoch_ms(ts), value, quality from {} order by all"
    return await store.ask(lambda view: view.db.execute(query.format(view.raw())).fetchall())


async def opened(folder: Path) -> Rows:
    """The readings of a folder that no process has open."""
    async with Store(folder) as store:
        return await readings(store)


async def back_up(
    folder: Path, target: str, *, passphrase: str | None = None, others: Mapping[str, Path] | None = None, **about: Any
) -> tuple[Manifest, Written]:
    """As `gateway backup` does it where no gateway runs."""
    keys = passphrase is not None
    with snapshot.lend(folder) as place:
        async with Store(folder) as store:
            await snapshot.take(store, place.name, NOW, keys=keys)
        return write(place, target, passphrase, {**(others or {}), **(identity(folder) if keys else {})}, **about)


def write(
    place: Path, target: str, passphrase: str | None, others: Mapping[str, Path], **about: Any
) -> tuple[Manifest, Written]:
    """A backup of a snapshot."""
    found = snapshot.look(place)
    told: dict[str, Any] = {
        "version": "1.2.3",
        "gateway_id": GATEWAY,
        "moment": found.moment,
        "batch": found.batch,
        "schema_number": found.schema,
        "opens_from": found.opens_from,
        "readings": found.readings,
        "keys": passphrase is not None,
        "entries": (),
    }
    return backup.write(target, backup.parts(found, others), Manifest(**(told | about)), passphrase, nothing)


def identity(folder: Path) -> dict[str, Path]:
    return {f"identity/{file.name}": file for file in (folder / "identity").iterdir()}


def bring_back(place: Path, folder: Path, *, passphrase: str | None = None, force: bool = False) -> bool:
    """As `gateway restore` does it."""
    with archive.opened(place) as found:
        if passphrase is not None:
            found.unlock(passphrase)
        return restore.data(found, folder, force=force, progress=nothing)


def verify(place: Path, passphrase: str | None = None) -> Manifest:
    """As `gateway backup --verify` does it."""
    with archive.opened(place) as found:
        if passphrase is not None:
            found.unlock(passphrase)
        found.verify(nothing)
        return found.manifest


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)
