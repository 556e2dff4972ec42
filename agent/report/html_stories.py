"""Incidents, actions, events and the environment as HTML."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Sequence

from lossguard.agent.report.bundles import Excerpt
from lossguard.agent.report.escaping import h, h_code
from lossguard.agent.report.gathering import RunData
from lossguard.agent.report.marks import GLYPHS
from lossguard.agent.report.stories import Story
from lossguard.agent.report.telling import Row, actions_of, environment_of
from lossguard.agent.report.wording import clock, sentence


def story_html(story: Story) -> str:
    """One incident; the advice is left out where another one has the same."""
    incident, severity = story.incident, story.severity
    also = f"<p>Along with it: {h(', '.join(one.replace('_', ' ') for one in incident.also))}.</p>"
    parts = [
        f'<article class="story {severity}" id="incident-{story.number}">',
        f'<h3><span class="glyph" aria-hidden="true">{GLYPHS[severity]}{story.number}</span> '
        f'{h(story.title)}<span class="badge {severity}">{h(severity)}</span></h3>',
        f'<p class="what">{h(sentence(incident.message))}</p>',
        f"<p>{h(story.when)} <b>{h(story.outcome)}</b></p>",
        f"<p>Where: <code>{h(incident.where)}</code></p>" if incident.where else "",
        also if incident.also else "",
        _done(story),
        _evidence(story),
        *_advice(story),
        *map(_excerpt, story.texts),
        f'<p class="sub">{h(incident.id)}'
        f"{', all files in ' + h(story.folder) if story.folder else ''}</p>",
        "</article>",
    ]
    return "".join(parts)


def _done(story: Story) -> str:
    if not story.deeds:
        return "<h4>What was done</h4><p>Nothing.</p>"
    rows = (
        f"<li><b>{h(deed.action.replace('_', ' '))}</b>, {h(deed.when)}: {h(deed.result)}</li>"
        for deed in story.deeds
    )
    return f"<h4>What was done</h4><ul>{''.join(rows)}</ul>"


def _evidence(story: Story) -> str:
    found = ""
    if story.evidence:
        items = ", ".join(f"{h(name)} {h(value)}" for name, value in story.evidence)
        found = f"<h4>Evidence</h4><p>{items}</p>"
    if story.layers:
        head = ("metric", "layer", "newest", "median before", "times")
        found += (
            '<details class="print"><summary>The layers that changed most</summary>'
            f"{table(head, map(Row, story.layers), numbers_from=2)}</details>"
        )
    return found


def _advice(story: Story) -> Iterator[str]:
    if not story.causes:
        return
    if story.advice_in != story.number:
        other = _cell(story.advice_in)
        yield f"<p>What it may be, and what helps: as in {other}.</p>"
        return
    is_open = " open" if story.incident.severity == "critical" else ""
    yield (
        f'<details class="print"{is_open}><summary>What it may be, and what helps</summary>'
        f'<p>{h_code(story.meaning)}</p><div class="columns"><div><h4>What it may be</h4>'
        f"{_numbered(story.causes)}</div><div><h4>What helps</h4>{_numbered(story.fixes)}</div>"
        "</div></details>"
    )


def _numbered(lines: Sequence[str]) -> str:
    return f"<ol>{''.join(f'<li>{h_code(line)}</li>' for line in lines)}</ol>"


def _excerpt(text: Excerpt) -> str:
    more = f", {text.lines_left_out} more lines are in the file" if text.lines_left_out else ""
    shown = f"<pre tabindex=0>{h(text.text)}</pre>"
    return f"<details><summary>{h(text.title)}{more}</summary>{shown}</details>"


def actions_html(data: RunData, numbers: dict[str, int]) -> str:
    """The table of all actions; ``numbers`` has the places of incidents."""
    rows = actions_of(data, numbers)
    if not rows:
        return "<p>Nothing was done to the run.</p>"
    return table(("step", "action", "why", "how it went"), rows)


def events_html(data: RunData) -> str:
    """The newest events, folded."""
    events = data.saved.events
    rows = [Row((f"{one.step:,}", one.kind, one.message, clock(one.time_s))) for one in events]
    if not rows:
        return "<p>No events are kept of this run.</p>"
    return (
        f"<details><summary>{len(rows)} events</summary>"
        f"{table(('step', 'kind', 'what', 'when'), rows, numbers_from=0, numbers_to=1)}</details>"
    )


def environment_html(data: RunData) -> str:
    """What ran, on what, from which commit."""
    rows = [Row((name, value)) for name, value in environment_of(data)]
    command = shlex.join(data.hello.script)
    return f"<pre tabindex=0>{h(command)}</pre>" + table(("what", "which"), rows)


def table(
    head: Sequence[str], rows: Iterable[Row], numbers_from: int = 99, numbers_to: int = 99
) -> str:
    """A table that scrolls by itself where it is too wide; columns of numbers to the right."""
    marks = [' class="num"' if numbers_from <= i < numbers_to else "" for i in range(len(head))]
    top = "".join(
        f'<th scope="col"{mark}>{h(name)}</th>' for name, mark in zip(head, marks, strict=True)
    )
    body = "".join(
        "<tr>"
        + "".join(
            f"<td{mark}>{_cell(cell)}</td>" for cell, mark in zip(row.cells, marks, strict=False)
        )
        + "</tr>"
        for row in rows
    )
    return (
        '<div class="scroll"><table><thead><tr>'
        f"{top}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _cell(cell: str | int) -> str:
    """An incident's number becomes a link to it."""
    if isinstance(cell, int):
        return f'<a href="#incident-{cell}">incident {cell}</a>'
    return h(cell)
