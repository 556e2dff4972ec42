"""A picture of a metric with the onset marked, drawn by a process of its own.

matplotlib takes a second to load, and tens of megabytes for good: not in the agent.
``python -m lossguard.agent.alerts.picture`` reads an ``IncidentNews`` in MessagePack from stdin and
writes PNG to stdout.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import msgspec

from lossguard.agent.alerts.records import IncidentNews
from lossguard.agent.alerts.transport import Never
from lossguard.agent.incidents import finding_of
from lossguard.agent.plot_panel import INK, Curve, Mark, draw_marks, draw_panel, draw_step_axis
from lossguard.detectors.advice import title_of
from lossguard.own_python import own_python

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PASSED_ON = (
    "HOME", "LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH", "MPLCONFIGDIR", "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS", "PATH", "PYTHONHOME", "PYTHONPATH", "TMPDIR", "XDG_CACHE_HOME",
    "XDG_CONFIG_HOME",
)  # fmt: skip
_PATIENCE_S = 60.0
_MAX_BYTES = 4 << 20
_LEAST_STEPS, _ABOUT = 100, 6
"""Shown are at least so many steps, or so many times those since the onset."""


def picture_of(news: IncidentNews) -> bytes:
    """PNG. Takes one to two seconds of another process. Raises Never."""
    try:
        done = subprocess.run(
            own_python(__name__),
            input=msgspec.msgpack.encode(news),
            capture_output=True,
            timeout=_PATIENCE_S,
            check=True,
            cwd="/",
            env=_environment(),
        )
    except subprocess.CalledProcessError as error:
        words = error.stderr.decode(errors="replace").strip().splitlines()
        raise Never(f"the picture cannot be drawn ({words[-1] if words else error})") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Never(f"the picture cannot be drawn ({error})") from error
    return done.stdout[:_MAX_BYTES]


def _environment() -> dict[str, str]:
    """What it takes to find Python, fonts and folders. The agent's secrets are not among it."""
    return {name: os.environ[name] for name in _PASSED_ON if name in os.environ}


def draw(news: IncidentNews) -> bytes:
    """PNG of ``news.series`` about the onset, one below the other."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    line, count = news.line, len(news.series)
    height = 1.2 + 2.1 * count
    figure = Figure(figsize=(9.0, height), dpi=110, facecolor="white")
    FigureCanvasAgg(figure)
    panels = figure.subplots(count, 1, sharex=True, squeeze=False)[:, 0]
    figure.subplots_adjust(
        left=0.115, right=0.975, top=1 - 0.45 / height, bottom=0.55 / height, hspace=0.12
    )
    mark = Mark(finding_of(news.line), line.metric, 0)
    for panel, series in zip(panels, news.series, strict=True):
        near = _near(Curve.of_series(series), line.onset_step, line.end_step)
        draw_panel(panel, series.metric, [near])
        draw_marks(panel, series.metric, [near], [mark])
        if series.metric == line.metric:
            _expected(panel, news)
    draw_step_axis(panels[-1])
    title = f"{news.name}: {title_of(line.symptom)}, since step {line.onset_step:,}"
    figure.text(0.115, 1 - 0.29 / height, title, fontsize=10.5, weight="bold", color=INK)
    out = io.BytesIO()
    figure.savefig(out, format="png")
    return out.getvalue()


def _near(curve: Curve, onset: int, end: int | None) -> Curve:
    """The steps about the onset, so that it is seen in a run of a million steps."""
    last = curve.steps[-1] if len(curve.steps) else 0
    since = max(1.0, float(last if end is None else min(end, last)) - onset)
    width = max(_LEAST_STEPS, _ABOUT * since)
    shown = (curve.steps >= onset - width) & (curve.steps <= onset + width)
    if shown.sum() < 8:
        return curve
    return Curve(
        curve.steps[shown], curve.low[shown], curve.high[shown], curve.last[shown],
        curve.nonfinite[shown],
    )  # fmt: skip


def _expected(panel: Axes, news: IncidentNews) -> None:
    """The range that was expected, as a green band."""
    if (found := news.measured) is not None:
        panel.axhspan(found.low, found.high, color="#009E73", alpha=0.15, linewidth=0, zorder=0)


if __name__ == "__main__":
    sent = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=IncidentNews)
    sys.stdout.buffer.write(draw(sent))
