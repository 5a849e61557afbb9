"""A stranger's package adds a driver without touching ours: installed, found by its entry point, conforming."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from drivers import registry

PROJECT = Path(__file__).parent / "acme_sensors"
GUIDE = Path(__file__).parents[2] / "docs" / "a-sensor-in-ten-minutes.md"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package and its metadata, which setuptools made of its pyproject.toml as an installer would."""
    folder = tmp_path_factory.mktemp("thirdparty")
    project, target = folder / "project", folder / "site"
    shutil.copytree(PROJECT, project, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", "build"))
    target.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", "import setuptools; setuptools.setup()", "-q", "egg_info", "--egg-base", target],
        capture_output=True,
        text=True,
        check=False,
        cwd=project,
    )
    assert done.returncode == 0, done.stderr
    shutil.copytree(project / "acme_sensors", target / "acme_sensors")
    return target


def run(installed: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Python where the package is installed."""
    environment = os.environ | {"PYTHONPATH": str(installed), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, env=environment, cwd=installed
    )


@pytest.mark.slow
def test_it_passes_its_own_tests_and_our_conformance_suite(installed: Path) -> None:
    done = run(installed, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", PROJECT / "tests")
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


def test_the_gateway_lists_it_beside_ours(installed: Path) -> None:
    done = run(installed, "-c", "from drivers import registry; print(*registry.available())")
    assert done.stdout.split() == sorted([*registry.available(), "acme_t42"], key=done.stdout.split().index)
    assert "acme_t42" in done.stdout.split(), done.stderr
    assert "acme_t42" not in registry.available()


def test_a_configuration_takes_it_and_knows_its_options(installed: Path) -> None:
    program = (
        "from gateway.config import parse\n"
        "from gateway.sensors import plan\n"
        "sensor = {'driver': 'acme_t42', 'bus': 'i2c:1', 'options': {'address': 0x19}}\n"
        "config = parse({'device': [{'id': 'shed', 'sensor': [sensor]}]}, 'test', {})\n"
        "print(plan(config)[0].options)\n"
    )
    done = run(installed, "-c", program)
    assert done.stdout == "T42Options(address=25)\n", done.stderr


@pytest.mark.parametrize(
    "path",
    sorted(p.relative_to(PROJECT) for p in PROJECT.rglob("*") if p.suffix in {".py", ".toml"} and p.stat().st_size),
    ids=str,
)
def test_the_guide_names_every_file(path: Path) -> None:
    assert str(path) in GUIDE.read_text(encoding="utf-8")


def test_the_guide_shows_the_driver_as_it_is() -> None:
    shown = GUIDE.read_text(encoding="utf-8").split("```python\n")
    assert (PROJECT / "acme_sensors" / "acme_t42.py").read_text(encoding="utf-8") in [s.split("```")[0] for s in shown]
