"""Data of the version before: copied, brought up to date, and still open to that version."""

from pathlib import Path

import duckdb

from gateway.store import queries
from gateway.store.backups.restore import SET_UP, _rows
from gateway.store.db import Store
from gateway.store.schema import MIGRATIONS, SCHEMA, migrate, schema_of
from tests.store.builders import T0, numbered
from tests.store.test_keeper import rows

READING = "insert into reading values (?, 1, 21.5, 0, ?, null, null, null, 1)"
NAMES = (
    "insert into device (device_id) values ('attic')",
    "insert into sensor (sensor_id, device_id, sensor, sensor_type, slug) values (1, 'attic', 'bmp280', 'bmp280', 'x')",
    "insert into series values (1, 1, 'temperature', 'temperature', 'degC')",
)


def as_before(file: Path) -> None:
    """What the first version left: a reading in the wide table."""
    with duckdb.connect(str(file)) as db:
        migrate(db, str(file), MIGRATIONS[:1])
        for statement in NAMES:
            db.execute(statement)
        db.execute(READING, [T0.replace(tzinfo=None)] * 2)


async def test_there_and_back(tmp_path: Path) -> None:
    file = tmp_path / "hot.duckdb"
    as_before(file)
    async with Store(tmp_path) as store:
        assert [row[2] for row in await rows(store)] == [21.5]
        assert queries.latest(store)[0].value == 21.5
        await store.append([numbered(1)])
    with duckdb.connect(str(tmp_path / "hot.schema-1.duckdb"), read_only=True) as db:
        assert schema_of(db) == 1
        assert db.execute("select value from reading").fetchall() == [(21.5,)]
    with duckdb.connect(str(file)) as db:  # the version before opens it and goes on with its own table
        assert migrate(db, str(file), MIGRATIONS[:1]) == 0
        assert schema_of(db) == SCHEMA
        db.execute(READING.replace("21.5", "22.5").replace("1)", "9)"), [T0.replace(tzinfo=None, hour=13)] * 2)
    async with Store(tmp_path) as store:
        assert sorted(row[2] for row in await rows(store)) == [21.5, 22.5, 401.0]
        assert {each.value for each in queries.latest(store)} == {22.5, 401.0}


def test_a_backup_of_an_older_version_lacks_tables_and_is_read_all_the_same(tmp_path: Path) -> None:
    file = tmp_path / "hot.duckdb"
    as_before(file)
    assert set(SET_UP) <= set(_rows(file, SET_UP))
    assert _rows(file, SET_UP)["token_grant"] == ([], [])
