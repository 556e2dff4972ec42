"""Everything that is known about one incident."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from lossguard.agent import feed
from lossguard.tui import figures, marks
from lossguard.tui.plain import plain

LINE_MAX = 600
_LABEL = "$foreground 55%"

Part = tuple[str, str]


class Details(VerticalScroll):
    """A scrollable account of one incident."""

    DEFAULT_CSS = """
    Details { padding: 0 1; background: $surface; scrollbar-size-vertical: 1; }
    """

    def __init__(self, *, id: str) -> None:  # noqa: A002
        super().__init__(id=id)
        self._text = Static(markup=False)
        self._shown: object = ()

    def compose(self) -> ComposeResult:
        """The text alone."""
        yield self._text

    def show(self, incident: feed.IncidentLine | None, now_s: float) -> None:
        """Take over an incident; ``now_s`` is the agent's wall clock [s]."""
        age = _age(incident, now_s)
        if (incident, age) != self._shown:
            self._shown = (incident, age)
            self._text.update(account(incident, age) if incident else _NOTHING)


class DetailsScreen(ModalScreen[None]):
    """The details over everything else."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,enter", "dismiss", "Back"),
        Binding("j,down", "scroll('down')", show=False),
        Binding("k,up", "scroll('up')", show=False),
    ]
    DEFAULT_CSS = """
    DetailsScreen { align: center middle; }
    #account {
        width: 90%; max-width: 110; height: auto; max-height: 90%;
        border: round $primary; border-subtitle-color: $foreground 60%; padding: 1 2;
    }
    """

    def __init__(self, incident: feed.IncidentLine, now_s: float) -> None:
        super().__init__()
        self._incident = incident
        self._now_s = now_s

    def compose(self) -> ComposeResult:
        """One pane."""
        pane = Details(id="account")
        pane.border_title = "[bold]Incident[/]"
        pane.border_subtitle = "esc back"
        yield pane

    def on_mount(self) -> None:
        """Fill the pane."""
        self.query_one(Details).show(self._incident, self._now_s)

    def show(self, incident: feed.IncidentLine, now_s: float) -> None:
        """Follow the incident while it is open here."""
        if incident.id == self._incident.id:
            self.query_one(Details).show(incident, now_s)

    def action_scroll(self, way: str) -> None:
        """Scroll with the keyboard wherever the focus is."""
        pane = self.query_one(Details)
        pane.scroll_relative(y=1 if way == "down" else -1, animate=False)


_NOTHING = Content.styled("No incident so far. Healthy is quiet.", _LABEL)


def _age(incident: feed.IncidentLine | None, now_s: float) -> str:
    if incident is None or incident.opened <= 0 or now_s <= 0:
        return ""
    return f"{figures.ago(now_s - incident.opened)} ago"


def account(incident: feed.IncidentLine, age: str) -> Content:
    """The incident in sections: what, when, evidence, what was done, what to type next."""
    mark = marks.severity_mark(incident.severity)
    parts: list[Part] = [
        (f"{mark.glyph} {plain(incident.symptom, 60)}", f"{mark.style} bold"),
        (f"  {plain(incident.severity, 20)}, {incident.state}", mark.style),
        (f"  {age}\n" if age else "\n", _LABEL),
        (f"{plain(incident.message, LINE_MAX)}\n\n", ""),
    ]
    parts += _line("onset", f"step {figures.step(incident.onset_step)}")
    late = incident.detected_step - incident.onset_step
    lateness = "at once" if late <= 0 else f"{figures.step(late)} steps later"
    parts += _line("detected", f"step {figures.step(incident.detected_step)} ({lateness})")
    if incident.end_step is not None:
        parts += _line("over", f"step {figures.step(incident.end_step)}")
    if incident.where:
        parts += _line("where", plain(incident.where, LINE_MAX))
    if incident.also:
        parts += _line("also", plain(", ".join(incident.also), LINE_MAX))
    parts += _line("metric", plain(incident.metric, LINE_MAX))
    parts += _line("score", figures.value(incident.score))
    if incident.evidence:
        parts.append(("\nEvidence\n", "bold"))
        for name, number in incident.evidence.items():
            parts += _line(plain(name, 40), figures.value(number), 22)
    parts.append(("\nWhat was done\n", "bold"))
    parts += _done(incident)
    parts += [
        ("\nNext\n", "bold"),
        (f"  lossguard show {plain(incident.id, 60)}\n", "$primary"),
        (f"  lossguard explain {plain(incident.symptom, 60)}", "$primary"),
    ]
    return Content.assemble(*parts)


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
