"""What the surface's benchmark asks: for each tool arguments that differ from call to call."""

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, NamedTuple

from bench.dataset import DEVICES, device
from bench.figures import Goal
from bench.surface_house import END, ZONES

TYPED = Goal(10.0)
Arguments = Callable[[int], dict[str, Any]]


class Question(NamedTuple):
    """A tool with the arguments of its nth call. `goal` is for the median with all clients, `alone` for that of one."""

    tool: str
    arguments: Arguments
    goal: Goal | None = TYPED
    alone: Goal | None = TYPED


def _series(at: int) -> dict[str, Any]:
    return {"device": device(at % DEVICES), "sensor": "scd30", "metric": "co2"}


def _days(at: int, days: int, names: tuple[str, str] = ("start", "end"), before: int = 0) -> dict[str, str]:
    """A range of so many days that ends so many before a day of the last month."""
    end = END - timedelta(days=at % 28 + before)
    return {names[0]: (end - timedelta(days=days)).isoformat(), names[1]: end.isoformat()}


def _nothing(_at: int) -> dict[str, Any]:
    return {}


def _compared(at: int) -> dict[str, Any]:
    first = _days(at, 7, ("first_start", "first_end"), before=7)
    return _series(at) | first | _days(at, 7, ("second_start", "second_end"))


def _of_zone(at: int) -> dict[str, Any]:
    return {"zone": f"wing-{at % ZONES:02}"}


DAY_OF_ALL = (
    "select device_id, avg(value) as mean from measurements where metric_type = 'co2' and time >= timestamp '{day}' "
    "and time < timestamp '{day}' + interval 1 day group by device_id order by device_id"
)
DAY_OF_ONE = (
    "select time, value from measurements where device_id = '{room}' and metric_type = 'co2' "
    "and time >= timestamp '{day}' and time < timestamp '{day}' + interval 7 days order by time"
)
CODE = "result = df.set_index('time').value.resample('1h').agg(['mean', 'max'])"
PLOT = "plt.plot(df['time'], df['value'])\nplt.title('CO2')\nplt.ylabel('ppm')"


def _sql(text: str) -> Arguments:
    def arguments(at: int) -> dict[str, Any]:
        day = END - timedelta(days=8 + at % 28)
        return {"sql": text.format(day=f"{day:%Y-%m-%d}", room=device(at % DEVICES))}

    return arguments


BY_ROWS: Arguments = _sql(DAY_OF_ONE)
"""The query whose rows Python is asked about: a week of one series."""

QUESTIONS: Mapping[str, Question] = {
    "list_devices": Question("list_devices", _nothing),
    "list_devices of a zone": Question("list_devices", _of_zone),
    "get_device": Question("get_device", lambda at: {"device": device(at % DEVICES)}),
    "find": Question("find", lambda at: {"query": f"the co2 of room {at % DEVICES}"}),
    "list_zones": Question("list_zones", _nothing),
    "list_sensors of a device": Question("list_sensors", lambda at: {"device": device(at % DEVICES)}),
    "get_latest_readings of a device": Question("get_latest_readings", lambda at: {"device": device(at % DEVICES)}),
    "get_latest_readings of all": Question("get_latest_readings", _nothing),
    "get_time_series, a day": Question("get_time_series", lambda at: _series(at) | _days(at, 1)),
    "get_time_series, a month by hours": Question(
        "get_time_series", lambda at: _series(at) | _days(at, 30) | {"bucket": "1h"}
    ),
    "get_time_series, a year by days": Question(
        "get_time_series", lambda at: _series(at) | _days(at, 330) | {"bucket": "1d"}
    ),
    "get_statistics, a day": Question("get_statistics", lambda at: _series(at) | _days(at, 1)),
    "get_statistics, a month": Question("get_statistics", lambda at: _series(at) | _days(at, 30)),
    "detect_anomalies, a day of a series": Question("detect_anomalies", lambda at: _series(at) | _days(at, 1)),
    "detect_anomalies, a day of all co2": Question("detect_anomalies", lambda at: {"metric": "co2"} | _days(at, 1)),
    "get_database_schema": Question("get_database_schema", _nothing),
    "list_active_alerts": Question("list_active_alerts", _nothing),
    "get_zone_snapshot": Question("get_zone_snapshot", _of_zone),
    "compare_periods, two weeks": Question("compare_periods", _compared),
    "list_events": Question("list_events", _nothing),
    "get_tool_risk_metadata": Question("get_tool_risk_metadata", _nothing),
    "whoami": Question("whoami", _nothing),
    "execute_sql_query, nothing": Question("execute_sql_query", lambda at: {"sql": f"select {at}"}, None, Goal(60.0)),
    "execute_sql_query, a day of all": Question("execute_sql_query", _sql(DAY_OF_ALL), None, None),
    "execute_sql_query, a week of a series": Question("execute_sql_query", BY_ROWS, None, None),
    "analyze_data": Question("analyze_data", lambda at: {"code": CODE}, None, Goal(150.0)),
    "create_plot": Question("create_plot", lambda at: {"plot_code": PLOT}, None, Goal(600.0)),
    "plot, a day of three rooms": Question(
        "plot",
        lambda at: {"metric": "co2", "devices": [device((at + step) % DEVICES) for step in range(3)]} | _days(at, 1),
        None,
        Goal(600.0),
    ),
}
OF_ROWS = frozenset({"analyze_data", "create_plot"})
"""Tools that get a query_id."""
