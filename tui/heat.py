"""The widget of layers by time: a list one can move in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from rich.segment import Segment
from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.strip import Strip

from lossguard.agent import feed
from lossguard.tui import heat_map
from lossguard.tui.curve import Curve, Floats
from lossguard.tui.drawn import Drawn

_STYLES = ("name", "cursor", "dim", "bad", *(f"level-{i}" for i in range(heat_map.LEVELS + 1)))


class Heat(Drawn, can_focus=True):
    """A row a layer. It draws the rows that are in view, and only what is new."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {f"heat--{name}" for name in _STYLES}
    # From dark blue over green to yellow, as in viridis: lighter is more, for any eye.
    DEFAULT_CSS = """
    Heat {
        border: round $border-blurred; border-title-color: $foreground 80%; background: $surface;
        & > .heat--name { color: $foreground 80%; }
        & > .heat--cursor {
            color: $foreground; background: $block-cursor-background; text-style: bold;
        }
        & > .heat--dim { color: $foreground 50%; }
        & > .heat--bad { color: $error; text-style: bold; }
        & > .heat--level-1 { color: #414487; }
        & > .heat--level-2 { color: #38598C; }
        & > .heat--level-3 { color: #2D708E; }
        & > .heat--level-4 { color: #25858E; }
        & > .heat--level-5 { color: #1E9B8A; }
        & > .heat--level-6 { color: #2BB07F; }
        & > .heat--level-7 { color: #85D54A; }
        & > .heat--level-8 { color: #FDE725; }
    }
    Heat:focus { border: round $primary; border-title-color: $primary; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "by(-1)", show=False),
        Binding("down,j", "by(1)", show=False),
        Binding("pageup,ctrl+b", "by(-20)", show=False),
        Binding("pagedown,ctrl+f", "by(20)", show=False),
        Binding("home,g", "by(-100000)", show=False),
        Binding("end,G", "by(100000)", show=False),
    ]

    class Moved(Message):
        """The cursor is on another row."""

    def __init__(self, *, id: str) -> None:  # noqa: A002
        super().__init__(id=id)
        self.sort = heat_map.SORTS[0]
        self.filter = ""
        self.nothing = ""
        self._raw: feed.LayerStrip | None = None
        self._strip: heat_map.Strip | None = None
        self._rows: list[int] = []
        self._cursor = 0
        self._top = 0
        self._title = ""

    def show(self, strip: feed.LayerStrip | None, nothing: str) -> None:
        """Take over a strip; ``nothing`` is said where there is none."""
        if strip == self._raw and nothing == self.nothing:
            return
        self._raw, self.nothing = strip, nothing
        self._strip = heat_map.decode(strip) if strip is not None else None
        self.lay_out()

    def lay_out(self) -> None:
        """Sort and filter anew; the cursor stays on its layer."""
        before = self.selected
        self._rows = heat_map.order(self._strip, self.sort, self.filter) if self._strip else []
        names = [self._strip.names[i] for i in self._rows] if self._strip else []
        self._cursor = names.index(before) if before in names else 0
        self.redraw()
        self.post_message(self.Moved())

    def next_sort(self) -> None:
        """The rows in the next order."""
        self.sort = heat_map.SORTS[(heat_map.SORTS.index(self.sort) + 1) % len(heat_map.SORTS)]
        self.lay_out()

    def entitle(self, families: Mapping[str, str], chosen: str) -> None:
        """Above the strip the titles of what there is to choose from, and the order of the rows."""
        tabs = [
            f"[bold]{title}[/]" if name == chosen else f"[$foreground 50%]{title}[/]"
            for name, title in families.items()
        ]
        title = f"{' · '.join(tabs)}  [$foreground 60%]{self.sort}[/]"
        if title != self._title:
            self._title = self.border_title = title

    @property
    def selected(self) -> str:
        """The name of the row under the cursor, or empty."""
        if self._strip is None or not self._cursor < len(self._rows):
            return ""
        i = self._rows[self._cursor]
        return self._strip.names[i] if i < len(self._strip.names) else ""

    @property
    def curve(self) -> Curve | None:
        """The row under the cursor over time."""
        if not self.selected or self._strip is None:
            return None
        values: Floats = self._strip.values[:, self._rows[self._cursor]].copy()
        bad = values == float("inf")
        values[bad] = float("nan")
        known = bad | (values == values)
        steps, values = self._strip.steps[known], values[known]
        return Curve(steps, values, values, values, bad[known])

    def action_by(self, rows: int) -> None:
        """The cursor up or down."""
        self._cursor = min(max(self._cursor + rows, 0), max(0, len(self._rows) - 1))
        self.redraw()
        self.post_message(self.Moved())

    def on_click(self, event: events.Click) -> None:
        """The cursor to the row under the mouse."""
        self.action_by(self._top + event.y - 2 - self._cursor)

    def on_mouse_scroll_down(self) -> None:
        """As three times down."""
        self.action_by(3)

    def on_mouse_scroll_up(self) -> None:
        """As three times up."""
        self.action_by(-3)

    def _draw(self) -> list[Strip]:
        width, height = self.size
        styles = self.styles_of("heat", _STYLES)
        if self._strip is None or not self._rows:
            text = self.nothing if self._strip is None else "no layer has that in its name"
            blank = [Strip.blank(width, styles[""]) for _ in range(max(0, height // 2))]
            return [*blank, Strip([Segment(text.center(width)[:width], styles["dim"])], width)]
        room = max(1, height - 1)
        self._top = min(max(self._top, self._cursor - room + 1), self._cursor)
        self._top = max(0, min(self._top, len(self._rows) - room))
        shown = self._rows[self._top : self._top + room]
        head = heat_map.heading(self._strip, shown, width).ljust(width)[:width]
        drawn = heat_map.lines(self._strip, shown, self._rows[self._cursor], width)
        return [
            Strip([Segment(head, styles["dim"])], width),
            *(
                Strip([Segment(text, styles[name]) for text, name in line]).adjust_cell_length(
                    width, styles[""]
                )
                for line in drawn
            ),
        ]
