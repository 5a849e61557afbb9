"""thingsboard-gateway: it keeps messages in SQLite until its server has them, which is a stand-in that counts."""

import asyncio
import json
import shutil
from collections import Counter
from typing import Any

from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from bench.contestants.base import PEERS, Contestant, python_of
from bench.contestants.fleet import HOST, METRICS, Row

ENVIRONMENT = "thingsboard"
DAEMON = "from thingsboard_gateway.tb_gateway import daemon; daemon()"
LIMITS = {"maxPayloadSize": 1 << 20, "maxInflightMessages": 1000, "rateLimits": {}, "gatewayRateLimits": {}}
DEVICE = {
    "deviceNameExpressionSource": "topic",
    "deviceNameExpression": "(?<=devices/)(.*?)(?=/sensors)",
    "deviceProfileExpressionSource": "constant",
    "deviceProfileExpression": "default",
}


class ThingsBoard(Contestant):
    """Its MQTT connector on the work's topics, its uplink to a client of ours on the same broker."""

    name = "thingsboard"
    title = "thingsboard-gateway 3.8"
    notes = "queues in SQLite and forwards; visible is what reached the stand-in, not counted; log level WARNING"
    environment = ENVIRONMENT
    most_messages = 10_000

    async def prepare(self) -> None:
        self._seen: Counter[Row] = Counter()
        self._server = Client(CallbackAPIVersion.VERSION2, "thingsboard", clean_session=False)
        self._server.on_connect = lambda client, *_: client.subscribe(
            [("v1/gateway/telemetry", 1), ("v1/devices/me/rpc/request/+", 1)]
        )
        self._server.on_message = self._received
        self._server.connect(HOST, self.port)
        self._server.loop_start()
        self._config, self._logs = self.folder / "config", self.folder / "logs"
        (installed,) = (PEERS / ENVIRONMENT / "lib").glob("python3*/site-packages/thingsboard_gateway/config")
        shutil.copytree(installed, self._config)
        self._logs.mkdir()
        (self.data / "queue").mkdir()
        settings = json.loads((self._config / "tb_gateway.json").read_text(encoding="utf-8"))
        settings["thingsboard"] |= {
            "host": HOST,
            "port": self.port,
            "remoteConfiguration": False,
            "statistics": {"enable": False},
            "checkConnectorsConfigurationInSeconds": 3600,
            "security": {"type": "accessToken", "accessToken": "t"},
        }
        settings["storage"] = {
            "type": "sqlite",
            "data_file_path": f"{self.data / 'queue'}/",
            "messages_ttl_check_in_hours": 1,
            "messages_ttl_in_days": 7,
        }
        settings["connectors"] = [{"type": "mqtt", "name": "fleet", "configuration": "mqtt.json"}]
        self._configure("tb_gateway.json", settings)
        self._configure("mqtt.json", _connector(self.port))
        logs = json.loads((self._config / "logs.json").read_text(encoding="utf-8"))
        for each in (*logs["handlers"].values(), *logs["loggers"].values()):
            each["level"] = "WARNING"
        self._configure("logs.json", logs)

    async def ingest(self) -> asyncio.subprocess.Process:
        places = {"TB_GW_CONFIG_DIR": str(self._config), "TB_GW_LOGS_PATH": str(self._logs)}
        return await self.spawn(python_of(ENVIRONMENT), "-c", DAEMON, environment=places)

    async def count(self) -> int:
        return self._seen.total()

    async def stored(self) -> Counter[Row]:
        return self._seen

    def data_bytes(self) -> int:
        return 0  # what it forwarded is gone from its queue

    async def leave(self) -> None:
        if hasattr(self, "_server"):
            self._server.disconnect()
            self._server.loop_stop()

    def _configure(self, name: str, settings: Any) -> None:
        (self._config / name).write_text(json.dumps(settings), encoding="utf-8")

    def _received(self, client: Client, _userdata: Any, message: Any) -> None:
        if "rpc/request" in message.topic:
            number = message.topic.rpartition("/")[2]
            client.publish(f"v1/devices/me/rpc/response/{number}", json.dumps(LIMITS), 1)
            return
        for device, records in json.loads(message.payload).items():
            for record in records:
                self._seen.update((device, metric, value) for metric, value in record.get("values", {}).items())


def _connector(port: int) -> dict[str, Any]:
    series = [{"type": "double", "key": metric, "value": f"${{value.{metric}.reading}}"} for metric in METRICS]
    converter = {
        "type": "json",
        "sendDataOnlyOnChange": False,
        "timeout": 60000,
        "attributes": [],
        "deviceInfo": DEVICE,
        "timeseries": series,
    }
    broker = {
        "host": HOST,
        "port": port,
        "clientId": "tbgw",
        "version": 4,
        "maxMessageNumberPerWorker": 10,
        "maxNumberOfWorkers": 100,
        "cleanSession": False,
        "security": {"type": "anonymous"},
    }
    mapping = {"topicFilter": "devices/+/sensors/scd30/data", "subscriptionQos": 1, "converter": converter}
    return {"broker": broker, "mapping": [mapping], "requestsMapping": {}}
