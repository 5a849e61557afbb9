"""The tools: each a thin typed function over exactly one question to the store or the registry."""

from collections.abc import Awaitable
from typing import Annotated, Any, TypeVar
from zoneinfo import ZoneInfo

from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.tools import Tool
from mcp_types import CallToolResult, TextContent, ToolAnnotations
from pydantic import BaseModel, Field
from pydantic_core import to_json

from gateway.access.policy import ACTIONS, Risk
from gateway.clock import Clock
from gateway.mcp import selection, times
from gateway.mcp.views import (
    Devices,
    Frame,
    LatestReadings,
    Schema,
    Sensors,
    StatisticsAnswer,
    TimeSeries,
)
from gateway.registry.registry import Registry
from gateway.store import queries
from gateway.store.db import Store
from gateway.store.errors import StoreError
from gateway.store.types import Series

Found = TypeVar("Found")

DEFAULT_POINTS = 200
MOST_POINTS = 2000
NOTHING: tuple[object, ...] = (None, "", [])

Device = Annotated[str | None, Field(description="device id")]
Sensor = Annotated[str | None, Field(description="sensor name")]
Metric = Annotated[str | None, Field(description="e.g. co2, temperature")]
Start = Annotated[str, Field(description="ISO-8601 with offset, or -24h, -7d, today")]
End = Annotated[str, Field(description="like start; not included")]
Most = Annotated[int, Field(ge=2, le=MOST_POINTS, description="beyond, extremes are kept")]
Width = Annotated[str | None, Field(description="e.g. 15m, 1h, 1d: min, mean, max of each")]


class Tools:
    """Everything an assistant may ask. Answers say which zone they speak in; errors name the nearest valid value."""

    def __init__(self, store: Store, registry: Registry, clock: Clock, zone: ZoneInfo) -> None:
        self._store = store
        self._registry = registry
        self._clock = clock
        self._zone = zone

    def all(self) -> list[Tool]:
        """The tools in a fixed order, with what they need and may do taken from the policy."""
        functions = (
            self.list_devices,
            self.list_sensors,
            self.get_latest_readings,
            self.get_time_series,
            self.get_statistics,
            self.get_database_schema,
        )
        return [_tool(function) for function in functions]

    def frame(self) -> Frame:
        """What an answer given now is told against."""
        return Frame(self._clock.now(), self._zone, self._clock.trusted())

    async def list_devices(self, device: Device = None) -> Annotated[CallToolResult, Devices]:
        """Devices with status (online, late, silent, degraded, faulty) and why, and when last heard."""
        devices = self._registry.devices()
        if device is not None:
            devices = [one for one in devices if one.device_id == device]
            if not devices:
                raise selection.unmatched([], self._ids(), device, None, None)
        return _answer(Devices.of(devices, self._registry.status, self.frame()))

    async def list_sensors(self, device: Device = None) -> Annotated[CallToolResult, Sensors]:
        """Sensors and the metrics they measure, with units."""
        sensors = [one for one in queries.sensors(self._store) if device in {None, one.device_id}]
        if device is not None and not sensors:
            raise selection.unmatched(self._every(), self._ids(), device, None, None)
        return _answer(Sensors.of(sensors, self._every(), self.frame()))

    async def get_latest_readings(
        self, device: Device = None, sensor: Sensor = None, metric: Metric = None
    ) -> Annotated[CallToolResult, LatestReadings]:
        """Newest value of each matching series."""
        readings = queries.latest(self._store, device=device, sensor=sensor, metric=metric)
        if not readings and not (device is sensor is metric is None):
            raise selection.unmatched(self._every(), self._ids(), device, sensor, metric)
        return _answer(LatestReadings.of(readings, self.frame()))

    async def get_time_series(
        self,
        *,
        device: Device = None,
        sensor: Sensor = None,
        metric: Metric = None,
        start: Start = "-24h",
        end: End = "now",
        max_points: Most = DEFAULT_POINTS,
        bucket: Width = None,
    ) -> Annotated[CallToolResult, TimeSeries]:
        """History of one series as columns."""
        series, frame = self._one(device, sensor, metric), self.frame()
        first, last = times.interval(start, end, frame.now, self._zone)
        if bucket is None:
            points = await _asked(queries.points(self._store, series.series_id, first, last, max_points))
            return _answer(TimeSeries.of_points(series, points, first, last, frame))
        width = times.width(bucket, first, last, MOST_POINTS)
        found = await _asked(queries.buckets(self._store, series.series_id, first, last, width, zone=self._zone))
        return _answer(TimeSeries.of_buckets(series, found, width=bucket.strip(), start=first, end=last, frame=frame))

    async def get_statistics(
        self,
        device: Device = None,
        sensor: Sensor = None,
        metric: Metric = None,
        start: Start = "-24h",
        end: End = "now",
    ) -> Annotated[CallToolResult, StatisticsAnswer]:
        """Figures of one series over a range: extremes, mean, percentiles, quality counts."""
        series, frame = self._one(device, sensor, metric), self.frame()
        first, last = times.interval(start, end, frame.now, self._zone)
        figures = await _asked(queries.statistics(self._store, series.series_id, first, last))
        return _answer(StatisticsAnswer.of(series, figures, first, last, frame))

    async def get_database_schema(self) -> Annotated[CallToolResult, Schema]:
        """Tables and columns of the history, with units."""
        return _answer(Schema.of(await _asked(queries.schema(self._store)), self.frame()))

    def _one(self, device: str | None, sensor: str | None, metric: str | None) -> Series:
        matches = queries.find_series(self._store, device=device, sensor=sensor, metric=metric)
        if not matches:
            raise selection.unmatched(self._every(), self._ids(), device, sensor, metric)
        return selection.only(matches)

    def _every(self) -> list[Series]:
        return list(self._store.series().values())

    def _ids(self) -> list[str]:
        return [device.device_id for device in self._registry.devices()]


def _tool(function: Any) -> Tool:
    """A tool as the policy describes it; a function that the policy does not know is a KeyError at start."""
    action = ACTIONS[function.__name__]
    hints = ToolAnnotations(
        read_only_hint=not action.write,
        destructive_hint=action.risk is Risk.DESTRUCTIVE if action.write else None,
        open_world_hint=False,
    )
    meta = {"risk": str(action.risk), "scope": str(action.scope)}
    tool = Tool.from_function(function, annotations=hints, meta=meta)
    tool.parameters = slim(tool.parameters)
    tool.fn_metadata.output_schema = _promise_less(slim(tool.fn_metadata.output_schema or {}))
    return tool


def slim(schema: Any) -> Any:
    """A JSON schema without what costs context and says nothing: titles, model docstrings, empty defaults,
    `or null` of optional arguments (null stays accepted), and the long form of unions."""
    if isinstance(schema, list):
        return [slim(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {key: value for key, value in schema.items() if not (key == "title" and isinstance(value, str))}
    if "properties" in kept:
        kept.pop("description", None)
        kept["properties"] = {name: slim(value) for name, value in kept["properties"].items()}
    if kept.get("default", kept) in NOTHING and kept.pop("default") is None and "anyOf" in kept:
        choices = [choice for choice in kept.pop("anyOf") if choice != {"type": "null"}]
        kept |= choices[0] if len(choices) == 1 else {"anyOf": choices}
    if all(set(choice) == {"type"} for choice in kept.get("anyOf", [{}])):
        kept["type"] = [choice["type"] for choice in kept.pop("anyOf")]
    return {key: value if key == "properties" else slim(value) for key, value in kept.items()}


def _promise_less(schema: dict[str, Any]) -> dict[str, Any]:
    """An output schema without its lists of required fields and without defaults: they are a fifth of it, and the model
    needs only names."""
    parts = schema.get("$defs", {})
    slimmer = {key: value for key, value in schema.items() if key not in {"required", "$defs", "properties"}}
    named = schema.get("properties", {})
    fields = {name: {key: it for key, it in field.items() if key != "default"} for name, field in named.items()}
    slimmer |= {"properties": fields} if fields else {}
    return slimmer | ({"$defs": {name: _promise_less(part) for name, part in parts.items()}} if parts else {})


async def _asked(question: Awaitable[Found]) -> Found:
    """The store's answer; its errors are one line with the way out, so the assistant may read them."""
    try:
        return await question
    except StoreError as error:
        raise ToolError(str(error)) from error


def _answer(view: BaseModel) -> CallToolResult:
    """The same answer twice: structured, and as text for clients that read nothing else."""
    data = view.model_dump(mode="json", exclude_unset=True)
    return CallToolResult(
        content=[TextContent(type="text", text=to_json(data).decode())],
        structured_content=data,
    )
