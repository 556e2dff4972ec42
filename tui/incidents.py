"""The list of incidents of the run on show."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from textual.content import Content

from lossguard.agent import feed
from lossguard.tui import figures, marks
from lossguard.tui.plain import fitted, plain
from lossguard.tui.rows import Rows

Part = tuple[str, str]


class Incidents(Rows):
    """Newest first. Enter opens everything that is known about the one under the cursor."""

    FOLLOW_TOP = True

    def __init__(self, *, id: str) -> None:  # noqa: A002
        super().__init__(id=id)
        self._incidents: dict[str, feed.IncidentLine] = {}

    def show(self, incidents: Sequence[feed.IncidentLine], wanted: str = "") -> None:
        """Take over the incidents, or those that have the word ``wanted`` in them."""
        kept = [one for one in incidents if wanted.lower() in _words(one)]
        ordered = sorted(kept, key=lambda one: (one.opened, one.detected_step), reverse=True)
        self._incidents = {one.id: one for one in ordered}
        still_open = sum(one.state == "open" for one in ordered)
        count = f" {still_open} open, {len(ordered) - still_open} resolved" if ordered else " none"
        rows = [(one.id, one, partial(row, one)) for one in ordered]
        self.show_rows(f"[bold]Incidents[/]{count}", rows)

    def go_to(self, incident: str) -> None:
        """The cursor on this one, if it is listed."""
        self.start_key = incident  # where the list is not laid out so far
        if incident in self.keys:
            self.highlighted = self.keys.index(incident)

    @property
    def under_cursor(self) -> feed.IncidentLine | None:
        """The incident under the cursor."""
        return self._incidents.get(self.cursor_key)


def _words(incident: feed.IncidentLine) -> str:
    return " ".join(
        (incident.symptom, incident.severity, standing(incident), incident.where, incident.message)
    ).lower()


def row(incident: feed.IncidentLine, width: int, one_line: bool) -> Content:
    """What, when, where and what was done about it; then the message."""
    mark = marks.severity_mark(incident.severity)
    open_now = incident.state == "open"
    parts: list[Part] = [
        (f" {mark.glyph} ", f"{mark.style} bold"),
        (fitted(_symptoms(incident), 19), "bold" if open_now else ""),
        (f" {steps(incident):<17} ", "$foreground 75%"),
        (f"{standing(incident):<9}", mark.style if open_now else "$foreground 45%"),
    ]
    done = actions(incident)
    room = width - 3 - 19 - 19 - 9
    if one_line:
        used = sum(len(text) for text, _ in done)
        message: Part = (plain(incident.message, max(1, room - used)), "$foreground 60%")
        return Content.assemble(*parts, *done, message)
    where = plain(incident.where or incident.metric, max(1, room))
    return Content.assemble(
        *parts,
        (where, "$primary"),
        "\n   ",
        *done,
        (
            plain(incident.message, max(1, width - 3 - sum(len(t) for t, _ in done))),
            "$foreground 60%",
        ),
    )


def standing(incident: feed.IncidentLine) -> str:
    """In a word: whether it goes on, and whether somebody has taken note."""
    if incident.muted:
        return "muted"
    if incident.acked:
        return "acked" if incident.state == "open" else "resolved"
    return incident.state


def _symptoms(incident: feed.IncidentLine) -> str:
    """The symptom, and how many others of the same cause there are."""
    if not incident.also:
        return incident.symptom
    others = f" +{len(incident.also)}"
    return plain(incident.symptom, 18 - len(others)) + others


def steps(incident: feed.IncidentLine) -> str:
    """Onset and detection, short where both are the same."""
    if incident.onset_step == incident.detected_step:
        return figures.step(incident.onset_step)
    return f"{figures.step(incident.onset_step)}→{figures.step(incident.detected_step)}"


def actions(incident: feed.IncidentLine, most: int = 3) -> list[Part]:
    """The last actions, each with how it went."""
    shown: list[Part] = []
    for action in incident.actions[-most:]:
        mark = marks.result_mark(action.result)
        shown += [(f"{plain(action.action, 12)} ", "bold"), (f"{mark.glyph}  ", mark.style)]
    return shown
