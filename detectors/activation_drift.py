"""Activations, or logits, that grow and grow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from lossguard.detectors.base import Finding, Observation, Severity, Symptom
from lossguard.detectors.layer_blocks import LayerBlocks
from lossguard.detectors.layer_growth import LayerRise, figures_of, find_growth, find_jump, rise_of
from lossguard.detectors.located import LocatedDetector
from lossguard.detectors.measured import measured
from lossguard.detectors.rewinding import Inputs
from lossguard.detectors.thresholds import require_above
from lossguard.detectors.warm_up import WarmUp

_CALM_BLOCKS = 3
"""Blocks in a row without growth that end an episode."""
_ONE = np.ones(1, np.bool_)
_PRESENT = np.zeros(1, np.bool_)
_MOST = 1e30
"""Logits above are no measurement."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ActivationDriftConfig:
    """Thresholds. Sources in the docstring of ``ActivationDrift``."""

    settle: int = 512
    """Observations that belong to the beginning of a run, in which activations may grow tenfold
    and be well [count, >= 64]; twice the warm-up of the learning rate where that is longer."""
    growth: float = 4.0
    """Growth over the settled level worth an info [> 1]."""
    strong_growth: float = 10.0
    """The same, worth a warning [>= growth]; a jump of that size too."""
    logit_growth: float = 2.0
    """Growth of the logits' log-sum-exp worth a warning [> 1] ..."""
    logit_least: float = 15.0
    """... from that size on [nat, >= 0]: the log of a vocabulary is about 10."""
    logit_most: float = 50.0
    """Size from which any growth of it is worth a warning [nat, >= logit_least]."""

    def __post_init__(self) -> None:
        if self.settle < 64:
            raise ValueError(f"settle must be >= 64, got {self.settle}")
        require_above(self, growth=1.0, logit_growth=1.0)
        if not self.strong_growth >= self.growth:
            raise ValueError(f"strong_growth {self.strong_growth} must be >= {self.growth}")
        if not 0.0 <= self.logit_least <= self.logit_most:
            raise ValueError(
                f"0 <= logit_least <= logit_most must hold, got {self.logit_least} and"
                f" {self.logit_most}"
            )


class ActivationDrift(LocatedDetector):
    """Report activations whose root mean square grows without end, and logits that do.

    Over block medians of each module (``LayerBlocks``): growth by ``growth`` over the settled level
    that goes on unbroken, at least linear in time (``find_growth``; Mann-Kendall's tau), is an
    info, by ``strong_growth`` a warning; so is a jump by ``strong_growth`` that stays for three
    blocks. What grows like the square root of time, as weights that walk at random do, is well.

    ``logit_z``, the mean of abs(log-sum-exp): growth by ``logit_growth`` to more than
    ``logit_least``, or any growth above ``logit_most``, is a warning. Sources: the divergence of
    output logits and the growth of attention logits in Wortsman et al., "Small-scale proxies for
    large-scale Transformer training instabilities", ICLR 2024, and the z-loss of PaLM (Chowdhery
    et al., JMLR 24, 2023); the factors are ours.
    """

    symptom: ClassVar[Symptom] = Symptom.ACTIVATION_DRIFT
    inputs: ClassVar[tuple[str, ...]] = ("act_rms", "logit_z")

    def __init__(self, config: ActivationDriftConfig | None = None) -> None:
        super().__init__()
        self.config = config or ActivationDriftConfig()
        self._modules = LayerBlocks()
        self._logits = LayerBlocks()
        self._warm_up = WarmUp(self.config.settle)
        self._names: Sequence[str] = ()

    def inputs_of(self, observation: Observation) -> Inputs | None:
        """At the end of a block: what grew among the modules, and whether the logits did.

        None where nothing did, unless an episode waits to hear it.
        """
        modules, logits = self._modules, self._logits
        modules.tick()
        logits.tick()
        self._warm_up.push(modules.ticks, observation.get("lr"))
        found: list[float | None] = [None] * 10
        family = measured(observation, "act_rms") if modules.is_due() else None
        if family is not None and modules.push(observation.step, family.values, family.missing):
            self._names = family.names
            found[:5] = figures_of(self._growing_module())
        z = observation.get("logit_z") if logits.is_due() else None
        if z is not None and not 0.0 <= z < _MOST:
            z = None
        if z is not None and logits.push(observation.step, np.array([z], np.float32), _PRESENT):
            found[5:] = figures_of(self._growing_logits())
        rose = any(index is not None and index >= 0.0 for index in (found[0], found[5]))
        ended = found[0] is not None or found[5] is not None
        return tuple(found) if rose or (ended and self._episode is not None) else None

    def judge(self, step: int, inputs: Inputs) -> Finding | None:
        """Take in the end of a block."""
        said = self._modules_said(step, rise_of(inputs[:5])) if inputs[0] is not None else None
        if said is not None or inputs[5] is None:
            return said
        return self._logits_said(step, rise_of(inputs[5:]))

    def state(self) -> dict[str, Any]:
        """Everything it knows, as plain data."""
        return super().state() | {
            "modules": self._modules.state(),
            "logits": self._logits.state(),
            "warm_up": self._warm_up.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take the place of the detector that ``state`` came from."""
        super().restore(state)
        self._modules.restore(state["modules"])
        self._logits.restore(state["logits"])
        self._warm_up.restore(state["warm_up"])

    def rewind(self, step: int) -> None:
        """Forget the observations of steps after ``step``, and the block they began in."""
        self._modules.rewind(step)
        self._logits.rewind(step)
        super().rewind(step)

    def _growing_module(self) -> LayerRise | None:
        config, blocks, settled = self.config, self._modules.known(), self._warm_up.settled_tick
        every = np.ones(len(self._names), np.bool_)
        jump = find_jump(blocks, settled, config.strong_growth, every)
        return jump or find_growth(blocks, settled, config.growth, every)

    def _growing_logits(self) -> LayerRise | None:
        config, blocks, settled = self.config, self._logits.known(), self._warm_up.settled_tick
        rise = find_growth(blocks, settled, config.logit_growth, _ONE)
        if rise is not None and rise.after >= config.logit_least:
            return rise
        rise = find_growth(blocks, settled, 1.2, _ONE)
        return rise if rise is not None and rise.after >= config.logit_most else None

    def _modules_said(self, step: int, rise: LayerRise | None) -> Finding | None:
        if rise is None:
            words = f"the activations of {self._where} no longer grow"
            return self.calm(step, _CALM_BLOCKS, words) if self.open_kind == "act_rms" else None
        where = self._names[rise.index] if rise.index < len(self._names) else ""
        strong = rise.times >= self.config.strong_growth
        way = "jumped" if rise.jump else "keep growing"
        return self.blame(
            where,
            step,
            Severity.WARNING if strong else Severity.INFO,
            rise.times / self.config.growth,
            f"the activations of {where} {way}: their size is {rise.after:.3g} where it was"
            f" {rise.before:.3g} ({rise.times:.3g} times)",
            **_of(rise, "act_rms"),
        )

    def _logits_said(self, step: int, rise: LayerRise | None) -> Finding | None:
        if rise is None:
            words = "the logits no longer grow"
            return self.calm(step, _CALM_BLOCKS, words) if self.open_kind == "logit_z" else None
        return self.blame(
            "",
            step,
            Severity.WARNING,
            rise.times / self.config.logit_growth,
            f"the logits keep growing: the log of the sum of their exponentials is"
            f" {rise.after:.3g} where it was {rise.before:.3g}",
            **_of(rise, "logit_z"),
        )


def _of(rise: LayerRise, metric: str) -> dict[str, Any]:
    """What a finding about a rise of ``metric`` says besides its words."""
    evidence = {"before": rise.before, "after": rise.after}
    return {"kind": metric, "metric": metric, "onset": rise.since, "evidence": evidence}
