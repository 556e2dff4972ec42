"""Many steps decoded at once are the same as one by one."""

from __future__ import annotations

import math

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from lossguard.agent.report.decoding import tables_of

Row = dict[str, float]
names = st.text(min_size=0, max_size=40)
rows = st.dictionaries(names, st.floats(), max_size=20)


def told(bodies: list[bytes]) -> dict[int, Row]:
    """What the tables say of each row."""
    tables, _ = tables_of(bodies)
    return {
        int(i): dict(zip(table.metrics, map(float, values), strict=True))
        for table in tables
        for i, values in zip(table.rows, table.values, strict=True)
    }


def same(a: Row, b: Row) -> bool:
    """Equal, NaN too."""
    return a.keys() == b.keys() and all(
        a[name] == b[name] or (math.isnan(a[name]) and math.isnan(b[name])) for name in a
    )


@given(kinds=st.lists(rows, min_size=1, max_size=4), picks=st.lists(st.integers(0, 3), max_size=40))
def test_any_mixture_of_rows_comes_back_as_it_was(kinds: list[Row], picks: list[int]) -> None:
    """Whatever the metrics are called, and in whatever order rows of other metrics come."""
    written = [kinds[pick % len(kinds)] for pick in picks]
    found = told([msgspec.msgpack.encode(row) for row in written])
    for i, row in enumerate(written):
        assert same(found.get(i, {}), row)


@given(st.lists(st.binary(max_size=30), max_size=30))
def test_rubbish_is_counted_and_harms_nothing(rubbish: list[bytes]) -> None:
    """Healthy rows between broken ones are read."""
    healthy = msgspec.msgpack.encode({"loss": 1.5})
    bodies = [body for broken in rubbish for body in (broken, healthy)]
    found = told(bodies)
    assert all(found[i] == {"loss": 1.5} for i in range(1, len(bodies), 2))
    assert tables_of(bodies)[1] <= len(rubbish)


def test_whole_numbers_between_floats_are_read_too() -> None:
    """MessagePack writes them in fewer bytes."""
    bodies = [msgspec.msgpack.encode({"loss": i % 2 or 0.5, "lr": float(i)}) for i in range(50)]
    found = told(bodies)
    assert [found[i]["loss"] for i in range(4)] == [0.5, 1.0, 0.5, 1.0]
    assert [found[i]["lr"] for i in range(50)] == [float(i) for i in range(50)]
