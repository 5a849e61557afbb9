"""The floor: a bare subscriber that parses and throws away: `parse.py PORT FILE`, its count in FILE (8 bytes)."""

import json
import mmap
import struct
import sys

import paho.mqtt.client as mqtt

port, path = int(sys.argv[1]), sys.argv[2]
with open(path, "a+b") as file:
    file.truncate(8)
    shown = mmap.mmap(file.fileno(), 8)
seen = [*struct.unpack("q", shown[:8])]


def on_message(client, userdata, message):
    seen[0] += len(json.loads(message.payload)["value"])
    struct.pack_into("q", shown, 0, seen[0])


client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="floor", clean_session=False)
client.on_connect = lambda client, *_: client.subscribe("devices/+/sensors/+/data", qos=1)
client.on_message = on_message
client.connect("127.0.0.1", port)
client.loop_forever()
