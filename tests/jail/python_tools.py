"""A table with every kind of column and of NULL, and how tests of the Python jail ask about it."""

from collections.abc import Iterable, Sequence
from typing import Any

import pytest

from gateway.jail.analysis import Analysis
from gateway.jail.table import Builder, Kind, Table

FIRST_US = 1_767_225_600_000_000  # 2026-01-01 in UTC


def table(columns: Sequence[tuple[str, Kind, Iterable[object]]]) -> Table:
    builder = Builder([(name, kind.upper(), kind) for name, kind, _ in columns])
    builder.extend(list(zip(*(cells for *_, cells in columns), strict=True)))
    return builder.table()


READINGS = table(
    [
        ("device_id", "text", ["küche", "bad", None, "bad"]),
        ("time", "ts", [FIRST_US, FIRST_US + 60_000_000, None, FIRST_US + 180_000_000]),
        ("co2", "f8", [600.5, None, 800.0, 401.0]),
        ("n", "i8", [1, 2, 3, 4]),
        ("gap", "i8", [1, None, 3, 4]),
        ("wide", "i8", [2**60 + 1, None, 0, 1]),
        ("ok", "bool", [True, False, True, True]),
        ("maybe", "bool", [True, None, False, True]),
        ("n", "f8", [0.5, 1.5, 2.5, 3.5]),
    ]
)


in_one_gateway = pytest.mark.asyncio(loop_scope="module")


async def ask(analysis: Analysis, code: str, data: Table = READINGS) -> Any:
    return (await analysis.analyze(data, code)).result
