"""The tables, as numbered migrations that only go forward."""

from dataclasses import dataclass

import duckdb

from gateway.store.errors import StoreTooNew
from gateway.store.segments import manifest


@dataclass(frozen=True, slots=True)
class Migration:
    """One step. `opens_from` is the lowest schema number whose code may still write to data that has this step."""

    number: int
    name: str
    opens_from: int
    statements: tuple[str, ...]


# No index and no key on readings: an index doubles the file and takes up to 2 KB a row in small batches. Rows whose
# time is known are narrow, because each of their bytes is written to the log as it is; `lag` is received - ts in ms,
# NULL where that does not fit.
DATED = """
create table dated (
    ts TIMESTAMP_MS not null, series_id INTEGER not null, value DOUBLE, quality UTINYINT not null, lag INTEGER,
    batch INTEGER not null)
"""
# Rows whose time is not known yet keep what may date them.
READING = """
create table reading (
    ts TIMESTAMP_MS not null, series_id INTEGER not null, value DOUBLE, quality UTINYINT not null,
    received TIMESTAMP_MS not null, boot_ref INTEGER, seq BIGINT, uptime_ms BIGINT, batch BIGINT not null)
"""
# A journal: one row per boot and batch that moved it; the last row of a boot counts. Cheaper than updating in place.
DELIVERY = """
create table delivery (
    boot_ref INTEGER not null, mark BIGINT not null, above VARCHAR, final BIGINT not null, batch BIGINT not null)
"""
DEVICE = """
create table device (
    device_id VARCHAR not null, device_name VARCHAR, device_type VARCHAR, zone_id VARCHAR, building VARCHAR,
    floor VARCHAR, location VARCHAR, manufacturer VARCHAR, model VARCHAR, hardware_revision VARCHAR,
    mac_address VARCHAR, firmware_version VARCHAR, source VARCHAR, status VARCHAR, first_seen TIMESTAMP_MS,
    last_seen TIMESTAMP_MS, metadata VARCHAR)
"""

# Temporary files; what an older gateway finds of them in the data it leaves alone.
FILE = """
create table file (
    file_id VARCHAR not null, owner VARCHAR not null, name VARCHAR not null, media_type VARCHAR not null,
    size_bytes BIGINT, sha256 VARCHAR, complete BOOLEAN not null, created TIMESTAMP_MS not null,
    expires TIMESTAMP_MS not null)
"""

# What people said of a device wins over what it says of itself; a tool is its versions, of which an approved one runs.
PEOPLE = (
    """create table device_edit (device_id VARCHAR not null, field VARCHAR not null, value VARCHAR not null,
       reason VARCHAR, principal VARCHAR, time TIMESTAMP_MS not null)""",
    """create table saved_query (name VARCHAR not null, sql VARCHAR not null, parameters VARCHAR, description VARCHAR,
       principal VARCHAR, time TIMESTAMP_MS not null)""",
    """create table dynamic_tool (name VARCHAR not null, version INTEGER not null, description VARCHAR,
       code VARCHAR not null, arguments VARCHAR not null, sha256 VARCHAR not null, principal VARCHAR,
       time TIMESTAMP_MS not null, approved_by VARCHAR, approved TIMESTAMP_MS)""",
    """create table dynamic_tool_use (name VARCHAR not null, calls BIGINT not null, failures BIGINT not null,
       last_used TIMESTAMP_MS)""",
)
# What an app holds beside its access token, which is a row of `token`; hashes only.
GRANT = """
create table token_grant (
    token_id VARCHAR not null, client VARCHAR not null, device_sha256 VARCHAR not null, family_sha256 VARCHAR,
    refresh_sha256 VARCHAR, until TIMESTAMP_MS not null)
"""
# Who may connect to the local broker. The column is called device_id because most of them are devices.
LOGIN = """
create table broker_login (
    device_id VARCHAR not null, hash VARCHAR not null, kind VARCHAR not null, may_write VARCHAR not null,
    may_read VARCHAR not null, created TIMESTAMP_MS not null, rotated TIMESTAMP_MS, revoked TIMESTAMP_MS)
"""
# Public keys whose bundles are taken, and the bundles; their files lie in DATA/firmware.
FIRMWARE = (
    """create table firmware_key (key VARCHAR not null, name VARCHAR not null, added TIMESTAMP_MS not null,
       added_by VARCHAR not null)""",
    """create table firmware (digest VARCHAR not null, version VARCHAR not null, board VARCHAR not null,
       kind VARCHAR not null, size_bytes BIGINT not null, mpy INTEGER, created TIMESTAMP_MS not null,
       added TIMESTAMP_MS not null, added_by VARCHAR not null, signed_by VARCHAR not null,
       manifest VARCHAR not null)""",
)
# Rollouts are kept when they have ended; what each node runs is told by the nodes themselves.
ROLLOUT = (
    """create table rollout (rollout_id VARCHAR not null, digest VARCHAR not null, version VARCHAR not null,
       principal VARCHAR not null, targets VARCHAR, course VARCHAR not null, reason VARCHAR,
       created TIMESTAMP_MS not null, ended TIMESTAMP_MS, detail VARCHAR)""",
    """create table rollout_device (rollout_id VARCHAR not null, position INTEGER not null, device_id VARCHAR not null,
       state VARCHAR not null, reason VARCHAR, started TIMESTAMP_MS, ended TIMESTAMP_MS, detail VARCHAR)""",
    """create table node_firmware (device_id VARCHAR not null, version VARCHAR not null, board VARCHAR, mpy INTEGER,
       slots VARCHAR, since TIMESTAMP_MS not null)""",
)

MIGRATIONS = (
    Migration(
        1,
        "the line",
        1,
        (
            READING,
            DELIVERY,
            DEVICE,
            """create table sensor (sensor_id INTEGER not null, device_id VARCHAR not null, sensor VARCHAR not null,
               sensor_type VARCHAR not null, slug VARCHAR not null, location VARCHAR, metadata VARCHAR)""",
            """create table series (series_id INTEGER not null, sensor_id INTEGER not null, metric VARCHAR not null,
               quantity VARCHAR not null, unit VARCHAR not null)""",
            """create table zone (zone_id VARCHAR not null, name VARCHAR not null, building VARCHAR, floor VARCHAR,
               area_sqm DOUBLE, description VARCHAR)""",
            "create table boot (boot_ref INTEGER not null, device_id VARCHAR not null, boot VARCHAR not null)",
            "create table gap (boot_ref INTEGER not null, first_seq BIGINT not null, last_seq BIGINT not null)",
            """create table newest (series_id INTEGER not null, ts TIMESTAMP_MS not null, value DOUBLE,
               quality UTINYINT not null, received TIMESTAMP_MS not null)""",
            """create table token (token_id VARCHAR not null, name VARCHAR not null, scope INTEGER not null,
               sha256 VARCHAR not null, created TIMESTAMP_MS not null, expires TIMESTAMP_MS, revoked TIMESTAMP_MS,
               last_used TIMESTAMP_MS)""",
            """create table audit (time TIMESTAMP_MS not null, principal VARCHAR, action VARCHAR, target VARCHAR,
               allowed BOOLEAN not null, reason VARCHAR, detail VARCHAR)""",
            """create table event (time TIMESTAMP_MS not null, kind VARCHAR not null, device_id VARCHAR,
               message VARCHAR, detail VARCHAR)""",
            "create table node_key (device_id VARCHAR not null, key BLOB not null)",
            "create table setting (name VARCHAR not null, value VARCHAR)",
        ),
    ),
    # An older gateway goes on with `reading` in such a file, and sees neither `dated` nor what is sealed.
    Migration(2, "segments", 1, (DATED, manifest.TABLE)),
    Migration(3, "grants", 1, (GRANT,)),
    Migration(4, "what people set", 1, PEOPLE),
    Migration(5, "files", 1, (FILE,)),
    Migration(6, "logins", 1, (LOGIN,)),
    Migration(7, "firmware", 1, FIRMWARE),
    Migration(8, "rollouts", 1, ROLLOUT),
)
SCHEMA = MIGRATIONS[-1].number


def schema_of(connection: duckdb.DuckDBPyConnection) -> int:
    """The number of the last step that this file has taken; 0 for a new one."""
    tables = connection.execute("select 1 from duckdb_tables() where table_name = 'migration'").fetchall()
    found = connection.execute("select coalesce(max(number), 0) from migration").fetchall() if tables else [(0,)]
    number: int = found[0][0]
    return number


def migrate(connection: duckdb.DuckDBPyConnection, file: str, migrations: tuple[Migration, ...] = MIGRATIONS) -> int:
    """Bring the file up to this version's schema, each step in one transaction; returns how many were taken.

    Data of a newer version is opened where that version says so (expand first, contract later), else StoreTooNew.
    """
    connection.execute(
        "create table if not exists migration (number INTEGER not null, name VARCHAR, opens_from INTEGER not null)"
    )
    found = connection.execute(
        "select coalesce(max(number), 0), coalesce(max(opens_from), 0) from migration"
    ).fetchone()
    done, opens_from = found or (0, 0)
    known = migrations[-1].number
    if opens_from > known:
        raise StoreTooNew(
            f"{file} has schema {done}, this version understands up to {known}: "
            "install the newer gateway again, or restore a backup made by this version"
        )
    todo = [migration for migration in migrations if migration.number > done]
    for migration in todo:
        connection.execute("begin")
        for statement in migration.statements:
            connection.execute(statement)
        connection.execute(
            "insert into migration values (?, ?, ?)", [migration.number, migration.name, migration.opens_from]
        )
        connection.execute("commit")
    return len(todo)
