"""Which steps a run has, which of them to ask for in full, and where the cursor jumps to."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence

import numpy as np

from lossguard.agent import feed
from lossguard.tui.page import Scene
from lossguard.tui.view import View, Window

_HIDDEN = ("skipped", "input_fingerprint", "weight_checksum", "rank_lag", "val_loss")
"""Metrics that are no curve, or stand in another chart."""


def whole_of(scene: Scene, before: Window | None, view: View) -> Window | None:
    """All steps of the run on show, and of the one beside it.

    A close-up holds only some of them, so what was known before counts while one is looked at.
    """
    beside = scene.picture.beside
    ends = [_ends(one) for one in (*scene.picture.series, *(beside.series if beside else ()))]
    found = [end for end in ends if end is not None]
    if not found:
        return before
    first, last = min(end[0] for end in found), max(end[1] for end in found)
    if before is not None and view.span:
        first, last = min(first, before.first), max(last, before.last)
    return Window(first, max(last, first + 1))


def _ends(series: feed.Series) -> tuple[int, int] | None:
    steps = np.frombuffer(series.steps, "<i8", len(series.steps) // 8)
    return (int(steps[0]), int(steps[-1])) if len(steps) else None


def window_to_ask(view: View, whole: Window | None) -> tuple[int, int] | None:
    """More than is in view, in large units: so panning and a growing run do not ask every time."""
    if whole is None or not view.span or 2 * view.span > feed.CLOSEST_STEPS:
        return None
    seen = view.window(whole)
    grain = max(1, seen.span // 2)
    first = max(whole.first, (seen.first // grain - 1) * grain)
    last = (seen.last // grain + 1) * grain
    return (first, last) if last - first <= feed.CLOSEST_STEPS else (seen.first, seen.last)


def other_metrics(known: Sequence[str], charted: Sequence[str]) -> list[str]:
    """Those that have no chart of their own."""
    return sorted(name for name in known if name not in (*charted, *_HIDDEN))


def next_of(steps: Sequence[int], cursor: int, by: int) -> int | None:
    """The step after (or before) the cursor; around the end to the other side."""
    if not steps:
        return None
    if by > 0:
        return steps[bisect_right(steps, cursor) % len(steps)]
    return steps[(bisect_left(steps, cursor) - 1) % len(steps)]
