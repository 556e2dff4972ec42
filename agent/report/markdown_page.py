"""The report as Markdown, the same story as the HTML page."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from lossguard.agent.report.escaping import m, m_block
from lossguard.agent.report.gathering import RunData
from lossguard.agent.report.html_plot import described
from lossguard.agent.report.panels import main_panels, other_panels
from lossguard.agent.report.stories import Story, left_out, stories_of
from lossguard.agent.report.summary import facts, paragraph
from lossguard.agent.report.telling import Row, actions_of, damage_of, environment_of
from lossguard.agent.report.wording import clock, number, sentence

_EVENTS = 100
_LAYERS = 5


def markdown_report(data: RunData, pictures: Mapping[str, Path], folder: Path) -> str:
    """The whole text; links to ``pictures`` (by metric) are relative to ``folder``."""
    stories = stories_of(data)
    parts = [
        *_top(data),
        *_curves(data, pictures, folder),
        *_incidents(data, stories),
        *_actions(data, stories),
        *_layers(data),
        *_rest(data),
    ]
    return "\n\n".join(parts) + "\n"


def _top(data: RunData) -> Iterator[str]:
    hello = data.hello
    yield f"# {m(hello.name)}: {m(data.state)}"
    yield (
        f"Run {m(hello.run)}, started {m(clock(hello.started_s))}. "
        f"Report made {m(clock(data.made_s))}."
    )
    yield m(paragraph(data))
    yield _table(
        ("what", "value", ""),
        [Row((fact.label, fact.value, fact.note)) for fact in facts(data)],
    )
    if damaged := damage_of(data):
        yield "Could not be read: " + m("; ".join(damaged)) + "."


def _curves(data: RunData, pictures: Mapping[str, Path], folder: Path) -> Iterator[str]:
    yield "## How it went"
    panels = main_panels(data)
    if not panels:
        yield "Nothing was measured."
    for panel in panels:
        yield f"**{m(panel.title)}**: {m(described(panel))}."
        if (picture := pictures.get(panel.curve.metric)) is not None:
            link = Path(os.path.relpath(picture, folder)).as_posix().replace(" ", "%20")
            yield f"![{m(panel.title)}]({link})"


def _incidents(data: RunData, stories: Sequence[Story]) -> Iterator[str]:
    yield "## What went wrong"
    if not stories:
        yield "Nothing that Lossguard could see."
    if others := left_out(data, stories):
        yield others
    for story in stories:
        yield from _story(story)


def _story(story: Story) -> Iterator[str]:
    incident = story.incident
    yield f"### {story.number}. {m(story.title)} ({m(incident.severity)})"
    yield m(sentence(incident.message))
    yield f"{m(story.when)} **{m(story.outcome)}**"
    if incident.where:
        yield f"Where: {m(incident.where)}"
    if incident.also:
        yield "Along with it: " + m(", ".join(incident.also))
    yield "What was done:" if story.deeds else "What was done: nothing."
    if story.deeds:
        yield _list(f"{m(d.action)}, {m(d.when)}: {m(d.result)}" for d in story.deeds)
    if story.evidence:
        yield "Evidence: " + m(", ".join(f"{name} {value}" for name, value in story.evidence))
    if story.layers:
        yield "The layers that changed most:"
        head = ("metric", "layer", "newest", "median before", "times")
        yield _table(head, map(Row, story.layers))
    if story.causes and story.advice_in == story.number:
        # Advice is Markdown already.
        yield "What it may be:"
        yield _list(story.causes, numbered=True)
        yield "What helps:"
        yield _list(story.fixes, numbered=True)
    elif story.causes:
        yield f"What it may be, and what helps: as in incident {story.advice_in}."
    for text in story.texts:
        yield f"{m(text.title)}:"
        yield m_block(text.text)
    yield f"{m(incident.id)}" + (f", all files in {m(story.folder)}" if story.folder else "")


def _actions(data: RunData, stories: Sequence[Story]) -> Iterator[str]:
    yield "## What was done"
    rows = actions_of(data, {story.incident.id: story.number for story in stories})
    if not rows:
        yield "Nothing was done to the run."
        return
    yield _table(("step", "action", "why", "how it went"), rows)


def _layers(data: RunData) -> Iterator[str]:
    """Where each family is largest now: Markdown has no heat map."""
    yield "## Layers"
    rows = []
    for kind, known in data.saved.layers.items():
        if not len(known.steps):
            continue
        last = known.values[-1]
        there = np.flatnonzero(~np.isnan(last))
        largest = there[np.argsort(last[there])[::-1][:_LAYERS]].tolist()
        rows += [Row((kind, known.names[i], number(float(last[i])))) for i in largest]
    if not rows:
        yield "Nothing is kept of the layers of this run."
        return
    yield f"The largest at step {data.extent.last:,}; the HTML report shows all of them over time."
    yield _table(("metric", "layer", "value"), rows)


def _rest(data: RunData) -> Iterator[str]:
    others = other_panels(data)
    if others:
        yield "## Everything else that was measured"
        rows = []
        for panel in others:
            curve = panel.curve
            points = (curve.last, curve.lowest, curve.highest)
            cells = [number(point[1]) if point is not None else "" for point in points]
            rows.append(Row((curve.metric, *cells)))
        yield _table(("metric", "last", "lowest", "highest"), rows)
    yield "## Events"
    events = data.saved.events[-_EVENTS:]
    if events:
        rows = [Row((f"{e.step:,}", e.kind, e.message, clock(e.time_s))) for e in events]
        yield _table(("step", "kind", "what", "when"), rows)
    else:
        yield "No events are kept of this run."
    yield "## Environment"
    yield m_block(shlex.join(data.hello.script))
    yield _table(("what", "which"), [Row(pair) for pair in environment_of(data)])


def _list(lines: Iterable[str], *, numbered: bool = False) -> str:
    return "\n".join(
        f"{f'{i}.' if numbered else '-'} {line}" for i, line in enumerate(lines, start=1)
    )


def _table(head: Sequence[str], rows: Iterable[Row]) -> str:
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    lines += [f"| {' | '.join(map(_cell, row.cells))} |" for row in rows]
    return "\n".join(lines)


def _cell(cell: str | int) -> str:
    return f"incident {cell}" if isinstance(cell, int) else m(cell)
