"""What a hobby stack runs: `rows.py PORT DSN`, one INSERT and one COMMIT a message."""

import json
import sys
from datetime import UTC, datetime

import paho.mqtt.client as mqtt
import psycopg2

port, dsn = int(sys.argv[1]), sys.argv[2]
db = psycopg2.connect(dsn)
cursor = db.cursor()
cursor.execute(
    """create table if not exists scd30_measurements (id serial primary key, device_id text, timestamp timestamptz,
        temperature double precision, humidity double precision, co2 double precision);
    create index if not exists by_device on scd30_measurements (device_id, timestamp)"""
)
db.commit()
INSERT = "insert into scd30_measurements (device_id, timestamp, temperature, humidity, co2) values (%s, %s, %s, %s, %s)"


def on_message(client, userdata, message):
    try:
        body = json.loads(message.payload)
        value = body["value"]
        measured = [value[metric]["reading"] for metric in ("temperature", "humidity", "co2")]
        cursor.execute(INSERT, (message.topic.split("/")[1], datetime.fromtimestamp(body["timestamp"], UTC), *measured))
        db.commit()
    except Exception as error:  # noqa: BLE001 - as such collectors do
        print("error", error, flush=True)
        db.rollback()


client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="rows", clean_session=False)
client.on_connect = lambda client, *_: client.subscribe("devices/+/sensors/scd30/data", qos=1)
client.on_message = on_message
client.connect("127.0.0.1", port)
client.loop_forever()
