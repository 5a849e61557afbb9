"""The chart as one page without any address in it (MCP Apps): shown by hosts in a sandboxed frame.

uPlot's script and style are those of its npm package (`scripts/vendor-uplot` fetches them), inlined with its licence.
"""

from base64 import b64encode
from hashlib import sha256
from importlib.resources import files
from string import Template

from mcp.server.apps import Apps, ResourceCsp

CHART_URI = "ui://ambient-gateway/chart.html"
HERE = files(__package__)


def chart() -> str:
    """The page. Its policy lets in its own scripts and styles, by their hashes, and inlined images; nothing else."""
    styles = {"uplot_css": _read("uplot/uPlot.min.css"), "chart_css": _read("chart.css")}
    scripts = {"uplot_js": _read("uplot/uPlot.iife.min.js"), "chart_js": _read("chart.js")}
    policy = (
        f"default-src 'none'; script-src {_hashes(scripts)}; style-src {_hashes(styles)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    about = {"uplot_version": _read("uplot/VERSION.txt").strip(), "uplot_licence": _read("uplot/LICENSE.txt")}
    return Template(_read("chart.html")).substitute(policy=policy, **styles, **scripts, **about)


def extension() -> Apps:
    """What the server offers to hosts that show pages; tools name the page by CHART_URI in `_meta.ui.resourceUri`."""
    apps = Apps()
    apps.add_html_resource(
        CHART_URI,
        chart(),
        name="chart",
        description="Draws a plot's points",
        csp=ResourceCsp(connect_domains=[], resource_domains=[], frame_domains=[], base_uri_domains=[]),
        prefers_border=True,
    )
    return apps


def _hashes(parts: dict[str, str]) -> str:
    return " ".join(f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'" for text in parts.values())


def _read(name: str) -> str:
    return HERE.joinpath(name).read_text(encoding="utf-8")
