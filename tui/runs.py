"""The list of runs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from textual.content import Content

from lossguard.agent import feed
from lossguard.tui import figures, marks
from lossguard.tui.plain import fitted, plain
from lossguard.tui.rows import Rows

Part = tuple[str, str]

_ONE_LINE_FROM = 60
"""In fewer cells a run takes two lines, however short the screen is."""


class Runs(Rows):
    """All runs the agent knows, newest first. Enter shows the one under the cursor."""

    def show(self, runs: Sequence[feed.RunSummary], shown_run: str) -> None:
        """Take over the list; ``shown_run`` is the one on show."""
        title = f"[bold]Runs[/] {len(runs)}"
        self.show_rows(title, [(run.run, partial(row, run, run.run == shown_run)) for run in runs])


def row(run: feed.RunSummary, on_show: bool, width: int, one_line: bool) -> Content:
    """Name and state; beneath or beside them where the run is and what is wrong with it."""
    mark = marks.state_mark(run.state)
    lead: list[Part] = [("▸" if on_show else " ", "$primary bold"), (f"{mark.glyph} ", mark.style)]
    name_style = "bold" if on_show else ""
    trouble = _trouble(run)
    state = plain(run.state, 9)
    if one_line and width >= _ONE_LINE_FROM:
        facts = f"{state:<9}step {figures.step(run.step):>11}  {figures.rate(run.steps_per_s):>9} "
        # Room for "99 past", so that the columns of all rows stand under each other.
        beside_name = 1 + len(facts) + max(7, sum(len(text) for text, _ in trouble))
        room = max(8, width - 3 - beside_name)
        parts = [*lead, (fitted(run.name, room), name_style), (" ", "")]
        return Content.assemble(*parts, (facts, "$foreground 70%"), *trouble)
    beside = f" {state}"
    room = max(4, width - 3 - len(beside) - 1)
    above = [*lead, (fitted(run.name, room), name_style), (beside, mark.style)]
    where = f"   step {figures.step(run.step)}"
    if run.state in ("running", "silent") and run.steps_per_s > 0:
        where += f"  {figures.rate(run.steps_per_s)}"
    return Content.assemble(*above, "\n", (where, "$foreground 60%"), "  ", *trouble)


def _trouble(run: feed.RunSummary) -> list[Part]:
    """Open incidents by their worst; else how many there were."""
    if run.open_incidents:
        mark = marks.severity_mark(run.worst)
        return [(f"{mark.glyph}{run.open_incidents}", f"{mark.style} bold")]
    if run.incidents:
        return [(f"{run.incidents} past", "$foreground 45%")]
    return []
