"""What a detector is: a pure function of the observations so far, with its state held in one place.

No I/O, no clock, no logging: times come in with the observations. The same observations in
give the same findings out, live and in ``lossguard backtest``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt


class Symptom(str, Enum):
    """What can be wrong with a run (docs/symptoms.md)."""

    NONFINITE = "nonfinite"
    LOSS_SPIKE = "loss_spike"
    GRAD_SPIKE = "grad_spike"
    DIVERGENCE = "divergence"
    OSCILLATION = "oscillation"
    PLATEAU = "plateau"
    SLOW_CONVERGENCE = "slow_convergence"
    OVERFITTING = "overfitting"
    EVAL_MODE_MISMATCH = "eval_mode_mismatch"
    VANISHING_GRADIENT = "vanishing_gradient"
    EXPLODING_GRADIENT = "exploding_gradient"
    DEAD_UNITS = "dead_units"
    ACTIVATION_DRIFT = "activation_drift"
    WEIGHT_GROWTH = "weight_growth"
    OPTIMIZER_STATE = "optimizer_state"
    LOSS_SCALE = "loss_scale"
    CLIPPING = "clipping"
    LR_JUMP = "lr_jump"
    OUTPUT_COLLAPSE = "output_collapse"
    BAD_BATCH = "bad_batch"
    DATA_STARVED = "data_starved"
    LOW_GPU_UTILIZATION = "low_gpu_utilization"
    MEMORY_GROWTH = "memory_growth"
    NO_CHECKPOINT = "no_checkpoint"
    STRAGGLER = "straggler"
    RANK_DESYNC = "rank_desync"
    HANG = "hang"
    PROCESS_EXIT = "process_exit"

    __str__ = str.__str__


BY_THE_CLOCK = frozenset({Symptom.HANG, Symptom.PROCESS_EXIT})
"""What no observation shows, for there is none any more: the agent finds these by heartbeats and
the process table. All others have a detector."""

AMONG_RANKS = frozenset({Symptom.STRAGGLER, Symptom.RANK_DESYNC})
"""What only a training on several ranks can have."""


class Severity(str, Enum):
    """``info`` is worth a line, ``warning`` a look, ``critical`` acts or pages."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"

    __str__ = str.__str__

    @property
    def rank(self) -> int:
        """0, 1, 2: to compare severities."""
        return ("info", "warning", "critical").index(self.value)


@dataclass(frozen=True, slots=True)
class Family:
    """Values of one kind for many layers at one step, say the gradient norm of each parameter.

    ``values`` has the order of ``names`` (float32, shape ``(len(names),)``); entries that were
    not measured are in ``missing`` (bool, same shape), so that a NaN is always a measured one.
    """

    names: Sequence[str]
    values: npt.NDArray[np.float32]
    missing: npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Observation:
    """One step of one run, all its ranks joined.

    ``values`` holds the plain metrics measured at this step, ``families`` the per-layer ones by
    the part of their name before the slash; names and units stand in docs/metrics.md. An absent
    key was not measured; NaN and Inf are measurements.
    """

    step: int
    values: Mapping[str, float]
    time_s: float = 0.0
    applied: int = -1
    families: Mapping[str, Family] = field(default_factory=dict)

    def get(self, metric: str) -> float | None:
        """The value of a plain metric, or None where it was not measured."""
        return self.values.get(metric)


@dataclass(frozen=True, slots=True)
class Finding:
    """What a detector has to say.

    The first finding of an episode has ``end_step`` None. Later ones of the same episode carry
    the same ``symptom`` and ``onset_step``: with another severity they escalate it, with
    ``end_step`` they end it.

    ``onset_step`` is where the trouble began, as dated by the detector: a rollback goes back to
    before it. ``detected_step`` is where it was noticed. ``score`` is the size of the deviation
    in units of the threshold (1 is just over it).
    """

    symptom: Symptom
    severity: Severity
    metric: str
    onset_step: int
    detected_step: int
    score: float
    message: str
    end_step: int | None = None
    where: str = ""
    """The module or parameter that is to blame, where one is."""
    evidence: Mapping[str, float] = field(default_factory=dict)


class Detector(ABC):
    """One symptom. Subclasses set ``symptom`` and ``inputs`` and implement the rest.

    The docstring of a detector gives formula, units, defaults and source.
    """

    symptom: ClassVar[Symptom]
    inputs: ClassVar[tuple[str, ...]]
    """The metrics it needs; it is silent on a run that has none of them."""

    @abstractmethod
    def update(self, observation: Observation) -> Finding | None:
        """Take in one step. Amortised O(1) in the number of steps; bounded memory."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Everything it knows, as plain data (None, bool, int, float, str, list, dict of str)."""

    @abstractmethod
    def restore(self, state: Mapping[str, Any]) -> None:
        """Take the place of the detector that ``state`` came from."""

    @abstractmethod
    def rewind(self, step: int) -> None:
        """Forget the observations of steps after ``step``: a rollback undid them."""

    def bounds(self) -> Mapping[str, float]:
        """Upper bounds of plain metrics at the next step, for the reflex to veto an update with.

        Empty while there is too little to say.
        """
        return {}

    def hard_bounds(self) -> Mapping[str, float]:
        """Upper bounds that the user has set: nothing widens them."""
        return {}
