"""Rules that stop a run whose training loss is too high, rises, or does not fall."""

from __future__ import annotations

import math
from collections import deque

from benchmarks.rivals.base import NO_DECREASE, UPSET, Rival
from lossguard.detectors import Observation


class LossWatchDog(Rival):
    """axolotl's ``LossWatchDogCallback``: three losses in a row above a threshold of the user's.

    It is off by default; here it is twice the first loss, which its documentation calls a good
    estimate. NaN passes.
    """

    def __init__(self, multiple: float = 2.0, patience: int = 3) -> None:
        self._multiple = multiple
        self._patience = patience
        self._threshold: float | None = None
        self._violations = 0

    def update(self, observation: Observation) -> str | None:
        loss = observation.values.get("loss")
        if loss is None:
            return None
        if self._threshold is None:
            self._threshold = self._multiple * loss
        self._violations = self._violations + 1 if loss > self._threshold else 0
        return UPSET if self._violations >= self._patience else None


class LossNotDecreasing(Rival):
    """SageMaker Debugger's ``LossNotDecreasing`` as documented (the rule itself is closed).

    Every 10 steps: the loss is not at least 0.1 % below the one 10 steps back.
    """

    def __init__(self, num_steps: int = 10, diff_percent: float = 0.1) -> None:
        self._num_steps = num_steps
        self._diff_percent = diff_percent
        self._before: float | None = None
        self._since = 0

    def update(self, observation: Observation) -> str | None:
        loss = observation.values.get("loss")
        if loss is None:
            return None
        if self._before is None:
            self._before = loss
            return None
        self._since += 1
        if self._since < self._num_steps:
            return None
        before, self._before, self._since = self._before, loss, 0
        decreased = before - loss >= self._diff_percent / 100 * abs(before)
        return None if decreased else NO_DECREASE


class DlibSlope(Rival):
    """dlib's ``dnn/trainer.h``: at each save, whether the loss has risen.

    A NaN among the losses; or a probability above 0.99 that a line through those of the last two
    intervals between saves rises, through all of them or without the largest tenth. Each finding
    brings the threshold nearer to 1 (at most 0.99999), so that reloads do not go in circles.

    dlib saves by the clock; here every 100 losses. It then reloads the saved state; a log goes on.
    """

    def __init__(self, every: int = 100, threshold: float = 0.99, most: float = 0.99999) -> None:
        self._every = every
        self._default = self._threshold = threshold
        self._most = most
        self._losses: deque[float] = deque(maxlen=2 * every)
        self._since = 0

    def update(self, observation: Observation) -> str | None:
        loss = observation.values.get("loss")
        if loss is None:
            return None
        self._losses.append(loss)
        self._since += 1
        if self._since < self._every:
            return None
        self._since = 0
        return UPSET if self._is_rising() else None

    def _is_rising(self) -> bool:
        losses = list(self._losses)
        if any(math.isnan(loss) for loss in losses):
            return True
        if len(losses) < 2 * self._every:
            return False
        tenth = sorted(losses)[round((len(losses) - 1) * 0.9)]
        rising = max(
            probability_of_rise(losses),
            probability_of_rise([loss for loss in losses if loss <= tenth]),
        )
        if rising > self._threshold and self._threshold <= self._most:
            self._threshold = 0.1 * self._threshold + 0.9
            return True
        self._threshold = max(self._threshold**10, self._default)
        return False


def probability_of_rise(values: list[float]) -> float:
    """That the slope of the least-squares line is above 0, were the noise Gaussian."""
    n = len(values)
    if n <= 2 or not all(map(math.isfinite, values)):
        return 0.5
    middle = (n - 1) / 2
    spread = n * (n * n - 1) / 12
    mean = sum(values) / n
    slope = sum((i - middle) * (value - mean) for i, value in enumerate(values)) / spread
    residual = sum((v - mean - slope * (i - middle)) ** 2 for i, v in enumerate(values))
    error = math.sqrt(residual / (n - 2) / spread)
    if error == 0:
        return 0.5 if slope == 0 else float(slope > 0)
    return 0.5 * math.erfc(-slope / error / math.sqrt(2))
