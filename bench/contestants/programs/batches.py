"""A naive batch writer: `batches.py PORT FOLDER`. Acknowledges by hand after each commit of 500 messages or 0.2 s; no
quality, no registry, no de-duplication. A line of SQL as JSON on FOLDER/sql.sock is answered by a line of JSON rows.
"""

import json
import os
import signal
import socketserver
import sys
import threading
import time

import duckdb
import numpy as np
import orjson
import paho.mqtt.client as mqtt

MESSAGES, AGE_S = 500, 0.2
port, folder = int(sys.argv[1]), sys.argv[2]
db = duckdb.connect(f"{folder}/batches.duckdb", config={"memory_limit": "128MB", "threads": 2})
db.execute("create table if not exists readings (device varchar, metric varchar, ts timestamp, value double)")
rows, due, since_s = [], [], [0.0]


class Sql(socketserver.StreamRequestHandler):
    def handle(self):
        cursor = db.cursor()
        for line in self.rfile:
            self.wfile.write(json.dumps(cursor.execute(json.loads(line)).fetchall(), default=str).encode() + b"\n")


def on_message(client, userdata, message):
    body, device = orjson.loads(message.payload), message.topic.split("/")[1]
    rows.extend((device, metric, body["timestamp"], each["reading"]) for metric, each in body["value"].items())
    if not due:
        since_s[0] = time.monotonic()
    due.append(message.mid)


def flush():
    device, metric, time_s, value = zip(*rows, strict=True)
    batch = {
        "device": np.array(device, dtype=object),
        "metric": np.array(metric, dtype=object),
        "ts": np.array(time_s, dtype="datetime64[s]").astype("datetime64[us]"),
        "value": np.array(value, dtype=float),
    }
    db.execute("insert into readings select device, metric, ts, value from batch")
    for mid in due:
        client.ack(mid, 1)
    rows.clear()
    due.clear()
    del batch


address = f"{folder}/sql.sock"
if os.path.exists(address):
    os.unlink(address)
threading.Thread(target=socketserver.ThreadingUnixStreamServer(address, Sql).serve_forever, daemon=True).start()
client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="batches", clean_session=False, manual_ack=True)
client.on_connect = lambda client, *_: client.subscribe("devices/+/sensors/+/data", qos=1)
client.on_message = on_message
client.connect("127.0.0.1", port)
signal.signal(signal.SIGTERM, lambda *_: (db.close(), os._exit(0)))
while client.loop(0.05) == 0:
    if due and (len(due) >= MESSAGES or time.monotonic() - since_s[0] > AGE_S):
        flush()
