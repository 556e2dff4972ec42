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
from lossguard.tui.deeds import DEEDS

Part = tuple[str, str]

KEYS = (
    ("Everywhere", (
        ("1 ... 6", "runs, run, layers, ranks, incidents, events"),
        ("↑ ↓  j k", "move; g and G go to the ends, tab to the next pane"),
        ("enter", "show the run, open the incident, enlarge the chart"),
        ("esc", "one step back"),
        ("/", "show only what has a word in it; s sorts"),
        ("ctrl+p", "palette: all there is to do, themes, screenshot"),
        ("?  q", "this help; quit: agent and training go on"),
    )),
    ("Run", (
        ("← →  h l", "cursor with exact values; with shift ten times as far"),
        ("+ -  < >  0", "zoom, pan, the whole run"),
        ("n N", "cursor to the next incident, or the one before"),
        ("y  s", "logarithmic axis; smoothing of the loss"),
        ("c  t T", "next chart; another metric in the last chart"),
        ("v", "compare with another run, or no longer"),
    )),
    ("Layers, ranks", (("f F", "another metric"),)),
    ("Operate", (
        ("o", "menu of all of it, and why not"),
        *((deed.key, f"{deed.name.lower()}: {deed.does}") for deed in DEEDS),
    )),
)  # fmt: skip
SIGNS = (
    ("━", "$primary", "the mean (of the loss: smoothed); the shade reaches from lowest to highest"),
    ("━", "$foreground 50%", "updates that a rollback took back"),
    ("◀━┓", "$accent", "a rollback: from where to where"),
    ("╌", "$warning", "the limit above which a policy that acts skips an update"),
    ("━", "$secondary", "another run, to compare with"),
    ("┊", "$foreground 60%", "the onset of an incident, under its sign"),
    (marks.NONFINITE, "$error", "NaN or Inf was measured here"),
    (marks.OFF_SCALE, "bold", "beyond the linear axis; press y"),
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
    parts: list[Part] = []
    for title, keys in KEYS:
        parts.append((f"\n{title}\n" if parts else f"{title}\n", "bold"))
        for key, meaning in keys:
            parts += [(f"  {key:<12}", "$primary bold"), (f"{meaning}\n", "")]
    parts.append(("\nStates\n", "bold"))
    for state, mark in marks.STATES.items():
        parts += _sign(mark.glyph, mark.style, f"{state}: {marks.STATE_MEANINGS[state]}")
    parts.append(("\nSeverities\n", "bold"))
    for severity, mark in marks.SEVERITIES.items():
        parts += _sign(mark.glyph, mark.style, f"{severity}: {marks.SEVERITY_MEANINGS[severity]}")
    parts.append(("\nCharts\n", "bold"))
    for glyph, style, meaning in SIGNS:
        parts += _sign(glyph, style, meaning)
    return Content.assemble(*parts).rstrip()


def _sign(glyph: str, style: str, meaning: str) -> list[Part]:
    return [(f"  {glyph:<12}", style), (f"{meaning}\n", "")]
