"""The screen of one run: its curves, on one axis of steps, with what happened on them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.widget import Widget

from lossguard.agent import feed
from lossguard.tui import run_steps
from lossguard.tui.chart import Chart
from lossguard.tui.events import Events
from lossguard.tui.facts import Facts
from lossguard.tui.incidents import Incidents
from lossguard.tui.page import Looked, Page, Scene
from lossguard.tui.values import Values
from lossguard.tui.view import SMOOTHING, View, Window

_ALWAYS = ("loss", "grad_norm", "lr", "step_time")
_FIRST_EXTRAS = ("loss_scale", "data_wait", "rss")


class RunPage(Page):
    """Loss and gradient norm large, the others beside them; keys move all of them together."""

    TITLE = "Run"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left,h", "move(-1)", "Cursor", key_display="← →"),
        Binding("right,l", "move(1)", show=False),
        Binding("shift+left,H", "move(-10)", show=False),
        Binding("shift+right,L", "move(10)", show=False),
        Binding("up,k", "app.focus_previous", show=False),
        Binding("down,j", "app.focus_next", show=False),
        Binding("plus,equals_sign", "zoom(0.5)", "Zoom", key_display="+ -"),
        Binding("minus,underscore", "zoom(2.0)", show=False),
        Binding("less_than_sign,comma", "pan(-0.5)", show=False),
        Binding("greater_than_sign,full_stop", "pan(0.5)", show=False),
        Binding("0", "whole", "All", show=False),
        Binding("y", "log", "Log"),
        Binding("s", "smooth", "Smooth", show=False),
        Binding("n", "incident(1)", "Next incident", show=False),
        Binding("N", "incident(-1)", show=False),
        Binding("c", "chart", "Chart", show=False),
        Binding("t", "extra(1)", "Metric", show=False),
        Binding("T", "extra(-1)", show=False),
        Binding("enter", "enlarge", "Enlarge", show=False),
        Binding("v", "app.choose_beside", "Compare"),
    ]

    def __init__(self, *, id: str) -> None:  # noqa: A002
        super().__init__(id=id)
        self.view = View()
        self._whole: Window | None = None
        self._extra = ""
        self._second = 1
        self._large = ""

    def compose(self) -> ComposeResult:
        """Values, charts, and beneath them what happened."""
        yield Values(id="values")
        with Horizontal(id="charts"):
            with Vertical(id="main-charts"):
                yield Chart("loss", "loss", id="loss", main=True)
                yield Chart(
                    "grad_norm", "gradient norm, before clipping", id="grad_norm", main=True
                )
            with Vertical(id="side-charts"):
                yield Chart("lr", "learning rate", id="lr")
                yield Chart("step_time", "step time", id="step_time")
                yield Chart("", "", id="extra")
        with Horizontal(id="bottom"):
            yield Incidents(id="run-incidents")
            yield Events(id="run-events")
            yield Facts(id="facts")

    @property
    def charts(self) -> list[Chart]:
        """In the order of the screen."""
        return list(self.query(Chart))

    def wants(self) -> dict[str, Any]:
        """The series of the charts, closer where that is asked for."""
        metrics = (*_ALWAYS, "val_loss", self._extra)
        return {
            "metrics": tuple(name for name in metrics if name),
            "window": run_steps.window_to_ask(self.view, self._whole),
            "events": 30,
        }

    def show(self, scene: Scene) -> None:
        """Take over what is new."""
        if self._scene is None or self._scene.picture.run != scene.picture.run:
            self.view, self._whole = replace(self.view, span=0, end=-1, cursor=-1), None
        self._scene = scene
        self._choose_extra(scene.run)
        self._whole = run_steps.whole_of(scene, self._whole, self.view)
        self.query_one(Values).show(scene.run)
        for chart in self.charts:
            chart.show(scene.picture, self.view, self._whole)
        self.query_one(Incidents).show(scene.picture.incidents)
        self.query_one(Events).show(scene.picture.events)
        self.query_one(Facts).show(scene.picture, scene.run)

    def focus_first(self) -> None:
        """To the loss."""
        self.query_one("#loss").focus()

    def on_mount(self) -> None:
        """As the size allows."""
        self._arrange()

    def on_resize(self) -> None:
        """As the size allows."""
        self._arrange()

    def back(self) -> bool:
        """From large to usual, from a cursor to none, from zoomed to all."""
        if self._large:
            self._large = ""
            self._arrange()
        elif self.view.cursor >= 0:
            self._look(replace(self.view, cursor=-1))
        elif self.view.span:
            self.action_whole()
        else:
            return False
        return True

    # --- which charts ---------------------------------------------------------------------

    def _arrange(self) -> None:
        """One chart, two, or all; the boxes around them only where something is in them."""
        charts = self.charts
        narrow = self.screen.has_class("-narrow")
        shown = {chart.id for chart in charts}
        if self._large:
            shown = {self._large}
        elif narrow:
            shown = {"loss", charts[self._second].id}
        if not self._extra:
            shown.discard("extra")
        for chart in charts:
            _display(chart, chart.id in shown)
        for box in ("#main-charts", "#side-charts"):
            inside = self.query_one(box)
            _display(inside, any(chart.display for chart in inside.query(Chart)))
        _display(self.query_one("#bottom"), not self._large)

    def _choose_extra(self, run: feed.RunSummary | None) -> None:
        known = run.metrics if run is not None else []
        if self._extra in known:
            return
        others = run_steps.other_metrics(known, _ALWAYS)
        first = next((name for name in _FIRST_EXTRAS if name in others), "")
        self._set_extra(first or (others[0] if others else ""))

    def _set_extra(self, metric: str) -> None:
        self._extra = metric
        chart = self.query_one("#extra", Chart)
        chart.follow(metric, metric.replace("_", " "))
        self._arrange()
        self.post_message(Looked())

    def action_extra(self, by: int) -> None:
        """Another metric in the last chart."""
        run = self._scene.run if self._scene else None
        others = run_steps.other_metrics(run.metrics if run else [], _ALWAYS)
        if others:
            at = others.index(self._extra) if self._extra in others else 0
            self._set_extra(others[(at + by) % len(others)])
            if self.screen.has_class("-narrow"):
                self._second = len(self.charts) - 1
                self._arrange()

    def action_chart(self) -> None:
        """The next chart: to it, or on small screens in place of the second."""
        charts = [chart for chart in self.charts if chart.id != "extra" or self._extra]
        if self._large:
            ids = [chart.id or "" for chart in charts]
            self._large = ids[(ids.index(self._large) + 1) % len(ids)]
        elif self.screen.has_class("-narrow"):
            self._second = self._second % (len(charts) - 1) + 1
        self._arrange()
        if self._large:
            self.query_one(f"#{self._large}").focus()
        elif self.screen.has_class("-narrow"):
            self.charts[self._second].focus()
        else:
            self.app.action_focus_next()

    def action_enlarge(self) -> None:
        """The chart with the focus over all of the screen, or back."""
        chart = self.app.focused
        if isinstance(chart, Chart):
            self._large = "" if self._large else (chart.id or "")
            self._arrange()
            chart.focus()

    # --- which steps ----------------------------------------------------------------------

    def _look(self, view: View) -> None:
        """All charts at once, and without waiting for the next picture."""
        self.view = view
        if self._scene is not None:
            for chart in self.charts:
                chart.show(self._scene.picture, view, self._whole)
        self.post_message(Looked())

    def action_move(self, columns: int) -> None:
        """The cursor to the left or to the right."""
        if self._whole is not None:
            chart = self.app.focused if isinstance(self.app.focused, Chart) else None
            cells = (chart or self.query_one("#loss", Chart)).cells
            self._look(self.view.moved(columns, cells, self._whole))

    def action_zoom(self, factor: float) -> None:
        """Nearer, or further away."""
        if self._whole is not None:
            self._look(self.view.zoomed(factor, self._whole))

    def action_pan(self, share: float) -> None:
        """Along the run."""
        if self._whole is not None:
            self._look(self.view.panned(share, self._whole))

    def action_whole(self) -> None:
        """The whole run again."""
        self._look(replace(self.view, span=0, end=-1))

    def action_log(self) -> None:
        """All charts between a linear and a logarithmic axis."""
        self._look(replace(self.view, log=not self.view.log))

    def action_smooth(self) -> None:
        """The line of the loss as it is, smoothed a little, or much."""
        self._look(replace(self.view, smoothing=(self.view.smoothing + 1) % len(SMOOTHING)))

    def action_incident(self, by: int) -> None:
        """The cursor to the onset of the next incident, or of the one before."""
        if self._scene is not None and self._whole is not None:
            onsets = sorted({one.onset_step for one in self._scene.picture.incidents})
            onset = run_steps.next_of(onsets, self.view.cursor, by)
            if onset is not None:
                self._look(self.view.at(onset, self._whole))


def _display(widget: Widget, shown: bool) -> None:
    """Setting what is so already would lay out the screen anew."""
    if widget.display != shown:
        widget.display = shown
