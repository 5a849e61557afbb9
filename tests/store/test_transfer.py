"""Readings out into files and in again: exactly the same, in order, once, and each fault named by its line."""

import csv
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.model import Quality, Quantity, Reason
from gateway.reading import Message
from gateway.store import codes, queries
from gateway.store.backups import snapshot
from gateway.store.db import Store
from gateway.store.errors import TransferError
from gateway.store.exchange import export, transfer
from gateway.store.exchange.errands import EndImport, Errands, Imported, ImportRows, TakeSnapshot, take_in
from gateway.store.exchange.export import Exported, Wanted
from gateway.store.exchange.rows import BadRow, Reader, Row
from gateway.store.keeper import Keeper, Keeping, Retention
from tests.store.archives import NOW, Clock, contents, nothing, readings
from tests.store.builders import T0, local, reading

HEAD = "time,device,sensor,metric,quantity,value,unit,quality,reason"
LINE = "2026-11-20T12:00:00.000Z,attic,scd30,co2,co2,400.0,ppm,good,"
NOW_MS = codes.to_ms(NOW)
HOUR_MS = 3_600_000


async def written(store: Store, file: Path, wanted: Wanted = Wanted()) -> Exported:  # noqa: B008 - it is frozen
    """An export while the store is open."""
    with snapshot.lend(store.folder) as place:
        await snapshot.take(store, place.name, NOW, keys=False)
        return export.export(place, file, wanted, nothing)


async def taken_in(store: Store, file: Path) -> Imported:
    done = [await take_in(store, block) for block in transfer.read(file, NOW, nothing)]
    return Imported(
        stored=sum(each.stored for each in done),
        duplicates=sum(each.duplicates for each in done),
        expired=sum(each.expired for each in done),
    )


async def by_name(store: Store) -> list[tuple[Any, ...]]:
    """Every reading with the names of its series."""
    names = {one: (each.device, each.sensor, each.metric, each.quantity) for one, each in store.series().items()}
    return sorted((ms, *names[one], value, quality) for one, ms, value, quality in await readings(store))


def some_air(seed: int, count: int = 400) -> list[Message]:
    """Readings of three devices with every kind of value and quality."""
    chance = random.Random(seed)
    found = []
    for _ in range(count):
        quality, reason = chance.choice([(Quality.GOOD, Reason.NONE), *((Quality.UNCERTAIN, each) for each in Reason)])
        value: float | None = chance.choice(
            [round(chance.gauss(20, 5), 2), chance.random() * 10 ** chance.randrange(-9, 9)]
        )
        if chance.random() < 0.1:
            value, quality, reason = None, Quality.BAD, chance.choice(list(Reason))
        at_s = round(chance.random() * 100_000, 3)
        device, quantity = chance.choice(["attic", "cellar", 'odd, "name"']), chance.choice(list(Quantity))
        found.append(reading(value, at_s, device=device, quantity=quantity, quality=quality, reason=reason))
    found.append(reading(-0.1 - 0.2, float(seed), metric="co2_2"))
    return [local(each) for each in found]


@pytest.mark.parametrize("form", ["csv", "parquet"])
async def test_what_goes_out_comes_in_again_exactly(tmp_path: Path, form: str) -> None:
    file, again = tmp_path / f"out.{form}", tmp_path / f"again.{form}"
    async with Store(tmp_path / "data") as store:
        await store.append(some_air(1))
        await Keeper(store, Clock()).seal()
        await store.append(some_air(2, 50))
        before = await by_name(store)
        assert (await written(store, file)).rows == len(before)
    async with Store(tmp_path / "other") as store:
        assert await taken_in(store, file) == Imported(stored=len(before))
        assert await by_name(store) == before
        assert await taken_in(store, file) == Imported(duplicates=len(before))
        await Keeper(store, Clock()).seal(everything=True)
        assert await taken_in(store, file) == Imported(duplicates=len(before))
        assert await by_name(store) == before
        await written(store, again)
    assert rows_of(again) == rows_of(file)


def rows_of(file: Path) -> list[Any]:
    """A file's rows, those of equal time sorted: series have other numbers elsewhere."""
    return sorted(map(str, duckdb.read_parquet(str(file)).fetchall() if file.suffix == ".parquet" else lines_of(file)))


def lines_of(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


async def test_the_order_is_that_of_time_across_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "WINDOW_ROWS", 20)
    async with Store(tmp_path / "data") as store:
        await store.append(some_air(3))
        await Keeper(store, Clock()).seal()
        for form in ("csv", "parquet"):
            await written(store, tmp_path / f"x.{form}")
    times = [line["time"] for line in lines_of(tmp_path / "x.csv")]
    assert times == sorted(times)
    assert len(times) == 401
    found = duckdb.read_parquet(str(tmp_path / "x.parquet"))
    assert str(found.types[0]) == "TIMESTAMP"
    assert [f"{row[0]:%Y-%m-%dT%H:%M:%S}.{row[0].microsecond // 1000:03}Z" for row in found.fetchall()] == times


async def test_ranges_devices_and_metrics(tmp_path: Path) -> None:
    async with Store(tmp_path / "data") as store:
        values = [(n, device, q) for n in range(20) for device in ("a", "b") for q in (Quantity.CO2, Quantity.HUMIDITY)]
        await store.append([local(reading(float(n), n * 60.0, device=device, quantity=q)) for n, device, q in values])
        for number, (wanted, count) in enumerate(
            [
                (Wanted(), 80),
                (Wanted(device="a"), 40),
                (Wanted(metric="co2"), 40),
                (Wanted(device="a", metric="co2"), 20),
                (Wanted(start=T0 + timedelta(minutes=5)), 60),
                (Wanted(start=T0 + timedelta(minutes=5), end=T0 + timedelta(minutes=6)), 4),
                (Wanted(end=T0), 0),
            ]
        ):
            assert (await written(store, tmp_path / f"{number}.csv", wanted)).rows == count
        assert (tmp_path / "6.csv").read_text() == f"{HEAD}\n"
        with pytest.raises(TransferError, match=r"no readings of 'c': leave out --device"):
            await written(store, tmp_path / "c.csv", Wanted(device="c"))
        for file, wanted, words in (
            ("6.csv", Wanted(), "is there already"),
            ("x.xlsx", Wanted(), r"name it \.csv or \.parquet"),
            ("no/x.csv", Wanted(), "no such folder"),
            ("x.csv", Wanted(bucket_ms=60_000), "a bucket of 1 minutes: give a multiple of 15"),
        ):
            with pytest.raises(TransferError, match=words):
                await written(store, tmp_path / file, wanted)
        assert not [name for name in contents(tmp_path) if ".part" in name]


@pytest.mark.parametrize("width_ms", [900_000, HOUR_MS, 24 * HOUR_MS])
async def test_buckets_are_those_of_a_naive_count(
    tmp_path: Path, width_ms: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "WINDOW_BUCKETS", 50)
    async with Store(tmp_path / "data") as store:
        await store.append([each for each in some_air(4) if each.device != 'odd, "name"'])
        await Keeper(store, Clock()).seal()
        await store.append(some_air(5, 40))
        naive: dict[tuple[Any, ...], list[tuple[int, float | None, int]]] = {}
        for ms, device, sensor, metric, quantity, value, quality in await by_name(store):
            naive.setdefault((ms - ms % width_ms, device, sensor, metric, str(quantity)), []).append(
                (ms, value, quality)
            )
        await written(store, tmp_path / "b.csv", Wanted(bucket_ms=width_ms))
    lines = lines_of(tmp_path / "b.csv")
    assert len(lines) == len(naive)
    starts = [line["start"] for line in lines]
    assert starts == sorted(starts)
    for line in lines:
        start_ms = codes.to_ms(datetime.fromisoformat(line["start"]))
        rows = naive[start_ms, line["device"], line["sensor"], line["metric"], line["quantity"]]
        usable = [(ms, value) for ms, value, quality in rows if value is not None and quality < codes.USABLE_BELOW]
        assert (int(line["n"]), int(line["bad"])) == (len(usable), len(rows) - len(usable))
        if usable:
            values = [value for _, value in usable]
            assert (float(line["min"]), float(line["max"])) == (min(values), max(values))
            assert float(line["mean"]) == pytest.approx(sum(values) / len(values))
            assert float(line["last"]) == max(usable)[1]
        else:
            assert line["min"] == line["mean"] == line["last"] == ""


async def test_what_has_expired_is_told_and_never_counted_twice(tmp_path: Path) -> None:
    dense = [local(reading(400.0 + n, n * 10.0)) for n in range(720)]
    async with Store(tmp_path / "data") as store:
        await store.append(dense)
        keeper = Keeper(store, Clock(), Keeping(retention=(Retention(1),)))
        await keeper.seal()
        assert (await written(store, tmp_path / "all.csv")).expired_until is None
        clock = Clock()
        clock.now = lambda: NOW + timedelta(days=3)  # type: ignore[method-assign]
        assert await Keeper(store, clock, Keeping(retention=(Retention(1),))).expire() == 1
        gone = await written(store, tmp_path / "gone.csv")
        assert (gone.rows, gone.expired_until) == (0, T0 + timedelta(hours=2))
        buckets = await written(store, tmp_path / "buckets.csv", Wanted(bucket_ms=900_000))
        assert (buckets.rows, buckets.expired_until) == (8, None)
        assert await taken_in(store, tmp_path / "all.csv") == Imported(expired=720)
        assert (await written(store, tmp_path / "after.csv", Wanted(bucket_ms=900_000))).rows == 8
        assert (tmp_path / "after.csv").read_text() == (tmp_path / "buckets.csv").read_text()


async def test_an_import_is_no_sign_of_life(tmp_path: Path) -> None:
    """Old readings, in any order, neither become the newest nor make a device seem heard."""
    async with Store(tmp_path / "data") as store:
        await store.append([local(reading(1.0, 7200.0))])
        rows = [
            Row(codes.to_ms(T0) + ms, ("attic", "scd30", "co2", Quantity.CO2), 2.0, 0) for ms in (900_000, 0, 60_000)
        ]
        other = [Row(row.ms, ("shed", *row.key[1:]), 2.0, 0) for row in rows]
        assert await take_in(store, [*rows, *other]) == Imported(stored=6)
        newest = {each.device: (each.time, each.value) for each in queries.latest(store)}
        assert newest == {"attic": (T0 + timedelta(hours=2), 1.0), "shed": (T0 + timedelta(minutes=15), 2.0)}
        assert await take_in(store, [*other, *rows]) == Imported(duplicates=6)
    async with Store(tmp_path / "data") as store:
        assert {each.device: (each.time, each.value) for each in queries.latest(store)} == newest
        seen = {each.device_id: each.last_seen for each in await queries.devices(store)}
        assert seen == {"attic": T0 + timedelta(hours=2), "shed": T0 + timedelta(minutes=15)}


async def test_errands_of_a_second_process(tmp_path: Path) -> None:
    async with Store(tmp_path / "data") as store:
        sealed: list[int] = []

        async def seal() -> None:
            sealed.append(await Keeper(store, Clock()).seal())

        async def learn() -> None:
            sealed.append(-1)

        errands = Errands(store, Clock(), seal, learn, tmp_path / "gateway.toml")
        rows = [Row(NOW_MS - n * HOUR_MS, ("a", "b", "c", Quantity.COUNT), float(n), 0) for n in range(2, 12)]
        command = ImportRows.model_validate_json(ImportRows.pack(rows).model_dump_json())
        assert await errands.run(command) == Imported(stored=10)
        assert sealed == []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("gateway.store.exchange.errands.HOT_ROWS", 10)
            assert await errands.run(command) == Imported(duplicates=10)
        await errands.run(EndImport())
        assert sealed == [10, -1]
        with snapshot.lend(tmp_path / "data") as place:
            taken = await errands.run(TakeSnapshot(name=place.name, keys=False))
            assert taken.model_dump() == {"settings": str(tmp_path / "gateway.toml")}
            assert snapshot.look(place).readings == 10
        for bad in ({"ms": command.ms[1:]}, {"of": [7] * 10}, {"of": [-1] * 10}):
            with pytest.raises(ValueError, match=r"columns of different lengths|point into keys"):
                await errands.run(command.model_copy(update=bad))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "line 1: no column 'time'"),
        ("time,device,sensor,metric\n", "line 1: no column 'value' among time, device, sensor, metric"),
        ("start,device,sensor,metric,quantity,unit,n,mean\n", r"a file of --bucket cannot be imported"),
        (f"{HEAD},colour\n", "line 1: column 'colour' is unknown or there twice: known are time"),
        (f"{HEAD},value\n", "line 1: column 'value' is unknown or there twice"),
        (f"{HEAD}\n{LINE}\n{LINE},\n", "line 3: 10 fields where the header has 9"),
        (f"{HEAD}\n\n{LINE.replace('400.0', 'abc')}\n", "line 3: value 'abc' is not a number"),
        (f"{HEAD}\n{LINE.replace('400.0', 'inf')}\n", "line 2: value 'inf' is not a number"),
        (f"{HEAD}\n{LINE.replace('400.0', '')}\n", "line 2: value is empty, so quality 'good' cannot be"),
        (f"{HEAD}\n{LINE.replace('000Z', '000')}\n", "line 2: time '2026-11-20T12:00:00.000' has no zone: add Z"),
        (f"{HEAD}\n{LINE.replace('2026-11-20T', 'noon')}\n", "line 2: time 'noon12:00:00.000Z' is no time"),
        (f"{HEAD}\n{LINE.replace('2026', '1969')}\n", "line 2: time '1969-11-20T12:00:00.000Z' is before 1970"),
        (f"{HEAD}\n{LINE.replace('2026', '2036')}\n", "line 2: .* more than a day ahead of this machine's clock"),
        (f"{HEAD}\n{LINE.replace('ppm', '%')}\n", "line 2: unit '%': co2 is kept in 'ppm': convert the values"),
        (f"{HEAD}\n{LINE.replace('co2,co2', 'co2,gas')}\n", "line 2: quantity 'gas' is unknown: known are co2"),
        (f"{HEAD}\n{LINE.replace('co2,co2', 'soil,').replace('ppm', '%')}\n", "does not tell what is measured"),
        (f"{HEAD}\n{LINE.replace('attic', '')}\n", "line 2: device '': a name has 1 to 128"),
        (f"{HEAD}\n{LINE.replace('attic', ' x')}\n", "line 2: device ' x': a name has 1 to 128"),
        (f"{HEAD}\n{LINE.replace('good', 'fine')}\n", "line 2: quality 'fine' is unknown: known are good, uncertain"),
        (f"{HEAD}\n{LINE}odd\n", "line 2: reason 'odd' is unknown: known are none"),
        (f'{HEAD}\n{LINE}\n"open\n', "after line 2: not CSV in UTF-8"),
        (f"{HEAD}\n{LINE}\n\xff\n", "not CSV in UTF-8"),
    ],
)
def test_faults_name_the_line_the_value_and_the_rule(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "x.csv"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(TransferError, match=words) as error:
        transfer.check(file, NOW, nothing)
    assert str(error.value).startswith(str(file))
    assert "\n" not in str(error.value)


def test_what_a_line_may_leave_out(tmp_path: Path) -> None:
    file = tmp_path / "x.csv"
    file.write_text("\ufeffValue, metric,sensor,device,time\n21.5,temperature,bmp280,attic,2026-11-20 13:00+01:00\n\n")
    [[row]] = transfer.read(file, NOW, nothing)
    assert row == Row(codes.to_ms(T0), ("attic", "bmp280", "temperature", Quantity.TEMPERATURE), 21.5, 0)
    reader = Reader(["time", "device", "sensor", "metric", "value", "unit"], NOW_MS)
    start = ["2026-11-20T12:00:00Z", "a", "b"]
    assert reader.row([*start, "outside", "", "degC"])[1:] == (
        ("a", "b", "outside", Quantity.TEMPERATURE),
        None,
        codes.pack(Quality.BAD, Reason.NOT_A_NUMBER),
    )
    ahead = Reader(HEAD.split(","), NOW_MS)
    fields = LINE.replace("2026", "2036").replace("good,", "uncertain,clock_untrusted").split(",")
    assert ahead.row(fields).ms > NOW_MS, "its own clock was wrong, and it says so"
    for number in range(9_999):
        ahead.row(LINE.replace("attic", f"attic-{number}").split(","))
    with pytest.raises(BadRow, match="is one of more than 10000"):
        ahead.row(LINE.replace("attic", "one too many").split(","))


def test_a_parquet_file_of_somebody_else(tmp_path: Path) -> None:
    file = tmp_path / "x.parquet"
    query = "select TIMESTAMPTZ '2026-11-20 12:00:00+00' as time, 'a' device, 's' sensor, 'co2' metric, 400 as value"
    duckdb.sql(query).write_parquet(str(file))
    [[row]] = transfer.read(file, NOW, nothing)
    assert row == Row(codes.to_ms(T0), ("a", "s", "co2", Quantity.CO2), 400.0, 0)
    duckdb.sql(f"{query} union all select now(), '', '', '', 0").write_parquet(str(file))
    with pytest.raises(TransferError, match="row 2: "):
        transfer.check(file, NOW, nothing)
    duckdb.sql("select 1 as colour").write_parquet(str(file))
    with pytest.raises(TransferError, match="no column 'time' among colour"):
        transfer.check(file, NOW, nothing)
    file.write_bytes(b"PAR1 and more")
    with pytest.raises(TransferError, match=str(file)):
        transfer.check(file, NOW, nothing)
    with pytest.raises(TransferError, match="there is no such file"):
        transfer.check(tmp_path / "y.csv", NOW, nothing)


VALUES = st.none() | st.floats(allow_nan=False, allow_infinity=False)
BYTES = st.sampled_from([codes.pack(quality, reason) for quality in Quality for reason in Reason])
NAMES = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=12)
KEYS = st.tuples(NAMES, NAMES, NAMES, st.sampled_from(list(Quantity)))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, NOW_MS), KEYS, VALUES, BYTES), max_size=30))
def test_rows_of_any_kind_are_read_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Any]
) -> None:
    file = tmp_path_factory.mktemp("any") / "x.csv"
    wanted = [Row(*row) for row in rows if row[2] is not None or row[3] >= codes.USABLE_BELOW]
    with file.open("w", newline="") as stream:
        lines = csv.writer(stream)
        lines.writerow(HEAD.split(","))
        for ms, (device, sensor, metric, quantity), value, byte in wanted:
            quality, reason = codes.unpack(byte)
            words = (str(quality), "" if reason is Reason.NONE else str(reason))
            moment = codes.from_ms(ms).isoformat(timespec="milliseconds")
            text = "" if value is None else repr(value)
            lines.writerow([moment, device, sensor, metric, quantity, text, quantity.unit, *words])
    found = [row for block in transfer.read(file, NOW, nothing) for row in block]
    assert found == wanted
    again = ImportRows.model_validate_json(ImportRows.pack(found).model_dump_json()).rows()
    assert again == wanted


def test_blocks_fit_into_a_line_of_the_socket(tmp_path: Path) -> None:
    file = tmp_path / "x.csv"
    with file.open("w") as stream:
        stream.write(f"{HEAD}\n")
        for number in range(12_000):
            name = f"{number % 1500:04}{chr(0x1F321) * 124}"
            stream.write(f"2026-11-20T12:00:00.000Z,{name},{name},{name},co2,{1 / 3},ppm,good,\n")
    blocks = list(transfer.read(file, NOW, nothing))
    assert sum(map(len, blocks)) == 12_000
    assert max(len(ImportRows.pack(block).model_dump_json().encode()) for block in blocks) < 1 << 20


def test_times_of_any_zone() -> None:
    reader = Reader(["time", "device", "sensor", "metric", "value"], NOW_MS)
    for text in ("2026-11-20T12:00:00Z", "2026-11-20T17:45:00+05:45", "20261120T120000Z"):
        assert reader.row([text, "a", "b", "co2", "1"]).ms == codes.to_ms(datetime(2026, 11, 20, 12, tzinfo=UTC))
