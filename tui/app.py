"""The dashboard: one screen, refreshed four times a second from the newest picture."""

from __future__ import annotations

import gc
import os
from typing import ClassVar

from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.widgets import Footer, OptionList

from lossguard.agent import feed
from lossguard.tui.chart import Chart
from lossguard.tui.details import Details, DetailsScreen
from lossguard.tui.events import Events
from lossguard.tui.facts import Facts
from lossguard.tui.header import Header
from lossguard.tui.help import HelpScreen
from lossguard.tui.incidents import Incidents
from lossguard.tui.runs import Runs
from lossguard.tui.source import Glimpse, LiveSource, PictureSource
from lossguard.tui.status import Status
from lossguard.tui.theme import LOSSGUARD
from lossguard.tui.values import Values
from lossguard.tui.welcome import Welcome

REFRESH_S = 0.25


class LossguardApp(App[None]):
    """Shows the pictures of a source. Widgets compare, and draw only what changed."""

    TITLE = "lossguard"
    CSS_PATH = "app.tcss"
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (100, "-normal"), (180, "-wide")]  # noqa: RUF012
    VERTICAL_BREAKPOINTS = [(0, "-short"), (32, "-tall")]  # noqa: RUF012
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit", "Quit"),
        Binding("question_mark", "help", "Help", key_display="?"),
        Binding("l", "toggle_log", "Log scale"),
        Binding("i", "focus_incidents", "Incidents"),
        Binding("escape", "to_runs", "Back", show=False),
    ]

    def __init__(self, source: PictureSource, run: str = "") -> None:
        super().__init__()
        self.register_theme(LOSSGUARD)
        if "TEXTUAL_THEME" not in os.environ:
            self.theme = LOSSGUARD.name
        self._source = source
        self._wanted = run
        self._glimpse = Glimpse()
        self._log_scale = False

    def compose(self) -> ComposeResult:
        """The panes; ``app.tcss`` places them."""
        yield Header(id="header")
        yield Welcome(id="welcome")
        with Horizontal(id="body"):
            with Vertical(id="side"):
                yield Runs(id="runs")
                yield Facts(id="facts")
            with Vertical(id="main"):
                yield Values(id="values")
                yield Chart("loss", "loss", id="loss")
                yield Chart("grad_norm", "gradient norm, before clipping", id="grad_norm")
                with Horizontal(id="bottom"):
                    with Vertical(id="lower"):
                        yield Incidents(id="incidents")
                        yield Events(id="events")
                    yield Details(id="details")
        yield Status(id="status")
        yield Footer(show_command_palette=True)

    def on_mount(self) -> None:
        """Begin to ask, and to look."""
        self.query_one("#details").border_title = "[bold]Details[/]"
        if self._wanted:
            self._source.watch(self._wanted)
        self._source.start()
        self.query_one(Runs).focus()
        self.refresh_picture()
        self.set_interval(REFRESH_S, self.refresh_picture)

    def on_unmount(self) -> None:
        """Stop asking."""
        self._source.close()

    def refresh_picture(self) -> None:
        """Look at the source, and hand what is new to the widgets."""
        if not self.is_running:
            return  # The timer may tick once more while the screen is being taken down.
        screen = self.screen_stack[0]
        before, self._glimpse = self._glimpse, self._source.latest()
        picture = self._glimpse.picture
        screen.set_class(self._glimpse.gone, "-gone")
        screen.set_class(picture is None or not picture.runs, "-empty")
        run = _run_on_show(picture)
        screen.query_one(Status).show(self._glimpse, run)
        screen.query_one(Welcome).show(self._glimpse)
        if picture is not None and picture is not before.picture:
            self._show(picture, run)

    def _show(self, picture: feed.Picture, run: feed.RunSummary | None) -> None:
        screen = self.screen_stack[0]
        screen.query_one(Header).show(run)
        screen.query_one(Runs).show(picture.runs, picture.run)
        screen.query_one(Facts).show(picture, run)
        screen.query_one(Values).show(run)
        for chart in screen.query(Chart):
            chart.show(picture, log=self._log_scale)
        incidents = screen.query_one(Incidents)
        incidents.show(picture.incidents)
        screen.query_one(Events).show(picture.events)
        self._show_details()
        if isinstance(self.screen, DetailsScreen):
            for incident in picture.incidents:
                self.screen.show(incident, picture.time_s)

    def _show_details(self) -> None:
        picture = self._glimpse.picture
        if picture is not None and self.is_running:
            screen = self.screen_stack[0]
            incident = screen.query_one(Incidents).under_cursor
            screen.query_one("#details", Details).show(incident, picture.time_s)

    def on_option_list_option_highlighted(self, message: OptionList.OptionHighlighted) -> None:
        """Follow the cursor with the details."""
        if message.option_list.id == "incidents":
            self._show_details()

    def on_option_list_option_selected(self, message: OptionList.OptionSelected) -> None:
        """Enter shows a run, or opens an incident."""
        picture = self._glimpse.picture
        if isinstance(message.option_list, Incidents):
            incident = message.option_list.under_cursor
            if incident is not None and picture is not None:
                self.push_screen(DetailsScreen(incident, picture.time_s))
        elif isinstance(message.option_list, Runs) and message.option.id:
            self._source.watch(message.option.id)

    def action_help(self) -> None:
        """Explain keys and signs."""
        self.push_screen(HelpScreen())

    def action_toggle_log(self) -> None:
        """Change both charts between a linear and a logarithmic axis."""
        self._log_scale = not self._log_scale
        if self._glimpse.picture is not None:
            for chart in self.query(Chart):
                chart.show(self._glimpse.picture, log=self._log_scale)

    def action_focus_incidents(self) -> None:
        """Go to the incidents."""
        self.query_one(Incidents).focus()

    def action_to_runs(self) -> None:
        """Go back to the runs."""
        self.query_one(Runs).focus()


def _run_on_show(picture: feed.Picture | None) -> feed.RunSummary | None:
    if picture is None:
        return None
    return next((run for run in picture.runs if run.run == picture.run), None)


def main(run: str = "") -> None:
    """Open the dashboard on this user's agent; ``run`` is an id, a prefix, or a name."""
    # What is loaded by now stays; the collector need not walk it several times a minute.
    gc.freeze()
    LossguardApp(LiveSource(run)).run()
