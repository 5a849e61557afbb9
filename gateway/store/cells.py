"""Readings and rollups as rows of one kind, so that one question can be put to both.

A cell has series_id, ms (when it begins), width_ms (0 of a reading), n, uncertain, bad, lo, hi, sum, m2 (all as in
rollups), at_ms and at_value of its last usable reading (of a reading always its own), and the quality byte q of the
worst. lo, hi and sum are NULL where none is usable.
"""

from drivers.model import Quality, Reason
from gateway.store import codes
from gateway.store.codes import USABLE_BELOW
from gateway.store.segments.layout import BUCKET_MS

USABLE = f"value is not null and quality < {USABLE_BELOW}"
"""SQL: this reading counts in figures."""
_UNCERTAIN = codes.pack(Quality.UNCERTAIN, Reason.UNSPECIFIED)
_BAD = codes.pack(Quality.BAD, Reason.UNSPECIFIED)


def of_readings(raw: str) -> str:
    """SQL of raw rows as cells, to stand after FROM."""
    return f"""(select series_id, ms, 0 as width_ms, usable::INTEGER as n,
        (usable and quality >= 64)::INTEGER as uncertain, (not usable)::INTEGER as bad, v as lo, v as hi, v as sum,
        0.0 as m2, ms as at_ms, value as at_value, quality as q
        from (select series_id, epoch_ms(ts) as ms, value, quality, {USABLE} as usable,
                  case when usable then value end as v from {raw}))"""  # noqa: S608 - made of our own names and numbers


def of_rollups(partials: str) -> str:
    """SQL of partial rollups as cells, to stand after FROM."""
    return f"""(select series_id, epoch_ms(bucket) as ms, {BUCKET_MS} as width_ms, n, uncertain, bad,
        min as lo, max as hi, sum, m2::DOUBLE as m2, epoch_ms(bucket) + coalesce(last_ms, 0) as at_ms, last as at_value,
        case when n = 0 then {_BAD} when uncertain > 0 then {_UNCERTAIN} else 0 end::UTINYINT as q
        from {partials})"""  # noqa: S608
