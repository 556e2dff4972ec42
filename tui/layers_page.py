"""The screen of layers: a heat strip of one family of metrics, and the curve of one layer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from lossguard.tui.chart import Chart
from lossguard.tui.heat import Heat
from lossguard.tui.page import Looked, Page, Scene
from lossguard.tui.view import View

FAMILIES = {
    "grad_norm": "gradient norm",
    "act_rms": "activation RMS",
    "update_ratio": "update / weight",
    "zero_share": "share of zeros",
}


class LayersPage(Page):
    """Which layer, and since when."""

    TITLE = "Layers"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("f,right,l", "family(1)", "Metric", key_display="f"),
        Binding("F,left,h", "family(-1)", show=False),
        Binding("s", "sort", "Sort"),
        Binding("y", "log", "Log"),
    ]

    def __init__(self, *, id: str) -> None:  # noqa: A002
        super().__init__(id=id)
        self._family = next(iter(FAMILIES))
        self._families: list[str] = []
        self._view = View(log=True)

    def compose(self) -> ComposeResult:
        """The strip, and the chart of the layer under the cursor."""
        yield Heat(id="layers")
        yield Chart("", "layer", id="layer-chart")

    def wants(self) -> dict[str, Any]:
        """The one family."""
        return {"strips": (self._family,), "metrics": ()}

    def show(self, scene: Scene) -> None:
        """Take over what is new."""
        self._families = [name for name in FAMILIES if name in scene.picture.families]
        if self._families and self._family not in self._families:
            self._family = self._families[0]
            self.post_message(Looked())
        strip = next((s for s in scene.picture.strips if s.family == self._family), None)
        waits = "asking…" if self._families else "no layers have been measured in this run so far"
        self.query_one(Heat).show(strip, waits)
        self._entitle()

    def focus_first(self) -> None:
        """To the strip."""
        self.query_one(Heat).focus()

    def filter_by(self, text: str) -> None:
        """By the name of the layer."""
        heat = self.query_one(Heat)
        heat.filter = text
        heat.lay_out()

    def on_heat_moved(self) -> None:
        """The chart follows the cursor."""
        heat, chart = self.query_one(Heat), self.query_one("#layer-chart", Chart)
        if (shown := heat.curve) is not None:
            title = f"{FAMILIES.get(self._family, self._family)} · largest in each stretch"
            chart.show_curve(title, shown, self._view, None)
            chart.border_subtitle = heat.selected.replace("[", "\\[")

    def action_family(self, by: int) -> None:
        """The next metric."""
        names = self._families or list(FAMILIES)
        at = names.index(self._family) if self._family in names else 0
        self._family = names[(at + by) % len(names)]
        self.query_one(Heat).show(None, "asking…")
        self._entitle()
        self.post_message(Looked())

    def action_sort(self) -> None:
        """The next order."""
        self.query_one(Heat).next_sort()
        self._entitle()

    def action_log(self) -> None:
        """The chart between a linear and a logarithmic axis."""
        self._view = replace(self._view, log=not self._view.log)
        self.on_heat_moved()

    def _entitle(self) -> None:
        known = {name: FAMILIES[name] for name in self._families or [self._family]}
        self.query_one(Heat).entitle(known, self._family)
