"""One metric over the steps as inline SVG, which needs no script and fills whatever width it has.

The drawing is a square of 1000 by 1000 that the page stretches; text stands beside it as HTML, so
that it is never stretched. ``page.js`` draws it anew from ``plot_points`` for zoom and scale.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from lossguard.agent.report.axes import SIZE, Axis, step_axis, step_labels, value_axis
from lossguard.agent.report.curves import Curve, Floats, Steps
from lossguard.agent.report.escaping import h
from lossguard.agent.report.marks import ACTION_GLYPHS, GLYPHS, Marks
from lossguard.agent.report.saved import Coarse
from lossguard.agent.report.wording import counted, number, steps

_FEW = 120
"""Points that are drawn as points."""
TITLES = {
    "loss": "Training loss", "val_loss": "Validation loss", "grad_norm": "Gradient norm",
    "lr": "Learning rate", "loss_scale": "Loss scale", "step_time": "Time of a step [s]",
}  # fmt: skip


@dataclass(frozen=True)
class Panel:
    """One plot. ``beside`` are points of another curve, as validation beside training."""

    curve: Curve
    first: int
    last: int
    smooth: tuple[Steps, Floats] | None = None
    beside: Curve | None = None
    bound: Coarse | None = None

    @property
    def title(self) -> str:
        return title_of_metric(self.curve.metric)


def title_of_metric(metric: str) -> str:
    return TITLES.get(metric, metric.replace("_", " "))


def plot(panel: Panel, marks: Marks, place: str) -> str:
    """A figure; ``place`` is its id on the page."""
    x = step_axis(panel.first, panel.last)
    shown = [panel.curve, *([panel.beside] if panel.beside is not None else [])]
    bound = panel.bound.last if panel.bound is not None else np.empty(0)
    y = value_axis(panel.curve.metric, shown, bound)
    said = described(panel)
    head = (
        f'<figcaption><b>{h(panel.title)}</b> <span class="said">{h(said)}</span>'
        '<span class="tools" hidden><button type="button" data-do="scale"></button>'
        '<button type="button" data-do="whole" hidden>whole run</button></span></figcaption>'
    )
    scale = f'data-low="{y.low:.7g}" data-high="{y.high:.7g}"' if y is not None else ""
    scale += " data-log" if y is not None and y.is_log else ""
    drawing = "".join(_drawing(panel, marks, x, y))
    label = h(f"{panel.title} over the steps. {said}")
    return (
        f'<figure class="plot" id="{h(place)}" {scale}>{head}'
        f'{"".join(_lanes(marks, x))}<div class="frame">'
        f'<div class="y">{_labels(y)}</div>'
        f'<svg viewBox="0 0 {SIZE} {SIZE}" preserveAspectRatio="none" role="img" '
        f'aria-label="{label}"><title>{label}</title>{drawing}</svg>'
        f'<div class="cross" hidden></div></div><div class="x">{step_labels(x)}</div></figure>'
    )


def described(panel: Panel) -> str:
    """The curve in words, for those who cannot see it and those who want the number."""
    curve = panel.curve
    last, lowest, highest = curve.last, curve.lowest, curve.highest
    if last is None or lowest is None or highest is None:
        return f"no finite value in {counted(curve.count, 'measurement')}"
    words = f"last {number(last[1])}"
    if lowest[1] < highest[1]:
        words += (
            f", lowest {number(lowest[1])} at step {lowest[0]:,}, "
            f"highest {number(highest[1])} at step {highest[0]:,}"
        )
    if curve.num_nonfinite:
        words += f", {counted(curve.num_nonfinite, 'value')} NaN or Inf"
    return words


def plot_points(panel: Panel) -> dict[str, object]:
    """What the script draws from: exact steps and values."""
    curve = panel.curve
    found: dict[str, object] = {"s": curve.steps.tolist(), "v": _short(curve.values)}
    if panel.smooth is not None:
        found["m"] = [panel.smooth[0].tolist(), _short(panel.smooth[1])]
    if panel.beside is not None:
        found["d"] = [panel.beside.steps.tolist(), _short(panel.beside.values)]
    if panel.bound is not None:
        known = np.isfinite(panel.bound.last)
        found["b"] = [panel.bound.steps[known].tolist(), _short(panel.bound.last[known])]
    if len(curve.nonfinite):
        found["n"] = curve.nonfinite.tolist()
    return found


def _short(values: Floats) -> list[float]:
    return [float(f"{value:.7g}") for value in values.tolist()]


def _drawing(panel: Panel, marks: Marks, x: Axis, y: Axis | None) -> Iterator[str]:
    yield '<g class="grid">'
    for place, _ in y.ticks() if y is not None else []:
        yield f'<path d="M0 {SIZE - place:.0f}H{SIZE}"/>'
    yield "</g>"
    yield from marks_drawn(marks, x)
    if y is None:
        return
    curve = panel.curve
    alone = " alone" if panel.smooth is None else ""
    yield f'<path class="curve{alone}" d="{_line(curve.steps, curve.values, x, y)}"/>'
    if panel.smooth is not None:
        yield f'<path class="smooth" d="{_line(*panel.smooth, x, y)}"/>'
    if panel.bound is not None:
        yield f'<path class="bound" d="{_line(panel.bound.steps, panel.bound.last, x, y)}"/>'
    dotted = panel.beside or (curve if len(curve.steps) <= _FEW else None)
    if dotted is not None:
        yield f'<path class="dots" d="{_dots(dotted.steps, dotted.values, x, y)}"/>'
    over = curve.steps[curve.values > y.high]
    yield f'<path class="over" d="{_ticks_at(over, x, 0, 45)}"/>'
    yield f'<path class="broken" d="{_ticks_at(curve.nonfinite, x, 0, 60)}"/>'


def marks_drawn(marks: Marks, x: Axis) -> Iterator[str]:
    """The lines and bands of all marks."""
    for first, last in marks.undone:
        yield _band("undone", first, last, x)
    for one in marks.incidents:
        if one.last > one.first:
            yield _band(f"span {one.severity}", one.first, one.last, x)
        yield _upright(f"at {one.severity}", one.first, x)
    for action in marks.actions:
        if action.action == "rollback":
            yield _upright("cut", action.step, x)
    steps_skipped = np.array(marks.skips, dtype=np.int64)
    yield f'<path class="skips" d="{_ticks_at(steps_skipped, x, SIZE - 60, 60)}"/>'


def _lanes(marks: Marks, x: Axis) -> Iterator[str]:
    """What is marked, by glyph and number, above the drawing."""
    if marks.actions:
        yield f'<div class="lane">{"".join(_actions(marks, x))}</div>'
    if marks.incidents:
        yield f'<div class="lane">{"".join(_incidents(marks, x))}</div>'


def _incidents(marks: Marks, x: Axis) -> Iterator[str]:
    for one in marks.incidents:
        said = f"incident {one.number}: {one.title}, {one.severity}, {steps(one.first, one.last)}"
        shown = f"{GLYPHS[one.severity]}{one.number}"
        yield _mark(one.severity, f"incident-{one.number}", one.first, x, said, shown)


def _actions(marks: Marks, x: Axis) -> Iterator[str]:
    for action in marks.actions:
        said = f"{action.action} at step {action.step:,}: {action.result}"
        shown = ACTION_GLYPHS.get(action.action, "◆")
        yield _mark("action", "actions", action.step, x, said, shown)


def _mark(kind: str, target: str, step: int, x: Axis, said: str, shown: str) -> str:
    """A link from its step to where the page tells of it."""
    return (
        f'<a class="mark {kind}" href="#{target}" data-a="{step}" '
        f'style="left:{_percent(step, x)}" title="{h(said)}" aria-label="{h(said)}">{shown}</a>'
    )


def _labels(axis: Axis | None) -> str:
    ticks = axis.ticks() if axis is not None else []
    return "".join(
        f'<span style="bottom:{place / SIZE * 100:.2f}%">{label}</span>' for place, label in ticks
    )


def _percent(step: int, x: Axis) -> str:
    return f"{min(max(_at(step, x) / SIZE * 100, 0), 100):.2f}%"


def _at(step: int, x: Axis) -> float:
    return float(x.place(np.array([step], dtype=np.float64))[0])


def _band(name: str, first: int, last: int, x: Axis) -> str:
    left, right = _at(first, x), _at(last, x)
    return (
        f'<rect class="{name}" data-a="{first}" data-b="{last}" x="{left:.1f}" '
        f'width="{max(right - left, 1):.1f}" height="{SIZE}"/>'
    )


def _upright(name: str, step: int, x: Axis) -> str:
    at = _at(step, x)
    return f'<line class="{name}" data-a="{step}" x1="{at:.1f}" x2="{at:.1f}" y1="0" y2="{SIZE}"/>'


def _line(at: Steps, values: Floats, x: Axis, y: Axis) -> str:
    return "M" + "L".join(_pairs(at, values, x, y)) if len(at) else ""


def _dots(at: Steps, values: Floats, x: Axis, y: Axis) -> str:
    return "".join(f"M{pair}h0" for pair in _pairs(at, values, x, y))


def _pairs(at: Steps, values: Floats, x: Axis, y: Axis) -> Iterable[str]:
    across, up = x.place(at.astype(np.float64)), y.place(values)
    known = np.isfinite(up)
    down = np.clip(SIZE - up[known], -SIZE, 2 * SIZE)
    return [f"{a:.1f} {b:.0f}" for a, b in zip(across[known].tolist(), down.tolist(), strict=True)]


def _ticks_at(at: Steps, x: Axis, top: int, length: int) -> str:
    across = x.place(at.astype(np.float64)).tolist()
    return "".join(f"M{place:.1f} {top}v{length}" for place in across)
