"""An export as a typed command of the control layer, and what it answers."""

from typing import Annotated, Literal

from pydantic import AwareDatetime, Field

from gateway.command import Write
from gateway.store.exchange.export import Wanted


class ExportData(Write):
    """Write readings (or figures of spans of UTC) into a file, which is had by a link that expires."""

    command: Literal["export_data"] = "export_data"
    format: Literal["csv", "parquet"] = "csv"
    device: Annotated[str, Field(max_length=128)] | None = None
    metric: Annotated[str, Field(max_length=128)] | None = None
    start: AwareDatetime | None = None
    end: AwareDatetime | None = None
    bucket_minutes: Annotated[int, Field(ge=15, le=60 * 24 * 31, multiple_of=15)] | None = None

    @property
    def target(self) -> str:
        return self.device or ""

    @property
    def detail(self) -> str:
        given = {name: getattr(self, name) for name in ("metric", "start", "end", "bucket_minutes")}
        return ", ".join([self.format, *(f"{name} {value}" for name, value in given.items() if value is not None)])

    @property
    def wanted(self) -> Wanted:
        """The same for the store."""
        bucket_ms = None if self.bucket_minutes is None else self.bucket_minutes * 60_000
        return Wanted(self.start, self.end, self.device, self.metric, bucket_ms)
