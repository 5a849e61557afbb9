"""The least that acknowledges a node: `python -m bench.fleet_floor --port P` answers each message and keeps nothing."""

import argparse
import json
from contextlib import suppress
from typing import Any

from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

TOPIC = "devices/+/sensors/+/data"


def main() -> None:
    """Until it is killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    port = parser.parse_args().port

    def received(client: Client, _userdata: Any, message: Any) -> None:
        body, device = json.loads(message.payload), message.topic.split("/")[1]
        client.publish(f"devices/{device}/ack", json.dumps({"boot": body["boot"], "seq": body["seq"]}))

    def subscribed(*_: Any) -> None:
        print("subscribed", flush=True)

    client = Client(CallbackAPIVersion.VERSION2, "floor", clean_session=False)
    client.on_message, client.on_subscribe = received, subscribed
    client.on_connect = lambda client, *_: client.subscribe(TOPIC, 1)
    client.reconnect_delay_set(min_delay=1, max_delay=2)
    client.connect_async("127.0.0.1", port)
    with suppress(KeyboardInterrupt):
        client.loop_forever(retry_first_connection=True)


if __name__ == "__main__":
    main()
