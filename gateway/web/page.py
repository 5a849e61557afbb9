"""The pages as text. Pure; every word of a device is escaped here and nowhere trusted."""

from base64 import b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from html import escape
from importlib.resources import files
from zoneinfo import ZoneInfo

from drivers.model import Quality, Quantity
from gateway.reading import Reading
from gateway.store.types import Device

STATIC = files(__package__) / "static"
STYLE = (STATIC / "page.css").read_text("utf-8")
SCRIPT = (STATIC / "page.js").read_text("utf-8")
DIGITS = {
    Quantity.CO2: 0,
    Quantity.TEMPERATURE: 1,
    Quantity.HUMIDITY: 1,
    Quantity.PRESSURE: 1,
    Quantity.ILLUMINANCE: 0,
    Quantity.BATTERY: 0,
    Quantity.RSSI: 0,
}
UNITS = {"degC": "°C", "ug/m3": "µg/m³", "%RH": "%", "1": ""}
WORDS = {"co2": "CO₂", "pm25": "PM2.5", "pm10": "PM10", "tvoc": "TVOC", "rssi": "Signal"}


def _source(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


POLICY = (
    f"default-src 'none'; style-src {_source(STYLE)}; script-src {_source(SCRIPT)}; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""Only the style and the script that this package ships run; nothing is fetched from anywhere else."""


@dataclass(frozen=True, slots=True)
class Card:
    """A device and its newest values."""

    device: Device
    readings: Sequence[Reading]


@dataclass(frozen=True, slots=True)
class Status:
    """All that the status page shows. `address` is where this page was asked for, such as http://gateway.local:8080."""

    name: str
    now: datetime
    zone: ZoneInfo
    cards: Sequence[Card]
    address: str
    fingerprint: str
    who: str
    form_token: str


def status(page: Status) -> str:
    """The status page."""
    local = page.now.astimezone(page.zone)
    cards = "".join(card(one, page.now, page.zone) for one in page.cards)
    empty = '<p class="empty">No device was heard yet. Its card appears here with its first reading.</p>'
    body = f"""
<header><div><h1>{escape(page.name)}</h1>
<p id="clock"><time datetime="{page.now.isoformat()}">{local:%A, %d %B %Y, %H:%M}</time>
<span>{escape(str(page.zone))}</span></p></div>
<form method="post" action="/logout"><input type="hidden" name="form" value="{escape(page.form_token)}">
<span>{escape(page.who)}</span> <button>Sign out</button></form></header>
<main><section id="live" aria-label="Devices">{cards or empty}</section>{connect(page)}</main>
<script>{SCRIPT}</script>"""
    return document(page.name, body)


def card(one: Card, now: datetime, zone: ZoneInfo) -> str:
    """One device."""
    device = one.device
    state = device.status or "unknown"
    place = " · ".join(part for part in (device.location, device.model) if part)
    title = device.device_name or device.device_id
    aside = f"<code>{escape(device.device_id)}</code>" if device.device_name else ""
    metrics = [reading.metric for reading in one.readings]
    values = "".join(value(r, now, zone, sensor=metrics.count(r.metric) > 1) for r in one.readings)
    return f"""<article class="card"><div class="head"><h2>{escape(title)} {aside}</h2>
<span class="state {escape(state, quote=True)}">{escape(state)}</span></div>
{f'<p class="place">{escape(place)}</p>' if place else ""}
<dl>{values or '<div class="value"><dt>Nothing yet</dt><dd>no reading was stored</dd></div>'}</dl></article>"""


def value(reading: Reading, now: datetime, zone: ZoneInfo, *, sensor: bool = False) -> str:
    """One value with unit, age and, where it is not good, its quality; its sensor's name where two measure the same."""
    quantity = reading.quantity
    number = "\N{EN DASH}" if reading.value is None else f"{reading.value:.{DIGITS.get(quantity, 2)}f}"
    unit = UNITS.get(quantity.unit, quantity.unit)
    good = reading.quality is Quality.GOOD
    doubt = "" if good else f'<span class="doubt">{reading.quality}: {str(reading.reason).replace("_", " ")}</span>'
    word = WORDS.get(reading.metric) or reading.metric.replace("_", " ").capitalize()
    if sensor:
        word = f"{word} · {reading.sensor}"
    local = reading.time.astimezone(zone)
    exact = f"{local:%Y-%m-%d %H:%M:%S}"
    return f"""<div class="value{"" if good else " doubtful"}"><dt>{escape(word)}</dt>
<dd><b>{number}</b> <span class="unit">{escape(unit)}</span></dd>
<dd class="age"><time datetime="{reading.time.isoformat()}" title="{exact}">{age(reading.time, now)}</time>
{doubt}</dd></div>"""


def age(time: datetime, now: datetime) -> str:
    """How long ago, in words."""
    seconds = (now - time).total_seconds()
    if seconds < -5:
        return "in the future"
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{int(seconds // size)} {unit} ago"
    return f"{max(0, int(seconds))} s ago"


def connect(page: Status) -> str:
    """How an assistant gets in."""
    url = escape(f"{page.address}/mcp")
    pin = ":".join(page.fingerprint[i : i + 4] for i in range(0, len(page.fingerprint), 4))
    config = escape(
        '{"mcpServers": {"ambient-gateway": {"type": "http",\n'
        f'  "url": "{page.address}/mcp",\n'
        '  "headers": {"Authorization": "Bearer agw_…"}}}}'
    )
    return f"""<section class="connect"><h2>Connect an assistant</h2>
<p>An app that shows a code: <a href="/pair">enter it</a>. For all others, make a token on the gateway:
<code>gateway token create my-assistant --scope read</code>. Then:</p>
<details open><summary>Claude Code</summary><pre>claude mcp add --transport http ambient-gateway {url} \\
  --header "Authorization: Bearer agw_…"</pre></details>
<details><summary>Other assistants that speak MCP over HTTP</summary><pre>{config}</pre></details>
<details><summary>Assistants that start a program (Claude Desktop)</summary>
<pre>gateway connect --token agw_… --fingerprint {escape(page.fingerprint)}</pre></details>
<details><summary>Check the HTTPS certificate</summary>
<p>Its SHA-256 fingerprint is</p><pre class="pin">{escape(pin)}</pre></details></section>"""


def document(title: str, body: str) -> str:
    """A whole page around a body."""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark"><title>{escape(title)}</title><style>{STYLE}</style></head>
<body>{body}</body></html>
"""


def cards(devices: Iterable[Device], readings: Iterable[Reading]) -> list[Card]:
    """Devices by name with their values; values of a device that nobody declared get a card of their own."""
    by_device: dict[str, list[Reading]] = {}
    for reading in readings:
        by_device.setdefault(reading.device, []).append(reading)
    known = {device.device_id: device for device in devices}
    every = [known.get(device_id) or Device(device_id) for device_id in {*known, *by_device}]
    every.sort(key=lambda device: (device.device_name or device.device_id).casefold())
    order = list(Quantity)
    return [
        Card(device, sorted(by_device.get(device.device_id, []), key=lambda r: (order.index(r.quantity), r.sensor)))
        for device in every
    ]
