"""The screen of all runs."""

from __future__ import annotations

from collections import Counter
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.widgets import Static

from lossguard.tui import marks, runs
from lossguard.tui.page import Page, Scene
from lossguard.tui.runs import SORTS, Runs


class RunsPage(Page):
    """State, rate, loss and trouble of every run at a glance."""

    TITLE = "Runs"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("s", "sort", "Sort"),
        Binding("v", "app.compare_with_cursor", "Compare"),
    ]

    def compose(self) -> ComposeResult:
        """Counts, headings, the list."""
        yield Static(id="health")
        yield Static(id="headings")
        yield Runs(id="runs")

    def wants(self) -> dict[str, Any]:
        """The curves in little."""
        return {"sparks": True}

    def show(self, scene: Scene) -> None:
        """Take over what is new."""
        self._scene = scene
        picture = scene.picture
        beside = picture.beside.run if picture.beside else ""
        listing = self.query_one(Runs)
        listing.show(picture.runs, picture.run, beside, picture.time_s)
        self.query_one("#health", Static).update(health(scene), layout=False)

    def on_resize(self) -> None:
        """The headings stand above their columns."""
        self.call_after_refresh(self._head)

    def _head(self) -> None:
        width = self.query_one(Runs).scrollable_content_region.width
        indent = 0 if self.screen.has_class("-short") else 1
        self.query_one("#headings", Static).update(
            Content.styled(" " * indent + runs.heading(width), "$foreground 50%"), layout=False
        )

    def focus_first(self) -> None:
        """To the list."""
        self.query_one(Runs).focus()

    def filter_by(self, text: str) -> None:
        """By name, id or state."""
        self.query_one(Runs).filter = text
        self.show_again()

    def action_sort(self) -> None:
        """The next order."""
        listing = self.query_one(Runs)
        names = list(SORTS)
        listing.sort = names[(names.index(listing.sort) + 1) % len(names)]
        self.show_again()


def health(scene: Scene) -> Content:
    """How many runs are in which state, and what is open."""
    known = scene.picture.runs
    states = Counter(run.condition for run in known)
    parts: list[tuple[str, str]] = [(" ", "")]
    for state, mark in marks.STATES.items():
        if states[state]:
            parts.append((f"{mark.glyph} {states[state]} {state}   ", mark.style))
    still_open = sum(run.open_incidents for run in known)
    worst = "critical" if any(run.worst == "critical" for run in known) else "warning"
    if still_open:
        mark = marks.severity_mark(worst)
        noun = "incident" if still_open == 1 else "incidents"
        parts.append((f"{mark.glyph} {still_open} open {noun}", f"{mark.style} bold"))
    else:
        parts.append(("no open incident", "$foreground 60%"))
    return Content.assemble(*parts)
