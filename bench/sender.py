"""A node of the minimal form: `python -m bench.sender PORT SECONDS` publishes a message so often until interrupted."""

import json
import sys
import threading
import time

from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion


def main() -> None:
    port, every_s = int(sys.argv[1]), float(sys.argv[2])
    client = Client(CallbackAPIVersion.VERSION2, "bench-sender")
    client.connect("127.0.0.1", port)
    client.loop_start()
    pause = threading.Event()
    while True:
        value = {"co2": {"reading": 600 + time.time() % 60}, "temperature": {"reading": 21.5}}
        body = {"timestamp": int(time.time()), "value": value}
        client.publish("devices/sender/sensors/scd30/data", json.dumps(body), qos=1)
        pause.wait(every_s)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(0)
