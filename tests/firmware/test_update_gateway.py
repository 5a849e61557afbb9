"""The gateway's own door for downloads, over plain HTTP and over TLS, and a board that comes to it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from starlette.applications import Starlette

from gateway.access.audit import Audit
from gateway.access.desk import FAILURES, FAILURES_PER_S, Desk
from gateway.access.grants import Grants
from gateway.access.identity import load_or_create
from gateway.access.pairing import Pairing
from gateway.access.policy import Plain
from gateway.access.rates import Rates
from gateway.access.tokens import Tokens
from gateway.nodes.ota.manifest import Manifest, parse
from gateway.nodes.ota.offer import Offers, Source
from gateway.nodes.ota.shelf import Shelf
from gateway.store.db import Store
from gateway.web.firmware import FirmwareRoutes
from gateway.web.guard import Doors, Guard
from gateway.web.serve import Serving
from tests.brokers import needs_mosquitto
from tests.firmware.house import powered
from tests.firmware.updating import KEY, NEW, OLD, Bundle, board, house, program
from tests.nodes.bundles import PUBLIC, built, written
from tests.web.house import HandClock

pytestmark = [pytest.mark.slow, needs_mosquitto]
NEWER = "1.4.1"


@asynccontextmanager
async def door(folder: Path, *bundles: Bundle) -> AsyncIterator[tuple[Offers, dict[str, int]]]:
    """A gateway's HTTP and HTTPS with these bundles on its shelf."""
    clock, identity = HandClock(), load_or_create(folder / "identity")
    async with Store(folder / "data") as store, Shelf(folder / "data" / "firmware", store, clock) as shelf:
        await shelf.trust(PUBLIC, "anna", "local")
        for each in bundles:
            about: Manifest = parse(each.manifest)
            zipped = written(folder, built(about, each.files), f"{about.version}.zip")
            assert (await shelf.add(await shelf.check(zipped), "anna")).digest == each.digest
        tokens, audit, offers = Tokens(store, clock, identity), Audit(store, clock), Offers(lambda _: KEY)
        grants, failures = Grants(store, tokens, audit, clock), Rates(FAILURES_PER_S, FAILURES)
        desk = Desk(tokens, audit, Pairing(), grants, Rates(1.0, 60), failures, household=True)
        routes = FirmwareRoutes(shelf, offers)
        doors = Doors(desk, lambda _: None, list, plain=Plain.READ, node=routes.bearer)
        guard = Guard(Starlette(routes=routes.routes()), doors)
        address = ("127.0.0.1", 0)
        async with Serving(guard, identity=identity, http=address, https=address, drain=guard.close) as web:
            yield offers, web.ports


async def test_a_board_comes_to_the_gateways_door(tmp_path: Path) -> None:
    old, new, newer = (program(tmp_path / "mpy", version) for version in (OLD, NEW, NEWER))
    async with house(tmp_path) as here, door(tmp_path, new, newer) as (offers, ports):
        one = board(tmp_path, here, "n1", old)
        async with powered(one):
            for what, kind, before in ((new, "http", OLD), (newer, "https", NEW)):
                boot = (await here.online("n1", firmware_version=before))["boot"]
                source = Source("", ports[kind], tls=kind == "https")
                offer, content = offers.open("n1", boot, what.manifest, source)
                await here.client.publish("devices/n1/update", content, qos=1)
                told = await here.ended("n1", offer)
                assert told["phase"] == "confirmed", (told, one.output)
            assert new.stands_in(one.folder / "b")
            assert newer.stands_in(one.folder / "a")
    assert one.resets == 2
