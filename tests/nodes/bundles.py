"""Bundles as `make firmware` writes them, small; and a developer's key."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.nodes.ota import bundle
from gateway.nodes.ota.manifest import Kind, Manifest, Part
from gateway.nodes.ota.shelf import Shelf
from gateway.store.db import Store
from tests.web.house import HandClock

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
STRANGER = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
PUBLIC = bundle.public_hex(KEY)
PROGRAM = {
    "node/__init__.py": b'VERSION = "1.4.0"\n',
    "node/app.py": b"def main():\n    pass\n" * 20,
    "node/empty.py": b"",
}
IMAGE = {"micropython.bin": b"\xe9" + bytes(5000)}
CREATED = datetime(2026, 11, 20, 12, tzinfo=UTC)


def parts(files: Mapping[str, bytes]) -> tuple[Part, ...]:
    """What a manifest says of these files."""
    return tuple(Part(path, len(content), sha256(content).hexdigest()) for path, content in files.items())


def manifest(
    version: str = "1.4.0",
    files: Mapping[str, bytes] = PROGRAM,
    *,
    boards: tuple[str, ...] = ("esp32", "esp32s3"),
    kind: Kind = Kind.FILES,
    mpy: int | None = None,
) -> Manifest:
    """A sound manifest of these files."""
    return Manifest(kind, version, boards, mpy, CREATED, parts(files))


def built(about: Manifest | None = None, files: Mapping[str, bytes] = PROGRAM, key: Ed25519PrivateKey = KEY) -> bytes:
    """A bundle's bytes."""
    return bundle.build(about or manifest(files=files), files, key)


def written(folder: Path, content: bytes | None = None, name: str = "node.zip") -> Path:
    """A bundle as a file."""
    file = folder / name
    file.write_bytes(built() if content is None else content)
    return file


@asynccontextmanager
async def shelf(folder: Path, *, trusting: bool = True, clock: HandClock | None = None) -> AsyncIterator[Shelf]:
    """A shelf over a store of its own, which trusts KEY."""
    clock = clock or HandClock()
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(Store(folder / "data"))
        made = await stack.enter_async_context(Shelf(folder / "data" / "firmware", store, clock))
        if trusting and not made.keys:
            await made.trust(PUBLIC, "anna", "local")
        yield made
