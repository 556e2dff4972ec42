"""The rules that users rely on today, written from their descriptions."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Callable

RULES = ("bare", "clip", "ten_times_mean", "six_sigma", "stop_on_spike", "guarded", "oracle")
"""``clip``: clip_grad_norm_(1.0) alone. ``ten_times_mean``: an update whose gradient norm exceeds
10 times the mean of the last 128 is skipped. ``six_sigma``: one whose loss or norm exceeds mean + 6
standard deviations of the last 128 (OLMo-core's SkipStepOptimizer). ``stop_on_spike``: training
ends with a loss of twice the mean of the last 5, or one that is not finite. ``oracle`` is no rule:
it knows the fault, and skips just the updates that it spoils."""

Decision = Callable[[float, float], str]
"""Loss and gradient norm of a step to "go", "skip" or "stop"."""


def decision_of(rule: str) -> Decision:
    """A fresh rule."""
    if rule == "ten_times_mean":
        return _ten_times_mean()
    if rule == "six_sigma":
        return _six_sigma()
    if rule == "stop_on_spike":
        return _stop_on_spike()
    return lambda loss, norm: "go"


def _ten_times_mean() -> Decision:
    norms: deque[float] = deque(maxlen=128)

    def decide(loss: float, norm: float) -> str:
        if not math.isfinite(norm) or (len(norms) >= 8 and norm > 10 * statistics.fmean(norms)):
            return "skip"
        norms.append(norm)
        return "go"

    return decide


def _six_sigma() -> Decision:
    seen: dict[str, deque[float]] = {"loss": deque(maxlen=128), "norm": deque(maxlen=128)}

    def decide(loss: float, norm: float) -> str:
        skip = False
        for name, value in (("loss", loss), ("norm", norm)):
            past = seen[name]
            if len(past) >= 64:  # half of its window
                bound = statistics.fmean(past) + 6 * statistics.pstdev(past)
                skip |= not value <= bound
            if math.isfinite(value):
                past.append(value)
        return "skip" if skip else "go"

    return decide


def _stop_on_spike() -> Decision:
    losses: deque[float] = deque(maxlen=5)

    def decide(loss: float, norm: float) -> str:
        if not math.isfinite(loss) or (len(losses) == 5 and loss > 2 * statistics.fmean(losses)):
            return "stop"
        losses.append(loss)
        return "go"

    return decide
