"""A list whose rows are laid out to its width and keep the cursor while their text changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.content import Content
from textual.strip import Strip
from textual.widgets import OptionList
from textual.widgets.option_list import Option

RowMaker = Callable[[int, bool], Content]
"""Makes a row of this width [cells]; on one line where the second argument says so."""
Row = tuple[str, object, RowMaker]
"""Its key, what it is made of, and its maker: it is made anew when what it is made of changes."""


class Rows(OptionList):
    """An option list in which every row has a key; the keys keep the cursor in its place."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j", "cursor_down", "Down", show=False),
        Binding("k", "cursor_up", "Up", show=False),
        Binding("g", "first", "First", show=False),
        Binding("G", "last", "Last", show=False),
    ]
    DEFAULT_CSS = """
    Rows {
        background: $surface; padding: 0;
        scrollbar-size-vertical: 1; scrollbar-gutter: stable;
    }
    Rows > .option-list--option { padding: 0; }
    Rows:focus { background-tint: $foreground 0%; }
    """
    FOLLOW_TOP: ClassVar[bool] = False
    """While nobody is in the list, a cursor on the first row stays on the first row."""

    def __init__(self, *, id: str) -> None:  # noqa: A002
        super().__init__(id=id, markup=False)
        self._title = ""
        self.start_key = ""
        """The row that the cursor begins on; empty is the first."""
        self._blank: Strip | None = None
        self._rows: list[Row] = []
        self._made: list[tuple[str, Content]] = []
        self._made_of: dict[str, tuple[object, Content]] = {}
        self._made_for = (0, False)

    @property
    def keys(self) -> list[str]:
        """Of the rows that are laid out, in their order."""
        return [key for key, _ in self._made]

    @property
    def cursor_key(self) -> str:
        """The key of the row under the cursor, or empty."""
        option = self.highlighted_option
        return (option.id or "") if option else ""

    def show_rows(self, title: str, rows: Sequence[Row]) -> None:
        """Show these rows under our own ``title``; what did not change costs nothing."""
        if title != self._title:
            self._title = title
            self.border_title = title
        self._rows = list(rows)
        self._lay_out()

    def render_line(self, y: int) -> Strip:
        """One line; the ones below the last row are blank."""
        if self.scroll_offset.y + y >= self.virtual_size.height:
            if self._blank is None or self._blank.cell_length != self.size.width:
                self._blank = Strip.blank(self.size.width, self.rich_style)
            return self._blank
        return super().render_line(y)

    def notify_style_update(self) -> None:
        """Forget what was made in the old colours."""
        self._blank = None
        super().notify_style_update()

    def on_resize(self) -> None:
        """Fit the rows to the new width."""
        self._lay_out()

    def _lay_out(self) -> None:
        width = self.scrollable_content_region.width
        if width <= 0:
            return
        one_line = self.screen.has_class("-short")
        if self._made_for != (width, one_line):
            self._made_for, self._made_of = (width, one_line), {}
        before, self._made = self._made, [(row[0], self._make(*row)) for row in self._rows]
        self._made_of = {key: self._made_of[key] for key, _ in self._made}
        if [key for key, _ in before] != [key for key, _ in self._made]:
            self._replace_all()
            return
        for i, ((_, old), (_, new)) in enumerate(zip(before, self._made, strict=True)):
            if not old.is_same(new):
                self.replace_option_prompt_at_index(i, new)

    def _make(self, key: str, made_of: object, maker: RowMaker) -> Content:
        known = self._made_of.get(key)
        if known is None or known[0] != made_of:
            known = self._made_of[key] = (made_of, maker(*self._made_for))
        return known[1]

    def _replace_all(self) -> None:
        keys = [key for key, _ in self._made]
        top = self.FOLLOW_TOP and not self.has_focus and self.highlighted == 0
        wanted = self.cursor_key or self.start_key
        self.set_options([Option(content, id=key) for key, content in self._made])
        if keys:
            self.highlighted = keys.index(wanted) if wanted in keys and not top else 0
