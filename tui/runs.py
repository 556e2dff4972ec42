"""The list of runs: one or two lines each, in columns as far as the width holds them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from textual.content import Content

from lossguard.agent import feed
from lossguard.tui import figures, marks
from lossguard.tui.plain import fitted, plain
from lossguard.tui.rows import Rows
from lossguard.tui.spark import spark

Part = tuple[str, str]

_DIM = "$foreground 60%"
_WORST = ("", "info", "warning", "critical")
_ALIVE = ("running", "silent")

SORTS: dict[str, Callable[[feed.RunSummary], object]] = {
    "newest first": lambda run: -run.started,
    "by name": lambda run: (run.name, -run.started),
    "trouble first": lambda run: (
        -_WORST.index(run.worst) if run.worst in _WORST else 0,
        -run.open_incidents,
        -run.started,
    ),
    "fastest first": lambda run: -run.steps_per_s,
    "lowest loss first": lambda run: _loss(run),
}


def _loss(run: feed.RunSummary) -> float:
    loss = run.last.get("loss", float("inf"))
    return loss if loss == loss else float("inf")


class Runs(Rows):
    """All runs the agent knows. Enter shows the one under the cursor."""

    def __init__(self, *, id: str) -> None:  # noqa: A002
        super().__init__(id=id)
        self.sort = next(iter(SORTS))
        self.filter = ""

    def show(
        self, runs: Sequence[feed.RunSummary], shown_run: str, beside: str, now_s: float
    ) -> None:
        """Take over the list: ``shown_run`` is on show, ``beside`` compared with it."""
        wanted = self.filter.lower()
        kept = [run for run in runs if wanted in f"{run.name} {run.run} {run.condition}".lower()]
        kept.sort(key=SORTS[self.sort])  # type: ignore[arg-type]
        title = f"[bold]Runs[/] {len(runs)}" if len(kept) == len(runs) else (
            f"[bold]Runs[/] {len(kept)} of {len(runs)}"
        )  # fmt: skip
        rows = []
        for run in kept:
            sign = "▸" if run.run == shown_run else "±" if run.run == beside else " "
            ago = figures.ago(now_s - run.started)
            rows.append((run.run, (run, sign, ago), partial(row, run, sign, ago)))
        self.show_rows(f"{title} [$foreground 60%]{self.sort}[/]", rows)


def row(run: feed.RunSummary, sign: str, ago: str, width: int, one_line: bool) -> Content:
    """State, name, where it is, its loss, what is wrong with it; narrow ones leave out."""
    mark = marks.state_mark(run.condition)
    name_style = "bold" if sign == "▸" else ""
    lead: list[Part] = [(sign, "$primary bold"), (f"{mark.glyph} ", mark.style)]
    state = (f"{plain(run.condition, 9):<9}", mark.style)
    trouble = _trouble(run)
    facts, second = _facts(run, ago, width)
    fixed = 3 + 10 + sum(len(text) for text, _ in facts) + 12
    spare = max(0, width - fixed)
    name_room = min(max(12, spare // 2), 34)
    spark_room = min(spare - name_room - 1, 60) if run.spark else 0
    height = 1 if one_line else 2
    curve = spark(run.spark, spark_room, height) if spark_room >= 8 else ("",) * height
    pad = max(0, spare - name_room - max(len(curve[0]), 0))
    above = [
        *lead, (fitted(run.name, name_room), name_style), (" ", ""), state, (" ", ""),
        *facts, (curve[0], "$primary"), (" " * min(pad, 2), ""), *trouble,
    ]  # fmt: skip
    if one_line:
        return Content.assemble(*above)
    room = 3 + name_room + 11 + sum(len(text) for text, _ in facts)
    below = plain(second, max(1, room - 4))
    return Content.assemble(
        *above, "\n   ", (below.ljust(room - 3), "$foreground 45%"),
        (curve[-1] if len(curve) > 1 else "", "$primary"),
    )  # fmt: skip


def _facts(run: feed.RunSummary, ago: str, width: int) -> tuple[list[Part], str]:
    """The columns that fit, and what the second line says."""
    rate = figures.rate(run.steps_per_s) if run.condition in _ALIVE else ""
    loss = run.last.get("loss")
    bad = (loss is not None and abs(loss) == float("inf")) or loss != loss
    parts: list[Part] = [(f"{figures.short_step(run.step):>8} ", _DIM)]
    if width >= 70:
        parts.append((f"{rate:>9} ", _DIM))
    if width >= 60:
        parts.append((f"{figures.value(loss):>9}  ", "bold $error" if bad else "bold"))
    ranks = f" · {run.world_size} ranks" if run.world_size > 1 else ""
    policy = plain(run.policy, 20)
    return parts, f"{policy}{ranks} · started {ago} ago · {plain(run.run, 40)}"


def heading(width: int) -> str:
    """The names of the columns, above them."""
    spare = max(
        0, width - (3 + 10 + 9 + (10 if width >= 70 else 0) + (11 if width >= 60 else 0) + 12)
    )
    name_room = min(max(12, spare // 2), 34)
    text = "   " + "run".ljust(name_room) + " " + "state".ljust(9) + " " + "step".rjust(8) + " "
    if width >= 70:
        text += "rate".rjust(9) + " "
    if width >= 60:
        text += "loss".rjust(9) + "  "
    return (text + "loss over time" if spare - name_room >= 15 else text)[:width]


def _trouble(run: feed.RunSummary) -> list[Part]:
    """Open incidents by their worst; else how many there were."""
    if run.open_incidents:
        mark = marks.severity_mark(run.worst)
        return [(f"{mark.glyph} {run.open_incidents} open", f"{mark.style} bold")]
    if run.incidents:
        return [(f"{run.incidents} past", "$foreground 45%")]
    return [("✓", "$success")] if run.state in _ALIVE else []
