"""Logins at the local broker as commands: made, rotated, revoked, listed; and the authority of its TLS port."""

import base64
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import Any

from pydantic import BaseModel

from gateway.access.authority import Authority
from gateway.access.commands import (
    AuthorityView,
    NodeAdd,
    NodeAddPreview,
    NodeIssued,
    NodeLogins,
    NodeLoginView,
    NodeLoginViews,
    NodeRevoke,
    NodeRotate,
    ViewAuthority,
)
from gateway.access.logins import Logins, NodeKeys, topics_of
from gateway.access.principal import Principal
from gateway.command import Done
from gateway.control.base import Handler, Plan
from gateway.registry.registry import Registry
from gateway.store.login_rows import BrokerLogin


class LoginCommands:
    """Runs them. `connected` knows who is connected since when, `unguarded` why nobody has to log in ("" where
    everybody has); `authority` makes one where there is none."""

    def __init__(
        self,
        logins: Logins,
        keys: NodeKeys,
        registry: Registry,
        authority: Callable[[], Awaitable[Authority]],
        *,
        connected: Callable[[], Mapping[str, datetime]] = dict,
        unguarded: Callable[[], str] = str,
    ) -> None:
        self._logins, self._keys, self._registry, self._authority = logins, keys, registry, authority
        self._connected, self._unguarded = connected, unguarded

    def handlers(self) -> Mapping[type[Any], Handler]:
        return {
            NodeAdd: self._add,
            NodeRotate: self._rotate,
            NodeRevoke: self._revoke,
            NodeLogins: self._list,
            ViewAuthority: self._view,
        }

    async def _add(self, command: NodeAdd, _principal: Principal) -> Plan:
        old = self._logins.expect(command.device, command.write, command.read)
        ends = old is not None or self._keys.get(command.device) is not None
        what = "a login" if command.write or command.read else "a login and a key"

        async def do() -> BaseModel:
            return NodeIssued.of(await self._logins.add(command.device, command.write, command.read))

        would = f"this makes {what} for {command.device}{'; those that it has end' if ends else ''}"
        return Plan(would, do, NodeAddPreview(would=would, ends=ends))

    async def _rotate(self, command: NodeRotate, _principal: Principal) -> Plan:
        self._logins.expect_rotation(command.device, key=command.key)

        async def do() -> BaseModel:
            return NodeIssued.of(await self._logins.rotate(command.device, key=command.key))

        what = "password and the key" if command.key else "password"
        return Plan(f"this ends the {what} of {command.device} and makes another; until it has it, it is not heard", do)

    async def _revoke(self, command: NodeRevoke, _principal: Principal) -> Plan:
        login = self._logins.expect_end(command.device)

        async def do() -> BaseModel:
            note = await self._logins.revoke(command.device)
            return Done(done=f"{command.device} is not let in any more{'; ' if note else ''}{note}")

        key = " and its key" if login is None or login.kind == "node" else ""
        return Plan(f"this ends the login of {command.device}{key}, and disconnects it", do)

    async def _list(self, _command: NodeLogins, _principal: Principal) -> BaseModel:
        connected = self._connected()
        views = [self._login_view(row, connected) for row in self._logins.rows()]
        return NodeLoginViews(logins=views, note=self._unguarded() if views else "")

    def _login_view(self, row: BrokerLogin, connected: Mapping[str, datetime]) -> NodeLoginView:
        try:
            heard = self._registry.device(row.user).last_seen
        except LookupError:
            heard = None
        write, read = topics_of(row)
        return NodeLoginView(
            device=row.user,
            kind=row.kind,
            created=row.created,
            rotated=row.rotated,
            revoked=row.revoked,
            has_key=self._keys.get(row.user) is not None,
            connected_since=connected.get(row.user) if row.revoked is None else None,
            last_heard=heard,
            may_write=list(write),
            may_read=list(read),
        )

    async def _view(self, _command: ViewAuthority, _principal: Principal) -> BaseModel:
        found = await self._authority()
        return AuthorityView(pem=found.pem, der_base64=base64.b64encode(found.der).decode())
