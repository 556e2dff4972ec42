"""Rules on the validation loss."""

from __future__ import annotations

import math
from collections import deque

from benchmarks.rivals.base import PROGRESS, UPSET, VALIDATION, Rival
from lossguard.detectors import Observation


class LightningEarlyStopping(Rival):
    """Lightning's ``callbacks/early_stopping.py`` on the validation loss: not finite, or not below
    the best for 3 validations (min_delta 0); ``divergence_threshold`` is None by default.

    The run ends there; here it is said once in each stretch without a new best.
    """

    def __init__(self, patience: int = 3) -> None:
        self._patience = patience
        self._best = math.inf
        self._wait = 0

    def update(self, observation: Observation) -> str | None:
        loss = observation.values.get("val_loss")
        if loss is None:
            return None
        if not math.isfinite(loss):
            return UPSET
        if loss < self._best:
            self._best = loss
            self._wait = 0
            return None
        self._wait += 1
        return VALIDATION if self._wait == self._patience else None


class Overfit(Rival):
    """SageMaker Debugger's ``Overfit`` as documented: ``(val - train) / train > 0.1``, patience 1.

    ``train`` is the mean training loss since the last validation. Said once while it lasts.
    """

    def __init__(self, ratio: float = 0.1, patience: int = 1) -> None:
        self._ratio = ratio
        self._patience = patience
        self._sum = 0.0
        self._count = 0
        self._times = 0

    def update(self, observation: Observation) -> str | None:
        loss = observation.values.get("loss")
        if loss is not None:
            self._sum += loss
            self._count += 1
        val_loss = observation.values.get("val_loss")
        if val_loss is None or not self._count:
            return None
        train = self._sum / self._count
        self._sum, self._count = 0.0, 0
        over = train != 0 and (val_loss - train) / train > self._ratio
        self._times = self._times + 1 if over else 0
        # Patience is how often it is tolerated.
        return VALIDATION if self._times == self._patience + 1 else None


class AutoTrainer(Rival):
    """AutoTrainer's ``utils/monitor.py``, of which two rules work on plain numbers.

    NaN, Inf or a validation loss of 1000 or more; and every 3rd epoch, swings: local maxima at
    least 0.03 above the minima of the same number, one or more in five epochs, from 10 epochs on
    (it knows the length of a run and waits for 30 %). It looks at accuracies, one an epoch; in a
    log of losses the number that comes once an epoch is the validation loss.
    """

    def __init__(self, swing: float = 0.03, rate: float = 0.2, explosion: float = 1e3) -> None:
        self._swing = swing
        self._rate = rate
        self._explosion = explosion
        self._last: deque[float] = deque(maxlen=3)
        self._maxima: deque[float] = deque()
        self._minima: deque[float] = deque()
        self._swings = 0
        self._epochs = 0

    def update(self, observation: Observation) -> str | None:
        loss = observation.values.get("val_loss")
        if not math.isfinite(observation.values.get("loss", 0.0)):
            return UPSET
        if loss is None:
            return None
        if not math.isfinite(loss) or loss >= self._explosion:
            return UPSET
        self._epochs += 1
        self._last.append(loss)
        self._count_swings()
        if self._epochs % 3 or self._epochs < 10:
            return None
        return PROGRESS if self._swings >= self._rate * self._epochs else None

    def _count_swings(self) -> None:
        if len(self._last) < 3:
            return
        before, here, after = self._last
        if here >= before and here >= after:
            self._maxima.append(here)
        if here <= before and here <= after:
            self._minima.append(here)
        while self._maxima and self._minima:
            self._swings += self._maxima.popleft() - self._minima.popleft() >= self._swing
