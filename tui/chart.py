"""The widget of one chart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from rich.segment import Segment
from textual.markup import escape
from textual.strip import Strip

from lossguard.agent import feed
from lossguard.tui import curve, figures, marks, plot
from lossguard.tui.drawn import Drawn
from lossguard.tui.plain import plain
from lossguard.tui.view import View, Window

_STYLES = (
    "line",
    "band",
    "undone",
    "undone-band",
    "limit",
    "grid",
    "axis",
    "label",
    "point",
    "peak",
    "nonfinite",
    "rollback",
    "other",
    "cursor",
    "critical",
    "warning",
    "info",
)


class Chart(Drawn, can_focus=True):
    """One metric over the steps in view. It redraws only when what it shows has changed."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {f"chart--{name}" for name in _STYLES}
    DEFAULT_CSS = """
    Chart {
        & > .chart--line { color: $primary; }
        & > .chart--band { color: $primary 60%; }
        & > .chart--undone { color: $foreground 50%; }
        & > .chart--undone-band { color: $foreground 25%; }
        & > .chart--limit { color: $warning 80%; }
        & > .chart--grid { color: $foreground 15%; }
        & > .chart--axis { color: $foreground 30%; }
        & > .chart--label { color: $foreground 60%; }
        & > .chart--point { color: $success; text-style: bold; }
        & > .chart--peak { color: $foreground; text-style: bold; }
        & > .chart--nonfinite { color: $error; text-style: bold; }
        & > .chart--rollback { color: $accent; }
        & > .chart--other { color: $secondary; }
        & > .chart--cursor { color: $foreground; text-style: bold; }
        & > .chart--critical { color: $error; text-style: bold; }
        & > .chart--warning { color: $warning; text-style: bold; }
        & > .chart--info { color: $primary; text-style: bold; }
    }
    """

    def __init__(self, metric: str, title: str, *, id: str, main: bool = False) -> None:  # noqa: A002
        super().__init__(id=id)
        self.metric = metric
        self._title = title
        self._is_main = main
        self._shown: object = None
        self.subject = plot.Subject()
        self._view = View()
        self._whole: Window | None = None
        self._heading = ""
        self._told = ("", "")

    def show(self, picture: feed.Picture, view: View, whole: Window | None) -> None:
        """Take over a picture. Whatever changed nothing here costs a comparison.

        ``whole`` are the steps of the run, which all charts share.
        """
        series, points, bounds, other = found = (
            series_of(picture.series, self.metric),
            series_of(picture.series, f"val_{self.metric}"),
            series_of(picture.bounds, self.metric),
            series_of(picture.beside.series, self.metric) if picture.beside else None,
        )
        limit = picture.limits.get(self.metric)
        incidents = tuple((one.onset_step, one.severity) for one in picture.incidents)
        rollbacks = tuple((int(step), int(back_to)) for step, back_to in picture.rollbacks)
        heading = self._legend(picture)
        shown = (found, limit, incidents, rollbacks, view, whole, heading)
        if shown == self._shown:
            return
        self._shown = shown
        self._heading = heading
        self.subject = plot.Subject(
            curve.decode(series),
            curve.decode(points),
            limit,
            curve.decode(bounds),
            curve.decode(other),
            incidents,
            rollbacks,
        )
        self._look(view, whole)

    def follow(self, metric: str, title: str) -> None:
        """Show another metric from the next picture on."""
        if metric != self.metric:
            self.metric, self._title, self._shown = metric, title, None
            self.show_curve(title, curve.EMPTY, self._view, self._whole)

    def show_curve(self, title: str, shown: curve.Curve, view: View, whole: Window | None) -> None:
        """Take over a curve that is no metric of a picture."""
        self._title, self._heading = title, ""
        self.subject = plot.Subject(shown)
        self._look(view, whole)

    def _look(self, view: View, whole: Window | None) -> None:
        self._view, self._whole = view, whole or self.subject.whole
        self._tell()
        self.redraw()

    @property
    def window(self) -> Window | None:
        """The steps in view."""
        return None if self._whole is None else self._view.window(self._whole)

    @property
    def cells(self) -> int:
        """The width of the plot, without its axis."""
        return max(1, self.size.width - plot.GUTTER)

    def _draw(self) -> list[Strip]:
        width, height = self.size
        styles = self.styles_of("chart", _STYLES)
        rows = plot.draw(
            self.subject,
            width,
            height,
            log=self._view.log,
            window=self.window,
            cursor=self._view.cursor,
            half_life=self._view.half_life if self.metric == "loss" else 0.0,
        )
        return [
            Strip([Segment(text, styles.get(name, styles[""])) for text, name in row], width)
            for row in rows
        ]

    def _legend(self, picture: feed.Picture) -> str:
        """What there is in the chart besides its line. All of it is our own text, but a name."""
        parts = []
        if picture.beside is not None:
            name = escape(plain(picture.beside.name, 24))
            parts.append(f"[$secondary]━[/] {name}")
        if (limit := picture.limits.get(self.metric)) is not None:
            run = next((one for one in picture.runs if one.run == picture.run), None)
            word = "limit" if run is not None and run.acts else "limit if it acted:"
            parts.append(f"[$warning]╌[/] {word} {figures.value(limit)}")
        return " · ".join(parts)

    def _tell(self) -> None:
        """The title with a legend, and beneath the exact values under the cursor."""
        parts = [f"[bold]{self._title}[/]"]
        if len(self.subject.points):
            parts.append(f"[$success]{marks.POINT}[/] validation")
        if self._view.log:
            parts.append("log")
        if self._heading:
            parts.append(self._heading)
        window = self.window
        if self._is_main and window is not None and (peak := _peak(self.subject.curve, window)):
            parts.append(peak)
        title = "[$foreground 40%] · [/]".join(parts)
        below = reading(self.subject, self._view.cursor, self.window, self.cells)
        if (title, below) != self._told:
            self._told = title, below
            self.border_title, self.border_subtitle = title, below


def series_of(all_series: Sequence[feed.Series], metric: str) -> feed.Series | None:
    """The series of a metric, if it was sent."""
    return next((one for one in all_series if one.metric == metric), None)


def _peak(whole: curve.Curve, window: Window) -> str:
    """Where the highest value in view lies, unless that is where every run begins."""
    shown = whole.between(window.first, window.last)
    if not np.isfinite(shown.high).any():
        return ""
    at = int(np.nanargmax(shown.high))
    if at <= len(shown) // 100:
        return ""
    highest, step = float(shown.high[at]), int(shown.steps[at])
    return f"peak {figures.value(highest)} near step {figures.step(step)}"


def reading(subject: plot.Subject, cursor: int, window: Window | None, cells: int) -> str:
    """What the column of the cursor holds, exactly; empty without a cursor."""
    if cursor < 0 or window is None or not window.first <= cursor <= window.last:
        return ""
    half = window.span / (2 * max(1, cells))
    column = subject.curve.between(round(cursor - half), round(cursor + half))
    if not len(column):
        return f"step {figures.step(cursor)}: nothing measured"
    first, last = int(column.steps[0]), subject.curve.end_of(int(column.steps[-1]))
    said = f"step {figures.step(first)}" if first == last else (
        f"steps {figures.step(first)}–{figures.step(last)}"  # noqa: RUF001
    )  # fmt: skip
    if column.nonfinite.any():
        said += f" [$error]{marks.NONFINITE} not finite[/]"
    if not np.isfinite(column.high).any():
        return said
    low, high = float(np.nanmin(column.low)), float(np.nanmax(column.high))
    said += f": [bold]{figures.exact(column.at(last))}[/]"
    if low < high:
        said += f" (from {figures.exact(low)} to {figures.exact(high)})"
    if len(subject.other) and (theirs := subject.other.at(cursor)) == theirs:
        said += f" · other {figures.exact(theirs)}"
    return said
