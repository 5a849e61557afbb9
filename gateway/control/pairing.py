"""First contact as commands: open a pairing window, decide about an app that waits. A button may run the same."""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from gateway.access.desk import Desk
from gateway.access.grants import GrantError
from gateway.access.pairing import WINDOW_S
from gateway.access.principal import Principal, Scope
from gateway.command import ControlError, Done, Write
from gateway.control.base import Handler, Plan


class PairingOpen(Write):
    """Open a pairing window for two minutes, in place of one that is open."""

    command: Literal["open_pairing"] = "open_pairing"
    scope: Literal["read", "control", "admin"] = "read"

    @property
    def detail(self) -> str:
        return f"scope {self.scope}"


class AppDecide(Write):
    """Let in (with `scope`, at most what it asked for) or refuse the app that shows this code."""

    command: Literal["approve_app"] = "approve_app"
    user_code: Annotated[str, Field(min_length=8, max_length=16)]
    deny: bool = False
    scope: Literal["read", "control", "admin"] | None = None

    @property
    def target(self) -> str:
        return self.user_code

    @property
    def detail(self) -> str:
        return "refused" if self.deny else f"scope {self.scope or 'as asked'}"


class PairingView(BaseModel):
    """An open window: type the code at one of the addresses, whose certificate has this fingerprint."""

    code: str
    scope: str
    addresses: list[str]
    fingerprint: str
    open_s: float


class PairingCommands:
    """Runs them; `addresses` are those of the pairing page, best first."""

    def __init__(self, desk: Desk, addresses: Callable[[], Sequence[str]], fingerprint: str) -> None:
        self._desk, self._addresses, self._fingerprint = desk, addresses, fingerprint

    def handlers(self) -> Mapping[type[Any], Handler]:
        return {PairingOpen: self._open, AppDecide: self._decide}

    async def _open(self, command: PairingOpen, principal: Principal) -> Plan:
        scope = Scope[command.scope.upper()]

        async def do() -> BaseModel:
            code = self._desk.pairing.open(principal.name, scope)
            return PairingView(
                code=code,
                scope=command.scope,
                addresses=list(self._addresses()),
                fingerprint=self._fingerprint,
                open_s=WINDOW_S,
            )

        return Plan(f"would open a pairing window for scope {scope}, two minutes long", do)

    async def _decide(self, command: AppDecide, principal: Principal) -> Plan:
        grants = self._desk.grants
        found = grants.waiting(command.user_code)
        if found is None:
            raise ControlError(f"no app waits with the code {command.user_code!r}; codes live ten minutes")
        scope = Scope[command.scope.upper()] if command.scope else None

        async def do() -> BaseModel:
            try:
                name, granted = await grants.decide(
                    command.user_code, principal, approve=not command.deny, scope=scope, tell=False
                )
            except GrantError as error:
                raise ControlError(str(error)) from error
            return Done(done=f"refused {name}" if command.deny else f"{name} is let in with scope {granted}")

        what = "refuse" if command.deny else f"grant scope {min(found.scope, scope or found.scope)} to"
        return Plan(f"would {what} the app that calls itself {found.client!r}", do)
