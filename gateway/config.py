"""The gateway's settings: frozen values from one TOML file and the environment. Unknown keys are errors."""

import os
import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

ENVIRONMENT = "AMBIENT_GATEWAY_"
"""AMBIENT_GATEWAY_<SECTION>_<KEY> overrides a setting of the file: AMBIENT_GATEWAY_HTTP_PORT=8081."""

NOT_SETTINGS = frozenset({f"{ENVIRONMENT}TOKEN", f"{ENVIRONMENT}DATA", f"{ENVIRONMENT}PASSPHRASE"})
"""Variables of the command line that share the prefix."""


class ConfigError(Exception):
    """A setting is wrong; the message is one line per fault: where, what, the rule, the way out."""


def _time_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise ValueError(f"unknown time zone {name!r}; use a name such as 'Europe/Berlin'") from error
    return name


def _system_zone() -> str:
    """The machine's own zone (what /etc/localtime points to), UTC where that tells nothing."""
    name = os.path.realpath("/etc/localtime").partition("/zoneinfo/")[2]
    return name if name and not name.startswith("Etc/") else "UTC"


Id = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
Port = Annotated[int, Field(ge=0, le=65535)]


class Section(BaseModel):
    """What all parts of the configuration share."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Site(Section):
    """The house this gateway stands in."""

    name: str = "Ambient Gateway"
    timezone: Annotated[str, AfterValidator(_time_zone)] = Field(default_factory=_system_zone)


class Http(Section):
    """Where people and assistants ask. `plain` says what HTTP without TLS may do off loopback."""

    host: str = "0.0.0.0"  # noqa: S104 - the gateway exists to be found on the LAN
    port: Port = 8080
    https_host: str = "0.0.0.0"  # noqa: S104
    https_port: Port = 8443
    plain: Literal["off", "read", "all"] = "read"
    allowed_hosts: tuple[str, ...] = ()


class Access(Section):
    """Who may ask, and how often.

    `household = "read"` lets whoever comes from the house's own network (private addresses) read without a token.
    Each principal may ask `burst` times at once and `requests_per_s` after that (0: no limit); of one address at most
    `waiting_connections` connections are kept that say nothing.
    """

    household: Literal["off", "read"] = "off"
    requests_per_s: Annotated[float, Field(ge=0)] = 20.0
    burst: Annotated[float, Field(ge=1)] = 60.0
    waiting_connections: Annotated[int, Field(ge=1, le=1000)] = 64


class Mqtt(Section):
    """The broker: `auto` takes mosquitto where it is installed and the embedded one otherwise.

    `host = "auto"` listens on loopback for anybody until the first login is made (`gateway node add`), and from then on
    on every address for logins only; another address than loopback is for logins only from the start. `tls_port` is
    for MQTT over TLS beside it, 8883 as a rule (0: none).
    `dialects` names those of other makers that are understood, each with its topic prefix ("" for its own).
    `home_assistant` tells Home Assistant of our devices, by its discovery topics on the same broker.
    A device may say `device_messages_per_s` after a burst of `device_burst`, more than a ring of a day (0 messages: no
    limit); what is above it is not taken: numbered messages come again, others are lost, and both are counted. Not more
    than `max_devices` are heard; who is known keeps its place.
    """

    broker: Literal["auto", "mosquitto", "embedded", "external", "off"] = "auto"
    host: str = "auto"
    port: Port = 1883
    tls_port: Port = 0
    username: str | None = None
    password_file: Path | None = None
    client_id: Id = "ambient-gateway"
    dialects: Mapping[Literal["tasmota", "esphome", "zigbee2mqtt", "theengs"], str] = Field(default_factory=dict)
    home_assistant: bool = False
    device_messages_per_s: Annotated[float, Field(ge=0)] = 100.0
    device_burst: Annotated[int, Field(ge=1)] = 20_000
    max_devices: Annotated[int, Field(ge=1)] = 5000


class Ntp(Section):
    """The time for nodes: they ask the host of their broker. `port` 0: nobody is answered; `host` is that of [mqtt]
    unless it is said here."""

    port: Port = 123
    host: str | None = None


class RetentionSettings(Section):
    """Raw readings of this metric, this device or both (neither: all) live so many days; 15-minute rollups stay. The
    first rule that fits a series counts; without one raw readings stay too."""

    raw_days: Annotated[int, Field(ge=1)]
    metric: str | None = None
    device: Id | None = None


class StoreSettings(Section):
    """The embedded DuckDB store, its batches, and what it may take of the card.

    A batch is written when it has `batch_rows` readings, or `flush_interval_s` after the first of them. With
    `flush_on_idle` it is written as soon as senders pause, `idle_commits_per_s` times a second at most, so that nodes
    hear within a second that their readings are safe; at 100 readings/s each then costs the card 374 bytes instead of
    74 (`python -m bench bytes`, with the setting in the environment).
    `hot_rows` is how many readings wait unsealed at most before the hour is over. Below `warn_free_mb` of free space
    an event says so, below `least_free_mb` the oldest raw readings give way to their rollups. `card_rating_tb` is
    what the card's maker rates it for (terabytes written), for the estimate of its life.
    """

    memory_limit_mb: Annotated[int, Field(ge=64)] = 128
    threads: Annotated[int, Field(ge=1)] = 2
    batch_rows: Annotated[int, Field(ge=1)] = 1000
    flush_interval_s: Annotated[float, Field(gt=0)] = 5.0
    flush_on_idle: bool = False
    idle_commits_per_s: Annotated[float, Field(gt=0, le=20)] = 2.0
    hot_rows: Annotated[int, Field(ge=1000)] = 500_000
    warn_free_mb: Annotated[int, Field(ge=0)] = 1024
    least_free_mb: Annotated[int, Field(ge=0)] = 256
    card_rating_tb: Annotated[float, Field(gt=0)] | None = None
    retention: tuple[RetentionSettings, ...] = ()


class Updates(Section):
    """How long a step of a node's update may take without a word, and how often an offer is made. Who is offline is
    waited for `offline_s`; a good reading has to come within `fresh_s` of its confirmation."""

    tries: Annotated[int, Field(ge=1, le=20)] = 3
    answer_s: Annotated[float, Field(gt=0)] = 60.0
    download_s: Annotated[float, Field(gt=0)] = 1200.0
    install_s: Annotated[float, Field(gt=0)] = 300.0
    test_s: Annotated[float, Field(gt=0)] = 1200.0
    fresh_s: Annotated[float, Field(gt=0)] = 1800.0
    offline_s: Annotated[float, Field(gt=0)] = 86_400.0


class ClockSettings(Section):
    """`require` refuses to start on a clock that was never set; false stores such readings as uncertain."""

    require: bool = True


class Discovery(Section):
    """Announce the gateway by mDNS."""

    mdns: bool = True


class SensorSettings(Section):
    """One chip: its driver, the bus it hangs on, how often it is read, the driver's own options."""

    driver: str
    bus: str
    name: Id | None = None
    interval_s: Annotated[float, Field(gt=0)] = 5.0
    options: Mapping[str, Any] = Field(default_factory=dict)

    @property
    def sensor(self) -> str:
        """The sensor's name within its device: the driver's unless the device has two of a kind."""
        return self.name or self.driver


class DeviceSettings(Section):
    """A device wired to the gateway itself.

    `pressure_from` names the sensor whose station pressure its CO2 sensors compensate with: "auto" takes the only one
    there is, "off" none.
    """

    id: Id
    name: str = ""
    zone: str = ""
    location: str = ""
    pressure_from: Id = "auto"
    sensor: tuple[SensorSettings, ...] = ()


class SerialNode(Section):
    """A node on a USB cable that speaks the MQTT payloads as JSON lines."""

    port: str


class Config(Section):
    """All settings of one gateway."""

    site: Site = Site()
    http: Http = Http()
    access: Access = Access()
    mqtt: Mqtt = Mqtt()
    ntp: Ntp = Ntp()
    store: StoreSettings = StoreSettings()
    updates: Updates = Updates()
    clock: ClockSettings = ClockSettings()
    discovery: Discovery = Discovery()
    device: tuple[DeviceSettings, ...] = ()
    serial_node: tuple[SerialNode, ...] = ()


def load(path: Path | None, environment: Mapping[str, str] = os.environ) -> Config:
    """Read the file (None: defaults only) and the environment over it; ConfigError names every fault."""
    return parse(_read(path) if path else {}, str(path or "environment"), environment)


def parse(document: dict[str, Any], source: str, environment: Mapping[str, str]) -> Config:
    """Validate a parsed document with the environment laid over it. `source` is named in errors."""
    for (section, key), value in _overrides(environment).items():
        document.setdefault(section, {})[key] = value
    try:
        config = Config.model_validate(document)
    except ValidationError as error:
        raise ConfigError("\n".join(_fault(source, dict(fault)) for fault in error.errors())) from error
    _check_names(config, source)
    return config


def secret(path: Path | None) -> str | None:
    """The content of a secret file without its line end; ConfigError where it cannot be read."""
    if path is None:
        return None
    try:
        return path.read_text(encoding="utf-8").rstrip("\n")
    except OSError as error:
        raise ConfigError(f"{path}: secret file cannot be read ({error.strerror}); correct the path") from error


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); give another file with --config") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error


def _overrides(environment: Mapping[str, str]) -> dict[tuple[str, str], str]:
    known = {
        f"{ENVIRONMENT}{section}_{key}".upper(): (section, key)
        for section, field in Config.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
        for key in field.annotation.model_fields
    }
    given = {name: value for name, value in environment.items() if name.startswith(ENVIRONMENT)}
    for name in given.keys() - known.keys() - NOT_SETTINGS:
        near = get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else "unset it"
        raise ConfigError(f"environment: {name}: no such setting; {hint}")
    return {known[name]: value for name, value in given.items() if name in known}


def _fault(source: str, fault: dict[str, Any]) -> str:
    where = ".".join(str(part) for part in fault["loc"])
    if fault["type"] != "extra_forbidden":
        message = str(fault["msg"]).removeprefix("Value error, ")
        return f"{source}: {where} = {fault['input']!r}: {message}" if fault["loc"] else f"{source}: {message}"
    known = _keys_beside(fault["loc"])
    near = get_close_matches(str(fault["loc"][-1]), known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
    return f"{source}: {where}: unknown key; {hint}"


def _keys_beside(location: tuple[int | str, ...]) -> list[str]:
    model: Any = Config
    for part in location[:-1]:
        if isinstance(part, str):
            annotation = model.model_fields[part].annotation
            model = annotation if isinstance(annotation, type) else annotation.__args__[0]
    return list(model.model_fields)


def _check_names(config: Config, source: str) -> None:
    seen: set[str] = set()
    for device in config.device:
        if device.id in seen:
            raise ConfigError(f"{source}: device {device.id!r} is there twice; give each device an id of its own")
        seen.add(device.id)
        names = [sensor.sensor for sensor in device.sensor]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(f"{source}: device {device.id!r} has two sensors {name!r}; give each a `name`")
