"""The command line `gateway`: arguments in, one clear line out when something is wrong."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from gateway import __version__
from gateway.cli import provision_options, rollout_options

Command = Callable[[argparse.Namespace], int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 a fault that one line on standard error names, 2 usage."""
    options = _parser().parse_args(arguments)
    command: Command = options.run
    try:
        return command(options)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except Exception as error:
        from gateway.cli.faults import explain  # noqa: PLC0415 - what knows every error is loaded when there is one

        line = explain(error)
        if line is None:
            raise
        print(f"gateway: {line}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="gateway", description="An edge gateway for the air you breathe.")
    parser.add_argument("--version", action="version", version=f"gateway {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_run(commands)
    _add_token(commands)
    _add_lan(commands)
    _add_tools(commands)
    _add_calibrate(commands)
    _add_house(commands)
    _add_tool(commands)
    _add_firmware(commands)
    _add_backup(commands)
    _add_transfer(commands)
    return parser


def _lazily(module: str, function: str) -> Command:
    """A command that is imported when it is called: `connect` must not wait for DuckDB."""

    def call(options: argparse.Namespace) -> int:
        import importlib  # noqa: PLC0415

        result: int = getattr(importlib.import_module(f"gateway.cli.{module}"), function)(options)
        return result

    return call


def _add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="data folder (default: $AMBIENT_GATEWAY_DATA or ./data)"
    )


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def _add_run(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    run = commands.add_parser("run", help="start the gateway")
    run.add_argument("--config", type=Path, metavar="FILE", help="settings (default: gateway.toml where there is one)")
    _add_data(run)
    run.add_argument("--demo", action="store_true", help="replay a recording on simulated sensors; needs no hardware")
    run.add_argument("--http", metavar="HOST:PORT", help="where plain HTTP listens (default 0.0.0.0:8080)")
    run.add_argument("--https", metavar="HOST:PORT", help="where HTTPS listens (default 0.0.0.0:8443)")
    run.add_argument("--mqtt", metavar="HOST:PORT", help="where the broker listens (default auto:1883)")
    run.set_defaults(run=_lazily("run", "run"))
    check = commands.add_parser("check", help="check the settings, start nothing")
    check.add_argument("--config", type=Path, metavar="FILE")
    check.set_defaults(run=_lazily("run", "check"))
    status = commands.add_parser("status", help="what the running gateway says of itself")
    _add_data(status)
    _add_json(status)
    status.set_defaults(run=_lazily("access", "status"))


def _add_token(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    token = commands.add_parser("token", help="access tokens of assistants and people")
    kinds = token.add_subparsers(required=True, metavar="create|list|rotate|revoke")
    create = kinds.add_parser("create", help="make a token; it is printed once, alone on standard output")
    create.add_argument("name")
    create.add_argument("--scope", choices=("read", "control", "admin"), required=True)
    create.add_argument("--expires-days", "--days", dest="days", type=int, metavar="N", help="let it expire")
    _add_data(create)
    create.set_defaults(run=_lazily("access", "token_create"))
    listing = kinds.add_parser("list", help="all tokens, never their secrets")
    _add_data(listing)
    _add_json(listing)
    listing.set_defaults(run=_lazily("access", "token_list"))
    rotate = kinds.add_parser("rotate", help="another secret for a token; the one before is refused from now on")
    rotate.add_argument("name")
    _add_data(rotate)
    rotate.set_defaults(run=_lazily("access", "token_rotate"))
    revoke = kinds.add_parser("revoke", help="refuse a token from now on")
    revoke.add_argument("name")
    _add_data(revoke)
    revoke.set_defaults(run=_lazily("access", "token_revoke"))
    _add_pairing(commands)
    _add_node(commands)


def _add_node(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    node = commands.add_parser("node", help="ESP32 nodes, and who else may speak to the broker")
    acts = node.add_subparsers(required=True, metavar="add|rotate|revoke|list|ca|command|identify|provision")
    add = acts.add_parser("add", help="make a key and a login at the broker for a node; both are printed once")
    for name in ("write", "read"):
        what = f"of another maker's device: what it may {name}, as in 'tele/plug-1/#'; may be repeated"
        add.add_argument(f"--{name}", action="append", default=[], metavar="TOPIC", help=what)
    rotate = acts.add_parser("rotate", help="another password for a login, printed alone; the one before ends at once")
    rotate.add_argument("--key", action="store_true", help="another key too")
    revoke = acts.add_parser("revoke", help="end a login and the node's key, and disconnect it at once")
    acts.add_parser("list", help="who has a login, since when, and who is connected; never their secrets")
    authority = acts.add_parser("ca", help="print the certificate that nodes trust for MQTT over TLS, as PEM")
    authority.add_argument("--der", action="store_true", help="its bytes, as a node reads them")
    revoke.add_argument("--yes", action="store_true", help="it cannot be undone")
    for kind in (add, rotate, revoke):
        kind.add_argument("device", metavar="ID")
        kind.add_argument("--dry-run", action="store_true", help="say what would be done")
    for name, kind in acts.choices.items():
        _add_data(kind)
        if name != "ca":
            _add_json(kind)
        kind.set_defaults(run=_lazily("nodes", f"node_{name}"))
    _add_orders(acts)
    provision = provision_options.add(acts, _lazily)
    _add_data(provision)
    _add_json(provision)


def _add_orders(acts: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = acts.add_parser("command", help="tell a node to do something; its result is printed as JSON")
    identify = acts.add_parser("identify", help="let a node blink")
    for kind in (command, identify):
        kind.add_argument("device", metavar="ID")
        kind.add_argument(
            "--timeout", dest="timeout_s", type=float, default=10.0, metavar="S", help="how long to wait (default 10)"
        )
        kind.add_argument("--dry-run", action="store_true", help="say what would be sent")
        _add_data(kind)
        _add_json(kind)
    identify.add_argument("--seconds", type=float, default=10.0, metavar="S", help="1 to 600 (default 10)")
    known = "restart, set_interval interval_s=30 [sensor=NAME], get_diagnostics, show_calibration [sensor=NAME], …"
    command.add_argument("command_name", metavar="NAME", help=known)
    command.add_argument("arguments", nargs="*", metavar="KEY=VALUE", help="JSON, or text where it is none")
    command.set_defaults(run=_lazily("orders", "node_command"))
    identify.set_defaults(run=_lazily("orders", "node_identify"))


def _add_pairing(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    scopes = ("read", "control", "admin")
    pair = commands.add_parser("pair", help="let one browser or assistant in: a code for two minutes, printed alone")
    pair.add_argument("--scope", choices=scopes, default="read", help="what it may do (default: read)")
    pair.set_defaults(run=_lazily("pairing", "pair"))
    _add_json(pair)
    approve = commands.add_parser("approve", help="let in the app that shows CODE")
    approve.add_argument("code", metavar="CODE")
    approve.add_argument("--deny", action="store_true", help="refuse it")
    approve.add_argument("--scope", choices=scopes, help="at most this (default: what it asks for)")
    approve.set_defaults(run=_lazily("pairing", "approve"))
    for kind in (pair, approve):
        _add_data(kind)


def _add_lan(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    discover = commands.add_parser("discover", help="list the gateways on this network")
    discover.add_argument("--seconds", type=float, default=3.0, help="how long to listen (default 3)")
    _add_json(discover)
    discover.set_defaults(run=_lazily("lan", "discover"))
    connect = commands.add_parser("connect", help="bridge an assistant's stdio to a gateway on this network")
    connect.add_argument("--url", help="the MCP address instead of finding one by mDNS")
    connect.add_argument("--token", help="access token (default: $AMBIENT_GATEWAY_TOKEN, else the one paired before)")
    connect.add_argument("--fingerprint", metavar="SHA256", help="trust exactly this certificate and remember it")
    connect.add_argument("--gateway", metavar="ID", help="which gateway, where there are several")
    connect.add_argument("--insecure", action="store_true", help="with --url: send the token over plain HTTP")
    connect.set_defaults(run=_lazily("lan", "connect"))


def _add_tools(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    drivers = commands.add_parser("drivers", help="list the sensor drivers that are installed")
    _add_json(drivers)
    drivers.set_defaults(run=_lazily("tools", "drivers"))
    scan = commands.add_parser("scan", help="look for sensors on this machine's wires, print the settings for them")
    scan.add_argument("--config", type=Path, metavar="FILE", help="settings (default: gateway.toml)")
    scan.add_argument("--write", action="store_true", help="add the wired sensors that are found to the settings")
    _add_json(scan)
    scan.set_defaults(run=_lazily("scan", "scan_command"))
    simulate = commands.add_parser("simulate", help="run ESP32-like nodes against a broker")
    simulate.add_argument("--nodes", type=int, metavar="N", help="how many (default: all that --logins has)")
    simulate.add_argument("--mqtt", required=True, metavar="HOST:PORT")
    simulate.add_argument("--interval", type=float, default=60.0, metavar="S", help="seconds between a node's messages")
    simulate.add_argument(
        "--logins",
        "--keys",
        type=Path,
        metavar="FILE",
        help="a line for each node, as `gateway node add --json` prints",
    )
    simulate.add_argument("--report", type=float, default=10.0, metavar="S", help="seconds between lines that sum up")
    simulate.add_argument("--seconds", type=float, metavar="S", help="end after so long, once all is acknowledged")
    _add_json(simulate)
    simulate.set_defaults(run=_lazily("simulate", "simulate"))


def _add_calibrate(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    calibrate = commands.add_parser("calibrate", help="look at and change a CO2 sensor's calibration")
    calibrate.add_argument("target", metavar="DEVICE/SENSOR", help="as in attic/scd30")
    kinds = calibrate.add_subparsers(required=True, metavar="show|frc|asc|offset|altitude|pressure")
    show = kinds.add_parser("show", help="what the sensor holds now")
    show.set_defaults(run=_lazily("calibrate", "show"))
    frc = kinds.add_parser("frc", help="take the air it measures now as PPM (forced recalibration)")
    frc.add_argument("value", type=int, metavar="PPM", help="400 to 2000; outdoor air has about 425")
    asc = kinds.add_parser("asc", help="self-calibration: takes the lowest value of some days as fresh air")
    asc.add_argument("value", choices=("on", "off"))
    offset = kinds.add_parser("offset", help="subtract DEGC from the temperature")
    offset.add_argument("value", type=float, metavar="DEGC", help="0 to 655.35")
    altitude = kinds.add_parser("altitude", help="metres above sea level, where no pressure is set")
    altitude.add_argument("value", type=int, metavar="M")
    pressure = kinds.add_parser(
        "pressure", help="station pressure, never reduced to sea level; `off` to use the altitude"
    )
    pressure.add_argument("value", metavar="HPA|off", help="700 to 1400")
    for name, kind in kinds.choices.items():
        _add_data(kind)
        _add_json(kind)
        if name != "show":
            kind.add_argument("--dry-run", action="store_true", help="say what would be done")
            kind.add_argument("--force", action="store_true", help="overrule what is a matter of judgement")
            kind.set_defaults(run=_lazily("calibrate", "change"), kind=name)


def _add_house(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    device = commands.add_parser("device", help="devices: what is known of them, and whose they are")
    kinds = device.add_subparsers(required=True, metavar="list|update|claim|delete")
    kinds.add_parser("list", help="every device with its status")
    update = kinds.add_parser("update", help="say what a device is called and where it is")
    claim = kinds.add_parser("claim", help="say that a device is ours; a node's key is printed once, alone")
    kinds.add_parser("delete", help="forget a device with all of its readings, for good")
    for kind in (update, claim):
        kind.add_argument("--name")
        kind.add_argument("--zone", metavar="ID")
    for name in ("location", "building", "floor", "type"):
        update.add_argument(f"--{name}")
    update.add_argument("--status", choices=("active", "decommissioned"))
    update.add_argument("--reason", default="", help="why the status changes; the audit keeps it")
    _add_acts(kinds, "house", "device", target="device", dry=("update", "delete"))
    zone = commands.add_parser("zone", help="zones: the places that devices belong to")
    acts = zone.add_subparsers(required=True, metavar="list|save|delete")
    acts.add_parser("list", help="every zone and its devices")
    save = acts.add_parser("save", help="make a zone, change one, or put devices into it")
    for name in ("name", "building", "floor", "description"):
        save.add_argument(f"--{name}")
    save.add_argument("--area", dest="area_sqm", type=float, metavar="SQM", help="in square metres")
    save.add_argument(
        "--device", action="append", default=[], metavar="ID", help="put it into the zone; may be repeated"
    )
    acts.add_parser("delete", help="forget a zone; its devices stay")
    _add_acts(acts, "house", "zone", target="zone", dry=("save", "delete"))


def _add_tool(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    tool = commands.add_parser("tool", help="dynamic tools: functions that were added for assistants")
    kinds = tool.add_subparsers(required=True, metavar="list|show|approve|remove")
    kinds.add_parser("list", help="every version, whether it runs, and its use")
    show = kinds.add_parser("show", help="the code of a version, alone on standard output")
    approve = kinds.add_parser("approve", help="let exactly this version run")
    kinds.add_parser("remove", help="remove a tool with all its versions")
    _add_acts(kinds, "house", "tool", target="name", dry=("remove",))
    show.add_argument("--version", type=int, metavar="N", help="default: the last one")
    approve.add_argument("version", type=int, metavar="VERSION")
    approve.add_argument("sha256", metavar="SHA256", help="as `gateway tool list` shows it")


def _add_firmware(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    firmware = commands.add_parser("firmware", help="programs for ESP32 nodes: bundles, and whose are taken")
    kinds = firmware.add_subparsers(required=True, metavar="trust|add|list|update|rollouts|…")
    trust = kinds.add_parser("trust", help="take bundles that this key signed; `make firmware` prints the line")
    trust.add_argument("key", metavar="KEYHEX", help="an Ed25519 public key, 64 hexadecimal digits")
    trust.add_argument("--name", required=True, metavar="NAME", help="whose it is")
    distrust = kinds.add_parser("distrust", help="take no more bundles of a key, and give its bundles to nobody")
    distrust.add_argument("key", metavar="NAME|KEYHEX")
    keys = kinds.add_parser("keys", help="every key whose bundles are taken")
    add = kinds.add_parser("add", help="take a bundle in that `make firmware` wrote; its digest is printed alone")
    add.add_argument("bundle", metavar="BUNDLE")
    listing = kinds.add_parser("list", help="every bundle that is here")
    remove = kinds.add_parser("remove", help="forget a bundle that nothing uses")
    remove.add_argument("firmware", metavar="VERSION|DIGEST")
    remove.add_argument("--yes", action="store_true", help="it is meant")
    for kind, function in ((trust, "trust"), (distrust, "distrust"), (keys, "keys"), (add, "add"), (remove, "remove")):
        if kind is not keys:
            kind.add_argument("--dry-run", action="store_true", help="say what would be done")
        kind.set_defaults(run=_lazily("firmware", function))
    listing.set_defaults(run=_lazily("firmware", "listing"))
    rollout_options.add(kinds, _lazily)
    for kind in kinds.choices.values():
        _add_data(kind)
        _add_json(kind)


def _add_acts(
    kinds: "argparse._SubParsersAction[argparse.ArgumentParser]",
    module: str,
    thing: str,
    *,
    target: str,
    dry: Sequence[str],
) -> None:
    """What the acts on a thing share: its name, --data, --json, and --yes where it cannot be undone."""
    for name, kind in kinds.choices.items():
        _add_data(kind)
        _add_json(kind)
        if name != "list":
            kind.add_argument(target, metavar=thing.upper())
        if name in {"delete", "remove"}:
            kind.add_argument("--yes", action="store_true", help="it cannot be undone")
        if name in dry:
            kind.add_argument("--dry-run", action="store_true", help="say what would be done")
        kind.set_defaults(run=_lazily(module, f"{thing}_{name}"))


def _add_backup(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    backup = commands.add_parser("backup", help="copy everything, as of one moment, while the gateway runs")
    backup.add_argument("target", metavar="PLACE", help="FOLDER/ gets what it has not got yet; FILE.tar is complete")
    backup.add_argument(
        "--verify", action="store_true", help="write nothing: compare PLACE with what was written there"
    )
    backup.add_argument("--no-keys", action="store_true", help="leave identity, tokens and node keys out, do not ask")
    backup.set_defaults(run=_lazily("backup", "backup_command"))
    restore = commands.add_parser("restore", help="bring a backup back")
    restore.add_argument("source", metavar="PLACE", help="a backup's file or folder")
    restore.add_argument("--settings-only", action="store_true", help="settings, identity and tokens; no readings")
    restore.add_argument("--force", action="store_true", help="move what is there aside")
    restore.set_defaults(run=_lazily("backup", "restore_command"))
    for kind in (backup, restore):
        kind.add_argument("--passphrase-file", type=Path, metavar="FILE", help="its first line is the passphrase")
        kind.add_argument("--config", type=Path, metavar="FILE", help="settings (default: gateway.toml)")
        _add_data(kind)
        _add_json(kind)


def _add_transfer(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    export = commands.add_parser("export", help="write readings into a CSV or Parquet file")
    export.add_argument("file", type=Path, metavar="FILE", help="its name ends in .csv or .parquet")
    export.add_argument("--start", metavar="TIME", help="a date, a time (the site's unless it has an offset), or 7d")
    export.add_argument("--end", metavar="TIME", help="the same; readings from before it")
    export.add_argument("--device", metavar="ID", help="only this device")
    export.add_argument("--metric", metavar="NAME", help="only this metric, such as co2")
    export.add_argument("--bucket", metavar="SPAN", help="figures of spans of UTC instead: 15m, 1h, 1d")
    export.add_argument("--config", type=Path, metavar="FILE", help="settings, for the site's time zone")
    export.set_defaults(run=_lazily("transfer", "export_command"))
    forget = commands.add_parser("forget", help="delete every reading of a device, for good")
    forget.add_argument("device", metavar="DEVICE")
    forget.add_argument("--yes", action="store_true", help="it cannot be undone")
    forget.set_defaults(run=_lazily("access", "forget"))
    _add_data(forget)
    take_in = commands.add_parser("import", help="store readings of a CSV or Parquet file that are not stored yet")
    take_in.add_argument("file", type=Path, metavar="FILE")
    take_in.set_defaults(run=_lazily("transfer", "import_command"))
    for kind in (export, take_in):
        _add_data(kind)
        _add_json(kind)


if __name__ == "__main__":
    sys.exit(main())
