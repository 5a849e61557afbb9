"""Files without names: what a worker reads are descriptors that the gateway handed to it, under a scheme of its own.

The engine asks this file system for "segment://NAME" as it would ask any other; no system call ever opens a path, and
the filter refuses them all. DuckDB takes a Python file system only as an fsspec one; it needs no more than this of it.
"""

import io
import os
import sys
import threading
from datetime import UTC, datetime
from types import ModuleType
from typing import Any

import duckdb

SCHEME = "segment"
PREFIX = f"{SCHEME}://"
_SINCE = datetime(1970, 1, 1, tzinfo=UTC)  # nothing handed over ever changes


class Handed:
    """Descriptors by name, read only; at most one name at a time may be written, and that one is memory."""

    protocol = SCHEME

    def __init__(self) -> None:
        self._descriptors: dict[str, int] = {}
        self._sink: tuple[str, io.BytesIO] | None = None

    def register(self, db: duckdb.DuckDBPyConnection) -> None:
        """Make it known to the engine."""
        module = ModuleType("fsspec")
        module.AbstractFileSystem = Handed  # type: ignore[attr-defined]
        sys.modules["fsspec"] = module
        db.register_filesystem(self)

    @property
    def names(self) -> frozenset[str]:
        """What is there."""
        return frozenset(self._descriptors)

    def add(self, name: str, descriptor: int) -> None:
        """Own this descriptor from now on."""
        self.drop(name)
        self._descriptors[name] = descriptor

    def drop(self, name: str) -> None:
        """Close it, where there is one of that name."""
        descriptor = self._descriptors.pop(name, None)
        if descriptor is not None:
            os.close(descriptor)

    def catch(self, name: str) -> io.BytesIO:
        """Where the next bytes go that are written to this name."""
        self._sink = (name, _Sink())
        return self._sink[1]

    def release(self) -> None:
        """Nothing may be written any more."""
        self._sink = None

    def open(self, path: str, mode: str = "rb", **_: Any) -> Any:
        """An open file of the engine's."""
        name = path.removeprefix(PREFIX)
        if mode == "rb":
            return _File(self._descriptor(name))
        if self._sink is not None and name == self._sink[0]:
            return self._sink[1]
        raise PermissionError(f"{path} is for reading")

    def size(self, path: str) -> int:
        """In bytes."""
        return _size(self._descriptor(path.removeprefix(PREFIX)))

    def modified(self, _path: str) -> datetime:
        """What is handed over never changes."""
        return _SINCE

    def exists(self, path: str) -> bool:
        """Whether it was handed over."""
        return path.removeprefix(PREFIX) in self._descriptors

    isfile = exists

    def isdir(self, _path: str) -> bool:
        """There are no folders."""
        return False

    def glob(self, path: str) -> list[str]:
        """The one file of that name: patterns find nothing."""
        return [path] if self.exists(path) else []

    def unstrip_protocol(self, path: str) -> str:
        """With the scheme before it."""
        return path if path.startswith(PREFIX) else PREFIX + path

    def _descriptor(self, name: str) -> int:
        try:
            return self._descriptors[name]
        except KeyError:
            raise FileNotFoundError(f"no file {name[:100]!r}") from None


class _File:
    """A position in a descriptor for each of the engine's threads: several of them read one handle."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._at = threading.local()

    def seek(self, offset: int, whence: int = 0) -> int:
        base = (0, self.tell(), _size(self._descriptor))[whence]
        self._at.bytes = base + offset
        return base + offset

    def tell(self) -> int:
        return int(getattr(self._at, "bytes", 0))

    def read(self, count: int = -1) -> bytes:
        at = self.tell()
        data = os.pread(self._descriptor, _size(self._descriptor) - at if count < 0 else count, at)
        self._at.bytes = at + len(data)
        return data

    def close(self) -> None:
        """The descriptor stays, for the next reader."""


class _Sink(io.BytesIO):
    """Keeps its bytes when it is closed."""

    def close(self) -> None:
        self.flush()


def _size(descriptor: int) -> int:
    """By its end: asking for the status of a file is a call that the filter refuses. Nobody reads at the position."""
    return os.lseek(descriptor, 0, os.SEEK_END)
