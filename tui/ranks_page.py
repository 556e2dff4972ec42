"""The screen of ranks: what each training process does, and how their times compare."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.widgets import Static

from lossguard.agent import feed
from lossguard.tui import figures
from lossguard.tui.heat import Heat
from lossguard.tui.page import Looked, Page, Scene
from lossguard.tui.plain import fitted, plain
from lossguard.tui.rows import Rows

FAMILIES = {
    "rank_step_time": "step time",
    "rank_own_time": "own time",
    "rank_data_time": "data wait",
}
_LATE_S = 3.0
_DIM = "$foreground 60%"


class RanksPage(Page):
    """A line a process, and a strip of their times where there are several."""

    TITLE = "Ranks"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("f,right,l", "family(1)", "Time", key_display="f"),
        Binding("F,left,h", "family(-1)", show=False),
        Binding("s", "sort", "Sort"),
    ]

    def __init__(self, *, id: str) -> None:  # noqa: A002
        super().__init__(id=id)
        self._family = next(iter(FAMILIES))

    def compose(self) -> ComposeResult:
        """Headings, the list, the strip."""
        yield Static(id="rank-headings")
        yield Rows(id="ranks")
        yield Heat(id="rank-strip")

    def wants(self) -> dict[str, Any]:
        """The processes, and one kind of time."""
        return {"ranks": True, "strips": (self._family,), "metrics": ()}

    def show(self, scene: Scene) -> None:
        """Take over what is new."""
        ranks = scene.picture.ranks
        front = max((one.step for one in ranks), default=0)
        strip = next((s for s in scene.picture.strips if s.family == self._family), None)
        listing = self.query_one("#ranks", Rows)
        several = scene.run is not None and scene.run.world_size > 1
        rows = [(str(one.rank), (one, front), partial(row, one, front)) for one in ranks]
        over = scene.run is not None and scene.run.state not in ("running", "silent")
        title = "[bold]Processes[/] " + (
            f"{len(ranks)}" if ranks else "none: the run is over" if over else "asking…"
        )
        listing.show_rows(title, rows)
        heat = self.query_one(Heat)
        heat.show(strip, "asking…" if several else "one process: nothing to compare it with")
        heat.entitle(FAMILIES, self._family)

    def on_resize(self) -> None:
        """The headings stand above their columns."""
        self.call_after_refresh(self._head)

    def _head(self) -> None:
        width = self.query_one("#ranks", Rows).scrollable_content_region.width
        indent = 0 if self.screen.has_class("-short") else 1
        self.query_one("#rank-headings", Static).update(
            Content.styled(" " * indent + heading(width), "$foreground 50%"), layout=False
        )

    def focus_first(self) -> None:
        """To the list."""
        self.query_one("#ranks", Rows).focus()

    def action_family(self, by: int) -> None:
        """The next kind of time."""
        names = list(FAMILIES)
        self._family = names[(names.index(self._family) + by) % len(names)]
        self.query_one(Heat).show(None, "asking…")
        self.post_message(Looked())

    def action_sort(self) -> None:
        """The next order."""
        heat = self.query_one(Heat)
        heat.next_sort()
        heat.entitle(FAMILIES, self._family)


COLUMNS = (
    ("step", 10), ("lag", 6), ("heard", 7), ("step time", 10), ("data", 9), ("GPU", 6),
    ("memory", 8), ("temp", 6), ("phase", 11),
)  # fmt: skip
_LEAD = 25


def heading(width: int) -> str:
    """The names of the columns that fit."""
    text = "rank".rjust(5) + "  " + "process".ljust(_LEAD - 7)
    for name, cells in COLUMNS:
        if len(text) + cells + 1 > width:
            break
        text += name.rjust(cells) + " "
    return text


def row(one: feed.RankLine, front: int, width: int, one_line: bool) -> Content:
    """What one process said last, as many columns as fit, and where it stands in the rest."""
    lag = front - one.step
    late = one.heard_s > _LATE_S
    got = one.values
    cells: list[tuple[str, str]] = [
        (figures.step(one.step), ""),
        (str(-lag) if lag else "0", "$warning bold" if lag > 1 else _DIM),
        (figures.ago(one.heard_s), "$warning bold" if late else _DIM),
        (_time(got.get("step_time")), "bold"),
        (_time(got.get("data_wait")), ""),
        (_share(got.get("gpu_utilization")), ""),
        (_memory(got), ""),
        (_degrees(got.get("gpu_temperature")), ""),
        (plain(one.phase or figures.UNKNOWN, 11), "$primary"),
    ]
    who = fitted(f"{plain(one.host, 11)}:{one.pid}", _LEAD - 7)
    parts: list[tuple[str, str]] = [(f"{one.rank:>5}  ", "bold"), (who, _DIM)]
    used = _LEAD
    for (text, style), (_, room) in zip(cells, COLUMNS, strict=True):
        if used + room + 1 > width:
            break
        parts.append((f"{text:>{room}} ", style))
        used += room + 1
    if one.at and width - used > 12:
        parts.append((" " + plain(one.at, width - used - 1), "$foreground 45%"))
    return Content.assemble(*parts)


def _time(number: float | None) -> str:
    return figures.UNKNOWN if number is None else figures.seconds(number)


def _share(number: float | None) -> str:
    return figures.UNKNOWN if number is None or number != number else f"{100 * number:.0f} %"


def _degrees(number: float | None) -> str:
    return figures.UNKNOWN if number is None or number != number else f"{number:.0f} °C"


def _memory(got: dict[str, float]) -> str:
    """Of the device where there is one, else of the process."""
    used = got.get("memory_allocated", got.get("rss"))
    return figures.UNKNOWN if used is None else figures.size(used)
