"""Weights that grow without end or jump, and updates that are out of proportion to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from lossguard.detectors.base import Family, Finding, Observation, Severity, Symptom
from lossguard.detectors.layer_blocks import LayerBlocks
from lossguard.detectors.layer_growth import LayerRise, figures_of, find_growth, rise_of
from lossguard.detectors.located import LocatedDetector
from lossguard.detectors.measured import measured
from lossguard.detectors.rewinding import Inputs
from lossguard.detectors.suspects import Suspect, Suspects
from lossguard.detectors.thresholds import require_above, require_at_least
from lossguard.detectors.warm_up import WarmUp
from lossguard.detectors.weight_bands import Material, above, below, embeddings_beyond
from lossguard.detectors.weight_jump import WeightJump

_CALM_BLOCKS = 3
_CALM_SAMPLES = 2
_AFTER_A_JUMP = 8
"""Samples after which a jump is over: the weight stands where it stands."""
_START = 128
"""Observations that belong to the very start of a run, in which updates are large."""
_DECAYED = 0.01
"""Learning rate over its peak below which updates are small by right."""
_SIGNS = ("embedding", "high", "low")


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightGrowthConfig:
    """Thresholds. Sources in the docstring of ``WeightGrowth``."""

    settle: int = 512
    """Observations that belong to the beginning of a run, in which weights that are small at
    first grow [count, >= 64]; twice the warm-up of the learning rate where that is longer."""
    growth: float = 3.0
    """Growth of a norm over its settled level worth an info [> 1]."""
    strong_growth: float = 6.0
    """The same, worth a warning [>= growth]."""
    jump: float = 1.5
    """Growth of a norm from a sample to the next worth a warning [> 1]."""
    material: float = 0.01
    """Norm of a parameter over the largest of the model from which it is judged [>= 0]: biases
    and what was zero at first are left out."""
    most_update: float = 0.1
    """L2 norm of the update over that of the weight worth a warning [> 0]; about 1e-3 is usual."""
    least_update: float = 1e-8
    """The same, so small that float32 hardly changes, worth an info [>= 0]: SageMaker's."""
    samples: int = 4
    """Samples in a row of either [count, >= 2]; live, one is taken every 16 steps."""
    embedding_norm: float | None = None
    """L2 norm of an embedding worth a warning [> 0]. None: embeddings are judged like the rest,
    for their norm grows with the square root of the vocabulary."""

    def __post_init__(self) -> None:
        require_at_least(self, settle=64, samples=2, material=0, least_update=0)
        require_above(self, growth=1.0, jump=1.0)
        if not self.strong_growth >= self.growth:
            raise ValueError(f"strong_growth {self.strong_growth} must be >= {self.growth}")
        if not self.most_update > self.least_update:
            raise ValueError(f"most_update {self.most_update} must be > {self.least_update}")
        if self.embedding_norm is not None and not self.embedding_norm > 0.0:
            raise ValueError(f"embedding_norm must be > 0, got {self.embedding_norm}")


class WeightGrowth(LocatedDetector):
    """Report a parameter whose norm, or whose update, is out of its band.

    The norm grows by ``growth`` over its settled level, unbroken and at least linearly in time
    (``find_growth``): an info, from ``strong_growth`` on a warning. It jumps by ``jump`` after four
    samples within 10 % and stays up for two: a warning. It is an embedding's and above
    ``embedding_norm``, where that is set: a warning.

    The update is more than ``most_update`` of the weight in ``samples`` samples in a row, after the
    first 128 observations: a warning. Or it is above zero and below ``least_update``, while the
    learning rate has not decayed: an info. Sources: SageMaker Debugger, rule WeightUpdateRatio
    (10 and 1e-8); 1e-3 as the usual ratio is Karpathy's and Bottou's rule of thumb.
    Parameters smaller than ``material`` of the largest are left out, and biases.
    """

    symptom: ClassVar[Symptom] = Symptom.WEIGHT_GROWTH
    inputs: ClassVar[tuple[str, ...]] = ("weight_norm", "update_ratio")

    def __init__(self, config: WeightGrowthConfig | None = None) -> None:
        super().__init__()
        c = self.config = config or WeightGrowthConfig()
        self._blocks = LayerBlocks()
        self._jump = WeightJump(c.jump)
        self._warm_up = WarmUp(c.settle)
        self._suspects = {sign: Suspects(c.samples) for sign in _SIGNS}
        self._names: Sequence[str] = ()
        self._material = Material(c.material)

    def inputs_of(self, observation: Observation) -> Inputs | None:
        """Growth at the end of a block, a jump, and the layers out of their bands."""
        blocks = self._blocks
        blocks.tick()
        lr = observation.get("lr")
        self._warm_up.push(blocks.ticks, lr)
        norms = measured(observation, "weight_norm")
        ratios = measured(observation, "update_ratio")
        if norms is None and ratios is None:
            return None
        figures: list[float | None] = [None] * 9
        found: dict[str, dict[int, float]] = {sign: {} for sign in _SIGNS}
        if norms is not None:
            figures[:5] = self._growth(observation.step, norms)
            figures[5:] = self._jumped(observation.step, norms)
            if self.config.embedding_norm is not None:
                found["embedding"] = embeddings_beyond(norms, self.config.embedding_norm)
        if ratios is not None:
            found["high"], found["low"] = self._out_of_band(ratios, lr)
        counts = [float(len(layers)) for layers in found.values()]
        pairs = [figure for layers in found.values() for pair in layers.items() for figure in pair]
        measures = [float(norms is not None), float(ratios is not None)]
        return (*figures, *measures, *counts, *pairs)

    def judge(self, step: int, inputs: Inputs) -> Finding | None:
        """Take in a sample."""
        said = self._grown(step, rise_of(inputs[:5])) if inputs[0] is not None else None
        said = said or self._has_jumped(step, inputs[5:9])
        present = {"embedding": inputs[9], "high": inputs[10], "low": inputs[10]}
        at = 11 + len(_SIGNS)
        for sign, count in zip(_SIGNS, inputs[11:at], strict=True):
            end = at + 2 * int(count or 0)
            pairs = inputs[at:end]
            at = end
            if not present[sign]:
                continue
            layers = {int(i or 0): x or 0.0 for i, x in zip(pairs[::2], pairs[1::2], strict=True)}
            suspect = self._suspects[sign].push(step, layers)
            self._suspects[sign].pass_by(step)
            said = said or self._is_out(step, sign, suspect)
        return said

    def save(self) -> dict[str, Any]:
        """The state that ``judge`` works on."""
        suspects = {sign: known.state() for sign, known in self._suspects.items()}
        return super().save() | {"suspects": suspects}

    def load(self, saved: Mapping[str, Any]) -> None:
        """Put back what ``save`` gave."""
        super().load(saved)
        for sign, known in saved["suspects"].items():
            self._suspects[sign].restore(known)

    def state(self) -> dict[str, Any]:
        """Everything it knows, as plain data."""
        return super().state() | {
            "blocks": self._blocks.state(),
            "jump": self._jump.state(),
            "warm_up": self._warm_up.state(),
            "material": self._material.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take the place of the detector that ``state`` came from."""
        super().restore(state)
        self._blocks.restore(state["blocks"])
        self._jump.restore(state["jump"])
        self._warm_up.restore(state["warm_up"])
        self._material.restore(state["material"])

    def rewind(self, step: int) -> None:
        """Forget the observations of steps after ``step``, and the block they began in."""
        self._blocks.rewind(step)
        self._jump.clear()
        super().rewind(step)

    def drop_episode(self) -> None:
        """Forget the open episode, silently."""
        super().drop_episode()
        for suspects in self._suspects.values():
            suspects.clear()

    def _growth(self, step: int, norms: Family) -> list[float | None]:
        self._names = norms.names
        self._material.learn(norms)
        if not self._blocks.push(step, norms.values, norms.missing):
            return [None] * 5
        settled, eligible = self._warm_up.settled_tick, self._material.among(norms.names)
        known = self._blocks.known()
        return figures_of(find_growth(known, settled, self.config.growth, eligible))

    def _jumped(self, step: int, norms: Family) -> list[float | None]:
        eligible = self._material.among(norms.names)
        values = np.where(eligible & ~norms.missing, norms.values, np.nan).astype(np.float32)
        jump = self._jump.push(step, values)
        return [None] * 4 if jump is None or self._blocks.ticks <= _START else list(jump)

    def _out_of_band(
        self, ratios: Family, lr: float | None
    ) -> tuple[dict[int, float], dict[int, float]]:
        """The layers whose update is too large, and those whose update is too small."""
        if self._blocks.ticks <= _START:
            return {}, {}
        self._names = ratios.names
        eligible = self._material.among(ratios.names)
        high = above(ratios, eligible, self.config.most_update)
        if lr is not None and not lr > _DECAYED * self._warm_up.peak:
            return high, {}
        return high, below(ratios, eligible, self.config.least_update)

    def _grown(self, step: int, rise: LayerRise | None) -> Finding | None:
        if rise is None:
            words = f"{self._where} no longer grows"
            return self.calm(step, _CALM_BLOCKS, words) if self.open_kind == "growth" else None
        where, config = self._name(rise.index), self.config
        return self.blame(
            where,
            step,
            Severity.WARNING if rise.times >= config.strong_growth else Severity.INFO,
            rise.times / config.growth,
            f"{where} keeps growing: its norm is {rise.after:.3g} where it was {rise.before:.3g}"
            f" ({rise.times:.3g} times)",
            kind="growth",
            metric="weight_norm",
            onset=rise.since,
            evidence={"before": rise.before, "after": rise.after},
        )

    def _has_jumped(self, step: int, jump: Inputs) -> Finding | None:
        index, before, after, since = jump
        if index is None or before is None or after is None or since is None:
            words = f"{self._where} stays where it is"
            return self.calm(step, _AFTER_A_JUMP, words) if self.open_kind == "jump" else None
        where = self._name(int(index))
        return self.blame(
            where,
            step,
            Severity.WARNING,
            after / (before * self.config.jump),
            f"{where} jumped: its norm is {after:.3g} where it was {before:.3g}",
            kind="jump",
            metric="weight_norm",
            onset=int(since),
            evidence={"before": before, "after": after},
        )

    def _is_out(self, step: int, sign: str, suspect: Suspect | None) -> Finding | None:
        if suspect is None:
            words = f"{self._where} is back in its band"
            return self.calm(step, _CALM_SAMPLES, words) if self.open_kind == sign else None
        where, value, config = self._name(suspect.index), suspect.value, self.config
        if sign == "embedding":
            score = value / (config.embedding_norm or value)
            text = f"the norm of the embedding {where} is {value:.3g}"
        else:
            score = value / config.most_update if sign == "high" else config.least_update / value
            text = f"a step changes {where} by {value:.2g} of its size, about 0.001 is usual"
        return self.blame(
            where,
            step,
            Severity.INFO if sign == "low" else Severity.WARNING,
            score,
            text,
            kind=sign,
            metric="weight_norm" if sign == "embedding" else "update_ratio",
            onset=suspect.since,
            evidence={"value": value},
        )

    def _name(self, index: int) -> str:
        return self._names[index] if index < len(self._names) else ""
