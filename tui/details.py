"""Everything that is known about one incident."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import Static

from lossguard.agent import feed
from lossguard.tui import figures, marks
from lossguard.tui.plain import plain

LINE_MAX = 600
LINES_MAX = 200
_LABEL = "$foreground 55%"

Part = tuple[str, str]


class Details(VerticalScroll):
    """A scrollable account of one incident."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j", "scroll_down", show=False),
        Binding("k", "scroll_up", show=False),
        Binding("g", "scroll_home", show=False),
        Binding("G", "scroll_end", show=False),
    ]
    DEFAULT_CSS = """
    Details { padding: 0 1; background: $surface; scrollbar-size-vertical: 1; }
    """

    def __init__(self, *, id: str) -> None:  # noqa: A002
        super().__init__(id=id)
        self._text = Static(markup=False)
        self._shown: tuple[feed.IncidentLine | None, str, feed.IncidentStory | None] | None = None

    def compose(self) -> ComposeResult:
        """The text alone."""
        yield self._text

    def show(
        self,
        incident: feed.IncidentLine | None,
        now_s: float,
        story: feed.IncidentStory | None = None,
    ) -> None:
        """Take over an incident; ``now_s`` is the agent's wall clock [s]."""
        age = _age(incident, now_s)
        if (incident, age, story) == self._shown:
            return
        before, self._shown = self._shown, (incident, age, story)
        self._text.update(account(incident, age, story) if incident else _NOTHING)
        if incident is not None and before and (before[0] is None or before[0].id != incident.id):
            self.scroll_home(animate=False)


_NOTHING = Content.styled("No incident so far. Healthy is quiet.", _LABEL)


def _age(incident: feed.IncidentLine | None, now_s: float) -> str:
    if incident is None or incident.opened <= 0 or now_s <= 0:
        return ""
    return f"{figures.ago(now_s - incident.opened)} ago"


def account(
    incident: feed.IncidentLine, age: str, story: feed.IncidentStory | None = None
) -> Content:
    """The incident in sections: what, when, evidence, what was done, what it means, what helps."""
    mark = marks.severity_mark(incident.severity)
    title = f": {plain(story.title, 80)}" if story and story.title else ""
    parts: list[Part] = [
        (f"{mark.glyph} {plain(incident.symptom, 60)}{title}", f"{mark.style} bold"),
        (f"\n{plain(incident.severity, 20)}, {incident.state}", mark.style),
        (f"  {age}" if age else "", _LABEL),
        (_noted(incident), "$success"),
        (f"\n\n{plain(incident.message, LINE_MAX)}\n\n", ""),
    ]
    parts += _when(incident)
    if incident.where:
        parts += _line("where", plain(incident.where, LINE_MAX))
    if incident.also:
        parts += _line("also", plain(", ".join(incident.also), LINE_MAX))
    parts += _line("metric", plain(incident.metric, LINE_MAX))
    parts += _line("score", f"{figures.value(incident.score)} (1 is just over the threshold)")
    if incident.evidence:
        parts.append(("\nEvidence\n", "bold"))
        for name, number in incident.evidence.items():
            parts += _line(plain(name, 40), figures.value(number), 22)
    parts.append(("\nWhat was done\n", "bold"))
    parts += _done(incident)
    if story is not None:
        parts += _meaning(story)
    parts += [
        ("\nNext\n", "bold"),
        (f"  lossguard show {plain(incident.id, 60)}\n", "$primary"),
        (f"  lossguard explain {plain(incident.symptom, 60)}", "$primary"),
    ]
    if story is not None:
        parts += _texts(story)
    return Content.assemble(*parts)


def _noted(incident: feed.IncidentLine) -> str:
    """What people have said about it."""
    acked = "  ✓ acknowledged" if incident.acked else ""
    return acked + ("  muted: calls nobody" if incident.muted else "")


def _when(incident: feed.IncidentLine) -> list[Part]:
    late = incident.detected_step - incident.onset_step
    lateness = "at once" if late <= 0 else f"{figures.step(late)} steps later"
    parts = _line("onset", f"step {figures.step(incident.onset_step)}")
    parts += _line("detected", f"step {figures.step(incident.detected_step)} ({lateness})")
    if incident.end_step is not None:
        parts += _line("over", f"step {figures.step(incident.end_step)}")
    return parts


def _meaning(story: feed.IncidentStory) -> list[Part]:
    parts: list[Part] = []
    if story.meaning:
        parts += [("\nWhat it means\n", "bold"), (f"  {plain(story.meaning, LINE_MAX)}\n", "")]
    for title, lines in (("Usual causes", story.causes), ("What helps", story.fixes)):
        if lines:
            parts.append((f"\n{title}\n", "bold"))
        for number, text in enumerate(lines, start=1):
            parts += [(f"  {number}. ", _LABEL), (f"{plain(text, LINE_MAX)}\n", "")]
    return parts


def _texts(story: feed.IncidentStory) -> list[Part]:
    """Stacks and tracebacks, line by line as they were kept."""
    parts: list[Part] = []
    if story.folder:
        parts += [("\n\nKept in ", _LABEL), (plain(story.folder, LINE_MAX), "")]
    for name, text in story.texts.items():
        parts.append((f"\n\n{plain(name, 80)}\n", "bold"))
        shown = text.splitlines()[:LINES_MAX]
        parts.append(("\n".join(plain(line, 160) for line in shown), "$foreground 75%"))
    return parts


def _line(label: str, text: str, width: int = 10) -> list[Part]:
    return [(f"  {label:<{width}} ", _LABEL), (f"{text}\n", "")]


def _done(incident: feed.IncidentLine) -> list[Part]:
    if not incident.actions:
        return [("  nothing; it was only watched\n", _LABEL)]
    parts: list[Part] = []
    for action in incident.actions:
        mark = marks.result_mark(action.result)
        parts += [
            (f"  {mark.glyph} ", mark.style),
            (f"{plain(action.action, 20):<14}", "bold"),
            (f"step {figures.step(action.step)}", _LABEL),
            (f"  {plain(action.result or 'waiting for the answer', LINE_MAX)}\n", ""),
        ]
    return parts
