"""The lock: hashes for everything, no index address, and installable where people are."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-dev.lock"])
def test_the_lock_has_hashes_and_no_address(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    pins = [line for line in text.splitlines() if "==" in line and not line.startswith((" ", "#"))]
    assert len(pins) > 20
    assert text.count("--hash=sha256:") >= len(pins)
    assert "://" not in text


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_plain_pip_installs_the_lock_everywhere() -> None:
    done = subprocess.run([ROOT / "scripts/lock-check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("requirements.lock installs on") == 4
