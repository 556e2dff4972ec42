"""The last lines of the run's log."""

from __future__ import annotations

from collections.abc import Sequence

from textual.content import Content
from textual.widgets import Static

from lossguard.agent import feed
from lossguard.tui import figures
from lossguard.tui.plain import fitted, plain


class Events(Static):
    """As many of the newest events as the height holds, the newest at the bottom."""

    DEFAULT_CSS = """
    Events { height: 5; padding: 0 1; }
    """

    def __init__(self, *, id: str) -> None:  # noqa: A002
        super().__init__(id=id)
        self._events: list[feed.EventLine] = []
        self._shown: object = None
        self.border_title = "[bold]Events[/]"

    def show(self, events: Sequence[feed.EventLine]) -> None:
        """Take over the events."""
        self._events = sorted(events, key=lambda one: one.time_s)
        self._lay_out()

    def on_resize(self) -> None:
        """As many as fit now."""
        self._lay_out()

    def _lay_out(self) -> None:
        width, height = self.size
        if not width or not height:
            return
        newest = self._events[-height:]
        shown = (newest, self.size)
        if shown != self._shown:
            self._shown = shown
            text = Content("\n").join(line(event, width) for event in newest)
            self.update(text, layout=False)


def line(event: feed.EventLine, width: int) -> Content:
    """Step, kind and message on one line."""
    step = figures.step(event.step)
    kind_room = 14 if width >= 60 else 9
    return Content.assemble(
        (f"{step:>10}  ", "$foreground 45%"),
        (fitted(event.kind, kind_room) + " ", "$primary"),
        (plain(event.message, max(1, width - 13 - kind_room)), "$foreground 80%"),
    )
