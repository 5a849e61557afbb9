"""What updates nodes: bundles that are here, offers that are open, rollouts that run, and the commands and tools of all
of them."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

from gateway.control.base import Kind
from gateway.control.firmware import FirmwareCommands
from gateway.control.rollouts import Nodes, RolloutCommands
from gateway.core import Core
from gateway.nodes.ota.fleet import Fleet
from gateway.nodes.ota.offer import Offers
from gateway.nodes.ota.rollout import Unfit
from gateway.nodes.ota.service import Parts, Rollouts
from gateway.nodes.ota.shelf import Shelf


async def _nowhere(_topic: str, _payload: bytes) -> None:
    raise ConnectionError("no gateway runs")


@dataclass(frozen=True, slots=True)
class Ways:
    """How nodes are reached: `tell` publishes at a topic (ConnectionError where the broker is away), `connected` says
    whether they can be heard, `on_air` whether a device is on the broker rather than on a cable."""

    fleet: Fleet
    tell: Callable[[str, bytes], Awaitable[None]] = _nowhere
    connected: Callable[[], bool] = lambda: False
    on_air: Callable[[str], bool] = lambda _device: True


@dataclass(frozen=True, slots=True)
class Updating:
    """`rollouts.run` is for whoever serves downloads; `kinds` are the commands."""

    shelf: Shelf
    offers: Offers
    rollouts: Rollouts
    fleet: Fleet
    kinds: Sequence[Kind]

    async def forget(self, device: str) -> None:
        """A device that was deleted."""
        self.fleet.forget(device)
        await self.rollouts.heard(Unfit(device, "it was deleted"))


async def open_updating(core: Core, ways: Ways | None, stack: AsyncExitStack) -> Updating:
    """For as long as the stack lives; without ways to nodes it only tells what was."""
    shelf = Shelf(core.folder / "firmware", core.store, core.clock, core.config.store.warn_free_mb << 20)
    await stack.enter_async_context(shelf)
    offers = Offers(core.keys.get)
    known = ways or Ways(Fleet(core.store, core.clock))
    if ways is None:
        await known.fleet.load()
    parts = Parts(
        core.store, core.clock, core.registry, core.journal, shelf, offers, known.fleet, known.tell, known.connected
    )
    rollouts = Rollouts(parts)
    await rollouts.load()
    nodes = Nodes(core.registry, known.fleet, lambda device: core.keys.get(device) is not None, known.on_air)
    patience = core.config.updates.model_dump()
    commands = RolloutCommands(rollouts, shelf, nodes, core.store, patience, is_live=ways is not None)
    return Updating(shelf, offers, rollouts, known.fleet, (FirmwareCommands(shelf, rollouts.in_use), commands))
