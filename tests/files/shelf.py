"""Files behind the real door: a store, tokens of three owners, the guard, and HTTP on a free port."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
from starlette.applications import Starlette

from gateway.access.audit import Audit
from gateway.access.desk import Desk
from gateway.access.grants import Grants
from gateway.access.identity import load_or_create
from gateway.access.pairing import Pairing
from gateway.access.principal import Scope
from gateway.access.rates import Rates
from gateway.access.tokens import Tokens
from gateway.files.entry import Limits
from gateway.files.files import Files
from gateway.store.db import Store
from gateway.web.files import FileRoutes
from gateway.web.guard import Doors, Guard
from gateway.web.serve import Serving
from tests.web.house import HandClock

SMALL = Limits(file_bytes=300_000, owner_bytes=500_000, all_bytes=800_000, least_free_bytes=0, owner_files=8)
PARTIAL = {"content-type": "application/partial-upload"}


@asynccontextmanager
async def opened(folder: Path, clock: HandClock | None = None, limits: Limits = SMALL) -> AsyncIterator[Files]:
    """Files over a store of their own."""
    async with (
        Store(folder / "data") as store,
        Files(folder / "data" / "files", store, clock or HandClock(), limits) as f,
    ):
        yield f


@dataclass
class Shelf:
    """What a test talks to."""

    files: Files
    clock: HandClock
    store: Store
    guard: Guard
    port: int
    tokens: dict[str, str]
    owners: dict[str, str]

    def client(self, who: str = "anna") -> AbstractAsyncContextManager[httpx2.AsyncClient]:
        """An HTTP client with the token of anna or ben (control), rita (read) or root (admin)."""
        headers = {"authorization": f"Bearer {self.tokens[who]}"}
        return httpx2.AsyncClient(base_url=f"http://127.0.0.1:{self.port}", headers=headers, timeout=30)


@asynccontextmanager
async def shelf(folder: Path, limits: Limits = SMALL) -> AsyncIterator[Shelf]:
    """Everything, until the block ends."""
    clock = HandClock()
    identity = load_or_create(folder / "identity")
    async with Store(folder / "data") as store, Files(folder / "data" / "files", store, clock, limits) as files:
        tokens = Tokens(store, clock, identity)
        scopes = {"anna": Scope.CONTROL, "ben": Scope.CONTROL, "rita": Scope.READ, "root": Scope.ADMIN}
        made = {name: await tokens.create(name, scope) for name, scope in scopes.items()}
        owners = {}
        for name, token in made.items():
            principal = await tokens.verify(token)
            assert principal is not None
            owners[name] = principal.token_id
        audit = Audit(store, clock)
        desk = Desk(tokens, audit, Pairing(), Grants(store, tokens, audit, clock), Rates(0, 1))
        routes = FileRoutes(files, audit, clock)
        doors = Doors(desk, lambda session: None, lambda: ["localhost"])
        guard = Guard(Starlette(routes=routes.routes()), doors, limits=routes.limits)
        address = ("127.0.0.1", 0)
        async with Serving(guard, identity=identity, http=address, https=None, drain=guard.close) as web:
            yield Shelf(files, clock, store, guard, web.ports["http"], made, owners)
