"""/files/firmware over real HTTP: an offered bundle for the node it was offered to, whole or from somewhere on."""

import json
import random
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import httpx2
import pytest
from starlette.applications import Starlette

from bench.boards import FIRMWARE, INTERPRETER
from bench.boards import HERE as TESTS
from gateway.access.audit import Audit
from gateway.access.desk import FAILURES, FAILURES_PER_S, Desk
from gateway.access.grants import Grants
from gateway.access.identity import load_or_create
from gateway.access.pairing import Pairing
from gateway.access.policy import Plain
from gateway.access.principal import Scope
from gateway.access.rates import Rates
from gateway.access.tokens import Tokens
from gateway.nodes.ota import offer as offers
from gateway.nodes.ota.bundle import MANIFEST
from gateway.nodes.ota.manifest import parse
from gateway.nodes.ota.offer import Offers, Source
from gateway.nodes.ota.shelf import Shelf
from gateway.store.db import Store
from gateway.web.firmware import FirmwareRoutes
from gateway.web.guard import Doors, Guard
from gateway.web.serve import Serving
from tests.nodes.bundles import PUBLIC, built, manifest, written
from tests.running import program
from tests.web.house import HandClock, Seconds, in_a_task

NODE, OTHER = "attic-1", "cellar-1"
KEYS = {NODE: bytes(range(32)), OTHER: bytes(range(32, 64))}
BIG = random.Random(3).randbytes(200_000)
FILES = {"node/app.py": b"def main(): pass\n", "node/big.bin": BIG, "node/empty.py": b""}
SOURCE = Source("", 8080, tls=False)


@dataclass
class Stand:
    """A gateway's door with one bundle behind it, offered to NODE."""

    shelf: Shelf
    offers: Offers
    guard: Guard
    seconds: Seconds
    ports: dict[str, int]
    content: bytes
    digest: str
    offer: str
    admin: str

    def client(
        self, device: str = NODE, offer: str = "", key: bytes | None = None
    ) -> AbstractAsyncContextManager[httpx2.AsyncClient]:
        """HTTP as a node speaks it; by default with the right key."""
        header = offers.authorization(key or KEYS[device], device, offer or self.offer)
        return self.anybody({"authorization": header})

    def anybody(self, headers: dict[str, str] | None = None) -> AbstractAsyncContextManager[httpx2.AsyncClient]:
        base = f"http://127.0.0.1:{self.ports['http']}"
        return httpx2.AsyncClient(base_url=base, headers=headers or {}, timeout=30)

    def path(self, path: str) -> str:
        return f"/files/firmware/{self.offer}/{path}"


@asynccontextmanager
async def stand(folder: Path, per_s: float = 0.0) -> AsyncIterator[Stand]:
    clock, seconds = HandClock(), Seconds()
    identity = load_or_create(folder / "identity")
    async with Store(folder / "data") as store, Shelf(folder / "data" / "firmware", store, clock) as shelf:
        await shelf.trust(PUBLIC, "anna", "local")
        content = built(manifest(files=FILES), FILES)
        digest = (await shelf.add(await shelf.check(written(folder, content)), "anna")).digest
        open_offers = Offers(KEYS.get, seconds)
        offer, _ = open_offers.open(NODE, "1-aa", shelf.get(digest).content, SOURCE)
        tokens, audit = Tokens(store, clock, identity), Audit(store, clock)
        failures = Rates(FAILURES_PER_S, FAILURES, now_s=seconds)
        grants = Grants(store, tokens, audit, clock)
        desk = Desk(tokens, audit, Pairing(), grants, Rates(per_s, 5, now_s=seconds), failures, household=True)
        routes = FirmwareRoutes(shelf, open_offers)
        doors = Doors(desk, lambda session: None, list, plain=Plain.READ, node=routes.bearer)
        guard = Guard(Starlette(routes=routes.routes()), doors)
        admin = await tokens.create("admin", Scope.ADMIN)
        address = ("127.0.0.1", 0)
        async with Serving(guard, identity=identity, http=address, https=address, drain=guard.close) as web:
            yield Stand(shelf, open_offers, guard, seconds, web.ports, content, digest, offer, admin)


@pytest.fixture
async def gate(tmp_path: Path) -> AsyncIterator[Stand]:
    async with in_a_task(stand(tmp_path)) as built_stand:
        yield built_stand


async def test_a_node_downloads_what_it_was_offered(gate: Stand) -> None:
    async with gate.client() as http:
        got = await http.get(gate.path(MANIFEST))
        assert (got.status_code, sha256(got.content).hexdigest()) == (200, gate.digest)
        for each in parse(got.content).files:
            answer, head = await http.get(gate.path(each.path)), await http.head(gate.path(each.path))
            assert (answer.status_code, answer.content) == (200, FILES[each.path])
            assert answer.headers["etag"] == head.headers["etag"] == f'"{each.sha256}"'
            assert (head.content, head.headers["content-length"]) == (b"", str(each.size_bytes))
            assert answer.headers["x-content-type-options"] == "nosniff"


async def test_it_goes_on_where_it_broke_off(gate: Stand) -> None:
    async with gate.client() as http:
        for start in (1, 65_536, 150_001, len(BIG) - 1):
            got = await http.get(gate.path("node/big.bin"), headers={"range": f"bytes={start}-"})
            assert (got.status_code, got.content) == (206, BIG[start:])
            assert got.headers["content-range"] == f"bytes {start}-{len(BIG) - 1}/{len(BIG)}"
        beyond = await http.get(gate.path("node/big.bin"), headers={"range": f"bytes={len(BIG)}-"})
        assert (beyond.status_code, beyond.headers["content-range"]) == (416, f"bytes */{len(BIG)}")
        async with http.stream("GET", gate.path("node/big.bin")) as broken:
            first = await anext(broken.aiter_bytes(1000))
        rest = await http.get(gate.path("node/big.bin"), headers={"range": f"bytes={len(first)}-"})
        assert first + rest.content == BIG


async def test_only_the_node_of_the_offer_and_only_while_it_is_open(gate: Stand) -> None:
    path = gate.path(MANIFEST)
    async with gate.client(OTHER) as http:  # a node of ours, but it was offered to another one
        assert (await http.get(path)).status_code == 404
    async with gate.client() as http:
        for wrong in ("node/none.py", "", "manifest.sig", "../manifest.json", "node/%2e%2e/app.py", "a\N{SNOWMAN}"):
            assert (await http.get(gate.path(wrong))).status_code in {404, 401}
        assert (await http.get(path)).status_code == 200
        assert (await http.request("DELETE", path)).status_code == 405
        gate.seconds.now += offers.LIVES_S
        assert (await http.get(path)).status_code == 404
        gate.offers.open(NODE, "2-bb", gate.shelf.get(gate.digest).content, SOURCE, offer=gate.offer)
        assert (await http.get(path)).status_code == 200
        await gate.shelf.distrust("anna")
        assert (await http.get(path)).status_code == 404
        gate.offers.close(gate.offer)
        assert (await http.get(path)).status_code == 404


async def test_wrong_macs_are_refused_and_counted(gate: Stand) -> None:
    right = offers.authorization(KEYS[NODE], NODE, gate.offer)
    wrong = [
        "",
        "Node",
        f"Node {NODE}",
        f"Node {NODE}:",
        right[:-1],
        right.upper(),
        right.replace(NODE, OTHER),
        offers.authorization(KEYS[NODE], "nobody", gate.offer),
        offers.authorization(KEYS[NODE], NODE, "0" * 16),
        f"Bearer {gate.admin}",  # an admin's token is none here
        right.replace("Node", "Bearer"),
    ]
    for header in wrong:
        async with gate.anybody({"authorization": header} if header else {}) as http:
            answer = await http.get(gate.path(MANIFEST))
        assert answer.status_code == 401, header
        assert answer.headers["www-authenticate"].startswith("Node")
        assert "MAC" in answer.json()["error_description"]
    assert gate.guard.refused["node"] == len(wrong)
    async with gate.client() as http:  # the mac is of an offer: it opens no other one
        assert (await http.get(f"/files/firmware/{'0' * 16}/{MANIFEST}")).status_code == 401
        both = httpx2.Headers([("authorization", right), ("authorization", right)])
    async with gate.anybody() as http:
        assert (await http.get(gate.path(MANIFEST), headers=both)).status_code == 401


async def test_who_guesses_waits_and_the_right_node_does_not(gate: Stand) -> None:
    async with gate.client(key=bytes(32)) as http:
        codes = [(await http.get(gate.path(MANIFEST))).status_code for _ in range(FAILURES + 3)]
    assert codes == [401] * FAILURES + [429] * 3
    async with gate.client() as http:
        assert (await http.get(gate.path(MANIFEST))).status_code == 200


async def test_a_node_spends_its_own_share(tmp_path: Path) -> None:
    async with stand(tmp_path, per_s=1.0) as gate:
        second, _ = gate.offers.open(OTHER, "1-bb", gate.shelf.get(gate.digest).content, SOURCE)
        async with gate.client() as http, gate.client(OTHER, second) as another:
            codes = [(await http.get(gate.path(MANIFEST))).status_code for _ in range(7)]
            assert codes == [200] * 5 + [429] * 2
            assert (await another.get(f"/files/firmware/{second}/{MANIFEST}")).status_code == 200


async def test_the_door_is_the_same_for_nodes(gate: Stand) -> None:
    async with gate.client() as http:
        assert (await http.get(gate.path(MANIFEST), headers={"host": "evil.example"})).status_code == 421
        assert (await http.get(gate.path(MANIFEST), headers={"host": "127.0.0.1:8080"})).status_code == 200
        assert (await http.get("/files")).status_code == 401  # its mac is worth nothing elsewhere


async def test_a_route_that_the_guard_does_not_watch_lets_nobody_in_either(gate: Stand) -> None:
    routes = FirmwareRoutes(gate.shelf, gate.offers).routes()
    transport = httpx2.ASGITransport(Starlette(routes=routes))
    async with httpx2.AsyncClient(transport=transport, base_url="http://gateway") as http:
        assert (await http.get(gate.path(MANIFEST))).status_code == 401


NODE_CODE = """
import asyncio, binascii, json, sys
from node import wire
from node.fetch import Denied, fetch

port, is_tls, key, offer = int(sys.argv[1]), sys.argv[2] == "tls", binascii.unhexlify(sys.argv[3]), sys.argv[4]


async def get(path, offset, size, device="attic-1"):
    said = "Node %s:%s" % (device, wire.mac(key, "download", device, offer))
    got = bytearray()
    where = "/files/firmware/%s/%s" % (offer, path)
    try:
        await fetch(("127.0.0.1", port, is_tls), where, said, offset, size, got.extend)
    except Denied as error:
        return str(error)
    return binascii.hexlify(got).decode()


async def main():
    size = int(sys.argv[5])
    whole, rest = await get("node/big.bin", 0, size), await get("node/big.bin", size - 1000, size)
    empty, missing = await get("node/empty.py", 0, 0), await get("node/none.py", 0, 5)
    print(json.dumps([whole, rest, empty, missing, await get("manifest.json", 0, 5, "x")]))


asyncio.run(main())
"""


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_the_nodes_own_code_downloads_here(gate: Stand, tmp_path: Path, scheme: str) -> None:
    """Unmodified, under the real MicroPython; over TLS as where plain HTTP is off."""
    program_file = tmp_path / "download.py"
    program_file.write_text(NODE_CODE)
    how = "tls" if scheme == "https" else "plain"
    arguments = [str(gate.ports[scheme]), how, KEYS[NODE].hex(), gate.offer, str(len(BIG))]
    path = {"MICROPYPATH": f"{FIRMWARE}:{TESTS / 'stubs'}:.frozen"}
    code, out, err = await program(str(INTERPRETER), str(program_file), *arguments, environment=path)
    assert code == 0, out + err
    whole, rest, empty, missing, stranger = json.loads(out)
    assert (bytes.fromhex(whole), bytes.fromhex(rest)) == (BIG, BIG[-1000:])
    assert (empty, missing, stranger) == ("", "HTTP 404", "HTTP 401")
