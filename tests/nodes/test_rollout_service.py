"""Rollouts over a real store, shelf and registry; the nodes are what the test says they said."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from drivers.model import Quality, Quantity
from gateway.access.principal import Principal, Scope
from gateway.command import ControlError
from gateway.control.base import Plan
from gateway.control.rollouts import Nodes, RolloutCommands
from gateway.mac import is_mac
from gateway.nodes.ota.fleet import Fleet
from gateway.nodes.ota.offer import Offers, Source
from gateway.nodes.ota.rollout import Abort, Settings, State
from gateway.nodes.ota.rollout_commands import (
    NodeFirmwareList,
    NodeFirmwareViews,
    ResumeRollout,
    RolloutList,
    RolloutPreview,
    RolloutShow,
    RolloutView,
    UpdateFirmware,
)
from gateway.nodes.ota.service import Parts, Rollouts, UnknownRollout
from gateway.nodes.ota.shelf import Shelf
from gateway.reading import Message
from gateway.registry.journal import Journal
from gateway.registry.registry import Registry
from gateway.store import edit_rows, queries, rollout_rows
from gateway.store.backups import transplant
from gateway.store.db import Store
from gateway.store.types import Event
from tests.nodes.bundles import PUBLIC, built, manifest, written
from tests.web.house import HandClock, reading

ANNA = Principal("anna", Scope.ADMIN)
HERE = Source("", 8080, tls=False)
PATIENCE = {"tries": 2, "answer_s": 60.0, "fresh_s": 100.0}


@dataclass
class Scene:
    """A gateway's rollouts, as long as it runs; `published` are topics and what was signed for their node."""

    store: Store
    clock: HandClock
    registry: Registry
    shelf: Shelf
    offers: Offers
    fleet: Fleet
    rollouts: Rollouts
    commands: RolloutCommands
    published: "asyncio.Queue[tuple[str, dict[str, Any]]]"
    keys: dict[str, bytes]
    noted: list[Event] = field(default_factory=list)

    async def node(self, name: str, version: str = "1.3.0", *, boot: str = "1-aa", **more: Any) -> None:
        """It connects and says what it is."""
        said = {"firmware_version": version, "board": "esp32", "mpy": 6, "slots": "files"} | more
        self.keys.setdefault(name, name.encode() * 8)
        await self.registry.capabilities(name, said)
        await self.fleet.capabilities(name, said)
        await self.fleet.status(name, boot)

    async def offer(self) -> tuple[str, dict[str, Any]]:
        """The next that is published: whose, and what it says; signed for that node."""
        async with asyncio.timeout(10):
            return await self.published.get()

    async def said(self, device: str, offer: str, phase: str, **more: Any) -> None:
        await self.fleet.said(device, {"offer": offer, "phase": phase} | more)

    async def measured(self, device: str, quality: Quality = Quality.GOOD) -> None:
        self.clock.time += timedelta(seconds=1)
        one = reading(device, Quantity.CO2, age=-(self.clock.time - HandClock().time), quality=quality)
        commit = await self.store.append([Message(device, "scd30", (one,))])
        await self.rollouts.committed(commit)

    async def update(self, device: str, offer: str) -> None:
        """All the way."""
        for phase in ("accepted", "verifying", "testing", "confirmed"):
            await self.said(device, offer, phase)
        await self.measured(device)

    async def begin(self, **more: Any) -> RolloutView:
        plan = await self.commands.handlers()[UpdateFirmware](UpdateFirmware(**({"everyone": True} | more)), ANNA)
        assert isinstance(plan, Plan)
        found = await plan.do()
        assert isinstance(found, RolloutView)
        return found

    async def preview(self, **more: Any) -> RolloutPreview:
        plan = await self.commands.handlers()[UpdateFirmware](UpdateFirmware(**more), ANNA)
        assert isinstance(plan, Plan)
        assert isinstance(plan.preview, RolloutPreview)
        return plan.preview

    async def show(self, rollout: str) -> RolloutView:
        found = await self.commands.handlers()[RolloutShow](RolloutShow(rollout=rollout), ANNA)
        assert isinstance(found, RolloutView)
        return found


@asynccontextmanager
async def scene(
    folder: Path, clock: HandClock | None = None, keys: dict[str, bytes] | None = None
) -> AsyncIterator[Scene]:
    """Until the block ends; on the same folder again it is the next start."""
    clock, keys, published = clock or HandClock(), {} if keys is None else keys, asyncio.Queue[Any]()

    async def publish(topic: str, payload: bytes) -> None:
        device, outer = topic.split("/")[1], json.loads(payload)
        assert topic == f"devices/{device}/update"
        assert is_mac(outer["mac"], keys[device], "update", device, outer["body"])
        published.put_nowait((device, json.loads(outer["body"])))

    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(Store(folder / "data"))
        shelf = await stack.enter_async_context(Shelf(folder / "data" / "firmware", store, clock))
        if not shelf.keys:
            await shelf.trust(PUBLIC, "anna", "local")
            await shelf.add(await shelf.check(written(folder, built())), "anna")
        registry, journal = Registry(store, clock), Journal(store)
        await registry.load()
        fleet, offers = Fleet(store, clock), Offers(keys.get)
        await fleet.load()
        offers.source = HERE
        parts = Parts(store, clock, registry, journal, shelf, offers, fleet, publish, lambda: True)
        rollouts = Rollouts(parts)
        await rollouts.load()
        nodes = Nodes(registry, fleet, lambda device: device in keys)
        commands = RolloutCommands(rollouts, shelf, nodes, store, PATIENCE, is_live=True)
        running = [asyncio.create_task(each) for each in (rollouts.run(), journal.run())]
        yield Scene(store, clock, registry, shelf, offers, fleet, rollouts, commands, published, keys)
        for each in running:
            each.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await registry.flush()


async def test_from_the_preview_to_the_history(tmp_path: Path) -> None:
    async with scene(tmp_path) as here:
        for name in ("attic", "bath", "cellar"):
            await here.node(name)
        await here.node("done", "1.4.0")
        preview = await here.preview(everyone=True)
        assert [(each.device, each.runs, each.online) for each in preview.updates] == [
            ("attic", "1.3.0", True),
            ("bath", "1.3.0", True),
            ("cellar", "1.3.0", True),
        ]
        assert [(each.device, each.reason) for each in preview.skipped] == [("done", "it runs 1.4.0 already")]
        begun = await here.begin()
        assert (begun.state, begun.counts) == ("running", {"waiting": 2, "offered": 1, "skipped": 1})
        device, body = await here.offer()
        assert (device, body["boot"], body["version"]) == ("attic", "1-aa", "1.4.0")
        assert here.registry.status("attic").status == "updating"
        assert here.registry.status("attic").reason == "version 1.4.0: offered"
        assert here.offers.find(body["offer"], "attic") is not None
        assert here.rollouts.in_use(begun.firmware) == f"rollout {begun.rollout} is not over"
        with pytest.raises(ControlError, match=f"attic: rollout {begun.rollout} is at it"):
            await here.begin(everyone=False, devices=("attic",))
        await here.said("attic", body["offer"], "confirmed")
        await here.measured("attic", Quality.BAD)
        assert (await here.show(begun.rollout)).counts["confirmed"] == 1, "a bad reading shows nothing"
        await here.measured("attic")
        assert here.offers.find(body["offer"], "attic") is None
        assert here.registry.status("attic").status != "updating"
        for _ in ("bath", "cellar"):
            device, body = await here.offer()
            await here.update(device, body["offer"])
        ended = await here.show(begun.rollout)
        assert (ended.state, ended.counts, ended.progress) == ("done", {"done": 3, "skipped": 1}, 1.0)
        assert here.rollouts.in_use(begun.firmware) == ""
        listed = await here.commands.handlers()[RolloutList](RolloutList(), ANNA)
        assert [each.counts for each in listed.rollouts] == [ended.counts]  # type: ignore[union-attr]
        with pytest.raises(UnknownRollout, match="has ended: it is done"):
            await here.rollouts.tell(begun.rollout, Abort("anna"))
        await here.node("attic", "1.4.0", boot="2-bb")
        runs = await here.commands.handlers()[NodeFirmwareList](NodeFirmwareList(), ANNA)
        assert isinstance(runs, NodeFirmwareViews)
        views = {each.device: each for each in runs.nodes}
        assert (views["attic"].version, views["attic"].behind) == ("1.4.0", "")
        assert views["attic"].last_update is not None
        assert views["attic"].last_update.state == "done"
        assert (views["bath"].version, views["bath"].behind) == ("1.3.0", "1.4.0")  # it did not say otherwise yet
        assert views["done"].last_update is None
        async with asyncio.timeout(10):
            while len(events := await queries.events(here.store)) < 2:
                pass
    assert {each.message for each in events if each.kind == "firmware"} == {
        f"rollout {begun.rollout} of 1.4.0: started by anna for all nodes: 3 to update",
        f"rollout {begun.rollout} of 1.4.0: ended: 3 done, 1 skipped",
    }


async def test_a_gateway_that_starts_again_goes_on_where_it_was(tmp_path: Path) -> None:
    clock, keys = HandClock(), dict[str, bytes]()
    async with scene(tmp_path, clock, keys) as here:
        for name in ("attic", "bath", "cellar"):
            await here.node(name)
        begun = await here.begin(rules={"at_once": 2})
        _, first = await here.offer()
        await here.update("attic", first["offer"])
        _, second = await here.offer()
        _, third = await here.offer()
        await here.said("bath", second["offer"], "downloading", percent=40)
    async with scene(tmp_path, clock, keys) as here:
        (rollout,) = here.rollouts.running()
        states = {name: each.state for name, each in rollout.targets.items()}
        assert states == {"attic": State.DONE, "bath": State.DOWNLOADING, "cellar": State.OFFERED}
        assert here.registry.status("bath").status == "updating"
        await here.said("bath", second["offer"], "confirmed")  # it waited in the broker
        assert here.offers.find(second["offer"], "bath") is not None  # and its download may have gone on
        assert here.offers.find(third["offer"], "cellar") is not None
        await here.node("bath", "1.4.0", boot="2-bb")
        await here.node("cellar", boot="2-bb")  # it restarted: what it was offered is void
        device, body = await here.offer()
        assert (device, body["boot"]) == ("cellar", "2-bb")
        assert body["offer"] != third["offer"]
        await here.update("cellar", body["offer"])
        await here.measured("bath")
        assert (await here.show(begun.rollout)).counts == {"done": 3}
    async with scene(tmp_path, clock, keys) as here:
        assert here.rollouts.running() == []
        found = await here.show(begun.rollout)
        assert (found.state, found.revision, [each.state for each in found.devices]) == ("done", -1, ["done"] * 3)


async def test_who_is_not_reached_is_offered_it_again(tmp_path: Path) -> None:
    async with scene(tmp_path) as here:
        await here.node("attic")
        begun = await here.begin(rules={"canary": 1})
        await here.offer()
        settings = here.rollouts.running()[0].settings
        assert settings == Settings(tries=2, answer_s=60.0, fresh_s=100.0)
        await here.fleet.status("attic", None)
        await here.fleet.status("attic", "2-bb")
        _, again = await here.offer()
        await here.said("attic", again["offer"], "refused", error="not\nenough\u202e flash")
        found = await here.show(begun.rollout)
        assert [(each.state, each.reason) for each in found.devices] == [("refused", "notenough flash")]
        assert found.state == "done"


async def test_bundles_that_went_away_pause_it_and_lost_keys_leave_out(tmp_path: Path) -> None:
    async with scene(tmp_path) as here:
        for name in ("attic", "bath"):
            await here.node(name)
        begun = await here.begin()
        _, first = await here.offer()
        await here.shelf.distrust("anna")
        await here.update("attic", first["offer"])
        async with asyncio.timeout(10):
            while (found := await here.show(begun.rollout)).state != "paused":
                await here.rollouts.follow(begun.rollout, found.revision, 10)
        assert found.reason == "by the gateway: nobody trusts the key any more that signed 1.4.0"
        assert here.published.empty()
        with pytest.raises(ControlError, match="no firmware is here"):
            await here.begin()
        await here.shelf.trust(PUBLIC, "anna", "local")
        del here.keys["bath"]
        plan = await here.commands.handlers()[ResumeRollout](ResumeRollout(rollout=begun.rollout), ANNA)
        assert isinstance(plan, Plan)
        await plan.do()
        async with asyncio.timeout(10):
            while (found := await here.show(begun.rollout)).state not in {"paused", "done"}:
                await here.rollouts.follow(begun.rollout, found.revision, 10)
        assert {each.device: each.state for each in found.devices} == {"attic": "done", "bath": "skipped"}
        assert found.devices[1].reason.startswith("bath has no key, so it would believe no offer")


async def test_a_restored_backup_offers_nothing_by_itself(tmp_path: Path) -> None:
    clock, keys = HandClock(), dict[str, bytes]()
    async with scene(tmp_path, clock, keys) as here:
        for name in ("attic", "bath"):
            await here.node(name)
        begun = await here.begin()
        mark = json.dumps({"moment_ms": 0, "batch": 0, "keys": True})
        await here.store.write(lambda db: db.execute("insert into setting values (?, ?)", [transplant.MARK, mark]))
    async with scene(tmp_path, clock, keys) as here:
        await here.node("attic", boot="2-bb")
        await here.node("bath", boot="2-bb")
        found = await here.show(begun.rollout)
        assert (found.state, found.counts) == ("paused", {"waiting": 1, "offered": 1})
        assert found.reason.startswith("it came back with a backup")
        assert here.published.empty()


async def test_a_deleted_device_is_in_no_rollout(tmp_path: Path) -> None:
    async with scene(tmp_path) as here:
        for name in ("attic", "bath"):
            await here.node(name)
        begun = await here.begin()
        await here.offer()
        await edit_rows.delete_device(here.store, "bath", [])
        assert [each.device_id for each in await rollout_rows.rollout_devices(here.store, begun.rollout)] == ["attic"]
        assert set(await rollout_rows.nodes(here.store)) == {"attic"}


@pytest.mark.parametrize(
    ("wish", "rule"),
    [
        ({}, "say in one way who is meant"),
        ({"zone": "roof", "everyone": True}, "say in one way who is meant"),
        ({"zone": "rof"}, "no node is meant by zone rof; did you mean 'roof'?"),
        ({"board": "esp33"}, "no node is meant by board esp33; did you mean 'esp32'?"),
        ({"everyone": True, "firmware": "9.9.9"}, "there is no firmware '9.9.9'"),
        ({"devices": ("atic",)}, "no device 'atic': did you mean 'attic'?"),
    ],
)
async def test_a_wish_that_cannot_be_meant(tmp_path: Path, wish: Mapping[str, Any], rule: str) -> None:
    async with scene(tmp_path) as here:
        await here.node("attic")
        await here.registry.edit("attic", {"zone_id": "roof"}, "anna")
        with pytest.raises((ControlError, LookupError)) as caught:
            await here.begin(**{"everyone": False, **wish})
        assert rule in str(caught.value)


async def test_everybody_who_cannot_be_updated_is_told_why(tmp_path: Path) -> None:
    async with scene(tmp_path) as here:
        await here.node("old", board="", mpy=None)
        await here.node("newer", "1.10.0")
        await here.node("other", board="esp32c3")
        await here.node("odd", "nightly")
        await here.node("fixed", slots="image")
        await here.node("nokey")
        del here.keys["nokey"]
        await here.node("gone")
        await here.registry.edit("gone", {"status": "decommissioned"}, "anna", "broken")
        await here.node("away")
        await here.fleet.status("away", None)
        found = await here.preview(everyone=True)
        assert [(each.device, each.online) for each in found.updates] == [("away", False)]
        assert {each.device: each.reason for each in found.skipped} == {
            "old": "it does not say which board it is: its firmware is too old for updates over the air",
            "newer": "it runs 1.10.0, which is newer",
            "other": "it is a board esp32c3, this is for esp32, esp32s3",
            "odd": "it runs 'nightly', which cannot be compared with 1.4.0",
            "fixed": "it has no second slot for its program",
            "nokey": "it has no key, so it would believe no offer: `gateway node add nokey` makes one",
            "gone": "it is decommissioned",
        }
        await here.shelf.add(await here.shelf.check(written(tmp_path, built(manifest("1.5.0", mpy=5)))), "anna")
        assert (await here.preview(devices=("away",))).skipped[0].reason == (
            "compiled files are of version 5, it takes version 6"
        )
        assert here.rollouts.running() == []
