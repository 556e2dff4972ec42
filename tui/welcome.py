"""What is shown while there is no run: what to do next."""

from __future__ import annotations

from textual.content import Content
from textual.widgets import Static

from lossguard.tui.source import Glimpse
from lossguard.tui.status import NO_AGENT

_CURVE = "⠉⠢⡀⠀⠀⠀⠀⠀⠀⠀⠀⠀\n⠀⠀⠈⠢⢄⡀⠀⠀⠀⠀⠀⠀\n⠀⠀⠀⠀⠀⠈⠑⠒⠤⠤⠤⣀"


class Welcome(Static):
    """The empty state."""

    DEFAULT_CSS = """
    Welcome { height: 1fr; width: 1fr; content-align: center middle; text-align: center; }
    """

    def __init__(self, *, id: str) -> None:  # noqa: A002
        super().__init__(id=id)
        self._shown: str | None = None

    def show(self, glimpse: Glimpse) -> None:
        """Say what is missing and what to do about it."""
        content = text(glimpse)
        if content.plain != self._shown:
            self._shown = content.plain
            self.update(content, layout=False)


def text(glimpse: Glimpse) -> Content:
    """The words for this situation."""
    if glimpse.picture is None and not glimpse.gone:
        return Content.styled("asking the agent…", "$foreground 60%")
    why = NO_AGENT if glimpse.gone else "Nothing is training yet."
    return Content.assemble(
        (f"{_CURVE}\n\n", "$primary"),
        (f"{why}\n\n", "bold"),
        ("Watch any training script, with no edit:\n", "$foreground 70%"),
        ("lossguard run --guard your_script.py\n\n", "$success bold"),
        ("or add one line to it:\n", "$foreground 70%"),
        ("lossguard.attach(model, optimizer)\n\n", "$success bold"),
        ("lossguard demo", "$primary"),
        (" shows it on a small real run · ", "$foreground 70%"),
        ("?", "$primary"),
        (" explains this screen", "$foreground 70%"),
    )
