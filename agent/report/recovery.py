"""Whether a run got over an incident, by its loss."""

from __future__ import annotations

import numpy as np

from lossguard.agent.feed import IncidentLine
from lossguard.agent.report.curves import Curve

_BEFORE = 16
"""Stretches before the onset that tell how high the loss was."""
_TOGETHER = 5
"""Stretches of which the median counts."""
_NEAR = 1.05


def back_at(loss: Curve, incident: IncidentLine, after: int) -> int | None:
    """The first step after ``after`` by which the loss was as low as before the onset of the
    incident (within 5 %, the median of five stretches); None where it was not, or too little is
    known."""
    before = loss.means[loss.mean_steps < incident.onset_step][-_BEFORE:]
    later = np.flatnonzero(loss.mean_steps > after)
    if len(before) < _TOGETHER or len(later) < _TOGETHER:
        return None
    usual = float(np.median(before))
    windows = np.lib.stride_tricks.sliding_window_view(loss.means[later], _TOGETHER)
    low = np.median(windows, axis=1) <= usual + (_NEAR - 1.0) * abs(usual)
    hits = np.flatnonzero(low)
    return int(loss.mean_steps[later[hits[0] + _TOGETHER - 1]]) if len(hits) else None
