"""What people say of a device, over a real store: it wins over the device's own words, not over the settings, and a
device that is deleted leaves nothing behind but the audit."""

import shutil
from pathlib import Path

from gateway.registry.registry import Registry
from gateway.store import commands, edit_rows, queries
from gateway.store.db import Store
from gateway.store.keeper import Keeper
from gateway.store.types import Device, Event, Sensor
from tests.brokers import FixedClock
from tests.store.builders import T0, local, numbered, reading


async def loaded(store: Store) -> Registry:
    registry = Registry(store, FixedClock())
    await registry.load()
    return registry


async def test_an_edit_wins_over_the_device_for_good(tmp_path: Path) -> None:
    async with Store(tmp_path) as store:
        registry = await loaded(store)
        await registry.capabilities("node", {"device_name": "ESP", "device_location": "box"})
        await registry.edit("node", {"device_name": "Bed", "location": ""}, "anna")
        await registry.capabilities("node", {"device_name": "ESP2", "device_location": "box", "model": "C3"})
        known = registry.device("node")
        assert (known.device_name, known.location, known.model) == ("Bed", "", "C3")
        (row,) = await queries.devices(store)
        assert (row.device_name, row.location) == ("Bed", "")
        await registry.edit("node", {"device_name": "Hall"}, "anna")
    async with Store(tmp_path) as store:
        registry = await loaded(store)
        await registry.capabilities("node", {"device_name": "ESP3"})
        assert registry.device("node").device_name == "Hall"
        assert len(await edit_rows.device_edits(store)) == 2


async def test_edits_wait_for_a_device_that_was_not_heard_yet(tmp_path: Path) -> None:
    """As after a restore of the settings only."""
    async with Store(tmp_path) as store:
        await edit_rows.save_edits(store, [edit_rows.Edit("node", "device_name", "Bed", "", "anna", T0)])
        registry = await loaded(store)
        registry.seen([reading(400.0, device="node")])
        await registry.flush()
        await registry.capabilities("node", {"device_name": "ESP"})
        assert registry.device("node").device_name == "Bed"
        registry.forget("node")
        await registry.capabilities("node", {"device_name": "ESP"})
        assert registry.device("node").device_name == "ESP"


async def test_what_the_settings_say_stands(tmp_path: Path) -> None:
    async with Store(tmp_path) as store:
        registry = await loaded(store)
        await registry.capabilities("attic", {"device_name": "ESP"})
        await registry.edit("attic", {"device_name": "Bed", "zone_id": "up"}, "anna")
        await registry.declare(Device("attic", "Attic"), [Sensor(0, "attic", "scd30", "scd30")], 10)
        known = registry.device("attic")
        assert (known.device_name, known.zone_id) == ("Attic", "up")
        assert registry.settled("attic") == {"device_id", "device_name"}


async def test_decommissioned_is_not_late(tmp_path: Path) -> None:
    async with Store(tmp_path) as store:
        registry = await loaded(store)
        await registry.capabilities("node", {})
        await registry.edit("node", {"status": "decommissioned"}, "anna", "sold")
        await registry.announce()
        await registry.announce()
        await registry.flush()
        assert [event.message for event in await queries.events(store)] == ["new -> decommissioned: sold"]
    async with Store(tmp_path) as store:
        registry = await loaded(store)
        status = registry.status("node")
        assert (status.status, status.reason) == ("decommissioned", "sold")
        await registry.announce()
        assert len(await queries.events(store)) == 1
        await registry.edit("node", {"status": "active"}, "anna", "back")
        assert registry.status("node").status == "silent"


async def test_a_deleted_device_leaves_nothing_and_looks_like_no_loss(tmp_path: Path) -> None:
    async with Store(tmp_path) as store:
        await store.append([numbered(1), local(reading(21.0, device="other"))])
        await store.append([numbered(2)])  # the last batch is the device's own
        (device,) = {each.device for each in store.series().values()} - {"other"}
        await commands.save_node_key(store, device, b"key")
        await commands.add_event(store, Event(T0, "x", device, "y"))
        series = [each.series_id for each in queries.find_series(store, device=device)]
        await Keeper(store, FixedClock()).delete_readings(series)
        await store.append([numbered(3)])  # on its way while the segments were written anew
        batch = store.batch
        await edit_rows.delete_device(store, device, series)
        shutil.copytree(tmp_path, tmp_path.with_name("cut"))  # as a power cut would leave it now
        assert {each.device for each in store.series().values()} == {"other"}
        fresh = await store.append([numbered(4)])  # it goes on sending: a new device, whose numbers count from here
        assert fresh.stored == 1
        assert not {each.series_id for each in queries.find_series(store, device=device)} & set(series)
        await edit_rows.delete_device(
            store, device, [each.series_id for each in queries.find_series(store, device=device)]
        )
    async with Store(tmp_path.with_name("cut")) as cut:
        assert (cut.lost_batches, cut.batch) == (None, batch)
        assert {each.device for each in queries.latest(cut)} == {"other"}
        assert (await queries.counts(cut)).readings == 1
    async with Store(tmp_path) as again:
        assert again.lost_batches is None
        assert again.batch > batch
        assert {each.device for each in queries.latest(again)} == {"other"}
        for table in ("device", "sensor", "boot", "node_key", "event", "device_edit"):
            rows = await again.read(lambda db, table=table: db.execute(f"select * from {table}").fetchall())
            assert device not in str(rows), table
        counts = await again.read(lambda db: db.execute("select count(*) from delivery").fetchall())
        assert counts == [(0,)]
