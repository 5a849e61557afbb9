"""The house's rules, as far as a machine can check them."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
SOURCES = sorted(p for folder in ("gateway", "drivers") for p in (ROOT / folder).rglob("*.py"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"], ["lint-imports"]],
    ids=lambda command: "-".join(command[:2]).strip("."),
)
def test_the_checks_pass(command: list[str]) -> None:
    done = subprocess.run([BIN / command[0], *command[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_rooms_stay_small(path: Path) -> None:
    """Files of about 400 lines, functions of about 40; a docstring says what lives in each file."""
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 420
    tree = ast.parse(text)
    assert not text or ast.get_docstring(tree)
    long = {
        node.name: length
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := (node.end_lineno or 0) - node.lineno + 1) > 50
    }
    assert not long


def test_nothing_runs_at_import() -> None:
    """Importing every module opens no file for writing, starts no thread and no process."""
    modules = [
        ".".join(p.relative_to(ROOT).with_suffix("").parts)
        for p in SOURCES
        if p.name not in {"__init__.py", "__main__.py"}
    ]
    program = (
        "import sys, threading, importlib\n"
        "def watch(event, args):\n"
        "    writes = event == 'open' and isinstance(args[1], str) and set(args[1]) & set('wax+')\n"
        "    own = event == 'open' and str(args[0]).endswith('.pyc') or '__pycache__' in str(args[:1])\n"
        "    assert not (writes and not own), (event, args)\n"
        "    assert event not in ('subprocess.Popen', 'socket.bind', 'socket.connect', 'os.fork'), (event, args)\n"
        "sys.addaudithook(watch)\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        "assert threading.active_count() == 1, threading.enumerate()\n"
    )
    done = subprocess.run([sys.executable, "-B", "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_connect_does_not_load_what_it_does_not_need() -> None:
    """An assistant's app waits for `gateway connect`: neither the store nor the server may be imported for it."""
    program = (
        "import sys, gateway.cli.lan, gateway.discovery.connect\n"
        "heavy = {'duckdb', 'uvicorn', 'starlette', 'mcp.server', 'paho'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_nothing_committed_names_a_private_place() -> None:
    """Paths of a machine, registries' hosts and loose ends do not belong into the repository."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    forbidden = [
        "/wo" + "rk/",
        "/ro" + "ot/",
        "pythonhos" + "ted",
        "pypi" + ".org",
        "registry.npm" + "js",
        "deb.deb" + "ian",
    ]
    found = {
        (name, word)
        for name in listed
        if (ROOT / name).suffix not in {".png", ".csv"} and (ROOT / name).is_file()
        for word in forbidden
        if word in (ROOT / name).read_text(encoding="utf-8")
    }
    assert not found
