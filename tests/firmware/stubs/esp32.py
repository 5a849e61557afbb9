"""`esp32` for the unix port: NVS in a file of the working directory, written as a whole at each set, as NVS does.

A board with otadata.json has two partitions for images (see `partitions`), any other has its firmware in one piece.
"""

import json
import os

PATH = "nvs.json"


class NVS:
    writes = 0

    def __init__(self, namespace):
        self._space = namespace + "."

    def get_i32(self, key):
        found = self._all().get(self._space + key)
        if not isinstance(found, int):
            raise OSError(-4354)
        return found

    def set_i32(self, key, value):
        if len(key) > 15 or not -(1 << 31) <= value < 1 << 31:
            raise OSError(-4361)
        kept = self._all()
        kept[self._space + key] = value
        with open(PATH + ".new", "w") as file:
            json.dump(kept, file)
        os.rename(PATH + ".new", PATH)
        NVS.writes += 1

    def commit(self):
        pass

    def _all(self):
        try:
            with open(PATH) as file:
                return json.load(file)
        except OSError:
            return {}


try:
    os.stat("otadata.json")
    from partitions import Partition
except OSError:
    pass
