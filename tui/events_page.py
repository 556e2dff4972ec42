"""The screen of events: the log of a run, newest first."""

from __future__ import annotations

import time
from functools import partial
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content

from lossguard.agent import feed
from lossguard.tui import figures
from lossguard.tui.page import Page, Scene
from lossguard.tui.plain import fitted, plain
from lossguard.tui.rows import Rows

_EVENTS = 500


class EventList(Rows):
    """Newest first; it stays at the top while nobody is further down."""

    FOLLOW_TOP = True


class EventsPage(Page):
    """A line an event; ``/`` shows only some."""

    TITLE = "Events"
    BINDINGS: ClassVar[list[BindingType]] = [Binding("s", "turn", "Oldest first")]

    def __init__(self, *, id: str) -> None:  # noqa: A002
        super().__init__(id=id)
        self._filter = ""
        self._oldest_first = False

    def compose(self) -> ComposeResult:
        """The list alone."""
        yield EventList(id="events")

    def wants(self) -> dict[str, Any]:
        """All events there are."""
        return {"metrics": (), "events": _EVENTS}

    def show(self, scene: Scene) -> None:
        """Take over what is new."""
        self._scene = scene
        events = sorted(enumerate(scene.picture.events), key=lambda one: (one[1].time_s, one[0]))
        words = self._filter.lower()
        kept = [event for _, event in events if words in f"{event.kind} {event.message}".lower()]
        if not self._oldest_first:
            kept.reverse()
        keys: dict[str, int] = {}
        rows = []
        for event in kept:
            name = f"{event.step}|{event.kind}|{event.time_s}"
            keys[name] = keys.get(name, 0) + 1
            rows.append((f"{name}|{keys[name]}", event, partial(row, event)))
        count = len(kept) if not words else f"{len(kept)} of {len(events)}"
        order = "oldest first" if self._oldest_first else "newest first"
        title = f"[bold]Events[/] {count} [$foreground 60%]{order}[/]"
        self.query_one(EventList).show_rows(title, rows)

    def focus_first(self) -> None:
        """To the list."""
        self.query_one(EventList).focus()

    def filter_by(self, text: str) -> None:
        """By kind or words."""
        self._filter = text
        self.show_again()

    def action_turn(self) -> None:
        """Turn the order around."""
        self._oldest_first = not self._oldest_first
        self.show_again()


KIND_STYLES = {
    "skip": "$warning", "rollback": "$accent", "stop": "$error", "failed": "$error",
    "circuit_breaker": "$warning", "ack": "$success", "mute": "$success",
}  # fmt: skip


def row(event: feed.EventLine, width: int, one_line: bool) -> Content:
    """When, at which step, what kind, in words."""
    clock = time.strftime("%H:%M:%S", time.localtime(event.time_s)) if event.time_s else ""
    kind = 16 if width >= 70 else 10
    return Content.assemble(
        (f" {clock:<8} ", "$foreground 45%"),
        (f"{figures.step(event.step):>11}  ", "$foreground 60%"),
        (fitted(event.kind, kind) + " ", f"{KIND_STYLES.get(event.kind, '$primary')} bold"),
        (plain(event.message, max(1, width - 25 - kind)), ""),
    )
