"""What everything else of a gateway stands on: store, registry, identity, tokens, keys."""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from zoneinfo import ZoneInfo

from gateway import wear
from gateway.access import identity as identities
from gateway.access.audit import Audit
from gateway.access.desk import Desk
from gateway.access.grants import Grants
from gateway.access.identity import Identity
from gateway.access.logins import Logins, NodeKeys
from gateway.access.pairing import Pairing
from gateway.access.rates import Rates
from gateway.access.tokens import Tokens
from gateway.clock import Clock
from gateway.config import Config, StoreSettings
from gateway.registry.journal import Journal
from gateway.registry.registry import Registry
from gateway.store import edit_rows, queries
from gateway.store.db import Store
from gateway.store.keeper import Keeper, Keeping, Retention
from gateway.tasks import Progress


@dataclass(frozen=True, slots=True)
class Core:
    """What everything else stands on."""

    config: Config
    folder: Path
    clock: Clock
    zone: ZoneInfo
    store: Store
    registry: Registry
    identity: Identity
    tokens: Tokens
    audit: Audit
    desk: Desk
    keys: NodeKeys
    logins: Logins
    journal: Journal
    keeper: Keeper
    started_s: float
    written: tuple[Path, int]
    """The counter of bytes written to the data's device, and what it said at the start."""


async def open_core(config: Config, folder: Path, clock: Clock, stack: AsyncExitStack) -> Core:
    """Open the data folder for as long as the stack lives; StoreError and IdentityError say why not."""
    settings = config.store
    store = Store(folder, memory_limit_mb=settings.memory_limit_mb, threads=settings.threads)
    await stack.enter_async_context(store)
    identity = await asyncio.to_thread(identities.load_or_create, folder / "identity")
    registry = Registry(store, clock, settings.flush_interval_s)
    tokens, keys = Tokens(store, clock, identity), NodeKeys(store)
    await registry.load()
    await tokens.load()
    await keys.load()
    logins = Logins(store, clock, keys)
    await logins.load()
    stack.push_async_callback(registry.flush)
    audit = Audit(store, clock)
    desk = await _desk(config, store, tokens, audit, clock)
    zone, now_s = ZoneInfo(config.site.timezone), asyncio.get_running_loop().time()
    journal = Journal(store)
    keeper = Keeper(store, clock, _keeping(settings), journal.note)
    counter = wear.source(folder)
    written = (counter, wear.written_bytes(counter))
    return Core(
        config,
        folder,
        clock,
        zone,
        store,
        registry,
        identity,
        tokens,
        audit,
        desk,
        keys,
        logins,
        journal,
        keeper,
        now_s,
        written,
    )


async def _desk(config: Config, store: Store, tokens: Tokens, audit: Audit, clock: Clock) -> Desk:
    settings = config.access
    grants = Grants(store, tokens, audit, clock)
    await grants.load()
    rates = Rates(settings.requests_per_s, settings.burst)
    return Desk(tokens, audit, Pairing(), grants, rates, household=settings.household == "read")


def _keeping(settings: StoreSettings) -> Keeping:
    rules = tuple(Retention(each.raw_days, each.metric, each.device) for each in settings.retention)
    return Keeping(
        settings.hot_rows,
        retention=rules,
        warn_free_mb=settings.warn_free_mb,
        least_free_mb=settings.least_free_mb,
    )


async def forget(core: Core, device: str) -> int:
    """Delete all readings of a device; how many series it had. LookupError names the nearest device."""
    core.registry.device(device)
    series = [each.series_id for each in queries.find_series(core.store, device=device)]
    await core.keeper.delete_readings(series)
    return len(series)


async def delete(core: Core, device: str, progress: Progress) -> int:
    """Forget a device with everything that is stored of it; how many series it had. LookupError as `forget`."""
    core.registry.device(device)
    series = [each.series_id for each in queries.find_series(core.store, device=device)]
    progress(0.05, "deleting readings")
    await core.keeper.delete_readings(series)
    progress(0.9, "deleting names")
    await edit_rows.delete_device(core.store, device, series)
    core.registry.forget(device)
    await core.logins.forget(device)
    await core.keeper.save_copy()  # what a repair falls back to must not bring it back
    return len(series)
