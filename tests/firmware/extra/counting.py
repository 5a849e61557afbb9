"""A sensor whose readings can be told from one another over all boots: it counts, and writes down how far.

`options`: `most`, after which it measures nothing any more.
"""

import os

from node.sensors import SensorError

TOLD = "counted.txt"


class Sensor:
    CHANNELS = {"count": "1", "energy": "Wh"}

    count = None  # of all instances together

    def __init__(self, bus, options):
        self._most = options.get("most", 1 << 30)
        if Sensor.count is None:
            try:
                with open(TOLD, "rb") as file:
                    file.seek(max(0, os.stat(TOLD)[6] - 20))
                    Sensor.count = int(file.read().split()[-1])
            except (OSError, IndexError):
                Sensor.count = 0

    async def start(self):
        pass

    async def read(self):
        if Sensor.count >= self._most:
            raise SensorError("enough")
        Sensor.count += 1
        with open(TOLD, "a") as file:
            file.write("%d\n" % Sensor.count)
        return {"count": Sensor.count, "energy": Sensor.count / 8}
