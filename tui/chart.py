"""The widget of one chart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip
from textual.widget import Widget

from lossguard.agent import feed
from lossguard.tui import curve, figures, marks, plot

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
    "critical",
    "warning",
    "info",
)


class Chart(Widget):
    """One metric over the whole run. It redraws only when what it shows has changed."""

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
        & > .chart--critical { color: $error; text-style: bold; }
        & > .chart--warning { color: $warning; text-style: bold; }
        & > .chart--info { color: $primary; text-style: bold; }
    }
    """

    def __init__(self, metric: str, title: str, *, id: str) -> None:  # noqa: A002
        super().__init__(id=id)
        self._metric = metric
        self._title = title
        self._shown: object = None
        self._subject = plot.Subject()
        self._log = False
        self._strips: list[Strip] = []
        self._drawn_for: object = None
        self._styles: dict[str, Style] = {}
        self._heading_shown = ""

    def show(self, picture: feed.Picture, *, log: bool) -> None:
        """Take over a picture. Whatever changed nothing here costs a comparison."""
        series = _series(picture.series, self._metric)
        points = _series(picture.series, f"val_{self._metric}")
        limit = picture.limits.get(self._metric)
        incidents = tuple((one.onset_step, one.severity) for one in picture.incidents)
        rollbacks = tuple((int(step), int(back_to)) for step, back_to in picture.rollbacks)
        shown = (series, points, limit, incidents, rollbacks, log)
        if shown == self._shown:
            return
        self._shown = shown
        self._log = log
        self._subject = plot.Subject(
            curve.decode(series), curve.decode(points), limit, incidents, rollbacks
        )
        self._drawn_for = None
        heading = self._heading()
        if heading != self._heading_shown:
            self._heading_shown = heading
            self.border_title = heading
        self.refresh()

    def notify_style_update(self) -> None:
        """Draw anew when the theme changes."""
        self._drawn_for = None
        self._styles = {}
        super().notify_style_update()

    def render_line(self, y: int) -> Strip:
        """One row of the widget."""
        if self._drawn_for != self.size:
            self._drawn_for = self.size
            self._strips = self._draw()
        return self._strips[y] if y < len(self._strips) else Strip.blank(self.size.width)

    def _draw(self) -> list[Strip]:
        width, height = self.size
        if not self._styles:
            self._styles = {
                name: self.get_component_rich_style(f"chart--{name}") for name in _STYLES
            }
            self._styles[""] = self.rich_style
        styles = self._styles
        rows = plot.draw(self._subject, width, height, self._log)
        return [
            Strip([Segment(text, styles.get(name, styles[""])) for text, name in row], width)
            for row in rows
        ]

    def _heading(self) -> str:
        """The title with a legend of what is in view and what is not. All of it is our own text."""
        parts = [f"[bold]{self._title}[/]"]
        if len(self._subject.points):
            parts.append(f"[$success]{marks.POINT}[/] validation")
        if self._subject.limit is not None:
            parts.append(f"[$warning]╌[/] limit {figures.value(self._subject.limit)}")
        if peak := _peak(self._subject.curve):
            parts.append(peak)
        if self._log:
            parts.append("log")
        return "[$foreground 40%] · [/]".join(parts)


def _series(all_series: Sequence[feed.Series], metric: str) -> feed.Series | None:
    return next((one for one in all_series if one.metric == metric), None)


def _peak(shown: curve.Curve) -> str:
    """Where the highest value lies, unless that is where every run begins."""
    if not np.isfinite(shown.high).any():
        return ""
    at = int(np.nanargmax(shown.high))
    if at <= len(shown) // 100:
        return ""
    highest, step = float(shown.high[at]), int(shown.steps[at])
    return f"peak {figures.value(highest)} near step {figures.step(step)}"
