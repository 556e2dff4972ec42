"""The first line: which screens there are, and which of them is seen."""

from __future__ import annotations

from collections.abc import Sequence

from textual import events
from textual.content import Content
from textual.message import Message
from textual.widgets import Static

BRAND = " ◈ lossguard "


class Header(Static):
    """Brand and tabs; a click on a tab opens it."""

    DEFAULT_CSS = """
    Header { height: 1; background: $panel; text-wrap: nowrap; }
    """

    class Chosen(Message):
        """A tab was clicked."""

        def __init__(self, index: int) -> None:
            super().__init__()
            self.index = index

    def __init__(self, titles: Sequence[str], *, id: str) -> None:  # noqa: A002
        super().__init__(id=id)
        self._titles = titles
        self._index = 0
        self._note = ""

    def show(self, index: int, note: str) -> None:
        """This tab is open; ``note`` stands on the right."""
        if (index, note) != (self._index, self._note):
            self._index, self._note = index, note
            self._lay_out()

    def on_resize(self) -> None:
        """Fit the new width."""
        self._lay_out()

    def on_click(self, event: events.Click) -> None:
        """Open the tab under the mouse."""
        x = len(BRAND)
        for i, title in enumerate(self._titles):
            cells = len(_tab(i, title))
            if x <= event.x < x + cells:
                self.post_message(self.Chosen(i))
            x += cells

    def _lay_out(self) -> None:
        width = self.size.width
        tabs = [_tab(i, title) for i, title in enumerate(self._titles)]
        brand = BRAND
        parts: list[tuple[str, str]] = [(brand, "bold $background on $primary")]
        for i, tab in enumerate(tabs):
            style = "bold $primary on $surface" if i == self._index else "$foreground 65%"
            parts.append((tab, style))
        left = len(brand) + sum(map(len, tabs))
        if self._note and left + len(self._note) + 2 <= width:
            parts.append((" " * (width - left - len(self._note) - 1) + self._note, "$warning"))
        self.update(Content.assemble(*parts), layout=False)


def _tab(index: int, title: str) -> str:
    return f" {index + 1} {title} "
