"""The dashboard: six screens, refreshed four times a second from the newest picture."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterable
from functools import partial
from typing import Any, ClassVar

from textual import work
from textual.app import App, ComposeResult, SystemCommand
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import Screen
from textual.widgets import ContentSwitcher, Input, OptionList

from lossguard.agent import feed
from lossguard.tui.bell import Bell
from lossguard.tui.deeds import BY_ACTION, DEEDS, Deed
from lossguard.tui.dialogs import MenuScreen
from lossguard.tui.events_page import EventsPage
from lossguard.tui.filter_bar import FilterBar
from lossguard.tui.header import Header
from lossguard.tui.help import HelpScreen
from lossguard.tui.incidents import Incidents
from lossguard.tui.incidents_page import IncidentsPage
from lossguard.tui.keys_line import KeysLine
from lossguard.tui.layers_page import LayersPage
from lossguard.tui.operating import Operating
from lossguard.tui.page import Looked, Page, Scene
from lossguard.tui.ranks_page import RanksPage
from lossguard.tui.run_line import RunLine
from lossguard.tui.run_page import RunPage
from lossguard.tui.runs import Runs
from lossguard.tui.runs_page import RunsPage
from lossguard.tui.source import Glimpse, LiveSource, PictureSource
from lossguard.tui.status import Status
from lossguard.tui.theme import LOSSGUARD
from lossguard.tui.welcome import Welcome

REFRESH_S = 0.25
SOON_S = (0.04, 0.08, 0.15)
"""What is asked for anew is looked for sooner."""
PAGES: dict[str, type[Page]] = {
    "runs-page": RunsPage,
    "run-page": RunPage,
    "layers-page": LayersPage,
    "ranks-page": RanksPage,
    "incidents-page": IncidentsPage,
    "events-page": EventsPage,
}


class LossguardApp(App[None]):
    """Shows the pictures of a source. Widgets compare, and draw only what changed.

    Without ``operator`` nothing can be done to a run from here.
    """

    TITLE = "lossguard"
    CSS_PATH = "app.tcss"
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (100, "-normal"), (180, "-wide")]  # noqa: RUF012
    VERTICAL_BREAKPOINTS = [(0, "-short"), (32, "-tall")]  # noqa: RUF012
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "filter", "Filter", key_display="/"),
        Binding("o", "operate", "Operate"),
        Binding("question_mark", "help", "Help", key_display="?"),
        Binding("q", "quit", "Quit"),
        *(Binding(str(i + 1), f"open('{name}')", show=False) for i, name in enumerate(PAGES)),
        *(Binding(deed.key, f"deed('{deed.action}')", deed.name, show=False) for deed in DEEDS),
        Binding("escape", "step_back", "Back", show=False),
    ]

    def __init__(self, source: PictureSource, run: str = "", *, operator: bool = True) -> None:
        super().__init__()
        self.register_theme(LOSSGUARD)
        if "TEXTUAL_THEME" not in os.environ:
            self.theme = LOSSGUARD.name
        self._source = source
        self._wanted = run
        self._beside = ""
        self._asked: feed.Subscribe | None = None
        self._opened = bool(run)
        self._page = "run-page" if run else "runs-page"
        self.glimpse = Glimpse()
        self._bell = Bell()
        self.operating = Operating(self, source, operator=operator)

    def compose(self) -> ComposeResult:
        """The lines around the screens; ``app.tcss`` places them."""
        yield Header([page.TITLE for page in PAGES.values()], id="header")
        yield Welcome(id="welcome")
        with Vertical(id="body"):
            yield RunLine(id="run-line")
            with ContentSwitcher(initial=self._page, id="pages"):
                yield PAGES[self._page](id=self._page)  # the others are made when they are opened
            yield FilterBar(id="filter")
        yield Status(id="status")
        yield KeysLine(id="keys")

    def on_mount(self) -> None:
        """Begin to ask, and to look."""
        self._ask()
        self._source.start()
        self.page.focus_first()
        self.refresh_picture()
        self.set_interval(REFRESH_S, self.refresh_picture)

    def on_unmount(self) -> None:
        """Stop asking."""
        self._source.close()

    # --- what is on show ------------------------------------------------------------------

    @property
    def base(self) -> Screen[Any]:
        """The screen below any dialog."""
        return self.screen_stack[0]

    @property
    def page(self) -> Page:
        """The one that is seen."""
        return self.base.query_one(f"#{self._page}", Page)

    @property
    def run_on_show(self) -> feed.RunSummary | None:
        """The run that all screens but the first are about."""
        picture = self.glimpse.picture
        if picture is None:
            return None
        return next((run for run in picture.runs if run.run == picture.run), None)

    @property
    def chosen_incident(self) -> feed.IncidentLine | None:
        """The incident under the cursor; where there is no list, the newest that is open."""
        page, picture = self.page, self.glimpse.picture
        if isinstance(page, (IncidentsPage, RunPage)):
            return page.query_one(Incidents).under_cursor
        known = picture.incidents if picture else []
        return next((one for one in reversed(known) if one.state == "open"), None)

    def refresh_picture(self) -> None:
        """Look at the source, and hand what is new to the screen that is seen."""
        if not self.is_running:
            return  # The timer may tick once more while the screen is being taken down.
        screen = self.base
        before, self.glimpse = self.glimpse, self._source.latest()
        for answer in self._source.answers():
            self.operating.take(answer)
            if isinstance(answer, feed.IncidentStory):
                for page in screen.query(IncidentsPage):
                    page.tell(answer)
        picture = self.glimpse.picture
        screen.set_class(self.glimpse.gone, "-gone")
        screen.set_class(picture is None or not picture.runs, "-empty")
        run = self.run_on_show
        screen.query_one(Status).show(self.glimpse, run, self.operating.pending)
        screen.query_one(Welcome).show(self.glimpse)
        if picture is not None and picture is not before.picture:
            self._begin_with_what_runs(picture)
            if self._bell.rings(picture) and "LOSSGUARD_NO_BELL" not in os.environ:
                self.bell()
            self._show()

    def _begin_with_what_runs(self, picture: feed.Picture) -> None:
        """A single run that is training is what one wants to see; of several one chooses."""
        if not self._opened and picture.runs:
            self._opened = True
            running = [run for run in picture.runs if run.state in ("running", "silent")]
            if len(running) == 1 and running[0].run == picture.run:
                self.call_later(self.action_open, "run-page")

    def _show(self) -> None:
        picture = self.glimpse.picture
        if picture is None:
            return
        screen, run, page = self.base, self.run_on_show, self.page
        about_one = page.id != "runs-page"
        screen.query_one(RunLine).display = about_one
        screen.query_one(RunLine).show(run)
        names = list(PAGES)
        still_open = sum(one.open_incidents for one in picture.runs)
        note = f"▲ {still_open} open" if still_open else ""
        screen.query_one(Header).show(names.index(page.id or names[0]), note)
        page.show(Scene(picture, run))

    def _ask(self) -> None:
        fields = {"metrics": (), "events": 1, **self.page.wants()}
        wants = feed.Subscribe(run=self._wanted, beside=self._beside, **fields)
        if wants != self._asked:
            self._asked = wants
            self._source.want(wants)
            for delay_s in SOON_S:
                self.set_timer(delay_s, self.refresh_picture)

    def on_looked(self, message: Looked) -> None:
        """Another part of a run is looked at."""
        message.stop()
        self._ask()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """The footer offers a filter only where there is something to filter."""
        return action != "filter" or PAGES[self._page].filter_by is not Page.filter_by

    # --- from screen to screen ------------------------------------------------------------

    async def action_open(self, name: str) -> None:
        """Another screen, made when it is opened for the first time."""
        self.base.query_one(FilterBar).drop()
        switcher = self.base.query_one(ContentSwitcher)
        if not switcher.query(f"#{name}"):
            await switcher.add_content(PAGES[name](id=name))
        switcher.current = self._page = name
        self._ask()
        self._show()
        self.page.focus_first()
        self.refresh_bindings()

    async def on_header_chosen(self, message: Header.Chosen) -> None:
        """A tab was clicked."""
        await self.action_open(list(PAGES)[message.index])

    async def watch_run(self, run: str) -> None:
        """Show this run."""
        self._wanted, self._opened = run, True
        if self._beside == run:
            self._beside = ""
        await self.action_open("run-page")

    async def on_option_list_option_selected(self, message: OptionList.OptionSelected) -> None:
        """Enter shows a run, or opens an incident."""
        if isinstance(message.option_list, Runs) and message.option.id:
            await self.watch_run(message.option.id)
        elif isinstance(message.option_list, Incidents) and message.option.id:
            await self.action_open("incidents-page")
            self.base.query_one(IncidentsPage).go_to(message.option.id)

    def on_incidents_page_wanted(self, message: IncidentsPage.Wanted) -> None:
        """Ask for the story of an incident."""
        self._source.send(feed.TellIncident(run=message.run, incident=message.incident))

    async def action_step_back(self) -> None:
        """One step back: what is filtered or looked at closely, then to the list of runs."""
        if self.base.query_one(FilterBar).drop():
            self.page.focus_first()
        elif not self.page.back() and self.page.id != "runs-page":
            await self.action_open("runs-page")

    def action_help(self) -> None:
        """Explain keys and signs."""
        self.push_screen(HelpScreen())

    # --- filter and compare ---------------------------------------------------------------

    def action_filter(self) -> None:
        """Open the line to type into, where there is something to filter."""
        self.base.query_one(FilterBar).open()

    def on_input_changed(self, event: Input.Changed) -> None:
        """Filter while one types."""
        if isinstance(event.input, FilterBar):
            self.page.filter_by(event.value)

    def on_filter_bar_left(self) -> None:
        """Back to the list."""
        self.page.focus_first()

    def compare(self, run: str) -> None:
        """Draw this run beside the one on show, or no longer."""
        picture = self.glimpse.picture
        if picture is not None and run == picture.run:
            self.notify("a run cannot be compared with itself", severity="warning")
            return
        self._beside = "" if run == self._beside else run
        self._ask()

    def action_compare_with_cursor(self) -> None:
        """Compare with the run under the cursor."""
        if isinstance(self.page, RunsPage) and (run := self.page.query_one(Runs).cursor_key):
            self.compare(run)

    async def action_choose_beside(self) -> None:
        """Stop comparing, or choose a run in the list."""
        if self._beside:
            self.compare(self._beside)
        else:
            await self.action_open("runs-page")
            self.notify("move to a run and press v to compare with it", timeout=4)

    # --- operate --------------------------------------------------------------------------

    @work
    async def action_operate(self) -> None:
        """A menu of all there is to do."""
        run = self.run_on_show
        entries = [(deed, self.operating.why_not(deed)) for deed in DEEDS]
        deed = await self.push_screen_wait(MenuScreen(run.name if run else "", entries))
        if deed is not None:
            await self.operating.carry_out(deed)

    @work
    async def action_deed(self, action: str) -> None:
        """One of them."""
        await self.operating.carry_out(BY_ACTION[action])  # type: ignore[index]

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        """What the palette offers: our own first."""
        run = self.run_on_show
        for deed in DEEDS:
            help_text = self.operating.why_not(deed) or deed.does
            name = f"{deed.name} ({deed.key})"
            yield SystemCommand(name, help_text, partial(self._begin, deed))
        for name, page in PAGES.items():
            yield SystemCommand(f"Screen: {page.TITLE}", "", partial(self.action_open, name))
        for other in self.glimpse.picture.runs[:20] if self.glimpse.picture else ():
            if run is not None and other.run != run.run:
                about = f"step {other.step:,}, {other.state}, {other.run}"
                yield SystemCommand(
                    f"Show run {other.name}", about, partial(self.watch_run, other.run)
                )
                yield SystemCommand(
                    f"Compare with {other.name}", about, partial(self.compare, other.run)
                )
        yield from super().get_system_commands(screen)

    def _begin(self, deed: Deed) -> None:
        self.action_deed(deed.action)


def main(run: str = "") -> None:
    """Open the dashboard on this user's agent; ``run`` is an id, a prefix, or a name."""
    # What is loaded by now stays; the collector need not walk it several times a minute.
    gc.freeze()
    LossguardApp(LiveSource(run), run).run()
