"""The lock: hashes for everything, no index address, and installable where people are; and what the package holds."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-analysis.lock", "requirements-dev.lock"])
def test_the_lock_has_hashes_and_no_address(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    pins = [line for line in text.splitlines() if "==" in line and not line.startswith((" ", "#"))]
    assert len(pins) > 10
    assert text.count("--hash=sha256:") >= len(pins)
    assert "://" not in text


def test_what_assistants_code_uses_can_be_left_out() -> None:
    """An image for a small device installs the gateway alone."""
    for said, installed in (("ANALYSIS=yes", True), ("ANALYSIS=no", False)):
        done = subprocess.run(
            ["make", "--dry-run", "--always-make", "install", said],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        assert "-r requirements.lock" in done.stdout
        assert ("-r requirements-analysis.lock" in done.stdout) == installed


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_plain_pip_installs_the_locks_everywhere() -> None:
    done = subprocess.run([ROOT / "scripts/lock-check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("requirements.lock and requirements-analysis.lock: installable on") == 4


@pytest.mark.slow
def test_the_nodes_program_comes_with_the_package(tmp_path: Path) -> None:
    """What `gateway node provision` writes is in the wheel, and found where pip puts it."""
    source, installed = tmp_path / "source", tmp_path / "installed"
    for name in ("gateway", "drivers", "firmware"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = f"from setuptools import build_meta; print(build_meta.build_wheel({str(tmp_path)!r}))"
    done = subprocess.run([sys.executable, "-c", build], cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    with ZipFile(tmp_path / done.stdout.split()[-1]) as wheel:
        wheel.extractall(installed)
    look = (
        "import json; from gateway.nodes.provision import program as p\n"
        "print(json.dumps([len(p.loader()), sorted(p.program(6).files), str(p.FIRMWARE)]))"
    )
    done = subprocess.run([sys.executable, "-c", look], cwd=installed, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    size, files, where = json.loads(done.stdout)
    assert where == str(installed / "firmware")
    assert size == (ROOT / "firmware" / "main.py").stat().st_size
    assert files == sorted(
        path.relative_to(ROOT / "firmware").with_suffix(".mpy").as_posix()
        for path in (ROOT / "firmware" / "node").rglob("*.py")
    )
