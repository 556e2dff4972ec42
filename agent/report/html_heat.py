"""The layers of a run by time: a row a layer, a column a stretch of steps, colour for size."""

from __future__ import annotations

import base64
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lossguard.agent.layer_history import LayerMap
from lossguard.agent.report.axes import SIZE, step_axis, step_labels
from lossguard.agent.report.curves import Floats
from lossguard.agent.report.escaping import h
from lossguard.agent.report.html_plot import marks_drawn
from lossguard.agent.report.marks import Marks
from lossguard.agent.report.png_bytes import Colour, png
from lossguard.agent.report.wording import number

# Ten colours of viridis, which colour-blind people can tell apart and which print well in grey.
_VIRIDIS = (
    "440154", "482878", "3e4989", "31688e", "26828e", "1f9e89", "35b779", "6ece58", "b5de2b",
    "fde725",
)  # fmt: skip
_BROKEN: Colour = (213, 94, 0)
_LEVELS = 254
NONE, INFINITE = 255, 254
"""Levels of cells where nothing was measured, and where something was not finite."""
_TITLES = {
    "grad_norm": "Gradient norm by parameter", "act_rms": "Activation RMS by module",
    "update_ratio": "Update over weight by parameter", "zero_share": "Share of zeros by module",
}  # fmt: skip
_LINEAR = frozenset(("zero_share",))
_NAMED = 40
_MOST_COLUMNS = 512
_PALETTE_STEPS = np.linspace(0, len(_VIRIDIS) - 1, _LEVELS)


@dataclass(frozen=True)
class Heat:
    """A map cut into levels: 0 to 253 from ``low`` to ``high``, by their ratio or evenly."""

    kind: str
    names: list[str]
    """Of the layers."""
    levels: npt.NDArray[np.uint8]
    """[layer, column]; columns of equal width in steps."""
    first: int
    width: int
    low: float
    high: float
    is_log: bool


def heat_of(kind: str, known: LayerMap) -> Heat | None:
    """None where nothing finite was measured."""
    first, width, values = _even(known)
    is_log = kind not in _LINEAR
    usable = values[np.isfinite(values) & (values > 0)] if is_log else values[np.isfinite(values)]
    if not usable.size:
        return None
    low, high = (float(value) for value in np.quantile(usable, (0.02, 0.995)))
    low, high = (low, max(high, low * 1.01)) if is_log else (0.0, 1.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.log(values / low) / math.log(high / low) if is_log else values
    shares = np.clip(np.nan_to_num(share, neginf=0.0, posinf=1.0), 0.0, 1.0)
    levels = (shares * (_LEVELS - 1)).astype(np.uint8)
    levels[np.isinf(values)] = INFINITE
    levels[np.isnan(values)] = NONE
    return Heat(kind, known.names, levels, first, width, low, high, is_log)


def _even(known: LayerMap) -> tuple[int, int, Floats]:
    """(first step, width, values[layer, column]) with columns of equal width, as wide as the family
    is measured apart; at most some hundred, however far apart their steps are."""
    steps = known.steps
    if not len(steps):
        return 0, 1, np.empty((0, 0))
    first, span = int(steps[0]), int(steps[-1] - steps[0]) + 1
    apart = int(np.median(np.diff(steps))) if len(steps) > 1 else 1
    width = max(known.width, apart, -(-span // _MOST_COLUMNS))
    columns = (steps - first) // width
    even = np.full((int(columns[-1]) + 1, known.values.shape[1]), np.nan)
    np.fmax.at(even, columns, known.values.astype(np.float64))
    return first, width, even.T


def heat_map(heat: Heat, marks: Marks, first: int, last: int) -> str:
    """A figure."""
    title = _TITLES.get(heat.kind, heat.kind.replace("_", " "))
    said = f"from {number(heat.low)} to {number(heat.high)}"
    names = heat.names
    x = step_axis(first, last)
    end = heat.first + heat.levels.shape[1] * heat.width
    left, right = x.place(np.array([heat.first, end], dtype=np.float64)) / SIZE * 100
    label = h(f"{title}: {len(names)} rows by time, {said}")
    picture = base64.b64encode(png(heat.levels, _palette(), NONE)).decode()
    return (
        f'<figure class="heat" id="heat-{h(heat.kind)}"><figcaption><b>{h(title)}</b> '
        f"{_legend(heat)}</figcaption>"
        f'<div class="rows">{_names(names)}<div class="frame" '
        f'style="height:{_height(len(names))}px">'
        f'<img alt="{label}" style="left:{left:.3f}%;width:{right - left:.3f}%" '
        f'src="data:image/png;base64,{picture}">'
        f'<svg viewBox="0 0 {SIZE} {SIZE}" preserveAspectRatio="none" aria-hidden="true">'
        f'{"".join(marks_drawn(marks, x))}</svg><div class="cross" hidden></div></div></div>'
        f'<div class="x">{step_labels(x)}</div></figure>'
    )


def heat_points(heat: Heat) -> dict[str, object]:
    """What the script tells of the cell under the pointer."""
    return {
        "names": heat.names,
        "first": heat.first,
        "width": heat.width,
        "columns": heat.levels.shape[1],
        "low": heat.low,
        "high": heat.high,
        "log": heat.is_log,
        "levels": base64.b64encode(heat.levels.tobytes()).decode(),
    }


def _height(rows: int) -> int:
    return max(60, min(rows * 15, 480))


def _names(names: list[str]) -> str:
    every = max(1, math.ceil(len(names) / min(_NAMED, _height(len(names)) / 12)))
    shown = "".join(
        f'<span style="top:{(i + 0.5) / len(names) * 100:.2f}%">{h(name)}</span>'
        for i, name in enumerate(names)
        if i % every == 0
    )
    return f'<div class="names">{shown}</div>'


def _legend(heat: Heat) -> str:
    stops = ",".join(f"#{colour}" for colour in _VIRIDIS)
    broken = ' <i class="cell broken"></i>NaN or Inf' if (heat.levels == INFINITE).any() else ""
    return (
        f'<span class="said">{number(heat.low)} <i class="ramp" '
        f'style="background:linear-gradient(to right,{stops})"></i> {number(heat.high)}{broken}'
        "</span>"
    )


def _palette() -> list[Colour]:
    anchors = np.array([[int(c[i : i + 2], 16) for i in (0, 2, 4)] for c in _VIRIDIS], dtype=float)
    places = np.arange(len(_VIRIDIS))
    channels = [np.interp(_PALETTE_STEPS, places, anchors[:, i]) for i in range(3)]
    colours = np.stack(channels, axis=1).round().astype(int).tolist()
    return [*((r, g, b) for r, g, b in colours), _BROKEN, (255, 255, 255)]
