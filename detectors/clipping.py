"""How often gradients are clipped, and the bound that their sizes ask for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from lossguard.detectors.base import Finding, Observation, Severity, Symptom
from lossguard.detectors.clip_blocks import ClipBlocks
from lossguard.detectors.episodic import EpisodicDetector
from lossguard.detectors.rewinding import Inputs
from lossguard.detectors.thresholds import require_at_least

_LARGEST = 1e30
"""Larger norms are an overflow that is not to shape the advice."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClippingConfig:
    """Thresholds. Sources in the docstring of ``Clipping``."""

    ideal_low: float = 0.01
    """Share of clipped steps from which on clipping does its work [0 <= share]."""
    ideal_high: float = 0.10
    """Share up to which it is the exception it should be [< too_often]."""
    too_often: float = 0.50
    """Share of clipped steps above which the bound has become a step size [< 1]."""
    block: int = 100
    """Steps that are counted together [observations, >= 10]."""
    high_blocks: int = 5
    """Blocks over which the share is too high [>= 2]; so must the last two be, each."""
    never_blocks: int = 20
    """Blocks without one clipped step after which clipping never acts [>= high_blocks]."""
    warm_up: int = 200
    """First steps, which do not count [observations, >= 0]."""
    warn_above: float | None = None
    """Median norm, in units of the bound, from which clipping too often is a warning [> 1].
    None: never, for many sound runs of large models clip at every step."""
    calm_p99: float = 5.0
    """99th percentile of the norms below which no clipping is needed [gradient units, > 0]."""
    wild_p99: float = 20.0
    """The same above which there is a cause to look for [>= calm_p99]."""
    usual_bound: float = 2.0
    """Largest bound that is advised in between [gradient units, > 0]; the least is wild_bound."""
    wild_bound: float = 1.0
    """Bound that is advised above [gradient units, > 0, <= usual_bound]."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.ideal_low <= self.ideal_high < self.too_often < 1.0:
            raise ValueError(
                "0 <= ideal_low <= ideal_high < too_often < 1 must hold, got "
                f"{self.ideal_low}, {self.ideal_high} and {self.too_often}"
            )
        require_at_least(self, block=10, high_blocks=2, never_blocks=self.high_blocks, warm_up=0)
        if self.warn_above is not None and not self.warn_above > 1.0:
            raise ValueError(f"warn_above must be > 1, got {self.warn_above}")
        if not 0.0 < self.calm_p99 <= self.wild_p99:
            raise ValueError(
                f"0 < calm_p99 <= wild_p99 must hold, got {self.calm_p99} and {self.wild_p99}"
            )
        if not 0.0 < self.wild_bound <= self.usual_bound:
            raise ValueError(
                "0 < wild_bound <= usual_bound must hold, got "
                f"{self.wild_bound} and {self.usual_bound}"
            )


class Clipping(EpisodicDetector):
    """Say when clipping acts on most steps, or on none, and which bound the norms ask for.

    clip rate = share of steps with grad_norm > max_norm, over blocks of 100 steps after the first
    200. A rate of 1-10 % is what clipping is for: it cuts the tail and leaves the rest alone. Over
    50 % in 500 steps, and in each of the last two blocks, is told until three blocks are below
    30 %. None at all in 2000 steps is told once for a bound. Both are a line, not a worry, unless
    ``warn_above`` says so: Adam does not see the size of its gradients, and many large models
    train well with every step clipped (GPT-3 and PaLM clip at 1.0).

    The advice goes by the 99th percentile of the norms of the last 2000 steps: below 5 no
    clipping is needed, up to 20 a bound that falls from 2 to 1, above 20 a bound of 1 and a look
    at the cause. In the evidence: ``p50``, ``p90``, ``p99``,
    ``clip_rate``, ``max_norm``, and ``advised_max_norm`` where one is needed.
    """

    symptom: ClassVar[Symptom] = Symptom.CLIPPING
    inputs: ClassVar[tuple[str, ...]] = ("grad_norm", "max_norm")

    def __init__(self, config: ClippingConfig | None = None) -> None:
        super().__init__()
        c = self.config = config or ClippingConfig()
        self._blocks = ClipBlocks(c.block, c.never_blocks)
        self._num_norms = 0
        self._max_norm = 0.0
        self._told_never = False

    def inputs_of(self, observation: Observation) -> Inputs | None:
        """Norm and bound, where both are sane."""
        values = observation.values
        bound = values.get("max_norm")
        if bound is None:
            return None
        norm = values.get("grad_norm")
        if norm is None or not 0.0 < norm < _LARGEST or not 0.0 < bound < _LARGEST:
            return None
        return norm, bound

    def judge(self, step: int, inputs: Inputs) -> Finding | None:
        """Take in one norm and its bound."""
        norm, bound = inputs
        assert norm is not None
        assert bound is not None
        if bound != self._max_norm:
            self._max_norm = bound
            self._told_never = False
        self._num_norms += 1
        if self._num_norms <= self.config.warm_up:
            return None
        return self._judge_blocks(step) if self._blocks.push(step, norm, bound) else None

    def save(self) -> dict[str, Any]:
        """The state that ``judge`` works on."""
        numbers = [self._num_norms, self._max_norm, self._told_never]
        return super().save() | {"blocks": self._blocks.state(), "numbers": numbers}

    def load(self, saved: Mapping[str, Any]) -> None:
        """Put back what ``save`` gave."""
        super().load(saved)
        self._blocks.restore(saved["blocks"])
        self._num_norms, self._max_norm, self._told_never = saved["numbers"]

    def _judge_blocks(self, step: int) -> Finding | None:
        config, blocks = self.config, self._blocks
        if self.open_kind == "never":
            return self.end(step, "a bound that never acts does no harm: this is told once")
        if self.open_kind == "often":
            if blocks.rate(3) < 0.6 * config.too_often:
                return self.end(step, f"the gradient is clipped in {blocks.rate(3):.0%} of steps")
            return self._often(step)
        if len(blocks) >= config.high_blocks:
            rate = min(blocks.rate(config.high_blocks), *blocks.last_rates(2))
            if rate > config.too_often:
                return self._often(step)
        if len(blocks) >= config.never_blocks and not self._told_never:
            return self._never(step)
        return None

    def _often(self, step: int) -> Finding | None:
        config, blocks = self.config, self._blocks
        rate = blocks.rate(config.high_blocks)
        evidence, advice = self._advice(rate)
        times = evidence["p50"] / self._max_norm
        warn = config.warn_above is not None and times > config.warn_above
        steps = config.high_blocks * config.block
        return self.hit(
            step,
            Severity.WARNING if warn else Severity.INFO,
            rate / config.too_often,
            f"the gradient was clipped to {self._max_norm:.3g} in {rate:.0%} of the last {steps} "
            f"steps: {advice}",
            kind="often",
            onset=blocks.since(config.too_often),
            evidence=evidence,
        )

    def _never(self, step: int) -> Finding | None:
        blocks = self._blocks
        if blocks.rate(len(blocks)) > 0.0:
            return None
        self._told_never = True
        evidence, advice = self._advice(0.0)
        steps = self.config.never_blocks * self.config.block
        words = f"the bound of {self._max_norm:.3g} clipped no gradient in {steps} steps: {advice}"
        onset = blocks.first_step()
        return self.hit(
            step, Severity.INFO, 1.0, words, kind="never", onset=onset, evidence=evidence
        )

    def _advice(self, rate: float) -> tuple[dict[str, float], str]:
        """The percentiles and the bound they ask for, as numbers and in words."""
        config = self.config
        p50, p90, p99 = self._blocks.quantiles(0.5, 0.9, 0.99)
        evidence = {
            "p50": p50, "p90": p90, "p99": p99, "clip_rate": rate, "max_norm": self._max_norm,
        }  # fmt: skip
        norms = f"half of the norms are below {p50:.3g} and 99 % below {p99:.3g}, "
        if p99 < config.calm_p99:
            return evidence, norms + "which needs no clipping"
        if p99 > config.wild_p99:
            evidence["advised_max_norm"] = config.wild_bound
            return evidence, norms + (
                f"which is a lot: clip at {config.wild_bound:.3g} and look for the cause"
            )
        share = math.log(p99 / config.calm_p99) / max(
            math.log(config.wild_p99 / config.calm_p99), 1e-9
        )
        bound = config.usual_bound * (config.wild_bound / config.usual_bound) ** min(share, 1.0)
        evidence["advised_max_norm"] = bound
        return evidence, norms + f"for which {bound:.2g} is a good bound"
