"""A widget that draws all of its rows at once, and only when something has changed."""

from __future__ import annotations

from collections.abc import Iterable

from rich.style import Style
from textual.strip import Strip
from textual.widget import Widget


class Drawn(Widget):
    """Draws in ``_draw``, again after ``redraw``, another size or another theme."""

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002
        super().__init__(id=id)
        self._strips: list[Strip] = []
        self._drawn_for: object = None
        self._styles: dict[str, Style] = {}

    def notify_style_update(self) -> None:
        """Draw anew when the theme changes."""
        self._drawn_for = None
        self._styles = {}
        super().notify_style_update()

    def redraw(self) -> None:
        """Something has changed."""
        self._drawn_for = None
        self.refresh()

    def render_line(self, y: int) -> Strip:
        """One row of the widget."""
        if self._drawn_for != self.size:
            self._drawn_for = self.size
            self._strips = self._draw()
        if y < len(self._strips):
            return self._strips[y]
        return Strip.blank(self.size.width, self.rich_style)

    def styles_of(self, prefix: str, names: Iterable[str]) -> dict[str, Style]:
        """The component styles ``prefix--name`` of the theme, and the widget's own under ``""``."""
        if not self._styles:
            self._styles = {n: self.get_component_rich_style(f"{prefix}--{n}") for n in names}
            self._styles[""] = self.rich_style
        return self._styles

    def _draw(self) -> list[Strip]:
        raise NotImplementedError
