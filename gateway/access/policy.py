"""Who may do what. Actions are data; whatever is not in the table is denied."""

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from gateway.access.principal import Principal, Scope


class Risk(StrEnum):
    """What an action can do to the house; shown to assistants with each tool."""

    NONE = "none"
    REVERSIBLE = "reversible"
    DESTRUCTIVE = "destructive"


class Plain(StrEnum):
    """What HTTP without TLS may do off loopback."""

    OFF = "off"
    READ = "read"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class Action:
    """Something a principal may ask for. `write` actions are audited, allowed or not."""

    name: str
    scope: Scope
    risk: Risk = Risk.NONE
    write: bool = False
    tool: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """A verdict with its reason, one line that names the way out where it is a no."""

    allowed: bool
    reason: str


def _table(actions: Iterable[Action]) -> dict[str, Action]:
    return {action.name: action for action in actions}


ACTIONS: dict[str, Action] = _table(
    (
        Action("list_devices", Scope.READ, tool=True),
        Action("list_sensors", Scope.READ, tool=True),
        Action("get_latest_readings", Scope.READ, tool=True),
        Action("get_time_series", Scope.READ, tool=True),
        Action("get_statistics", Scope.READ, tool=True),
        Action("get_database_schema", Scope.READ, tool=True),
        Action("mcp", Scope.READ),
        Action("view_page", Scope.READ),
        Action("view_metrics", Scope.READ),
        Action("view_readiness", Scope.READ),
        Action("view_status", Scope.READ),
        Action("list_tokens", Scope.ADMIN),
        Action("create_token", Scope.ADMIN, Risk.REVERSIBLE, write=True),
        Action("revoke_token", Scope.ADMIN, Risk.REVERSIBLE, write=True),
        Action("add_node", Scope.ADMIN, Risk.REVERSIBLE, write=True),
        Action("forget_readings", Scope.ADMIN, Risk.DESTRUCTIVE, write=True),
        Action("take_snapshot", Scope.ADMIN, Risk.REVERSIBLE, write=True),
        Action("begin_import", Scope.ADMIN, Risk.REVERSIBLE, write=True),
        Action("import_rows", Scope.ADMIN, Risk.REVERSIBLE),
        Action("end_import", Scope.ADMIN),
        Action("show_calibration", Scope.READ),
        Action("recalibrate_sensor", Scope.CONTROL, Risk.DESTRUCTIVE, write=True),
        Action("set_self_calibration", Scope.CONTROL, Risk.DESTRUCTIVE, write=True),
        Action("set_temperature_offset", Scope.CONTROL, Risk.REVERSIBLE, write=True),
        Action("set_altitude", Scope.CONTROL, Risk.REVERSIBLE, write=True),
        Action("set_pressure", Scope.CONTROL, Risk.REVERSIBLE, write=True),
    )
)
"""Every action there is. `mcp` is the protocol itself: resources, prompts, completions, subscriptions."""


def allow(principal: Principal | None, action: str, *, secure: bool, plain: Plain = Plain.READ) -> Decision:
    """Whether this principal may do this over this transport. `secure` means TLS or loopback; pure."""
    known = ACTIONS.get(action)
    if known is None:
        return Decision(False, f"there is no action {action!r}")
    if principal is None:
        return Decision(False, "a token is needed; make one with `gateway token create NAME --scope read`")
    if principal.scope < known.scope:
        return Decision(
            False, f"{action} needs scope {known.scope}, {principal.name!r} has {principal.scope}; use another token"
        )
    if not secure and plain is Plain.OFF:
        return Decision(False, "plain HTTP is off on this gateway; use its HTTPS address")
    if not secure and plain is Plain.READ and known.scope > Scope.READ:
        return Decision(False, f"{action} needs TLS or loopback; plain HTTP serves read only, use the HTTPS address")
    return Decision(True, f"scope {principal.scope} covers {known.scope}")


def is_loopback(address: str) -> bool:
    """Whether an address in text form is this machine's own; False for whatever is no address."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(parsed, "ipv4_mapped", None)
    return bool((mapped or parsed).is_loopback)
