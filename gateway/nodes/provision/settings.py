"""A node's node.json: what was asked for, over what lies on the board already. Pure; the board judges the rest."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.nodes.provision.errors import ProvisionError

CA = "ca.der"
RING_KB, RING_LEAST_KB = 512, 32


@dataclass(frozen=True, slots=True)
class Login:
    """What a node proves itself with; never printed. Without a password the broker asks for none."""

    key: str
    user: str | None = None
    password: str | None = None

    def __repr__(self) -> str:
        return f"Login(user={self.user!r})"


NOBODY = Login("00" * 32)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a person asked for; None is left as it is on the board, or to the node's default."""

    device: str
    name: str | None = None
    location: str | None = None
    ssid: str | None = None
    wifi_password: str | None = None
    host: str | None = None
    port: int | None = None
    ca: bool = False
    sensors: Sequence[Mapping[str, Any]] = ()
    sda: int | None = None
    scl: int | None = None
    ring_kb: int | None = None
    led: int | None = None


def sensor(text: str) -> dict[str, Any]:
    """`scd30` or `bmp280:interval=60,name=window,address=0x76`; ValueError. What is no interval or name is an option of
    the driver."""
    driver, _, rest = text.partition(":")
    found: dict[str, Any] = {"driver": driver}
    options: dict[str, Any] = {}
    for part in filter(None, rest.split(",")):
        name, sign, value = part.partition("=")
        if not (name and sign and value):
            raise ValueError(f"{part!r} is not NAME=VALUE")
        if name == "interval":
            found["interval_s"] = _number(value)
        elif name == "name":
            found["name"] = value
        else:
            options[name] = _number(value)
    if not driver.replace("_", "").isalnum() or not 2 <= found.get("interval_s", 10) <= 3600:
        raise ValueError("a sensor is DRIVER or DRIVER:interval=S with 2 to 3600 seconds")
    return found | ({"options": options} if options else {})


def complete(wanted: Wanted, known: Mapping[str, Any]) -> None:
    """ProvisionError where neither says what a node cannot be without."""
    if wanted.ssid is None and not known.get("wifi"):
        raise ProvisionError("the board knows no Wi-Fi yet: name it with --wifi SSID")
    if not wanted.sensors and not known.get("sensors"):
        raise ProvisionError("the board knows no sensor yet: name each with --sensor, such as --sensor scd30")


def login_of(known: Mapping[str, Any]) -> Login | None:
    """What lies on the board already."""
    broker = known.get("broker")
    found = broker if isinstance(broker, Mapping) else {}
    key, user, password = known.get("key"), found.get("user"), found.get("password")
    return Login(str(key), user, password) if key else None


def compose(wanted: Wanted, known: Mapping[str, Any], login: Login, ring_kb: int | None) -> dict[str, Any]:
    """The whole of node.json; `ring_kb` where the default does not fit."""
    made: dict[str, Any] = {**known, "device": wanted.device, "key": login.key}
    plain = {"name": wanted.name, "location": wanted.location, "led": wanted.led}
    made |= {name: value for name, value in plain.items() if value is not None}
    if wanted.ssid is not None:
        made["wifi"] = {"ssid": wanted.ssid, "password": wanted.wifi_password}
    if wanted.sensors:
        made["sensors"] = [dict(each) for each in wanted.sensors]
    pins = {name: pin for name, pin in (("sda", wanted.sda), ("scl", wanted.scl)) if pin is not None}
    if pins:
        made["i2c"] = {**made.get("i2c", {}), **pins}
    if wanted.ring_kb is not None or ("ring_kb" not in made and ring_kb is not None):
        made["ring_kb"] = wanted.ring_kb if wanted.ring_kb is not None else ring_kb
    broker = _broker(wanted, known.get("broker"), login)
    return made | ({"broker": broker} if broker else {})


def _broker(wanted: Wanted, known: object, login: Login) -> dict[str, Any]:
    made = dict(known) if isinstance(known, Mapping) else {}
    if wanted.host is not None:
        made.pop("port", None)
        made["host"] = wanted.host
    if wanted.port is not None:
        made["port"] = wanted.port
    if wanted.ca:
        made["ca"] = CA
    if login.password is not None:
        made |= {"user": login.user, "password": login.password}
    return made


def _number(text: str) -> Any:
    for kind in (lambda value: int(value, 0), float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
