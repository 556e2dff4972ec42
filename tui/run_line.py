"""The line of the run on show: its name, how it is, under which policy, where it stands."""

from __future__ import annotations

from rich.cells import cell_len
from textual.content import Content
from textual.widgets import Static

from lossguard.agent import feed
from lossguard.tui import figures, marks
from lossguard.tui.plain import plain


class RunLine(Static):
    """One line, rewritten only when its words change."""

    DEFAULT_CSS = """
    RunLine { height: 1; padding: 0 1; text-wrap: nowrap; }
    """

    def __init__(self, *, id: str) -> None:  # noqa: A002
        super().__init__(id=id)
        self._run: feed.RunSummary | None = None
        self._shown: object = None

    def show(self, run: feed.RunSummary | None) -> None:
        """Take over the run."""
        self._run = run
        self._lay_out()

    def on_resize(self) -> None:
        """Fit the new width."""
        self._lay_out()

    def _lay_out(self) -> None:
        content = line(self._run, self.size.width) if self._run else Content("")
        if (shown := (content, self.size.width)) != self._shown:
            self._shown = shown
            self.update(content, layout=False)


def policy_style(run: feed.RunSummary) -> str:
    """A policy that acts stands out, whatever its name."""
    return "$success bold" if run.acts else "$foreground 70%"


def line(run: feed.RunSummary, width: int) -> Content:
    """Exactly as wide as asked for."""
    mark = marks.state_mark(run.condition)
    state = f"{mark.glyph} {plain(run.condition, 10)}"
    acts = "acts" if run.acts else "observes"
    policy = plain(run.policy, 18)
    policy = f"policy {policy}: {acts}" if width >= 90 else f"{policy}: {acts}"
    right = f"step {figures.step(run.step)}"
    if width >= 110:
        right = f"applied {figures.step(run.applied)} · {right}"
    room = width - len(state) - cell_len(policy) - len(right) - 6
    name = plain(run.name, max(4, room))
    gap = max(1, room - cell_len(name) + 2)
    return Content.assemble(
        (name, "bold"),
        ("  ", ""),
        (state, f"{mark.style} bold"),
        ("  ", ""),
        (policy, policy_style(run)),
        (" " * gap, ""),
        (right, "$foreground 70%"),
    )
