"""What cannot be beaten, and what somebody writes in an afternoon: bare subscribers on the libraries that we use."""

import asyncio
import json
import struct
from collections import Counter
from typing import Any

from bench.contestants.base import PROGRAMS, Contestant, python_of
from bench.contestants.fleet import Row


class Floor(Contestant):
    """Parse and drop."""

    name = "floor"
    title = "floor: parse and drop"
    notes = "paho and json; stores nothing: no durability, no queries"
    environment = "floor"
    settles_after_s = 4.0
    stores = False

    async def ingest(self) -> asyncio.subprocess.Process:
        return await self.spawn(python_of("floor"), PROGRAMS / "parse.py", self.port, self.folder / "seen")

    async def count(self) -> int:
        (seen,) = struct.unpack("q", (self.folder / "seen").read_bytes())
        return int(seen)


class Naive(Contestant):
    """A batch writer that checks nothing."""

    name = "naive"
    title = "naive: DuckDB in batches"
    notes = (
        "paho, orjson, numpy; acknowledges after a commit, every 500 messages or 0.2 s; "
        "no quality, registry, rollups or de-duplication"
    )
    environment = "floor"

    async def ingest(self) -> asyncio.subprocess.Process:
        return await self.spawn(python_of("floor"), PROGRAMS / "batches.py", self.port, self.data)

    async def is_ready(self) -> bool:
        return await super().is_ready() and (self.data / "sql.sock").is_socket()

    async def count(self) -> int:
        ((count,),) = await self._ask("select count(*) from readings")
        return int(count)

    async def stored(self) -> Counter[Row]:
        return Counter((d, m, v) for d, m, v in await self._ask("select device, metric, value from readings"))

    async def _ask(self, query: str) -> list[Any]:
        reader, writer = await asyncio.open_unix_connection(self.data / "sql.sock", limit=1 << 30)
        try:
            writer.write(json.dumps(query).encode() + b"\n")
            rows: list[Any] = json.loads(await reader.readline())
        finally:
            writer.close()
        return rows
