"""Dating a change back to the step where it began."""

from __future__ import annotations

from collections.abc import Sequence


def onset_index(values: Sequence[float], before: float, slack: float, cap: float) -> int:
    """Index of the first value of the rise that the sequence ends in.

    Page's CUSUM read backwards: the rise began after the last minimum of

        S[k] = sum over i <= k of clip(values[i] - before - slack, -cap, cap)

    which, for a step of known size in Laplace-like noise, is its maximum-likelihood date
    (Page, Biometrika 41, 1954; Hinkley, Biometrika 58, 1971). Clipping keeps one outlier from
    outvoting its neighbours. All in the unit of the values. ``values`` must not be empty.
    """
    total = 0.0
    lowest = 0.0
    onset = 0
    for i, value in enumerate(values):
        total += min(max(value - before - slack, -cap), cap)
        if total <= lowest:
            lowest = total
            onset = i + 1
    return min(onset, len(values) - 1)
