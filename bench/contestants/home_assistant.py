"""Home Assistant: its MQTT integration with discovered sensors, its recorder on SQLite."""

import asyncio
import json
import sqlite3
from collections import Counter
from contextlib import closing
from typing import Any

from aiomqtt import Client

from bench.contestants.base import Contestant, python_of
from bench.contestants.fleet import DEVICES, HOST, METRICS, Row, topic
from bench.processes import free_ports

ENVIRONMENT = "homeassistant"
UNITS = {"temperature": "°C", "humidity": "%", "co2": "ppm"}
SETTINGS = """\
homeassistant:
  name: contest
  time_zone: UTC
http:
  server_host: {host}
  server_port: {port}
api:
auth:
recorder:
  db_url: sqlite:///{file}
history:
logger:
  default: warning
"""
ENTRY = {
    "entry_id": "e1",
    "version": 1,
    "minor_version": 1,
    "domain": "mqtt",
    "title": "mqtt",
    "options": {},
    "source": "user",
    "pref_disable_new_entities": False,
    "pref_disable_polling": False,
    "unique_id": None,
    "disabled_by": None,
}
STATES = """
    from states s join states_meta m using (metadata_id)
    where m.entity_id glob 'sensor.esp32*' and s.state glob '[0-9]*'
"""


class HomeAssistant(Contestant):
    """Each value is a sensor of its own that updates with every message."""

    name = "homeassistant"
    title = "Home Assistant 2024.3, its recorder"
    notes = (
        "core with SQLite; 150 discovered sensors, QoS 1, force_update; commits every 5 s; "
        "a session that ends with its connection; keeps its own time of arrival, not the payload's"
    )
    environment = ENVIRONMENT
    subscriptions = len(DEVICES)
    most_messages = 10_000
    look_every_s = 0.5
    persistent = False

    async def prepare(self) -> None:
        (port,) = free_ports(1)
        storage = self.folder / ".storage"
        storage.mkdir()
        self._file = self.data / "home-assistant_v2.db"
        settings = SETTINGS.format(host=HOST, port=port, file=self._file)
        (self.folder / "configuration.yaml").write_text(settings, encoding="utf-8")
        broker = {"broker": HOST, "port": self.port, "discovery": True, "discovery_prefix": "homeassistant"}
        entries = {"version": 1, "minor_version": 1, "key": "core.config_entries"}
        entries |= {"data": {"entries": [{**ENTRY, "data": broker}]}}
        (storage / "core.config_entries").write_text(json.dumps(entries), encoding="utf-8")
        async with Client(HOST, self.port) as client:
            for at, device in enumerate(DEVICES):
                for metric in METRICS:
                    name = _name(device, metric)
                    await client.publish(
                        f"homeassistant/sensor/{name}/config", json.dumps(_sensor(at, metric, name)), 1, retain=True
                    )

    async def ingest(self) -> asyncio.subprocess.Process:
        hass = python_of(ENVIRONMENT).parent / "hass"
        return await self.spawn(python_of(ENVIRONMENT), hass, "-c", self.folder, "--skip-pip")

    async def is_ready(self) -> bool:
        return await super().is_ready() and self._file.exists()

    async def count(self) -> int:
        ((count,),) = self._ask(f"select count(*) {STATES}")
        return int(count)

    async def stored(self) -> Counter[Row]:
        names = {f"sensor.{_name(device, metric)}": (device, metric) for device in DEVICES for metric in METRICS}
        return Counter(
            (*names[entity], float(state)) for entity, state in self._ask(f"select m.entity_id, s.state {STATES}")
        )

    def _ask(self, query: str) -> list[Any]:
        with closing(sqlite3.connect(f"file:{self._file}?mode=ro", uri=True, timeout=5)) as db:
            return db.execute(query).fetchall()


def _name(device: str, metric: str) -> str:
    return f"{device}_{metric}".replace("-", "_")


def _sensor(at: int, metric: str, name: str) -> dict[str, Any]:
    return {
        "name": name,
        "object_id": name,
        "unique_id": name,
        "state_topic": topic(DEVICES[at]),
        "qos": 1,
        "force_update": True,
        "unit_of_measurement": UNITS[metric],
        "state_class": "measurement",
        "value_template": f"{{{{ value_json.value.{metric}.reading }}}}",
    }
