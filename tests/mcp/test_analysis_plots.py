"""Plots three ways, as three kinds of clients get them; the page with a real answer in a real browser."""

import json
from base64 import b64decode
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from drivers.model import Quality, Quantity, Reason
from gateway.access.principal import Principal, Scope
from gateway.jail.table import Builder
from gateway.mcp import tabular
from gateway.mcp.apps.page import CHART_URI
from gateway.mcp.plots import MOST, MOST_BYTES, Plots
from tests.files.shelf import opened
from tests.mcp.asking import answer, refusal
from tests.mcp.chromium import browser, decode_png, runs
from tests.mcp.lab import APPS, Hand, Lab, NoPandas, called, lab, text_of, weight
from tests.mcp.test_chart_page import BOX, LIGHT, frame_text, keep, open_host, show
from tests.web.house import ERAS, in_a_task, reading

pytestmark = [
    pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning"),
]
TOGETHER = pytest.mark.asyncio(loop_scope="module")
IMAGE_BYTES, TEXT_BYTES = 100_000, 50_000


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Lab]:
    """A house whose nursery has a peak, a doubt, a bad value and two silent hours."""
    async with in_a_task(lab(tmp_path_factory.mktemp("lab"))) as built:
        await built.house.add(*nursery())
        yield built


def nursery() -> list[Any]:
    found = []
    for minute in range(1439, 0, -1):
        if 600 < minute < 720:
            continue
        more: dict[str, Any] = {}
        if minute == 300:
            more = {"quality": Quality.UNCERTAIN, "reason": Reason.UNUSUAL}
        if minute == 200:
            more = {"quality": Quality.BAD, "reason": Reason.SPIKE}
        value = 45.0 + minute % 7 / 10 + {400: 44.0, 200: 900.0}.get(minute, 0.0)
        age = timedelta(minutes=minute)
        found.append(reading("nursery", Quantity.HUMIDITY, value, age, sensor="sht", **more))
    return found


def images(result: Any) -> list[bytes]:
    return [b64decode(each.data) for each in result.content if each.type == "image"]


@pytest.mark.parametrize("era", ERAS)
@TOGETHER
async def test_a_plot_in_words_points_and_a_picture(place: Lab, era: str) -> None:
    async with place.client(era) as client:
        result = await called(client, "plot", metric="humidity", devices=["nursery"])
    words, said = text_of(result), result.structured_content
    assert words.startswith("humidity of nursery in %RH: 2026-11-19T13:00:00+01:00 to 2026-11-20T13:00:00+01:00")
    assert "max 89.1 %RH at 2026-11-20T06:20:00+01:00" in words
    assert "min 45 %RH" in words
    assert "1 bad values are no part of the line" in words
    assert "the longest 2026-11-20T01:00:00+01:00 to 2026-11-20T03:00:00+01:00" in words
    points = [line for line in words.splitlines() if line[:3] == "202" and "T" in line]
    assert 60 < len(points) <= 120
    assert "2026-11-20T06:20:00 89.1" in points
    (series,) = said["series"]
    assert (series["unit"], series["total"], series["bad_total"], series["downsampled"]) == ("%RH", 1320, 1, True)
    assert len(series["times"]) == len(series["values"]) <= 200
    assert max(zip(series["values"], series["times"], strict=True)) >= (89.1, "2026-11-20T06:20:00+01:00")
    assert series["gaps"] == [["2026-11-20T01:00:00+01:00", "2026-11-20T03:00:00+01:00"]]
    (picture,) = images(result)
    assert picture.startswith(b"\x89PNG")
    texts, image = weight(result)
    assert texts <= TEXT_BYTES
    assert image <= IMAGE_BYTES


@TOGETHER
async def test_the_picture_shows_the_line_and_its_break(place: Lab, tmp_path: Path) -> None:
    async with place.client() as client:
        (picture,) = images(await called(client, "plot", metric="humidity", devices=["nursery"]))
    (tmp_path / "nursery.png").write_bytes(picture)
    seen = decode_png(picture)
    across = sorted({x for x, _ in seen.places("#1f77b4", near=30)})
    marks = {x for x, _ in seen.places("#b07000", near=60)}  # a ring hides a little of the line
    stretches = [run for run in runs(sorted({*across, *marks})) if run[1] - run[0] > 0.1 * seen.width]
    assert len(stretches) == 2
    hours = (stretches[1][0] - stretches[0][1]) / (stretches[1][1] - stretches[0][0]) * 24
    assert 1.5 < hours < 2.6
    assert seen.count("#b3372f", near=60) > 10, "the bad value has its cross"
    assert seen.count("#b07000", near=60) > 4, "the doubtful one its ring"


@TOGETHER
async def test_several_devices_share_the_points(place: Lab) -> None:
    async with place.client() as client:
        result = await called(client, "plot", metric="humidity", start="-2h")
        words = text_of(result)
    assert [each["device"] for each in result.structured_content["series"]] == ["attic", "nursery"]
    assert "attic scd30 humidity: nothing usable in this range (0 values)" in words
    assert "nursery sht humidity:" in words


@TOGETHER
async def test_a_host_with_pages_gets_points_and_no_picture_until_asked(place: Lab) -> None:
    async with place.client(extensions=APPS) as client, place.http() as http:
        (tool,) = [each for each in (await client.list_tools()).tools if each.name == "plot"]
        assert tool.meta is not None
        assert tool.meta["ui"] == {"resourceUri": CHART_URI}
        page = (await client.read_resource(CHART_URI)).contents[0]
        assert page.mime_type == "text/html;profile=mcp-app"
        assert page.meta is not None
        kinds = ("connectDomains", "resourceDomains", "frameDomains", "baseUriDomains")
        assert page.meta["ui"]["csp"] == {kind: [] for kind in kinds}
        assert len(page.text.encode()) <= 150_000
        before = place.files.count
        result = await called(client, "plot", metric="humidity", devices=["nursery"])
        assert images(result) == []
        assert place.files.count == before
        full = await http.get(result.structured_content["picture"])
        assert (full.status_code, full.headers["content-type"]) == (200, "image/png")
        resource = (await client.read_resource(f"plot://{result.structured_content['plot']}")).contents[0]
        assert b64decode(resource.blob) == full.content


@TOGETHER
async def test_the_page_draws_a_real_answer(place: Lab, tmp_path: Path) -> None:
    async with place.client(extensions=APPS) as client:
        page = (await client.read_resource(CHART_URI)).contents[0].text
        result = await called(client, "plot", metric="humidity", devices=["nursery"])
    sent = json.loads(result.model_dump_json(by_alias=True, exclude_none=True))
    with browser(tmp_path) as tab:
        open_host(tab, tmp_path, page=page, theme="light")
        show(tab, sent)
        keep(tab, "real", tmp_path)
        picture, _ = tab.picture()
        drawn = [run for run in runs(sorted({x for x, _ in picture.places(LIGHT[0], box=BOX)})) if run[1] - run[0] > 60]
        assert len(drawn) >= 2, "two silent hours stay empty"
        high = min(y for _, y in picture.places(LIGHT[0], box=BOX))
        assert picture.count(LIGHT[0], box=(BOX[0], high, BOX[2], high + 60)) < 200, "one peak stands out"
        assert picture.count("#9a6200", near=30, box=BOX) > 4
        assert picture.count("#b3372f", near=30, box=BOX) > 4
        words = frame_text(tab)
    for word in (
        "humidity of nursery",
        "%RH",
        "Europe/Berlin",
        "uncertain",
        "bad, not in the line",
        "a break in the line",
    ):
        assert word in words
    assert tab.said == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"metric": "co3"}, "metric: there is no 'co3' here; did you mean 'co2'?"),
        ({"metric": "co2", "devices": ["atic"]}, "did you mean 'attic'?"),
        ({"metric": "co2", "devices": []}, "devices: name at least one"),
        ({"metric": "co2", "devices": ["x"] * 9}, "devices"),
        ({"metric": "co2", "start": "now", "end": "-1h"}, "is not before end"),
        ({"metrik": "co2"}, "metric"),
    ],
)
@TOGETHER
async def test_errors_name_the_argument(place: Lab, arguments: dict[str, Any], said: str) -> None:
    async with place.client() as client:
        assert said in await refusal(client, "plot", **arguments)


@TOGETHER
async def test_a_range_without_anything_is_said(place: Lab) -> None:
    async with place.client() as client:
        result = await called(client, "plot", metric="co2", start="-30d", end="-29d")
        ahead = await called(client, "plot", metric="co2", start="2026-11-21T00:00:00Z", end="2026-11-22T00:00:00Z")
    for each in (result, ahead):
        assert "nothing usable in this range" in text_of(each)
        assert each.structured_content["series"][0]["times"] == []


@TOGETHER
async def test_code_draws_its_rows(place: Lab, tmp_path: Path) -> None:
    code = "plt.fill_between(df['time'], df['value'], color='#c02040')\nplt.title('CO2 upstairs')\nplt.ylabel('ppm')"
    async with place.client() as client, place.http() as http:
        sql = "select time, value, unit from measurements where metric_type = 'co2' order by time"
        query = (await answer(client, "execute_sql_query", sql=sql))["query_id"]
        result = await called(client, "create_plot", query_id=query, plot_code=code)
        said = result.structured_content
        full = await http.get(said["picture"])
        resource = (await client.read_resource(f"plot://{said['plot']}")).contents[0]
        wrong = await refusal(client, "create_plot", query_id=query, plot_code="plt.plot(df['nope'])")
    assert (said["title"], said["rows"], said["axes"]) == (
        "CO2 upstairs",
        1440,
        [{"title": "CO2 upstairs", "y": "ppm"}],
    )
    assert "nope" in wrong
    rows = text_of(result, 1).splitlines()[1:]
    assert rows[0] == "time,value,unit"
    assert rows[1] == "2026-11-19T12:01:00Z,401.0,ppm"
    assert rows[-1] == "2026-11-20T12:00:00Z,1840.0,ppm"
    assert len(rows) <= 121
    (picture,) = images(result)
    seen = decode_png(picture)
    assert seen.count("#c02040") > 0.1 * seen.width * seen.height
    assert (full.content[:4], b64decode(resource.blob) == full.content) == (b"\x89PNG", True)
    assert full.headers["content-disposition"].startswith("inline; filename*=utf-8''CO2%20upstairs.png")
    texts, image = weight(result)
    assert texts <= TEXT_BYTES
    assert image <= IMAGE_BYTES


@TOGETHER
async def test_a_picture_of_noise_still_fits(place: Lab) -> None:
    code = "plt.imshow(np.random.default_rng(1).random((400, 600, 3)))"
    async with place.client() as client:
        query = (await answer(client, "execute_sql_query", sql="select 1 as one"))["query_id"]
        result = await called(client, "create_plot", query_id=query, plot_code=code)
    assert weight(result)[1] <= IMAGE_BYTES


@TOGETHER
async def test_another_s_plot_is_not_there(place: Lab) -> None:
    token = await place.house.tokens.create("peeping", Scope.ADMIN)
    async with place.client() as client, place.client(token=token) as other:
        plot = (await called(client, "plot", metric="co2")).structured_content["plot"]
        await client.read_resource(f"plot://{plot}")
        with pytest.raises(Exception, match="there is no"):
            await other.read_resource(f"plot://{plot}")


@TOGETHER
async def test_without_pandas_words_and_points_are_left(tmp_path: Path) -> None:
    async with in_a_task(lab(tmp_path, NoPandas)) as place, place.client() as client:
        result = await called(client, "plot", metric="co2")
    assert images(result) == []
    assert result.structured_content["no_picture"].startswith("pandas not installed")
    assert "no picture: pandas not installed" in text_of(result)
    assert not {"plot", "picture"} & set(result.structured_content)
    assert len(result.structured_content["series"][0]["times"]) > 100


@TOGETHER
async def test_pictures_are_forgotten_the_oldest_first(tmp_path: Path) -> None:
    hand, anna = Hand(), Principal("anna", Scope.READ, "anna")
    async with opened(tmp_path) as files:
        plots = Plots(files, hand)
        first = plots.keep("x", b"first", "anna")
        large = [plots.keep("x", bytes(MOST_BYTES // 4), "anna") for _ in range(4)]
        assert len(await plots.png(large[-1].plot_id, anna)) == MOST_BYTES // 4
        with pytest.raises(LookupError):
            await plots.png(first.plot_id, anna)
        with pytest.raises(LookupError):
            await files.fetch(first.path.rpartition("/")[2], "anna")
        many = [plots.keep("x", b"x", "anna") for _ in range(MOST + 1)]
        with pytest.raises(LookupError):
            await plots.png(many[0].plot_id, anna)
        assert await plots.png(many[1].plot_id, anna) == b"x"
        with pytest.raises(LookupError):
            await plots.png(many[1].plot_id, Principal("ben", Scope.ADMIN, "ben"))
        hand.s += 3600
        with pytest.raises(LookupError):
            await plots.png(many[-1].plot_id, anna)


def test_thinned_rows_keep_the_extremes() -> None:
    made = Builder([("sensor_id", "INTEGER", "i8"), ("value", "DOUBLE", "f8"), ("name", "VARCHAR", "text")])
    made.extend([(7, {333: 99.0, 777: -5.0}.get(row, row % 3 / 10), "a\nb") for row in range(1000)])
    lines = tabular.points(made.table()).splitlines()
    assert lines[0] == "sensor_id,value,name"
    assert len(lines) <= 121
    assert {"7,99.0,a b", "7,-5.0,a b"} <= set(lines)
    empty = Builder([("value", "DOUBLE", "f8")]).table()
    assert tabular.points(empty) == "value"
