"""The hobby stack: a subscriber that inserts row by row into PostgreSQL."""

import asyncio
import os
import shutil
from collections import Counter
from pathlib import Path

from bench.contestants.base import PROGRAMS, Contestant, not_set_up, python_of, taken_bytes
from bench.contestants.fleet import METRICS, Row
from bench.processes import output_of

USER = "postgres"
END = "--end--"
TABLE = "scd30_measurements"


class Hobby(Contestant):
    """Debian's PostgreSQL with its defaults (synchronous_commit on), on a Unix socket."""

    name = "hobby"
    title = "hobby: PostgreSQL, row by row"
    notes = "acknowledges after the commit; PostgreSQL's defaults; index on device and time; disk without pg_wal"
    environment = "hobby"
    most_messages = 20_000

    @classmethod
    def missing(cls) -> str:
        if reason := not_set_up("floor"):
            return reason
        return "" if _programs() else not_set_up(cls.environment)

    _client: asyncio.subprocess.Process | None = None

    async def prepare(self) -> None:
        as_user: tuple[str, ...] = ()
        if os.getuid() == 0:  # it refuses root
            shutil.chown(self.data, USER)
            as_user = ("setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--pdeathsig", "TERM")
        binaries, at = _programs(), str(self.data / "pg")
        assert binaries is not None
        await output_of(*as_user, str(binaries / "initdb"), "-D", at, "-A", "trust", "-U", USER, "--no-instructions")
        server = [str(binaries / "postgres"), "-D", at, "-k", str(self.data), "-c", "listen_addresses="]
        if as_user:
            as_user = (shutil.which("setpriv") or "setpriv", *as_user[1:])
        await self.spawn(*as_user, *server, folder=Path("/"))
        psql = ("psql", "-X", "-q", "-A", "-t", "-F", ",", "-h", str(self.data), "-U", USER, "-d", USER)
        self._psql = psql
        await self.until(self._accepts, 30.0, "PostgreSQL does not start")
        self._client = await asyncio.create_subprocess_exec(
            *psql, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=1 << 26
        )

    async def ingest(self) -> asyncio.subprocess.Process:
        dsn = f"host={self.data} user={USER} dbname={USER}"
        return await self.spawn(python_of("floor"), PROGRAMS / "rows.py", self.port, dsn)

    async def count(self) -> int:
        (count,) = await self._ask(f"select count(*) from {TABLE}")
        return len(METRICS) * int(count)

    async def stored(self) -> Counter[Row]:
        found: Counter[Row] = Counter()
        for line in await self._ask(f"select device_id, {', '.join(METRICS)} from {TABLE}"):
            device, *values = line.split(",")
            found.update((device, metric, float(value)) for metric, value in zip(METRICS, values, strict=True))
        return found

    def data_bytes(self) -> int:
        return taken_bytes(self.data / "pg") - taken_bytes(self.data / "pg" / "pg_wal")

    async def leave(self) -> None:
        if self._client is not None:
            await self._client.communicate(b"\\q\n")
            self._client = None

    async def _accepts(self) -> bool:
        probe = await asyncio.create_subprocess_exec(
            *self._psql, "-c", "select 1", stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
        )
        return await probe.wait() == 0

    async def _ask(self, query: str) -> list[str]:
        assert self._client is not None
        assert self._client.stdin is not None
        assert self._client.stdout is not None
        self._client.stdin.write(f"{query};\n\\echo {END}\n".encode())
        lines = []
        while (line := (await self._client.stdout.readline()).decode().rstrip("\n")) != END:
            if not line:
                raise RuntimeError(f"psql ended: {self.last_words()}")
            lines.append(line)
        return lines


def _programs() -> Path | None:
    """Where Debian keeps PostgreSQL's programs; the newest."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda file: float(file.parts[-3]))
    return found[-1].parent if found else None
