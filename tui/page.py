"""What all screens of the dashboard have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from textual.containers import Vertical
from textual.message import Message

from lossguard.agent import feed


@dataclass(frozen=True)
class Scene:
    """All that a screen shows."""

    picture: feed.Picture
    run: feed.RunSummary | None
    """The run on show."""


class Looked(Message):
    """A screen wants to see something else from now on."""


class Page(Vertical):
    """A screen among others: it is told what there is only while it is seen."""

    TITLE: ClassVar[str]
    DEFAULT_CSS = """
    Page { height: 1fr; width: 1fr; }
    """
    _scene: Scene | None = None
    """What was shown last, for screens that keep it."""

    def wants(self) -> dict[str, Any]:
        """Fields of the subscription, for what this screen needs beyond the list of runs."""
        return {}

    def show(self, scene: Scene) -> None:
        """Take over what is new."""
        raise NotImplementedError

    def show_again(self) -> None:
        """The same in another order, or filtered in another way."""
        if self._scene is not None:
            self.show(self._scene)

    def focus_first(self) -> None:
        """Where the keys go when the screen is opened."""
        raise NotImplementedError

    def filter_by(self, text: str) -> None:
        """Show only what has this text in it."""

    def back(self) -> bool:
        """Undo the last thing looked at more closely; False when there is nothing to undo."""
        return False
