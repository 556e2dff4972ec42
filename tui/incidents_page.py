"""The screen of incidents: all of a run beside the whole account of one."""

from __future__ import annotations

from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.message import Message
from textual.widgets import OptionList

from lossguard.agent import feed
from lossguard.tui.details import Details
from lossguard.tui.incidents import Incidents
from lossguard.tui.page import Page, Scene


class IncidentsPage(Page):
    """The account follows the cursor; what it means and the stacks are asked for once."""

    TITLE = "Incidents"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left,h", "app.focus_previous", show=False),
        Binding("right,l", "app.focus_next", show=False),
    ]

    class Wanted(Message):
        """The story of an incident is not known so far."""

        def __init__(self, run: str, incident: str) -> None:
            super().__init__()
            self.run = run
            self.incident = incident

    def __init__(self, *, id: str) -> None:  # noqa: A002
        super().__init__(id=id)
        self._filter = ""
        self._stories: dict[str, feed.IncidentStory] = {}
        self._asked: tuple[str, str, int] = ("", "", 0)

    def compose(self) -> ComposeResult:
        """The list, and one of them."""
        with Horizontal():
            yield Incidents(id="incidents")
            yield Details(id="details")

    def wants(self) -> dict[str, Any]:
        """Nothing beyond the incidents."""
        return {"metrics": ()}

    def show(self, scene: Scene) -> None:
        """Take over what is new."""
        self._scene = scene
        self.query_one(Incidents).show(scene.picture.incidents, self._filter)
        self._show_details()

    def focus_first(self) -> None:
        """To the list."""
        self.query_one(Incidents).focus()

    def filter_by(self, text: str) -> None:
        """By symptom, severity, place or words."""
        self._filter = text
        self.show_again()

    @property
    def chosen(self) -> feed.IncidentLine | None:
        """The incident under the cursor."""
        return self.query_one(Incidents).under_cursor

    def go_to(self, incident: str) -> None:
        """The cursor on this one."""
        self.query_one(Incidents).go_to(incident)

    def tell(self, story: feed.IncidentStory) -> None:
        """What was asked for has come."""
        self._stories[story.incident] = story
        while len(self._stories) > 50:
            del self._stories[next(iter(self._stories))]
        self._show_details()

    def on_option_list_option_highlighted(self, message: OptionList.OptionHighlighted) -> None:
        """Follow the cursor."""
        self._show_details()

    def on_option_list_option_selected(self, message: OptionList.OptionSelected) -> None:
        """Enter goes on to the account, to read on."""
        message.stop()
        self.query_one(Details).focus()

    def _show_details(self) -> None:
        if self._scene is None:
            return
        incident, picture = self.chosen, self._scene.picture
        story = self._stories.get(incident.id) if incident else None
        self.query_one(Details).show(incident, picture.time_s, story)
        if incident is not None:
            # Asked for again when something has been done: there may be stacks by then.
            wanted = (picture.run, incident.id, len(incident.actions))
            if wanted != self._asked:
                self._asked = wanted
                self.post_message(self.Wanted(picture.run, incident.id))
