"""The rasteriser and the chart, looked at as text."""

from __future__ import annotations

import numpy as np
import pytest

from lossguard.tui import canvas, figures, plot, scale
from lossguard.tui.curve import EMPTY, Curve, Floats, decode
from lossguard.tui.view import Window
from tests.tui import pictures


def curve(values: Floats, buckets: int = 2000) -> Curve:
    """A curve as the feed would carry it."""
    steps = np.arange(len(values), dtype=np.float64)
    return decode(pictures.series("loss", steps, np.asarray(values, np.float64), buckets))


def chart(subject: plot.Subject, width: int = 60, height: int = 12, log: bool = False) -> list[str]:
    """The lines of a chart, after checking their widths."""
    lines = ["".join(text for text, _ in row) for row in plot.draw(subject, width, height, log=log)]
    assert len(lines) == height
    assert {len(line) for line in lines} == {width}
    return lines


def styled(subject: plot.Subject, style: str, width: int = 60, log: bool = False) -> str:
    """What is drawn in one style, blanks left out."""
    rows = plot.draw(subject, width, 12, log=log)
    return "".join(text.strip() for row in rows for text, name in row if name == style)


def test_a_rising_line_is_drawn_from_the_bottom_left_to_the_top_right() -> None:
    """Eight values over four cells take the dots of a diagonal."""
    sheet = canvas.Canvas(4, 2)
    rows = np.arange(7.0, -1.0, -1.0)
    sheet.fill(rows, rows, "line")
    assert sheet.text() == "  ⡠⠊\n⡠⠊  "


def test_a_spike_of_one_step_in_100_000_reaches_the_top() -> None:
    """Downsampling keeps the extremes: the column of the spike is full from line to peak."""
    values = np.full(100_000, 1.0) + np.random.default_rng(0).normal(0, 0.02, 100_000)
    values[54_321] = 500.0
    lines = chart(plot.Subject(curve(values)))
    at = plot.GUTTER + round(0.54321 * (60 - plot.GUTTER))
    assert "↑" in lines[1][at - 2 : at + 2]
    body = [line[at - 2 : at + 2].strip("· ") for line in lines[2:-2]]
    assert all(body)
    assert "↑" not in "".join(chart(plot.Subject(curve(values)), log=True))


def test_columns_keep_the_lowest_and_the_highest_of_their_buckets() -> None:
    """Four buckets in two columns."""
    at = np.array([0, 0, 1, 1])
    low, high = np.array([1.0, -5.0, 2.0, 3.0]), np.array([1.5, 2.0, 9.0, 3.0])
    lowest, highest, mean = canvas.columns(at, low, high, np.array([1.0, 2.0, 3.0, 3.0]), 2)
    assert lowest.tolist() == [-5.0, 2.0]
    assert highest.tolist() == [2.0, 9.0]
    assert mean.tolist() == [1.5, 3.0]


def test_few_buckets_are_joined_by_a_line_but_not_across_a_gap() -> None:
    """Between finite neighbours values are interpolated; next to NaN nothing is made up."""
    values = np.array([0.0, 4.0, np.nan, 4.0])
    at = np.array([0, 4, 6, 8])
    _, _, mean = canvas.columns(at, values, values, values, 9)
    assert mean[:5].tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert np.isnan(mean[5:8]).all()
    assert mean[8] == 4.0


def test_steps_of_nan_carry_a_sign_on_the_top_row_and_leave_a_gap() -> None:
    """A NaN in the middle shows where it happened, and the rest is drawn."""
    values = np.linspace(3, 2, 300)
    values[140:160] = np.nan
    lines = chart(plot.Subject(curve(values)))
    middle = (plot.GUTTER + 60) // 2
    assert "✗" in lines[1][middle - 3 : middle + 3]
    drawn = [any("⠀" <= line[x] <= "⣿" for line in lines) for x in range(plot.GUTTER, 60)]
    assert drawn.count(False) >= 2
    assert drawn[0]
    assert drawn[-1]


def test_a_run_without_one_finite_value_says_so() -> None:
    """All NaN is not the same as nothing."""
    assert "not one finite value" in "".join(chart(plot.Subject(curve(np.full(50, np.inf)))))
    assert "no values yet" in "".join(chart(plot.Subject(EMPTY)))


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("constant", [0.0, 1.0, -3.0, 1e-30, 1e30])
def test_a_constant_is_a_flat_line_with_labels(constant: float, log: bool) -> None:
    """No division by an empty range, whatever the constant and the axis."""
    lines = chart(plot.Subject(curve(np.full(500, constant))), log=log)
    rows = [i for i, line in enumerate(lines) if any("⠁" <= char <= "⣿" for char in line)]
    assert len(rows) == 1
    assert sum("┤" in line for line in lines) >= 1


def test_a_log_axis_has_decades_and_keeps_zero_and_negatives_at_the_bottom() -> None:
    """What has no logarithm lies on the lowest row rather than vanishing."""
    values = np.concatenate((np.logspace(3, -2, 400), np.zeros(50), np.full(50, -7.0)))
    lines = chart(plot.Subject(curve(values)), height=16, log=True)
    labels = [line[: figures.TICK_CELLS].strip() for line in lines[1:-1]]
    assert [label for label in labels if label][:2] == ["1000", "100"]
    assert all("⠁" <= char <= "⣿" for char in lines[-2][-9:])


def test_a_log_axis_without_a_positive_value_is_linear() -> None:
    """It shows the negative values rather than nothing."""
    fitted = scale.fit([curve(np.linspace(-5, -1, 50))], None, True)
    assert fitted is not None
    assert not fitted.log


def test_a_single_step_can_be_drawn() -> None:
    """The first picture of a run holds one value."""
    lines = chart(plot.Subject(curve(np.array([2.5]))))
    assert any("⠁" <= char <= "⣿" for line in lines for char in line)


def test_huge_values_do_not_break_the_axis() -> None:
    """The range of float32 fits on both axes."""
    values = np.array([1e-38, 1.0, 3e38, -3e38])
    for log in (False, True):
        chart(plot.Subject(curve(values)), log=log)


def test_the_limit_is_a_dashed_line_in_view_and_absent_far_out_of_view() -> None:
    """A limit a thousand times the data does not squash the data."""
    values = np.linspace(2, 1, 200)
    assert styled(plot.Subject(curve(values), limit=2.2), "limit")
    assert not styled(plot.Subject(curve(values), limit=2000.0), "limit")


def test_incidents_and_rollbacks_are_marked_where_they_happened() -> None:
    """A sign above the onset, an arrow over what was undone, and that part in grey."""
    subject = plot.Subject(
        curve(np.linspace(3, 2, 1000)),
        incidents=((250, "warning"), (700, "critical")),
        rollbacks=((800, 600),),
    )
    top = chart(subject)[0][plot.GUTTER :]
    wide = 60 - plot.GUTTER
    assert abs(top.index("▲") - 0.25 * wide) <= 1
    assert abs(top.index("◆") - 0.7 * wide) <= 1
    assert abs(top.index("◀") - 0.6 * wide) <= 1
    assert abs(top.index("┓") - 0.8 * wide) <= 1
    assert styled(subject, "undone")
    assert not styled(plot.Subject(curve(np.linspace(3, 2, 1000))), "undone")


def test_marks_outside_the_series_are_left_out() -> None:
    """An incident before the first or after the last step in view harms nothing."""
    subject = plot.Subject(
        curve(np.linspace(3, 2, 100)),
        incidents=((-5000, "critical"), (10**9, "strange")),
        rollbacks=((10**9, -5),),
    )
    chart(subject)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (10, 2), (20, 3), (21, 4), (400, 80)])
def test_any_size_can_be_drawn(width: int, height: int) -> None:
    """Too small is blank; nothing raises."""
    chart(plot.Subject(curve(np.linspace(3, 2, 100)), limit=2.5), width, height)


def test_steps_on_the_axis_are_round_and_in_their_place() -> None:
    """4k lies at two fifths of 10,000 steps."""
    axis = chart(plot.Subject(curve(np.linspace(3, 2, 10_001))), width=108)[-1]
    assert abs(axis.index(" 4k ") + 1.5 - plot.GUTTER - 0.4 * (108 - plot.GUTTER)) <= 1.5


def test_buffers_of_unequal_length_are_cut_to_the_shortest() -> None:
    """A series from a broken sender does not break the chart."""
    whole = pictures.series("loss", np.arange(10.0), np.arange(10.0))
    cut = type(whole)(
        metric="loss",
        steps=whole.steps[:35],
        low=whole.low,
        high=whole.high,
        last=whole.last[:-2],
        nonfinite=whole.nonfinite,
    )
    assert len(decode(cut)) == 4


def test_the_spike_is_there_at_every_zoom_that_has_its_step_in_view() -> None:
    """From the whole run to eight steps around it."""
    values = np.full(100_000, 1.0) + np.random.default_rng(0).normal(0, 0.02, 100_000)
    values[54_321] = 500.0
    subject = plot.Subject(curve(values))
    for half in (54_321, 20_000, 3_000, 300, 4):
        window = Window(54_321 - half, 54_321 + half)
        rows = plot.draw(subject, 60, 12, window=window)
        text = "\n".join("".join(piece for piece, _ in row) for row in rows)
        assert "↑" in text or "500" in text, half
    rows = plot.draw(subject, 60, 12, window=Window(60_000, 70_000))
    assert "↑" not in "".join(piece for row in rows for piece, _ in row)


def test_the_smoothed_line_comes_neither_late_nor_over_a_gap() -> None:
    """A straight line stays straight, a step is smoothed on both sides, and a gap parts them."""
    line = np.linspace(3.0, 1.0, 200)
    assert np.abs(canvas.smoothed(line, 0.02) - line)[20:-20].max() < 0.01
    step = np.repeat([0.0, 1.0], 100)
    smooth = canvas.smoothed(step, 0.02)
    assert smooth[99] + smooth[100] == pytest.approx(1.0)
    step[100] = np.nan
    parted = canvas.smoothed(step, 0.02)
    assert parted[99] == 0.0
    assert parted[101] == 1.0
    assert np.isnan(parted[100])
    assert canvas.smoothed(step, 0.0) is step


def test_a_bound_is_drawn_where_it_was_not_only_where_it_is() -> None:
    """It fell at step 500: high before, low after, and nothing before the first."""
    steps = np.arange(1000, dtype=np.float64)
    bounds = decode(pictures.series("loss", np.array([200.0, 500.0]), np.array([9.0, 3.0])))
    values = np.full(1000, 5.0)
    values[:2] = 0.0, 10.0
    rows = plot.draw(plot.Subject(curve(values), limit=3.0, bounds=bounds), 100, 20)
    at = [[x for x, style in enumerate(_styles(row)) if style == "limit"] for row in rows]
    drawn = [(y, min(xs), max(xs)) for y, xs in enumerate(at) if xs]
    (high, first, until), (low, since, _) = drawn[0], drawn[-1]
    assert high < low
    assert until <= since + 1
    assert first > plot.GUTTER + 10
    assert steps[-1] == 999


def _styles(row: list[canvas.Run]) -> list[str]:
    return [style for text, style in row for _ in text]


def test_another_run_is_drawn_in_its_own_style() -> None:
    """And only where there is one."""
    subject = plot.Subject(curve(np.full(100, 2.0)), other=curve(np.full(100, 3.0)))
    assert styled(subject, "other")
    assert not styled(plot.Subject(curve(np.full(100, 2.0))), "other")
