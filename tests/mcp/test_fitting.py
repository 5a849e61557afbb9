"""Which points are left of an answer that would be too long."""

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from drivers.model import Quality, Reason
from gateway.mcp.fitting import evenly, with_extremes
from gateway.store.types import Point
from tests.web.house import NOW

point = st.builds(
    lambda value, quality: Point(NOW, value, quality, Reason.NONE),
    st.one_of(st.none(), st.floats(-1e3, 1e3)),
    st.sampled_from([Quality.GOOD, Quality.GOOD, Quality.BAD]),
)


@given(points=st.lists(point, min_size=3, max_size=60), share=st.floats(0, 1))
def test_the_extremes_are_kept(points: list[Point], share: float) -> None:
    points = [each._replace(time=NOW + timedelta(seconds=n)) for n, each in enumerate(points)]
    most = 2 + int(share * (len(points) - 3))
    kept = with_extremes(points, most)
    assert 2 <= len(kept) <= most
    assert [each for each in points if each in kept] == list(kept)
    assert (kept[0], kept[-1]) == (points[0], points[-1])
    usable = [each.value for each in points if each.value is not None and each.quality < Quality.BAD]
    if usable and most >= 4:
        shown = {each.value for each in kept if each.quality < Quality.BAD}
        assert {min(usable), max(usable)} <= shown


def test_evenly() -> None:
    assert evenly(range(10), 4) == [0, 3, 6, 9]
