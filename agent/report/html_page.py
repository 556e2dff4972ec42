"""The report as one HTML file, which asks nothing of any other place."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from lossguard.agent.report.escaping import h
from lossguard.agent.report.gathering import RunData
from lossguard.agent.report.html_heat import Heat, heat_map, heat_of, heat_points
from lossguard.agent.report.html_plot import Panel, plot, plot_points
from lossguard.agent.report.html_stories import (
    actions_html,
    environment_html,
    events_html,
    story_html,
)
from lossguard.agent.report.marks import GLYPHS, Marks, marks_of
from lossguard.agent.report.panels import main_panels, other_panels
from lossguard.agent.report.stories import Story, left_out, stories_of
from lossguard.agent.report.summary import facts, paragraph
from lossguard.agent.report.telling import damage_of
from lossguard.agent.report.wording import clock, counted

_HEATS = ("grad_norm", "act_rms", "update_ratio", "zero_share")


def html_report(data: RunData) -> str:
    """The whole page."""
    style, script = (
        Path(__file__).with_name(name).read_text(encoding="utf-8")
        for name in ("page.css", "page.js")
    )
    stories = stories_of(data)
    marks = marks_of(data, stories)
    panels = {
        **{f"plot-{i}": panel for i, panel in enumerate(main_panels(data))},
        **{f"more-{i}": panel for i, panel in enumerate(other_panels(data))},
    }
    known = data.saved.layers
    cut = (heat_of(kind, known[kind]) for kind in _HEATS if kind in known)
    heats = [heat for heat in cut if heat is not None]
    points = _points(data, panels, heats, marks)
    title = h(f"{data.hello.name}: training report")
    body = "".join((
        *_top(data),
        *_plots(panels, marks),
        *_incidents(data, stories),
        *_layers(data, heats, marks),
        *_rest(data, panels, marks),
    ))  # fmt: skip
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    # Nothing may be asked of anywhere, and no script run but this one.
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="referrer" content="no-referrer">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{title}</title><style>\n{style}</style></head>\n<body>\n{body}\n"
        f'<script type="application/json" id="data">{points}</script>\n'
        f"<script>{script}</script>\n</body></html>\n"
    )


def _top(data: RunData) -> Iterator[str]:
    hello = data.hello
    yield (
        f'<header><h1>{h(hello.name)}<span class="badge {_tone(data)}">{h(data.state)}</span></h1>'
        f'<p class="sub">Run {h(hello.run)}, started {h(clock(hello.started_s))}. '
        f"Report made {h(clock(data.made_s))}.</p></header><main>"
        f'<p class="lead">{h(paragraph(data))}</p><dl class="facts">'
    )
    for fact in facts(data):
        note = f"<small>{h(fact.note)}</small>" if fact.note else ""
        yield f"<div><dt>{h(fact.label)}</dt><dd>{h(fact.value)}{note}</dd></div>"
    yield "</dl>"
    if damaged := damage_of(data):
        items = "".join(f"<li>{h(line)}</li>" for line in damaged)
        yield f'<p class="warning">Could not be read:</p><ul>{items}</ul>'


def _tone(data: RunData) -> str:
    tones = {"finished": "info", "running": "info", "stopped": "warning"}
    return tones.get(data.state, "critical")


def _plots(panels: dict[str, Panel], marks: Marks) -> Iterator[str]:
    yield '<section aria-label="Plots"><h2>How it went</h2>'
    main = {place: panel for place, panel in panels.items() if place.startswith("plot-")}
    if not main:
        yield "<p>Nothing was measured.</p></section>"
        return
    yield _legend(main.values(), marks)
    if not all(panel.curve.is_whole for panel in main.values()):
        yield '<p class="sub">Of every few steps the lowest and the highest value are drawn.</p>'
    yield '<p class="sub screen" hidden>Drag to zoom all plots, double-click for the whole run.</p>'
    yield from (plot(panel, marks, place) for place, panel in main.items())
    yield "</section>"


def _legend(panels: Iterable[Panel], marks: Marks) -> str:
    """Only what there is."""
    shown = list(panels)
    there = {one.severity for one in marks.incidents}
    items = [
        (severity, glyph, f"{severity} incident: its onset, and how long")
        for severity, glyph in GLYPHS.items()
        if severity in there
    ]
    if marks.undone:
        items.append(("", "⟲", "rollback; the grey steps before it were undone"))
    if marks.skips:
        items.append(("", "╷", "at the lower edge: an update was dropped"))
    if any(len(panel.curve.nonfinite) for panel in shown):
        items.append(("critical", "╵", "at the upper edge: NaN or Inf"))
    if any(panel.bound is not None for panel in shown):
        items.append(("", "╌", "bound over which an update is dropped, or would be"))
    if any(panel.beside is not None for panel in shown):
        items.append(("dot", "●", "validation loss"))
    listed = "".join(
        f'<li><i class="{kind}">{glyph}</i>{words}</li>' for kind, glyph, words in items
    )
    return f'<ul class="legend">{listed}</ul>' if items else ""


def _incidents(data: RunData, stories: Sequence[Story]) -> Iterator[str]:
    yield '<section aria-label="Incidents"><h2>What went wrong</h2>'
    if not stories:
        yield "<p>Nothing that Lossguard could see.</p>"
    if others := left_out(data, stories):
        yield f"<p>{others}</p>"
    yield from map(story_html, stories)
    numbers = {story.incident.id: story.number for story in stories}
    yield '</section><section aria-label="Actions" id="actions"><h2>What was done</h2>'
    yield actions_html(data, numbers)
    yield "</section>"


def _layers(data: RunData, heats: Sequence[Heat], marks: Marks) -> Iterator[str]:
    yield '<section aria-label="Layers"><h2>Layers over time</h2>'
    if heats:
        yield '<p class="sub">The input side is at the top; of each cell the largest value.</p>'
        yield from (heat_map(one, marks, data.extent.first, data.extent.last) for one in heats)
    else:
        yield "<p>Nothing is kept of the layers of this run.</p>"
    yield "</section>"


def _rest(data: RunData, panels: dict[str, Panel], marks: Marks) -> Iterator[str]:
    others = {place: panel for place, panel in panels.items() if place.startswith("more-")}
    if others:
        yield (
            '<section class="minor"><h2>Everything else that was measured</h2><details><summary>'
            f"{counted(len(others), 'more plot')}</summary>"
        )
        yield from (plot(panel, marks, place) for place, panel in others.items())
        yield "</details></section>"
    yield f"<section><h2>Events</h2>{events_html(data)}</section>"
    yield f"<section><h2>Environment</h2>{environment_html(data)}</section></main>"
    version = data.hello.versions.get("lossguard", "")
    yield f"<footer>Made by Lossguard {h(version)} from what its agent keeps of the run.</footer>"


def _points(data: RunData, panels: dict[str, Panel], heats: Sequence[Heat], marks: Marks) -> str:
    found = {
        "first": data.extent.first,
        "last": data.extent.last,
        "skips": list(marks.skips),
        "panels": {place: plot_points(panel) for place, panel in panels.items()},
        "heats": {heat.kind: heat_points(heat) for heat in heats},
    }
    # Within a script element nothing is text but what cannot end it.
    return json.dumps(found, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
