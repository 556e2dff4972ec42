"""The card of the run on show: what does not change from step to step."""

from __future__ import annotations

from collections.abc import Sequence

from textual.content import Content
from textual.widgets import Static

from lossguard.agent import feed
from lossguard.tui import figures, marks
from lossguard.tui.plain import plain
from lossguard.tui.run_line import policy_style

Part = tuple[str, str]


class Facts(Static):
    """Who it is, since when, under which policy, and what came of that."""

    DEFAULT_CSS = """
    Facts { height: 9; padding: 0 1; }
    """

    def __init__(self, *, id: str) -> None:  # noqa: A002
        super().__init__(id=id)
        self._picture: feed.Picture | None = None
        self._run: feed.RunSummary | None = None
        self._shown = ""
        self.border_title = "[bold]This run[/]"

    def show(self, picture: feed.Picture, run: feed.RunSummary | None) -> None:
        """Take over a picture and the run it is about."""
        self._picture, self._run = picture, run
        self._lay_out()

    def on_resize(self) -> None:
        """Fit the new width."""
        self._lay_out()

    def _lay_out(self) -> None:
        if self._picture is None or self._run is None or not self.size:
            return
        content = card(self._run, self._picture.incidents, self._picture.time_s, self.size.width)
        if content.plain != self._shown:
            self._shown = content.plain
            self.update(content, layout=False)


def card(
    run: feed.RunSummary, incidents: Sequence[feed.IncidentLine], now_s: float, width: int
) -> Content:
    """The facts, one a line."""
    room = max(4, width - 10)
    done: dict[str, int] = {}
    for incident in incidents:
        for action in incident.actions:
            done[action.action] = done.get(action.action, 0) + 1
    counts = ", ".join(f"{number} {name}" for name, number in done.items()) or "nothing so far"
    lines = [
        ("id", plain(run.run, room), ""),
        ("started", f"{figures.ago(now_s - run.started)} ago", ""),
        ("ranks", figures.step(run.world_size), ""),
        (
            "policy",
            f"{plain(run.policy, 20)}, {'acts' if run.acts else 'observes'}",
            policy_style(run),
        ),
        ("applied", _applied(run), ""),
        ("troubles", _troubles(run), marks.severity_mark(run.worst).style if run.worst else ""),
        ("done", plain(counts, room), ""),
    ]
    parts: list[Part] = []
    for label, text, style in lines:
        parts += [(f"{label:<10}", "$foreground 55%"), (f"{plain(text, room)}\n", style)]
    return Content.assemble(*parts).rstrip()


def _applied(run: feed.RunSummary) -> str:
    kept = 100 * run.applied / run.step if run.step else 100.0
    return f"{figures.step(run.applied)} ({kept:.4g} %)"


def _troubles(run: feed.RunSummary) -> str:
    if run.open_incidents:
        return f"{run.open_incidents} open of {run.incidents}"
    return f"{run.incidents}, all resolved" if run.incidents else "none"
