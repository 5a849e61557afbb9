"""Tokens as commands, and what the gateway says of itself."""

from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Any, Literal

from pydantic import BaseModel

from gateway.access.commands import TokenCreate, TokenList, TokenRevoke, TokenRotate, TokenView, TokenViews
from gateway.access.principal import Principal, Scope
from gateway.access.tokens import NAME, TokenError, Tokens
from gateway.clock import Clock
from gateway.command import Command, Created, Done
from gateway.control.base import Handler, Plan
from gateway.wear import Wear


class Status(Command):
    command: Literal["view_status"] = "view_status"


class WearView(BaseModel):
    """What was written to the data's device since the start; estimates are absent until there is something to estimate
    from."""

    counted_by: str
    written_bytes: int
    bytes_a_reading: float | None
    tb_a_year: float | None
    card_years: float | None

    @classmethod
    def of(cls, wear: Wear) -> "WearView":
        return cls(
            counted_by=wear.source,
            written_bytes=wear.written_bytes,
            bytes_a_reading=None if wear.bytes_a_reading is None else round(wear.bytes_a_reading, 1),
            tb_a_year=None if wear.tb_a_year is None else round(wear.tb_a_year, 4),
            card_years=None if wear.years is None else round(wear.years, 1),
        )


class StatusView(BaseModel):
    """What runs here. Sizes in bytes, `uptime_s` in seconds."""

    gateway_id: str
    fingerprint: str
    version: str
    uptime_s: float
    broker: str
    readings: int
    devices: int
    data_bytes: int
    free_bytes: int
    wear: WearView


class AccessCommands:
    """Runs them. `status` is None where no gateway runs."""

    def __init__(
        self,
        tokens: Tokens,
        clock: Clock,
        status: Callable[[], Awaitable[StatusView]] | None = None,
    ) -> None:
        self._tokens, self._clock, self._status = tokens, clock, status

    def handlers(self) -> Mapping[type[Any], Handler]:
        found: dict[type[Any], Handler] = {
            TokenCreate: self._create,
            TokenList: self._list,
            TokenRevoke: self._revoke,
            TokenRotate: self._rotate,
        }
        return found | ({Status: self._show} if self._status is not None else {})

    async def _create(self, command: TokenCreate, _principal: Principal) -> Plan:
        lifetime, scope, name = command.expires_days, Scope[command.scope.upper()], command.name
        expires = self._clock.now() + timedelta(days=lifetime) if lifetime else None
        if not NAME.fullmatch(name):
            raise TokenError(
                f"{name!r} is no token name: 1 to 64 letters, digits and . _ @ -, not starting with a sign"
            )
        if name in self._tokens.live():
            raise TokenError(f"the name {name!r} is taken; choose another, or `gateway token revoke {name}` first")

        async def do() -> BaseModel:
            return Created(name=name, secret=await self._tokens.create(name, scope, expires))

        until = f"until {expires:%Y-%m-%d}" if expires else "without end"
        return Plan(f"would make token {name!r} with scope {scope}, {until}", do)

    async def _list(self, _command: TokenList, _principal: Principal) -> BaseModel:
        return TokenViews(
            tokens=[TokenView.of(row, self._tokens.renewed_until(row.token_id)) for row in await self._tokens.list()]
        )

    async def _revoke(self, command: TokenRevoke, _principal: Principal) -> Plan:
        scope = Scope(self._tokens.named(command.name).scope)

        async def do() -> BaseModel:
            await self._tokens.revoke(command.name)
            return Done(done=f"revoked {command.name}")

        return Plan(f"would revoke token {command.name!r} with scope {scope}", do)

    async def _rotate(self, command: TokenRotate, _principal: Principal) -> Plan:
        async def do() -> BaseModel:
            return Created(name=command.name, secret=await self._tokens.rotate(command.name))

        self._tokens.named(command.name)
        return Plan(f"would end the secret of token {command.name!r} and make another", do)

    async def _show(self, _command: Status, _principal: Principal) -> BaseModel:
        assert self._status is not None
        return await self._status()
