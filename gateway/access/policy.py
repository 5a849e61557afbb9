"""Who may do what. Actions are data; whatever is not in the table is denied."""

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from gateway.access.principal import Principal, Scope


class Risk(StrEnum):
    """What an action can do to the house; shown to assistants with each tool."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


class Plain(StrEnum):
    """What HTTP without TLS may do off loopback."""

    OFF = "off"
    READ = "read"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class Action:
    """Something a principal may ask for. `write` actions are audited, allowed or not; `destructive` ones cannot be
    undone and need to be confirmed; `own` ones change what belongs to the caller alone. A `tool` is listed to those who
    ask for its `toolset`."""

    name: str
    scope: Scope
    risk: Risk = Risk.LOW
    write: bool = False
    destructive: bool = False
    tool: bool = False
    toolset: str = "core"
    own: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """A verdict with its reason, one line that names the way out where it is a no."""

    allowed: bool
    reason: str


def _table(actions: Iterable[Action]) -> dict[str, Action]:
    return {action.name: action for action in actions}


def _reads(toolset: str, *names: str, scope: Scope = Scope.READ, risk: Risk = Risk.LOW) -> tuple[Action, ...]:
    return tuple(Action(name, scope, risk, tool=True, toolset=toolset) for name in names)


def _writes(
    toolset: str, scope: Scope, *names: str, risk: Risk = Risk.MEDIUM, destructive: bool = False
) -> tuple[Action, ...]:
    return tuple(
        Action(name, scope, risk, write=True, destructive=destructive, tool=True, toolset=toolset) for name in names
    )


ACTIONS: dict[str, Action] = _table(
    (
        *_reads("core", "list_devices", "get_device", "find", "list_zones", "list_sensors", "get_latest_readings"),
        *_reads("core", "get_time_series", "get_statistics", "detect_anomalies", "get_database_schema"),
        *_reads("core", "execute_sql_query"),
        *_reads("core", "analyze_data", "create_plot", risk=Risk.MEDIUM),
        *_reads("core", "list_active_alerts", "get_task"),
        *_reads("explore", "get_zone_snapshot", "compare_periods", "list_events", "plot"),
        Action("clear_query_cache", Scope.READ, tool=True, toolset="explore", own=True),
        *_reads("explore", "get_tool_risk_metadata", "whoami"),
        Action("set_context", Scope.READ, tool=True, toolset="explore", own=True),
        *_reads("explore", "list_audit", scope=Scope.ADMIN),
        *_writes("devices", Scope.CONTROL, "update_device", "claim_device"),
        *_writes("devices", Scope.CONTROL, "delete_device", risk=Risk.HIGH, destructive=True),
        *_writes("devices", Scope.CONTROL, "save_zone"),
        *_writes("devices", Scope.CONTROL, "delete_zone", risk=Risk.HIGH, destructive=True),
        *_writes("devices", Scope.CONTROL, "send_command", risk=Risk.HIGH),
        *_writes("calibration", Scope.CONTROL, "calibrate_sensor", risk=Risk.HIGH, destructive=True),
        *_writes("export", Scope.CONTROL, "export_data", "cancel_task"),
        *_reads("firmware", "list_firmware", "get_rollout"),
        *_writes("firmware", Scope.ADMIN, "initiate_firmware_update", risk=Risk.HIGH, destructive=True),
        *_writes("firmware", Scope.ADMIN, "pause_rollout"),
        *_writes("firmware", Scope.ADMIN, "resume_rollout", "abort_rollout", risk=Risk.HIGH),
        *_reads("tokens", "list_tokens", scope=Scope.ADMIN),
        *_writes("tokens", Scope.ADMIN, "create_token", risk=Risk.HIGH),
        *_writes("tokens", Scope.ADMIN, "revoke_token", risk=Risk.HIGH, destructive=True),
        *_reads("nodes", "list_node_logins", scope=Scope.ADMIN),
        *_writes("nodes", Scope.ADMIN, "rotate_node_login", risk=Risk.HIGH),
        *_writes("nodes", Scope.ADMIN, "revoke_node_login", risk=Risk.HIGH, destructive=True),
        *_reads("dynamic", "list_dynamic_tools", "call_dynamic_tool"),
        *_writes("dynamic", Scope.ADMIN, "register_dynamic_tool", "approve_dynamic_tool", risk=Risk.HIGH),
        *_writes("dynamic", Scope.ADMIN, "remove_dynamic_tool", risk=Risk.HIGH, destructive=True),
        *_reads("queries", "list_saved_queries", "run_saved_query"),
        *_writes("queries", Scope.ADMIN, "save_query"),
        *_writes("queries", Scope.ADMIN, "delete_saved_query", destructive=True),
        Action("mcp", Scope.READ),
        Action("download_file", Scope.READ),
        Action("upload_file", Scope.CONTROL, Risk.MEDIUM, write=True),
        Action("append_file", Scope.CONTROL),
        Action("remove_file", Scope.CONTROL, Risk.MEDIUM, write=True),
        Action("view_page", Scope.READ),
        Action("view_metrics", Scope.READ),
        Action("view_readiness", Scope.READ),
        Action("view_status", Scope.READ),
        Action("await_reading", Scope.READ),
        Action("open_pairing", Scope.ADMIN, Risk.HIGH, write=True),
        Action("approve_app", Scope.ADMIN, Risk.HIGH, write=True),
        Action("rotate_token", Scope.ADMIN, Risk.HIGH, write=True, destructive=True),
        Action("add_node", Scope.ADMIN, Risk.MEDIUM, write=True),
        Action("view_authority", Scope.READ),
        Action("forget_readings", Scope.ADMIN, Risk.HIGH, write=True, destructive=True),
        Action("take_snapshot", Scope.ADMIN, Risk.MEDIUM, write=True),
        Action("begin_import", Scope.ADMIN, Risk.MEDIUM, write=True),
        Action("import_rows", Scope.ADMIN, Risk.MEDIUM),
        Action("end_import", Scope.ADMIN),
        Action("trust_firmware_key", Scope.ADMIN, Risk.HIGH, write=True),
        Action("distrust_firmware_key", Scope.ADMIN, Risk.HIGH, write=True),
        Action("list_firmware_keys", Scope.ADMIN),
        Action("add_firmware", Scope.ADMIN, Risk.HIGH, write=True),
        Action("list_node_firmware", Scope.READ),
        Action("list_rollouts", Scope.READ),
        Action("remove_firmware", Scope.ADMIN, Risk.HIGH, write=True, destructive=True),
        Action("show_calibration", Scope.READ),
        Action("recalibrate_sensor", Scope.CONTROL, Risk.HIGH, write=True),
        Action("set_self_calibration", Scope.CONTROL, Risk.HIGH, write=True),
        Action("set_temperature_offset", Scope.CONTROL, Risk.MEDIUM, write=True),
        Action("set_altitude", Scope.CONTROL, Risk.MEDIUM, write=True),
        Action("set_pressure", Scope.CONTROL, Risk.MEDIUM, write=True),
    )
)
"""Every action there is; tools are listed in this order. `mcp` is the protocol itself: resources, prompts, completions,
subscriptions."""
TOOLSETS: tuple[str, ...] = tuple(dict.fromkeys(action.toolset for action in ACTIONS.values() if action.tool))
"""What may stand in `/mcp?toolsets=`; `all` means every one of them."""


def allow(principal: Principal | None, action: str | Action, *, secure: bool, plain: Plain = Plain.READ) -> Decision:
    """Whether this principal may do this over this transport: an action of the table by its name, or one that came at
    run time (a dynamic tool). `secure` means TLS or loopback; pure."""
    known = ACTIONS.get(action) if isinstance(action, str) else action
    if known is None:
        return Decision(False, f"there is no action {action!r}")
    action = known.name
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
