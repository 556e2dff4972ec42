"""The dialogs before something is done: a question, a number, a snapshot, a menu."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import ClassVar, TypeVar

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Button, Input, OptionList, Static

from lossguard.agent import feed
from lossguard.tui import deeds, figures
from lossguard.tui.plain import plain
from lossguard.tui.rows import Row, Rows

Answer = TypeVar("Answer")


class Dialog(ModalScreen[Answer | None]):
    """A pane in the middle; whoever leaves it has said None."""

    DEFAULT_CSS = """
    Dialog { align: center middle; }
    Dialog > Vertical {
        max-width: 96%; height: auto; max-height: 96%; background: $surface;
        border: round $primary; border-subtitle-color: $foreground 60%; padding: 1 2;
    }
    """

    def action_no(self) -> None:
        """Nothing is done."""
        self.dismiss(None)


class ConfirmScreen(Dialog[deeds.Args]):
    """Says what will happen. A key of its own says yes; enter alone says no."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,n,q", "no", "No"),
        Binding("y", "choose('y')", show=False),
        Binding("w", "choose('w')", show=False),
        Binding("up,k", "app.focus_previous", show=False),
        Binding("down,j", "app.focus_next", show=False),
        Binding("left,h", "app.focus_previous", show=False),
        Binding("right,l", "app.focus_next", show=False),
    ]
    DEFAULT_CSS = """
    ConfirmScreen > Vertical { width: 72; border: round $warning; }

    ConfirmScreen Button {
        width: 100%; height: 1; border: none; content-align: left middle; text-align: left;
    }
    #choice-0 { margin: 1 0 0 0; }
    ConfirmScreen Button:focus { text-style: bold reverse; }
    """

    def __init__(self, asked: deeds.Question) -> None:
        super().__init__()
        self._asked = asked

    def compose(self) -> ComposeResult:
        """The words, then the answers; no is the one that has the focus."""
        with Vertical() as pane:
            pane.border_title = "[bold]Sure?[/]"
            pane.border_subtitle = "esc no"
            yield Static(Content.styled(plain(self._asked.title, 200), "bold"))
            yield Static(Content("\n" + self._asked.text))
            for i, (key, label, _) in enumerate(self._asked.choices):
                yield Button(Content(f"{key}  {label}"), id=f"choice-{i}", compact=True)
            yield Button(Content("n  No, leave it as it is"), id="no", compact=True)

    def on_mount(self) -> None:
        """Enter says no."""
        self.query_one("#no").focus()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """A click, or enter."""
        name = event.button.id or "no"
        chosen = name.removeprefix("choice-")
        self.dismiss(self._asked.choices[int(chosen)][2] if chosen.isdigit() else None)

    def action_choose(self, key: str) -> None:
        """The answer with this key, if there is one."""
        for wanted, _, args in self._asked.choices:
            if wanted == key:
                self.dismiss(args)


class NumberScreen(Dialog[float]):
    """Asks for a number within bounds."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "no", "No")]
    DEFAULT_CSS = "NumberScreen > Vertical { width: 64; }"

    def __init__(self, title: str, text: str, proposed: float, low: float, high: float) -> None:
        super().__init__()
        self._words = (title, text)
        self._proposed = proposed
        self._bounds = (low, high)

    def compose(self) -> ComposeResult:
        """The words and the input."""
        title, text = self._words
        with Vertical() as pane:
            pane.border_title = f"[bold]{title}[/]"
            pane.border_subtitle = "enter on · esc no"
            yield Static(Content(text))
            yield Input(f"{self._proposed:g}", id="number", select_on_focus=True)
            yield Static("", id="wrong")

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Enter: a number within the bounds, or say what is wrong with it."""
        low, high = self._bounds
        try:
            number = float(event.value)
        except ValueError:
            number = float("nan")
        if low <= number <= high:
            self.dismiss(number)
        else:
            wrong = f"a number from {low:g} to {high:g}, please"
            self.query_one("#wrong", Static).update(Content.styled(wrong, "$error"))


class SnapshotScreen(Dialog[feed.SnapshotLine]):
    """The states that can be gone back to, newest first."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,n", "no", "No")]
    DEFAULT_CSS = """
    SnapshotScreen > Vertical { width: 88; }
    SnapshotScreen Rows { height: auto; max-height: 16; border: none; }
    """

    def __init__(self, run: feed.RunSummary, snapshots: Sequence[feed.SnapshotLine]) -> None:
        super().__init__()
        self._run = run
        self._snapshots = {str(one.step): one for one in snapshots}

    def compose(self) -> ComposeResult:
        """Headings and the list."""
        with Vertical() as pane:
            pane.border_title = "[bold]Roll back to which snapshot?[/]"
            pane.border_subtitle = "enter choose · esc no"
            yield Static(Content.styled(_HEADING, "$foreground 60%"))
            yield Rows(id="snapshots")

    def on_mount(self) -> None:
        """All of them; the cursor on the newest that is good."""
        listing = self.query_one(Rows)
        rows: list[Row] = [
            (key, one, partial(_snapshot_row, one, self._run))
            for key, one in self._snapshots.items()
        ]
        good = [key for key, one in self._snapshots.items() if one.health == "good"]
        listing.start_key = good[0] if good else ""
        listing.show_rows("", rows)
        listing.focus()

    def on_option_list_option_selected(self, message: OptionList.OptionSelected) -> None:
        """Enter."""
        self.dismiss(self._snapshots.get(message.option.id or ""))


_HEADING = f"  {'step':>12}  {'undoes':>10}  {'taken':>10}  {'size':>9}  {'kept':<7} health"
_HEALTH = {
    "good": ("✓ proven good", "$success"),
    "unproven": ("◌ not proven yet", "$warning"),
    "doubtful": ("✗ after the onset of open trouble", "$error"),
}


def _snapshot_row(
    one: feed.SnapshotLine, run: feed.RunSummary, width: int, one_line: bool
) -> Content:
    words, style = _HEALTH[one.health]
    ago = f"{figures.ago(one.age_s)} ago"
    return Content.assemble(
        (f"  {figures.step(one.step):>12}  ", "bold"),
        (f"{figures.step(max(0, run.step - one.step)):>10}  ", "$foreground 75%"),
        (f"{ago:>10}  ", "$foreground 75%"),
        (f"{figures.size(one.bytes):>9}  ", "$foreground 75%"),
        (f"{one.place:<7} ", "$foreground 75%"),
        (words, style),
    )


class MenuScreen(Dialog[deeds.Deed]):
    """All there is to do, each with its key, and why not where it cannot be done."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,o", "no", "Back")]
    DEFAULT_CSS = """
    MenuScreen > Vertical { width: 84; }
    MenuScreen Rows { height: auto; max-height: 20; border: none; }
    """

    def __init__(self, name: str, entries: Sequence[tuple[deeds.Deed, str]]) -> None:
        super().__init__()
        self._run_name = name
        self._entries = {deed.action: (deed, why) for deed, why in entries}

    def compose(self) -> ComposeResult:
        """The list."""
        with Vertical() as pane:
            pane.border_title = f"[bold]Operate[/] {_escaped(self._run_name)}"
            pane.border_subtitle = "enter or its key · esc back"
            yield Rows(id="menu")

    def on_mount(self) -> None:
        """All of them."""
        rows: list[Row] = [
            (str(action), why, partial(_menu_row, deed, why))
            for action, (deed, why) in self._entries.items()
        ]
        self.query_one(Rows).show_rows("", rows)
        self.query_one(Rows).focus()

    def on_key(self, event: events.Key) -> None:
        """The key of a deed, without moving to it."""
        for deed, _ in self._entries.values():
            if deed.key == event.character:
                event.stop()
                self.dismiss(deed)

    def on_option_list_option_selected(self, message: OptionList.OptionSelected) -> None:
        """Enter."""
        found = next((d for a, (d, _) in self._entries.items() if a == message.option.id), None)
        self.dismiss(found)


def _menu_row(deed: deeds.Deed, why: str, width: int, one_line: bool) -> Content:
    style = "$foreground 45%" if why else ""
    below = f"not now: {why}" if why else deed.does
    return Content.assemble(
        (f" {deed.key} ", "$primary bold" if not why else style),
        (f" {deed.name}\n", f"{style} bold".strip()),
        (f"    {plain(below, max(1, width - 5))}", "$warning 70%" if why else "$foreground 60%"),
    )


def _escaped(text: str) -> str:
    return plain(text, 40).replace("[", "\\[")
