"""The lock: hashes for everything, no index address, and installable where people are."""

import subprocess
from pathlib import Path

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
