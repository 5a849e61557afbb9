"""The chart page in a real browser, shown by a host that speaks the MCP Apps protocol: what is seen is counted."""

import json
import re
from base64 import b64decode, b64encode
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from math import sin
from pathlib import Path
from typing import Any

import pytest

from gateway.mcp.apps import page as pages
from tests.mcp.chromium import Page, browser, runs

pytestmark = pytest.mark.system
HOST = Path(__file__).parent / "apps_host.html"
LIGHT, DARK = ("#1f7a6c", "#3465a4"), ("#66c7b5", "#8ab4f0")
START = datetime(2026, 11, 19, 12, tzinfo=UTC)
RED_DOT = b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAUAAAAFCAYAAACNbyblAAAAHElEQVQI12P4//8/w38GIAXDIBKE0DHxgljNBAAO9TXL0Y4OHwAAAABJRU5ErkJggg=="
)


def moment(minutes: float) -> str:
    return (START + timedelta(minutes=minutes)).astimezone().isoformat(timespec="seconds")


def series(device: str, base: float, *, minutes: range = range(0, 1440, 15), **more: Any) -> dict[str, Any]:
    return {
        "device": device,
        "sensor": "scd30",
        "metric": "co2",
        "unit": "ppm",
        "times": [moment(minute) for minute in minutes],
        "values": [base + 200 * sin(minute / 180) for minute in minutes],
        "downsampled": True,
        **more,
    }


def plotted(*drawn: dict[str, Any], **more: Any) -> dict[str, Any]:
    ends = {"start": moment(0), "end": moment(1440), "timezone": "Europe/Berlin"}
    return {"content": [], "structuredContent": {"title": "co2", "series": list(drawn), **ends, **more}}


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser(tmp_path_factory.mktemp("chromium")) as page:
        yield page


def open_host(tab: Page, folder: Path, *, page: str = "", **context: Any) -> None:
    tab.size(800, 520)
    given = json.dumps({"page": page or pages.chart(), "context": context}).replace("</", "<\\/")
    file = folder / "host.html"
    file.write_text(HOST.read_text(encoding="utf-8").replace("GIVEN", given), encoding="utf-8")
    tab.said.clear()
    tab.open(file)
    tab.evaluate("new Promise((done) => document.readyState === 'complete' ? done() : addEventListener('load', done))")


def show(tab: Page, result: dict[str, Any]) -> None:
    tab.evaluate(f"show({json.dumps(result)})")


def columns_of(tab: Page, colour: str, **more: Any) -> list[int]:
    picture, _ = tab.picture()
    return sorted({x for x, _ in picture.places(colour, **more)})


def frame_text(tab: Page) -> str:
    """What the page says to people."""
    tree = tab.call("Page.getFrameTree")["frameTree"]["childFrames"][0]["frame"]["id"]
    world = tab.call("Page.createIsolatedWorld", frameId=tree)["executionContextId"]
    found = tab.call("Runtime.evaluate", expression="document.body.innerText", contextId=world, returnByValue=True)
    return str(found["result"]["value"])


def keep(tab: Page, name: str, folder: Path) -> None:
    """For people who want to look."""
    (folder / f"{name}.png").write_bytes(tab.picture()[1])


BOX = (70, 70, 780, 350)
"""Where the chart's lines are in a window of 800 pixels."""


def test_the_page_is_small_and_has_no_address() -> None:
    page = pages.chart()
    assert len(page.encode()) <= 150_000
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', page)
    assert policy is not None
    rules = dict(rule.strip().split(" ", 1) for rule in policy[1].split(";"))
    assert (rules["default-src"], rules["img-src"], rules["base-uri"]) == ("'none'", "data:", "'none'")
    for kind, tag in (("script-src", "script"), ("style-src", "style")):
        texts = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        hashes = {f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'" for text in texts}
        assert set(rules[kind].split()) == hashes
        assert len(texts) == 2
    for word in ("eval(", "new Function", "innerHTML", "fetch(", "XMLHttpRequest", "WebSocket", "localStorage"):
        assert word not in page.replace("gateway", ""), word
    for address in re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"')]*", page):
        assert address.startswith("https://github.com/leeoniya/uPlot"), address  # its own banner, a comment


def test_what_is_vendored_says_what_it_is() -> None:
    folder = Path(pages.__file__).parent / "uplot"
    version = (folder / "VERSION.txt").read_text().strip()
    assert f"uPlot (v{version})" in (folder / "uPlot.iife.min.js").read_text()[:200]
    assert (folder / "LICENSE.txt").read_text().startswith("The MIT License")
    assert "Permission is hereby granted" in pages.chart()
    assert f"version=${{1:-{version}}}" in (Path(__file__).parents[2] / "scripts" / "vendor-uplot").read_text()


@pytest.mark.parametrize(("theme", "colours", "ground"), [("light", LIGHT, "#ffffff"), ("dark", DARK, "#1a2221")])
def test_lines_are_where_data_are(tab: Page, tmp_path: Path, theme: str, colours: tuple[str, str], ground: str) -> None:
    open_host(tab, tmp_path, theme=theme)
    show(tab, plotted(series("attic", 800), series("cellar", 1400)))
    keep(tab, f"two-{theme}", tmp_path)
    assert tab.said == []
    assert tab.evaluate("faults") == []
    picture, _ = tab.picture()
    assert picture.count(ground, near=4) > 0.5 * picture.width * picture.height
    upper, lower = (picture.places(colour, near=25, box=BOX) for colour in reversed(colours))
    for places in (upper, lower):
        across = {x for x, _ in places}
        assert max(across) - min(across) > 650, "a line from end to end"
        assert len(across) > 640
    middle = 400
    at = [min(y for x, y in places if abs(x - middle) < 5) for places in (upper, lower)]
    assert at[0] < at[1] - 40, "1400 ppm stands above 800 ppm"
    said = frame_text(tab)
    for word in ("co2", "in ppm", "times of Europe/Berlin", "attic", "cellar"):
        assert word in said


def test_a_gap_stays_a_gap(tab: Page, tmp_path: Path) -> None:
    whole = series("attic", 800, minutes=range(0, 1440, 5))
    open_host(tab, tmp_path, theme="light")
    show(tab, plotted(whole))
    assert len([run for run in runs(columns_of(tab, LIGHT[0], box=BOX)) if run[1] - run[0] > 5]) == 1
    kept = [at for at in range(0, 1440, 5) if not 480 < at < 960]
    broken = series("attic", 800, minutes=range(0, 1440, 5))
    broken |= {"times": [moment(at) for at in kept], "values": [800 + 200 * sin(at / 180) for at in kept]}
    show(tab, plotted(broken | {"gaps": [[moment(480), moment(960)]]}))
    keep(tab, "gap", tmp_path)
    left, right = (run for run in runs(columns_of(tab, LIGHT[0], box=BOX)) if run[1] - run[0] > 5)
    assert 200 < right[0] - left[1] < 280, "a third of the chart is empty"
    assert "a break in the line" in frame_text(tab)


def test_quality_is_marked_and_bad_values_are_no_line(tab: Page, tmp_path: Path) -> None:
    one = series("attic", 800)
    good = ["good"] * len(one["times"])
    doubted = [*good[:40], "uncertain", "uncertain", *good[42:60], "bad", *good[61:]]
    values = [*one["values"][:60], 9000.0, *one["values"][61:]]
    open_host(tab, tmp_path, theme="light")
    show(tab, plotted(one))
    rings, crosses = "#9a6200", "#b3372f"
    plain, _ = tab.picture()
    assert (plain.count(rings, box=BOX, near=30), plain.count(crosses, box=BOX, near=30)) == (0, 0)
    show(tab, plotted(one | {"qualities": doubted, "values": values}))
    keep(tab, "quality", tmp_path)
    marked, _ = tab.picture()
    assert marked.count(rings, box=BOX, near=30) > 10
    assert marked.count(crosses, box=BOX, near=30) > 8
    # The scale is that of the good values: the line still takes the height of the chart, far from the bad one too.
    heights = [y for _, y in marked.places(LIGHT[0], box=(BOX[0], BOX[1], 400, BOX[3]))]
    assert max(heights) - min(heights) > 100
    said = frame_text(tab)
    assert "uncertain" in said
    assert "bad, not in the line" in said


def test_the_theme_follows_its_host(tab: Page, tmp_path: Path) -> None:
    open_host(tab, tmp_path, theme="light", styles={"variables": {"--color-background-primary": "#fef9e7"}})
    show(tab, plotted(series("attic", 800)))
    light, _ = tab.picture()
    tab.evaluate("change({theme: 'dark', styles: {variables: {'--color-background-primary': '#101820'}}})")
    dark, _ = tab.picture()
    assert light.count("#fef9e7", near=3) > 100_000
    assert dark.count("#101820", near=3) > 100_000
    assert dark.count(DARK[0]) > 500


def test_without_a_word_from_the_host_the_system_decides(tab: Page, tmp_path: Path) -> None:
    try:
        tab.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
        open_host(tab, tmp_path)
        show(tab, plotted(series("attic", 800)))
        assert tab.picture()[0].count("#1a2221", near=3) > 100_000
    finally:
        tab.call("Emulation.setEmulatedMedia", features=[])


def test_the_site_s_clock_labels_the_axis(tab: Page, tmp_path: Path) -> None:
    """A cursor over the first point shows the site's time, summer or winter, wherever the browser is."""
    tab.call("Emulation.setTimezoneOverride", timezoneId="America/New_York")
    try:
        open_host(tab, tmp_path, theme="light")
        show(tab, plotted(series("attic", 800)))
        hover(tab, 92, 150)
        assert re.search(r"2026-11-19 13:(00|15|30):00", frame_text(tab))
        assert re.search(r"\d{3}(\.\d+)? ppm", frame_text(tab))
    finally:
        tab.call("Emulation.setTimezoneOverride", timezoneId="")


def test_a_finger_shows_values_and_two_fingers_zoom(tab: Page, tmp_path: Path) -> None:
    open_host(tab, tmp_path, theme="light")
    show(tab, plotted(series("attic", 800), series("cellar", 1400)))
    touch(tab, "touchStart", (420, 150))
    touch(tab, "touchEnd")
    settle(tab)
    assert moment_under_cursor(tab) - START < timedelta(hours=13)
    assert "ppm" in frame_text(tab)
    touch(tab, "touchStart", (380, 150), (460, 150))
    for step in range(1, 9):
        touch(tab, "touchMove", (380 - 20 * step, 150), (460 + 20 * step, 150))
    touch(tab, "touchEnd")
    settle(tab)
    keep(tab, "pinched", tmp_path)
    ends = []
    for x in (90, 755):
        hover(tab, x, 150)
        ends.append(moment_under_cursor(tab))
    assert timedelta(hours=3) < ends[1] - ends[0] < timedelta(hours=7), "a fifth of the day is left"
    for _ in range(2):
        touch(tab, "touchStart", (420, 150))
        touch(tab, "touchEnd")
    settle(tab)
    hover(tab, 755, 150)
    assert moment_under_cursor(tab) > START + timedelta(hours=23), "a double tap shows all again"


def moment_under_cursor(tab: Page) -> datetime:
    """What the legend says, as the site's winter time."""
    found = re.search(r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d", frame_text(tab))
    assert found is not None
    return datetime.fromisoformat(f"{found[0]}+01:00")


def test_a_picture_is_shown_as_it_came(tab: Page, tmp_path: Path) -> None:
    open_host(tab, tmp_path, theme="light")
    image = {"type": "image", "mimeType": "image/png", "data": b64encode(RED_DOT).decode()}
    show(tab, plotted(title="from code") | {"content": [image, {"type": "text", "text": "x"}]})
    assert "from code" in frame_text(tab)
    assert tab.said == []
    assert tab.picture()[0].count("#ff0000", near=120) > 4


def test_what_went_wrong_is_said_and_hostile_words_are_words(tab: Page, tmp_path: Path) -> None:
    open_host(tab, tmp_path, theme="light")
    evil = "<img src=x onerror=\"parent.postMessage('owned','*')\"><script>1</script>"
    show(tab, {"isError": True, "content": [{"type": "text", "text": f"metric: there is no {evil}"}]})
    assert evil in frame_text(tab)
    show(tab, plotted(series(evil, 800), title=evil))
    assert frame_text(tab).count(evil) >= 2
    show(tab, plotted(series("attic", 800, minutes=range(0))))
    assert "nothing to draw" in frame_text(tab)
    for broken in ({}, {"structuredContent": {"series": [None, {"times": "x"}, {"times": ["never"], "values": []}]}}):
        show(tab, broken)
    assert "owned" not in json.dumps(tab.evaluate("heard"))
    assert tab.said == []


def test_only_its_host_is_heard(tab: Page, tmp_path: Path) -> None:
    """A frame beside it, of whatever origin, may post to it as well."""
    open_host(tab, tmp_path, theme="light")
    show(tab, plotted(series("attic", 800)))
    forged = {"jsonrpc": "2.0", "method": "ui/notifications/tool-result", "params": plotted(title="forged")}
    tab.evaluate(f"beside({json.dumps(json.dumps(forged))})")
    assert "attic" in frame_text(tab)
    assert "forged" not in frame_text(tab)


def test_it_answers_its_host_and_says_how_large_it_is(tab: Page, tmp_path: Path) -> None:
    open_host(tab, tmp_path, theme="light")
    show(tab, plotted(series("attic", 800)))
    assert tab.evaluate("request('ping')")["result"] == {}
    assert tab.evaluate("request('ui/resource-teardown')")["result"] == {}
    assert tab.evaluate("request('sampling/createMessage')")["error"]["code"] == -32601
    sizes = [each["params"] for each in tab.evaluate("heard") if each.get("method", "").endswith("size-changed")]
    assert 250 < sizes[-1]["height"] < 520
    tab.size(360, 640)
    settle(tab)
    keep(tab, "narrow", tmp_path)
    across = columns_of(tab, LIGHT[0], box=(60, 60, 360, 280))
    assert max(across) - min(across) > 215
    assert max(across) < 356


def hover(tab: Page, x: int, y: int) -> None:
    tab.call("Input.dispatchMouseEvent", type="mouseMoved", x=x + 5, y=y)
    tab.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    settle(tab)


def touch(tab: Page, kind: str, *points: tuple[int, int]) -> None:
    fingers = [{"x": x, "y": y, "id": number} for number, (x, y) in enumerate(points)]
    tab.call("Input.dispatchTouchEvent", type=kind, touchPoints=fingers)


def settle(tab: Page) -> None:
    tab.evaluate("still()")
