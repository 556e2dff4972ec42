"""The line that ``/`` opens."""

from __future__ import annotations

from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widgets import Input


class FilterBar(Input):
    """Filters while one types; enter keeps the filter, esc drops it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "drop", "Drop the filter"),
        Binding("down", "keep", show=False),
    ]
    DEFAULT_CSS = """
    FilterBar { display: none; height: 1; border: none; background: $panel; padding: 0 1; }
    FilterBar:focus { border: none; }
    FilterBar.-open { display: block; }
    """

    class Left(Message):
        """The filter is set, or dropped: the keys go back to the screen."""

    def __init__(self, *, id: str) -> None:  # noqa: A002
        super().__init__(id=id, placeholder="show only what has this in it", compact=True)

    def open(self) -> None:
        """Ready to type."""
        self.add_class("-open")
        self.focus()

    def drop(self) -> bool:
        """No filter any more; False when there was none."""
        was_open = self.has_class("-open")
        self.value = ""
        self.remove_class("-open")
        return was_open

    def action_drop(self) -> None:
        """Drop it, and leave."""
        self.drop()
        self.post_message(self.Left())

    def action_keep(self) -> None:
        """Leave with the filter on."""
        if not self.value:
            self.drop()
        self.post_message(self.Left())

    async def action_submit(self) -> None:
        """Enter."""
        self.action_keep()
