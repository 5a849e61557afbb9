"""A Table as a pandas DataFrame, in the jail; numpy and pandas are handed in."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from gateway.jail.table import Column, Table

_EXACT = 1 << 53


def as_frame(table: Table, modules: Mapping[str, Any]) -> Any:
    """Numbers as float64 or int64, texts as str, times as datetime64[us] in UTC without a zone, as SQL has them
    (matplotlib draws those with a zone slowly, and not at all where one is NULL). NULL is NaN, NaT or NA (int64 with
    NULLs: float64, beyond 2^53 Int64). A name that stands there twice gets _1, _2."""
    pd, np = modules["pd"], modules["np"]
    names: dict[str, Any] = {}
    for column in table.columns:
        name, again = column.name, 0
        while name in names:
            again += 1
            name = f"{column.name}_{again}"
        names[name] = _series(column, table.rows, pd, np)
    return pd.DataFrame(names, index=pd.RangeIndex(table.rows))


def _series(column: Column, rows: int, pd: Any, np: Any) -> Any:
    valid = np.frombuffer(column.valid, "u1").astype(bool) if column.valid else None
    if column.kind == "text":
        at = np.frombuffer(column.data, "<i8").tolist()
        texts: list[str | None] = [column.text[low:high].decode() for low, high in pairwise(at)]
        if valid is not None:
            texts = [text if known else None for text, known in zip(texts, valid, strict=True)]
        return pd.Series(texts, dtype="str", index=pd.RangeIndex(rows))
    if column.kind == "bool":
        values = np.frombuffer(column.data, "u1").astype(bool)
        return values if valid is None else pd.arrays.BooleanArray(values, ~valid)
    code = "<f8" if column.kind == "f8" else "<i8"
    values = np.frombuffer(column.data, code).copy()
    if column.kind == "ts":
        if valid is not None:
            values[~valid] = np.iinfo("i8").min
        return pd.Series(values.view("M8[us]"))
    if valid is not None and column.kind == "f8":
        values[~valid] = np.nan
    elif valid is not None:
        if rows and max(abs(int(values.min())), abs(int(values.max()))) > _EXACT:
            return pd.arrays.IntegerArray(values, ~valid)
        values = np.where(valid, values, np.nan)
    return values
