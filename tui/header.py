"""The first line: which run is on show and how it is."""

from __future__ import annotations

from rich.cells import cell_len
from textual.content import Content
from textual.widgets import Static

from lossguard.agent import feed
from lossguard.tui import figures, marks
from lossguard.tui.plain import plain

BRAND = " ◈ lossguard "
_POLICY_STYLES = {"observe": "$foreground 70%", "guard": "$success bold"}


class Header(Static):
    """Brand, run, state, policy; on the right where the run is."""

    DEFAULT_CSS = """
    Header { height: 1; background: $panel; }
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
        content = line(self._run, self.size.width)
        shown = (content.plain, self.size.width)
        if shown != self._shown:
            self._shown = shown
            self.update(content, layout=False)


def line(run: feed.RunSummary | None, width: int) -> Content:
    """The header, exactly as wide as the screen."""
    brand = (BRAND, "bold $background on $primary")
    if run is None:
        return Content.assemble(brand, ("  watches training, acts in time", "$foreground 60%"))
    mark = marks.state_mark(run.state)
    state = f"{mark.glyph} {plain(run.state, 10)}"
    policy = plain(run.policy, 16)
    right = f"step {figures.step(run.step)} "
    if width >= 110:
        right = f"step {figures.step(run.step)} · applied {figures.step(run.applied)} "
    room = width - len(BRAND) - len(state) - cell_len(policy) - len(right) - 8
    name = plain(run.name, max(4, room))
    gap = max(1, room - cell_len(name) + 2)
    return Content.assemble(
        brand,
        ("  ", ""),
        (name, "bold"),
        ("  ", ""),
        (state, f"{mark.style} bold"),
        ("  ", ""),
        (policy, _POLICY_STYLES.get(run.policy, "$accent bold")),
        (" " * gap, ""),
        (right, "$foreground 70%"),
    )
