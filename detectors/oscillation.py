"""A loss that swings up and down without coming down."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from lossguard.detectors.base import Finding, Observation, Severity, Symptom
from lossguard.detectors.episodic import EpisodicDetector
from lossguard.detectors.grain import Grain, row_inputs
from lossguard.detectors.rewinding import Inputs
from lossguard.detectors.streaming import median
from lossguard.detectors.swing_watch import Swing, SwingRule, SwingWatch
from lossguard.detectors.swings import reversals, stretch
from lossguard.detectors.thresholds import require_above, require_at_least

_COARSE = 8
"""Losses of which the coarse scale takes the median."""
_EPOCHS = 2
"""Place of the epochs beside the two scales."""
_FEW_EPOCHS = 20
"""Epochs before the first verdict."""
_CALM_EPOCHS = 6
"""Looks without swings that end an episode in a log of epochs."""
_FIRST = 16
"""First losses that are kept."""
_LARGEST = 1e30
"""Losses are clipped to it, so that their squares stay finite."""
_LR_RANGE = 1.2
"""Highest over lowest learning rate that explains swings, if it falls and rises."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OscillationConfig:
    """Thresholds. Sources in the docstring of ``Oscillation``."""

    window: int = 128
    """Losses that are looked at together, at each of the two scales [observations, >= 64]."""
    amplitude: float = 0.05
    """Half of the swing, relative to the level [> 0]."""
    of_descent: float = 0.02
    """The same, relative to the descent of the run so far [>= 0]."""
    times: float = 2.5
    """The same, in units of what was usual before [> 1]."""
    regularity: float = 0.5
    """Share of the power around one frequency [0.3 <= x < 1]; white noise has 0.16."""
    wild: float = 0.5
    """Half of a swing without any frequency, relative to the level [> 0]."""
    wild_of_descent: float = 0.8
    """The same, relative to the descent of the run so far [>= 0]: it loses in a moment what it has
    gained in all."""
    wild_growth: float = 3.0
    """The same, in sigmas of the noise among the first 16 losses [> 0]: a run with batches of
    one is noisy from its start."""
    epochs: int = 24
    """Epochs that are looked at together, where each row of a log is one [>= 16]."""
    epoch_swing: float = 0.15
    """Height of a swing from epoch to epoch, relative to the level [> 0]."""
    epoch_reversals: float = 0.25
    """Swings, as a share of the epochs [0 < x < 1]: AutoTrainer takes 0.2."""

    def __post_init__(self) -> None:
        require_at_least(self, window=64, of_descent=0, wild_of_descent=0, epochs=16)
        require_above(self, amplitude=0, wild=0, wild_growth=0, epoch_swing=0)
        if not self.times > 1.0:
            raise ValueError(f"times must be > 1, got {self.times}")
        if not 0.3 <= self.regularity < 1.0:
            raise ValueError(f"regularity must be in [0.3, 1), got {self.regularity}")
        if not 0.0 < self.epoch_reversals < 1.0:
            raise ValueError(f"epoch_reversals must be in (0, 1), got {self.epoch_reversals}")


class Oscillation(EpisodicDetector):
    """Swings that are large against the run's own past, regular, and lead nowhere.

    In windows of 128 losses, and of 128 medians of eight losses, ``SwingWatch`` asks for an
    amplitude of ``amplitude`` of the level and ``times`` the usual, for ``regularity`` (share of
    the periodogram's power around its peak, periods of 2 to 21: what Lomb and Scargle's gives at
    equal distances), and for no progress. Two looks in a row, a quarter window apart, make a
    warning. White noise is not regular; data sets that take turns have always
    swung as much; a learning rate that falls and rises within the window explains it.

    Swings without a frequency count where they have grown to ``wild_growth`` of the noise among the
    first losses, are ``wild`` of the level, and lose and gain ``wild_of_descent`` of all that the
    run has come down: too few samples, or too high a rate, for any progress to last. On 146 public
    logs no window comes near.

    In a log of epochs (see ``Grain``) a loss is a mean over many batches, and noise that large is
    a swing: the last ``epochs`` losses turn round ``epoch_reversals`` of the time by at least
    ``epoch_swing`` of the level without progress (after AutoTrainer: Zhang et al., ICSE 2021).

    The onset is where the deviations from the level grew (``change_point``). The episode ends
    when half a window swings by less than half as much.
    """

    symptom: ClassVar[Symptom] = Symptom.OSCILLATION
    inputs: ClassVar[tuple[str, ...]] = ("loss",)

    def __init__(self, config: OscillationConfig | None = None) -> None:
        super().__init__()
        c = self.config = config or OscillationConfig()
        rule = SwingRule(
            window=c.window,
            amplitude=c.amplitude,
            of_descent=c.of_descent,
            times=c.times,
            regularity=c.regularity,
            wild=c.wild,
            wild_of_descent=c.wild_of_descent,
            wild_growth=c.wild_growth,
        )
        self._grain = Grain()
        self._scales = (SwingWatch(rule), SwingWatch(replace(rule, wild=math.inf)))
        self._hits = [0, 0, 0]
        self._chunk: list[float] = []
        self._rates: tuple[deque[float | None], ...] = (
            deque(maxlen=c.window),
            deque(maxlen=c.window),
        )
        self._epochs: deque[tuple[int, float]] = deque(maxlen=c.epochs)
        self._first: list[float] = []
        self._scale = 0
        self._amplitude = 0.0
        self._calm = 0

    def inputs_of(self, observation: Observation) -> Inputs | None:
        """Loss, learning rate, validation loss and epoch, where there is a loss."""
        return row_inputs(observation)

    def judge(self, step: int, inputs: Inputs) -> Finding | None:
        """Take in one row."""
        loss, lr, val, epoch = inputs
        self._grain.push(loss, val, epoch)
        if loss is None:
            return None
        loss = min(max(loss, -_LARGEST), _LARGEST)
        if len(self._first) < _FIRST:
            self._first.append(loss)
        self._rates[0].append(lr)
        self._epochs.append((step, loss))
        due = [self._scales[0].push(step, loss), False]
        self._chunk.append(loss)
        if len(self._chunk) == _COARSE:
            self._rates[1].append(lr)
            due[1] = self._scales[1].push(step, median(self._chunk))
            self._chunk.clear()
        if self._grain.epochs:
            found = self._look_at_epochs(step)
            if found is not None:
                return found
        for scale in (0, 1):
            if due[scale]:
                found = self._look(step, scale)
                if found is not None:
                    return found
        return None

    def save(self) -> dict[str, Any]:
        """The state that ``judge`` works on."""
        return super().save() | {
            "grain": self._grain.state(),
            "scales": [watch.state() for watch in self._scales],
            "hits": list(self._hits),
            "chunk": list(self._chunk),
            "rates": [list(rates) for rates in self._rates],
            "epochs": [list(entry) for entry in self._epochs],
            "first": list(self._first),
            "open": [self._scale, self._amplitude, self._calm],
        }

    def load(self, saved: Mapping[str, Any]) -> None:
        """Put back what ``save`` gave."""
        super().load(saved)
        self._grain.restore(saved["grain"])
        for watch, state in zip(self._scales, saved["scales"], strict=True):
            watch.restore(state)
        self._hits = list(saved["hits"])
        self._chunk = list(saved["chunk"])
        self._rates = tuple(deque(rates, maxlen=self.config.window) for rates in saved["rates"])
        self._epochs = deque(((s, x) for s, x in saved["epochs"]), maxlen=self.config.epochs)
        self._first = list(saved["first"])
        self._scale, self._amplitude, self._calm = saved["open"]

    def drop_episode(self) -> None:
        """Forget the open episode, silently."""
        super().drop_episode()
        self._hits = [0, 0, 0]

    def _look(self, step: int, scale: int) -> Finding | None:
        """Look at one of the two scales."""
        watch = self._scales[scale]
        if self._episode is not None:
            if scale != self._scale:
                return None
            return self._follow(step, watch.calmed(self._amplitude))
        descent = max(median(self._first[:3]) - self._scales[0].best, 0.0)
        swing = watch.look(self._first, descent)
        return self._judged(step, scale, swing, self._rates[scale])

    def _look_at_epochs(self, step: int) -> Finding | None:
        """Look at the last epochs, every second one."""
        config = self.config
        if len(self._epochs) < min(_FEW_EPOCHS, config.epochs) or self._scales[0].count % 2:
            return None
        losses = [loss for _, loss in self._epochs]
        seen = stretch(losses)
        if seen is None:
            return None
        descent = max(median(self._first[:3]) - min(losses), 0.0)
        height = max(config.epoch_swing, config.of_descent * descent / abs(seen.level))
        turns = reversals(list(seen.residuals), height)
        swings = turns >= config.epoch_reversals * len(losses) and not seen.falls
        if self._episode is not None:
            return self._follow(step, not swings) if self._scale == _EPOCHS else None
        swing = None
        if swings:
            period = 2.0 * len(losses) / (turns + 1)
            swing = Swing(self._epochs[0][0], seen, 0.0, period)
        return self._judged(step, _EPOCHS, swing, deque(self._rates[0], maxlen=config.epochs))

    def _judged(
        self, step: int, scale: int, swing: Swing | None, rates: Sequence[float | None]
    ) -> Finding | None:
        """Open an episode at the second look in a row that saw swings."""
        if swing is None or _explain(rates):
            self._hits[scale] = 0
            return None
        self._hits[scale] += 1
        if self._hits[scale] < 2:
            return None
        seen = swing.seen
        self._scale, self._amplitude, self._calm = scale, seen.amplitude, 0
        usual = max(self.config.times * swing.usual, self.config.amplitude)
        period = swing.period * (_COARSE if scale == 1 else 1)
        often = f"once in some {period:.3g} observations" if period else "ever more"
        return self.hit(
            step,
            Severity.WARNING,
            seen.amplitude / usual,
            f"the loss swings between {seen.low:.4g} and {seen.high:.4g}, {often}, and does "
            "not come down",
            onset=swing.since,
            evidence={"low": seen.low, "high": seen.high, "period": period},
        )

    def _follow(self, step: int, calm: bool) -> Finding | None:
        """Let the episode go on, or end it."""
        episode = self._episode
        assert episode is not None
        if not calm:
            episode.hit(step, episode.score)
            self._calm = 0
            return None
        self._calm += 1
        if self._calm < (_CALM_EPOCHS if self._scale == _EPOCHS else 2):
            return None
        self._hits = [0, 0, 0]
        return self.end(step, "the loss no longer swings")


def _explain(rates: Sequence[float | None]) -> bool:
    """Whether the learning rate falls and rises again, and so explains swings."""
    known = [rate for rate in rates if rate is not None and rate > 0.0 and math.isfinite(rate)]
    if len(known) < 3 or max(known) < _LR_RANGE * min(known):
        return False
    return reversals([math.log(rate) for rate in known], math.log(_LR_RANGE)) > 0
