"""The help screen: the keys, and what every sign on the screen means."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from lossguard.tui import marks

Part = tuple[str, str]

KEYS = (
    ("q", "quit; the agent and the training go on"),
    ("?", "this help"),
    ("tab", "next pane"),
    ("↑ ↓  j k", "move in a list; g and G go to its ends"),
    ("enter", "show the run, or the details of the incident"),
    ("i", "go to the incidents"),
    ("l", "logarithmic or linear charts"),
    ("esc", "back to the runs"),
    ("ctrl+p", "palette: themes, screenshot, and more"),
)
SIGNS = (
    ("━", "$primary", "the mean; the shade reaches from lowest to highest"),
    ("━", "$foreground 50%", "updates that a rollback took back"),
    ("◀━┓", "$accent", "a rollback: from where to where"),
    ("╌", "$warning", "the limit above which an update is skipped"),
    ("┊", "$foreground 60%", "the onset of an incident, under its sign"),
    (marks.NONFINITE, "$error", "NaN or Inf was measured here"),
    (marks.OFF_SCALE, "bold", "beyond the linear axis; press l"),
    (marks.POINT, "$success", "validation loss"),
)


class HelpScreen(ModalScreen[None]):
    """Keys and signs, over everything else."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,question_mark,enter", "dismiss", "Back"),
        Binding("j,down", "scroll('down')", show=False),
        Binding("k,up", "scroll('up')", show=False),
    ]
    DEFAULT_CSS = """
    HelpScreen { align: center middle; }
    #help {
        width: 76; max-width: 96%; height: auto; max-height: 96%; background: $surface;
        border: round $primary; border-subtitle-color: $foreground 60%; padding: 0 2;
        scrollbar-size-vertical: 1;
    }
    """

    def compose(self) -> ComposeResult:
        """One pane of text."""
        pane = VerticalScroll(Static(text(), markup=False), id="help")
        pane.border_title = "[bold]Help[/]"
        pane.border_subtitle = "esc back"
        yield pane

    def action_scroll(self, way: str) -> None:
        """Scroll with the keyboard wherever the focus is."""
        pane = self.query_one("#help", VerticalScroll)
        pane.scroll_relative(y=1 if way == "down" else -1, animate=False)


def text() -> Content:
    """The help in sections."""
    parts: list[Part] = [("Keys\n", "bold")]
    for key, meaning in KEYS:
        parts += [(f"  {key:<10}", "$primary bold"), (f"{meaning}\n", "")]
    parts.append(("\nRuns\n", "bold"))
    for state, mark in marks.STATES.items():
        parts += _sign(mark.glyph, mark.style, f"{state}: {marks.STATE_MEANINGS[state]}")
    parts.append(("\nIncidents\n", "bold"))
    for severity, mark in marks.SEVERITIES.items():
        parts += _sign(mark.glyph, mark.style, f"{severity}: {marks.SEVERITY_MEANINGS[severity]}")
    parts.append(("\nCharts\n", "bold"))
    for glyph, style, meaning in SIGNS:
        parts += _sign(glyph, style, meaning)
    return Content.assemble(*parts).rstrip()


def _sign(glyph: str, style: str, meaning: str) -> list[Part]:
    return [(f"  {glyph:<10}", style), (f"{meaning}\n", "")]
