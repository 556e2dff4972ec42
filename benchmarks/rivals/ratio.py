"""Rules that compare the loss with a multiple of a mean or a maximum."""

from __future__ import annotations

import math

from benchmarks.rivals.base import NO_DECREASE, UPSET, Rival, Window, not_finite
from lossguard.detectors import Observation


class LightningSpike(Rival):
    """Lightning's ``fabric/utilities/spike.py``.

    Spike if the loss is above the one before and ``|loss - mean10| >= 2 mean10``, so from three
    times the mean; not finite is a spike. Spikes stay out of the mean. Warm-up: one batch.
    """

    def __init__(self, window: int = 10, rtol: float = 2.0) -> None:
        self._losses = Window(window)
        self._rtol = rtol
        self._last = 0.0

    def update(self, observation: Observation) -> str | None:
        loss = observation.values.get("loss")
        if loss is None:
            return None
        if len(self._losses) and self._is_spike(loss):
            return UPSET
        self._losses.push(loss)
        self._last = loss
        return None

    def _is_spike(self, loss: float) -> bool:
        if not math.isfinite(loss):
            return True
        mean = float(self._losses.values.mean())
        return loss > self._last and abs(loss - mean) >= abs(self._rtol * mean)


class KillLossSpike(Rival):
    """LLM-Foundry's ``kill_loss_spike_callback.py``.

    Once 100 losses are in the window: ``loss >= 2 mean`` more than 4 times in a row; or, after 200
    steps, half of the window above the cap of 10. Outliers enter the window, and a NaN makes the
    mean NaN, so that for 100 steps nothing is said.
    """

    def __init__(
        self, window: int = 100, multiple: float = 2.0, patience: int = 4, cap: float = 10.0
    ) -> None:
        self._losses = Window(window)
        self._multiple = multiple
        self._patience = patience
        self._cap = cap
        self._outliers = 0
        self._steps = 0

    def update(self, observation: Observation) -> str | None:
        loss = observation.values.get("loss")
        if loss is None:
            return None
        self._steps += 1
        alarm = self._losses.full and (self._is_spike(loss) or self._is_high())
        self._losses.push(loss)
        return UPSET if alarm else None

    def _is_spike(self, loss: float) -> bool:
        if loss >= float(self._losses.values.mean()) * self._multiple:
            self._outliers += 1
        else:
            self._outliers = 0
        return self._outliers > self._patience

    def _is_high(self) -> bool:
        high = int((self._losses.values > self._cap).sum())
        return self._steps > 2 * self._losses.size and high >= self._losses.size / 2


class MegatronTenfold(Rival):
    """Megatron's ``rerun_state_machine.py``: NaN or Inf (on by default), and a loss or gradient
    norm at least 10 times the largest of its first 100 samples (off by default; on here).
    """

    def __init__(self, threshold: float = 10.0, num_samples: int = 100) -> None:
        self._threshold = threshold
        self._num_samples = num_samples
        self._counts = {"loss": 0, "grad_norm": 0}
        self._largest = {"loss": 0.0, "grad_norm": 0.0}

    def update(self, observation: Observation) -> str | None:
        if not_finite(observation):
            return UPSET
        large = [
            self._is_large(metric, abs(observation.values[metric]))
            for metric in self._counts
            if metric in observation.values
        ]
        return UPSET if any(large) else None

    def _is_large(self, metric: str, value: float) -> bool:
        if self._counts[metric] < self._num_samples:
            self._counts[metric] += 1
            self._largest[metric] = max(self._largest[metric], value)
            return False
        return value >= self._largest[metric] * self._threshold


class ThreeTimesMean(Rival):
    """What people write by hand: the loss is above 3 times the mean of the last 100 finite ones."""

    def __init__(self, window: int = 100, multiple: float = 3.0, min_samples: int = 10) -> None:
        self._losses = Window(window)
        self._multiple = multiple
        self._min_samples = min_samples

    def update(self, observation: Observation) -> str | None:
        loss = observation.values.get("loss")
        if loss is None or not math.isfinite(loss):
            return None
        alarm = (
            len(self._losses) >= self._min_samples
            and loss > float(self._losses.values.mean()) * self._multiple
        )
        self._losses.push(loss)
        return UPSET if alarm else None


class MetaseqEwm(Rival):
    """metaseq's ``trainer.py``: ``loss / EWM(span 9) > ratio``; spikes stay out of the EWM, NaN
    raises before it. The default ratio of -1 never lets the EWM move; 1.3 is used here.
    """

    def __init__(self, ratio: float = 1.3, span: int = 9) -> None:
        self._ratio = ratio
        self._alpha = 2.0 / (span + 1)
        self._ewm: float | None = None

    @property
    def ewm(self) -> float | None:
        """The moving average, as it is."""
        return self._ewm

    def update(self, observation: Observation) -> str | None:
        loss = observation.values.get("loss")
        if not_finite(observation):
            return UPSET
        if loss is None:
            return None
        if self._ewm is None:
            self._ewm = loss
        if self._ewm != 0 and loss / self._ewm > self._ratio:
            return UPSET
        self._ewm += self._alpha * (loss - self._ewm)
        return None


class Guarftrain(Rival):
    """guarftrain's ``monitor.py``: NaN or Inf; ``loss > 1.5 mean50`` (outliers enter the mean);
    stagnation where the first of the last 50 losses is less than 0.001 above the last.
    """

    def __init__(
        self, window: int = 50, spike_ratio: float = 0.5, stagnation: float = 0.001
    ) -> None:
        self._losses = Window(window)
        self._spike_ratio = spike_ratio
        self._stagnation = stagnation

    def update(self, observation: Observation) -> str | None:
        loss = observation.values.get("loss")
        if loss is None:
            return None
        if not math.isfinite(loss):
            return UPSET
        mean = float(self._losses.values.mean()) if len(self._losses) >= 3 else 0.0
        spike = mean > 0 and loss > mean * (1 + self._spike_ratio)
        self._losses.push(loss)
        if spike:
            return UPSET
        values = self._losses.values
        stagnant = self._losses.full and values[0] - values[-1] < self._stagnation
        return NO_DECREASE if stagnant else None
