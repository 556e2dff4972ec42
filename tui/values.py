"""The row of current values of the run on show."""

from __future__ import annotations

import math

from rich.cells import cell_len
from textual.content import Content
from textual.widgets import Static

from lossguard.agent import feed
from lossguard.tui import figures

GAP = 3

Tile = tuple[str, str, str]
"""Label, value, style of the value."""


class Values(Static):
    """Label above value, as many as the width holds; on one line where height is scarce."""

    DEFAULT_CSS = """
    Values { height: 2; padding: 0 1; }
    """

    def __init__(self, *, id: str) -> None:  # noqa: A002
        super().__init__(id=id)
        self._tiles: list[Tile] = []
        self._shown: object = None

    def show(self, run: feed.RunSummary | None) -> None:
        """Take over the values of a run."""
        self._tiles = tiles(run) if run else []
        self._lay_out()

    def on_resize(self) -> None:
        """As many as fit now."""
        self._lay_out()

    def _lay_out(self) -> None:
        shown = (self._tiles, self.size)
        if shown != self._shown and self.size:
            self._shown = shown
            self.update(arrange(self._tiles, *self.size), layout=False)


def tiles(run: feed.RunSummary) -> list[Tile]:
    """The values in the order of their importance."""
    last = run.last
    shown = [_number("loss", last.get("loss"))]
    if "val_loss" in last:
        shown.append(_number("val loss", last["val_loss"]))
    shown.append(_number("grad norm", last.get("grad_norm")))
    shown.append(_number("lr", last.get("lr")))
    if "loss_scale" in last:
        shown.append(_number("loss scale", last["loss_scale"]))
    step_s = last.get("step_time")
    shown.append(
        ("step time", figures.seconds(step_s) if step_s is not None else figures.UNKNOWN, "bold")
    )
    shown.append(("rate", figures.rate(run.steps_per_s), "bold"))
    if run.world_size > 1:
        shown.append(("ranks", str(run.world_size), "bold"))
    if run.dropped:
        shown.append(("dropped", figures.step(run.dropped), "bold $warning"))
    return shown


def _number(label: str, number: float | None) -> Tile:
    if number is not None and not math.isfinite(number):
        return label, f"✗ {figures.value(number)}", "bold $error"
    return label, figures.value(number), "bold"


def arrange(shown: list[Tile], width: int, height: int) -> Content:
    """Two lines of tiles, or one where only one is free; what does not fit is left out."""
    above: list[tuple[str, str]] = []
    below: list[tuple[str, str]] = []
    used = 0
    for label, number, style in shown:
        if height >= 2:
            cells = max(cell_len(label), cell_len(number), 7)
            above.append((label.ljust(cells + GAP), "$foreground 55%"))
            below.append((number.ljust(cells + GAP), style))
        else:
            cells = cell_len(label) + 1 + cell_len(number) - 1
            above += [(f"{label} ", "$foreground 55%"), (number + " " * (GAP - 1), style)]
        used += cells + GAP
        if used - GAP > width:
            del above[-1 if height >= 2 else -2 :], below[-1:]
            break
    return Content.assemble(*above, *([("\n", "")] if below else []), *below)
