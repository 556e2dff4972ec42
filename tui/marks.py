"""What each state and severity looks like: always a glyph and a word, never colour alone.

Colours are named by the theme's variables. The palette in ``theme`` is that of Okabe and Ito,
whose members people with any colour vision can tell apart.
"""

from __future__ import annotations

from typing import NamedTuple


class Mark(NamedTuple):
    """A glyph of one cell and the style it is drawn in."""

    glyph: str
    style: str


STATES = {
    "running": Mark("●", "$success"),
    "stuck": Mark("‖", "$error"),
    "silent": Mark("◌", "$warning"),
    "finished": Mark("✓", "$primary"),
    "failed": Mark("✗", "$error"),
    "stopped": Mark("■", "$accent"),
    "died": Mark("†", "$error"),
}
STATE_MEANINGS = {
    "running": "steps are arriving",
    "stuck": "its loop stands still",
    "silent": "no word from it for longer than its heartbeat",
    "finished": "it ended by itself, without an error",
    "failed": "it ended with an error",
    "stopped": "it was told to stop",
    "died": "its process is gone and left no word",
}
SEVERITIES = {
    "critical": Mark("◆", "$error"),
    "warning": Mark("▲", "$warning"),
    "info": Mark("•", "$primary"),
}
SEVERITY_MEANINGS = {
    "critical": "acts, or calls somebody",
    "warning": "worth a look",
    "info": "worth a line",
}
_UNKNOWN = Mark("?", "$text-muted")

NONFINITE = "✗"
OFF_SCALE = "↑"
POINT = "●"


def state_mark(state: str) -> Mark:
    """The mark of a run's state."""
    return STATES.get(state, _UNKNOWN)


def severity_mark(severity: str) -> Mark:
    """The mark of a severity."""
    return SEVERITIES.get(severity, _UNKNOWN)


def result_mark(result: str) -> Mark:
    """The mark of what came of an action."""
    if not result or result == "pending":
        return Mark("…", "$text-muted")
    if result.lower().startswith(("fail", "refused", "expired", "error")):
        return Mark("✗", "$error")
    return Mark("✓", "$success")
