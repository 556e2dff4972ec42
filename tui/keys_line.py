"""The last line: the keys of what has the focus. One widget, so that a new screen costs little."""

from __future__ import annotations

from textual.content import Content
from textual.screen import Screen
from textual.widgets import Static


class KeysLine(Static):
    """Follows the bindings; a click on a key presses it."""

    DEFAULT_CSS = """
    KeysLine {
        height: 1; background: $footer-background; text-wrap: nowrap; padding: 0 1;
        link-style: none; link-color: $foreground 85%; link-background: $footer-background;
        link-style-hover: bold; link-color-hover: $primary;
    }
    """

    def __init__(self, *, id: str) -> None:  # noqa: A002
        super().__init__(id=id)
        self._shown = ""

    def on_mount(self) -> None:
        """From now on."""
        self.screen.bindings_updated_signal.subscribe(self, self._take)

    def _take(self, screen: Screen[object]) -> None:
        keys: dict[str, tuple[str, str]] = {}
        for key, active in screen.active_bindings.items():
            if active.binding.show and active.enabled and active.node is not screen:
                shown = self.app.get_key_display(active.binding)
                keys.setdefault(active.binding.description, (shown, key))
        keys["Palette"] = ("^p", "ctrl+p")
        text = "  ".join(
            f"[@click=app.simulate_key('{key}')][bold $primary]{shown}[/] {words}[/]"
            for words, (shown, key) in keys.items()
        )
        if text != self._shown:
            self._shown = text
            self.update(Content.from_markup(text), layout=False)
