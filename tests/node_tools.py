"""Programs from npm that tests run: installed once by scripts/node-tools into .cache/npm."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / ".cache" / "npm" / "node_modules"


@dataclass(frozen=True, slots=True)
class NodeTools:
    """A Node, and what it runs: the MCP conformance suite, its pre-release, the MCP inspector's command line; and where
    packages lie that scripts load."""

    node: Path
    conformance: Path
    conformance_next: Path
    inspector: Path
    packages: Path = FOLDER


def node_tools() -> NodeTools:
    """The tools, installed where they are not there yet. Fails with what the installer says, such as that npm is
    missing: a check that cannot run is no check that passed."""
    done = subprocess.run([ROOT / "scripts" / "node-tools"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"scripts/node-tools: {done.stderr.strip()}"
    suite = FOLDER / "@modelcontextprotocol"
    return NodeTools(
        FOLDER / ".bin" / "node",
        suite / "conformance" / "dist" / "index.js",
        FOLDER / "conformance-next" / "dist" / "index.js",
        suite / "inspector" / "clients" / "launcher" / "build" / "index.js",
    )
