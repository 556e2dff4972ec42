"""The last line: whether what is on the screen is true, and what the run is doing."""

from __future__ import annotations

from collections.abc import Sequence

from textual.content import Content
from textual.widgets import Static

from lossguard.agent import feed
from lossguard.tui import figures, marks
from lossguard.tui.plain import plain
from lossguard.tui.source import Glimpse

Part = tuple[str, str]

NO_AGENT = "no agent answers; training goes on; waiting…"
AGE_WORTH_SAYING_S = 1.5

SENTENCES = {
    "silent": "the run is silent: no word for longer than its heartbeat",
    "finished": "the run finished",
    "failed": "the run ended with an error",
    "stopped": "the run was stopped",
    "died": "the run died: its process is gone and left no word",
}


class Status(Static):
    """One line, rewritten only when its words change."""

    DEFAULT_CSS = """
    Status { height: 1; background: $panel; padding: 0 1; text-wrap: nowrap; }
    """

    def __init__(self, *, id: str) -> None:  # noqa: A002
        super().__init__(id=id)
        self._shown: Content | None = None

    def show(
        self, glimpse: Glimpse, run: feed.RunSummary | None, pending: Sequence[str] = ()
    ) -> None:
        """Take over what is known right now; ``pending`` are orders without an answer."""
        content = line(glimpse, run, pending)
        if self._shown is None or not content.is_same(self._shown):
            self._shown = content
            self.update(content, layout=False)


def line(glimpse: Glimpse, run: feed.RunSummary | None, pending: Sequence[str] = ()) -> Content:
    """The agent first, then what is being done, then the run, or its last event."""
    parts = _agent(glimpse)
    if glimpse.trouble:
        parts.append((f"  │  {plain(glimpse.trouble, 160)}", "$warning"))
    if glimpse.picture is not None and glimpse.picture.alerts:
        silent = plain("; ".join(glimpse.picture.alerts), 160)
        parts.append((f"  │  nobody is told by {silent}", "$warning"))
    if pending:
        parts.append((f"  │  … {plain('; '.join(pending), 100)}: waiting", "$primary bold"))
    if run is not None and run.state in SENTENCES:
        mark = marks.state_mark(run.state)
        parts.append((f"  │  {mark.glyph} {SENTENCES[run.state]}", mark.style))
    elif not glimpse.gone and glimpse.picture and glimpse.picture.events:
        newest = max(glimpse.picture.events, key=lambda event: event.time_s)
        said = f"  │  {figures.step(newest.step)} {plain(newest.message, 160)}"
        parts.append((said, "$foreground 60%"))
    return Content.assemble(*parts)


def _agent(glimpse: Glimpse) -> list[Part]:
    picture = glimpse.picture
    if glimpse.gone:
        parts = [(f"✗ {NO_AGENT}", "$warning bold")]
        if picture is not None:
            parts.append((f"  last picture {figures.ago(glimpse.age_s)} ago", "$warning"))
        return parts
    if picture is None:
        return [("◌ asking the agent…", "$foreground 60%")]
    parts = [("● live", "$success"), (f"  agent {picture.agent_pid}", "$foreground 70%")]
    if glimpse.age_s >= AGE_WORTH_SAYING_S:
        parts.append((f"  last picture {figures.ago(glimpse.age_s)} ago", "$warning"))
    return parts
