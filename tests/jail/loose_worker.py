"""The query worker with layers taken away, for tests of the ones that are left: `loose_worker.py PARENT LAYERS…`.

Every statement is executed as it is; `engine` keeps the engine's settings, `filter` the system-call filter.
"""

import sys
from typing import Any

from gateway.jail.query_worker import PROFILE, SETTINGS, Worker, main
from gateway.jail.table import Builder


class LooseWorker(Worker):
    """Checks nothing, and runs what no SELECT is."""

    def _query(self, sql: str, parameters: Any, limit_s: float) -> tuple[dict[str, Any], bytes]:
        with self._cursor(limit_s) as cursor:
            rows = cursor.execute(sql, parameters or None).fetchmany(100)
        builder = Builder([("row", "VARCHAR", "text")])
        builder.extend([[repr(row)] for row in rows])
        return {"total": builder.rows, "counted": True}, builder.table().encode()


if __name__ == "__main__":
    layers = sys.argv[2:]
    main(LooseWorker(settings=SETTINGS if "engine" in layers else ()), PROFILE if "filter" in layers else None)
