"""Node-RED with a flow that writes to InfluxDB 1.x in batches."""

import asyncio
import json
import shutil
from collections import Counter
from typing import Any

import httpx2

from bench.contestants.base import PEERS, Contestant, taken_bytes
from bench.contestants.fleet import HOST, METRICS, Row
from bench.processes import free_ports

MODULES = PEERS / "nodered" / "node_modules"
DATABASE = "house"
TO_POINT = """const v = msg.payload.value;
msg.payload = {measurement: "scd30", tags: {device: msg.topic.split("/")[1]}, timestamp: msg.payload.timestamp * 1000,
  fields: {temperature: v.temperature.reading, humidity: v.humidity.reading, co2: v.co2.reading}};
return msg;"""
INFLUX = """\
reporting-disabled = true
bind-address = "{host}:{backup}"
[meta]
dir = "{data}/meta"
[data]
dir = "{data}/data"
wal-dir = "{data}/wal"
[http]
bind-address = "{host}:{http}"
log-enabled = false
[monitor]
store-enabled = false
"""
SETTINGS = """\
module.exports = {uiPort: %d, uiHost: "%s", flowFile: "flows.json", telemetry: {enabled: false},
    logging: {console: {level: "warn"}}};
"""


class NodeRed(Contestant):
    """mqtt in, function, join, influxdb batch."""

    name = "nodered"
    title = "Node-RED 4.1 and InfluxDB 1.6"
    notes = "acknowledges on receipt; joins 500 messages or 1 s; InfluxDB keeps one value a series and time: no doubles"
    environment = "nodered"
    look_every_s = 0.25
    settles_after_s = 15.0

    @classmethod
    def missing(cls) -> str:
        return super().missing() or ("" if shutil.which("influxd") else "influxd is not installed")

    async def prepare(self) -> None:
        ui, http, backup = free_ports(3)
        self._url, conf = f"http://{HOST}:{http}", self.folder / "influxdb.conf"
        conf.write_text(INFLUX.format(host=HOST, backup=backup, http=http, data=self.data), encoding="utf-8")
        self._http = httpx2.AsyncClient(timeout=httpx2.Timeout(60))
        await self.spawn(shutil.which("influxd"), "run", "-config", conf)
        await self.until(self._answers, 30.0, "InfluxDB does not start")
        await self._http.post(f"{self._url}/query", params={"q": f"create database {DATABASE}"})
        self._place = self.folder / "nodered"
        self._place.mkdir()
        (self._place / "node_modules").symlink_to(MODULES)
        (self._place / "settings.js").write_text(SETTINGS % (ui, HOST), encoding="utf-8")
        (self._place / "flows.json").write_text(json.dumps(_flow(self.port, http)), encoding="utf-8")

    async def ingest(self) -> asyncio.subprocess.Process:
        program = (MODULES / ".bin" / "node", MODULES / "node-red" / "red.js", "-u", self._place)
        return await self.spawn(*program, folder=self._place)

    async def count(self) -> int:
        series = await self._ask(f"select {', '.join(f'count({metric})' for metric in METRICS)} from scd30")
        return sum(series[0]["values"][0][1:]) if series else 0

    async def stored(self) -> Counter[Row]:
        found: Counter[Row] = Counter()
        for series in await self._ask(f"select {', '.join(METRICS)} from scd30 group by device"):
            for _, *values in series["values"]:
                rows = zip(METRICS, values, strict=True)
                found.update((series["tags"]["device"], metric, float(value)) for metric, value in rows)
        return found

    def data_bytes(self) -> int:
        return taken_bytes(self.data)

    async def leave(self) -> None:
        if hasattr(self, "_http"):
            await self._http.aclose()

    async def _answers(self) -> bool:
        try:
            return (await self._http.get(f"{self._url}/ping")).status_code == 204
        except httpx2.TransportError:
            return False

    async def _ask(self, query: str) -> list[dict[str, Any]]:
        answer = await self._http.get(f"{self._url}/query", params={"db": DATABASE, "q": query, "epoch": "ms"})
        found: list[dict[str, Any]] = answer.json()["results"][0].get("series", [])
        return found


def _flow(mqtt: int, http: int) -> list[dict[str, Any]]:
    broker: dict[str, Any] = {
        "id": "broker",
        "type": "mqtt-broker",
        "broker": HOST,
        "port": str(mqtt),
        "clientid": "nodered",
        "autoConnect": True,
        "usetls": False,
        "protocolVersion": "4",
        "keepalive": "60",
        "cleansession": False,
    }
    database = {
        "id": "database",
        "type": "influxdb",
        "hostname": HOST,
        "port": str(http),
        "protocol": "http",
        "database": DATABASE,
        "usetls": False,
        "influxdbVersion": "1.x",
    }
    taken: dict[str, Any] = {
        "type": "mqtt in",
        "topic": "devices/+/sensors/+/data",
        "qos": "1",
        "datatype": "json",
        "broker": "broker",
        "nl": False,
        "rap": True,
        "rh": 0,
        "inputs": 0,
    }
    point = {"type": "function", "func": TO_POINT, "outputs": 1, "timeout": 0, "noerr": 0}
    joined = {
        "type": "join",
        "mode": "custom",
        "build": "array",
        "property": "payload",
        "propertyType": "msg",
        "key": "topic",
        "joiner": "",
        "joinerType": "str",
        "accumulate": False,
        "timeout": "1",
        "count": "500",
    }
    written = {"type": "influxdb batch", "influxdb": "database", "precision": "ms", "retentionPolicy": ""}
    steps = [taken, point, joined, written]
    nodes: list[dict[str, Any]] = []
    for number, step in enumerate(steps, 1):
        wires = [[f"step{number + 1}"]] if number < len(steps) else []
        nodes.append(step | {"id": f"step{number}", "z": "flow", "wires": wires})
    return [{"id": "flow", "type": "tab", "label": "flow"}, broker, database, *nodes]
