"""A rank that is slower than the others, which wait for it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt

from lossguard.detectors.base import Family, Finding, Observation, Severity, Symptom
from lossguard.detectors.change_point import onset_index
from lossguard.detectors.located import LocatedDetector
from lossguard.detectors.rewinding import Inputs
from lossguard.detectors.streaming import median
from lossguard.detectors.thresholds import require_above, require_at_least, require_share

_FAMILIES = ("rank_own_time", "rank_data_time")
_MOST = 16
"""Slow ranks of a step that are followed, the slowest first."""
_PER_RANK = 3

Floats = npt.NDArray[np.float64]
_Costs: TypeAlias = dict[int, tuple[list[float], list[float]]]
"""By rank, step by step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StragglerConfig:
    """Thresholds. Sources in the docstring of ``Straggler``."""

    block: int = 32
    """Steps that are judged together [observations, >= 5]."""
    ratio: float = 1.3
    """How many times the usual time of a rank is slow [> 1]."""
    share: float = 0.1
    """How much of the step the others lose by it, at least [0 < share <= 1]."""
    least_s: float = 0.005
    """How much it is slower, at least [s, >= 0]: less is what any busy host does to a process."""
    blocks: int = 3
    """Blocks in a row in which the rank is slow [>= 1]."""
    calm_blocks: int = 2
    """Blocks in a row without a slow rank that end it [>= 1]."""

    def __post_init__(self) -> None:
        require_at_least(self, block=5, least_s=0, blocks=1, calm_blocks=1)
        require_above(self, ratio=1.0)
        require_share(self, "share")


class Straggler(LocatedDetector):
    """Name the rank that the others wait for.

    A rank is slow at a step when its own time t, or its wait for data, is

        t >= ratio * usual   and   t - usual >= share * median step time, and 5 ms

    with usual the lower median over the ranks (of two ranks the faster one's) [s]. It is slow in a
    block of 32 steps when that holds in more than half of them, which is to say in the median: an
    evaluation or a save on one rank, and long samples that fall on another rank each time, do not
    count. Three such blocks in a row are a warning. The slowest is named, and how many there are.

    Source: comparison of ranks by their own computation, MegaScale (Jiang et al., NSDI 2024, whose
    slow machines took 10 % longer) and FALCON (Wu et al., 2024). The thresholds are ours.
    """

    symptom: ClassVar[Symptom] = Symptom.STRAGGLER
    inputs: ClassVar[tuple[str, ...]] = _FAMILIES

    def __init__(self, config: StragglerConfig | None = None) -> None:
        super().__init__()
        self.config = config or StragglerConfig()
        self._steps: list[int] = []
        self._rows: list[list[float]] = []
        self._before: tuple[list[int], list[list[float]]] = ([], [])
        self._lasts: dict[int, tuple[int, int]] = {}
        """Of each slow rank its blocks in a row, and the step they began at."""

    def inputs_of(self, observation: Observation) -> Inputs | None:
        """Of each slow rank its number, by how much of the step it is slower, and by how much of it
        it waits longer for data."""
        own, data = (observation.families.get(name) for name in _FAMILIES)
        steps = observation.families.get("rank_step_time")
        if steps is None or (own is None and data is None):
            return None
        if self._are_alike(own, steps) and self._are_alike(data, steps):
            return ()
        times = _times(steps)
        if np.count_nonzero(np.isfinite(times)) < 2:
            return None
        step_time = float(np.nanmedian(times))
        if not 0.0 < step_time < math.inf:
            return None
        by_data = self._excess(data, step_time, len(times))
        excess = np.maximum(self._excess(own, step_time, len(times)), by_data)
        slow = np.flatnonzero(excess > 0.0)
        slow = slow[np.argsort(-excess[slow], kind="stable")][:_MOST]
        return tuple(float(x) for i in slow for x in (i, excess[i], by_data[i]))

    def judge(self, step: int, inputs: Inputs) -> Finding | None:
        """Take in the slow ranks of one step."""
        self._steps.append(step)
        self._rows.append([float(x or 0.0) for x in inputs])
        if len(self._rows) < self.config.block:
            return None
        found = self._slow_ranks()
        self._lasts = {rank: self._longer(rank) for rank in found}
        lasting = [r for r, (count, _) in self._lasts.items() if count >= self.config.blocks]
        said: Finding | None = None
        if lasting:
            said = self._name(step, max(lasting, key=lambda r: median(found[r][0])), lasting, found)
        elif not found:
            said = self.calm(step, self.config.calm_blocks, f"{self._where} keeps up again")
        self._before = (self._steps, self._rows)
        self._steps, self._rows = [], []
        return said

    def save(self) -> dict[str, Any]:
        """The state that ``judge`` works on."""
        return super().save() | {
            "steps": list(self._steps),
            "rows": [list(row) for row in self._rows],
            "before": [list(self._before[0]), [list(row) for row in self._before[1]]],
            "lasts": [[rank, *lasts] for rank, lasts in self._lasts.items()],
        }

    def load(self, saved: Mapping[str, Any]) -> None:
        """Put back what ``save`` gave."""
        super().load(saved)
        self._steps, self._rows = list(saved["steps"]), [list(row) for row in saved["rows"]]
        steps, rows = saved["before"]
        self._before = (list(steps), [list(row) for row in rows])
        self._lasts = {rank: (count, since) for rank, count, since in saved["lasts"]}

    def _are_alike(self, family: Family | None, steps: Family) -> bool:
        """Told from the extremes, where all were measured: nearly always, in a few microseconds."""
        if family is None:
            return True
        least, most = float(family.values.min()), float(family.values.max())
        bound = max(self.config.share * float(steps.values.min()), self.config.least_s)
        is_close = most - least < bound
        return least >= 0.0 and most < math.inf and (is_close or most < self.config.ratio * least)

    def _excess(self, family: Family | None, step_time: float, size: int) -> Floats:
        """What each rank takes longer than usual, of the step; 0 where that is not slow."""
        if family is None or len(family.values) != size:
            return np.zeros(size)
        times = _times(family)
        known = np.sort(times[np.isfinite(times)])
        if len(known) < 2:
            return np.zeros(size)
        usual = known[(len(known) - 1) // 2]
        more, config = times - usual, self.config
        least = max(config.share * step_time, config.least_s)
        is_slow = (times >= config.ratio * usual) & (more >= least)
        return np.where(is_slow, np.minimum(more / step_time, 1.0), 0.0)

    def _slow_ranks(self) -> _Costs:
        """Those slow in more than half of the block: what that costs in a step, and of it data."""
        found: _Costs = {}
        for row in self._rows:
            for at in range(0, len(row), _PER_RANK):
                costs, waits = found.setdefault(int(row[at]), ([], []))
                costs.append(row[at + 1])
                waits.append(row[at + 2])
        half = self.config.block // 2
        return {rank: both for rank, both in found.items() if len(both[0]) > half}

    def _name(
        self,
        step: int,
        rank: int,
        slow: list[int],
        found: _Costs,
    ) -> Finding | None:
        cost, wait = median(found[rank][0]), median(found[rank][1])
        does = "waiting for its data" if wait >= 0.5 * cost else "computing"
        words = f"rank {rank} holds the others up by {cost:.0%} of each step, {does}"
        if len(slow) > 1:
            words += f"; {len(slow) - 1} more are slow"
        return self.blame(
            f"rank {rank}",
            step,
            Severity.WARNING,
            cost / self.config.share,
            words,
            onset=self._lasts[rank][1],
            metric="rank_data_time" if wait >= 0.5 * cost else "rank_own_time",
            evidence={"share": cost, "data_share": wait, "ranks": float(len(slow))},
        )

    def _longer(self, rank: int) -> tuple[int, int]:
        """One more block; the first is dated within itself and the one before."""
        if rank in self._lasts:
            count, since = self._lasts[rank]
            return count + 1, since
        steps = self._before[0] + self._steps
        signs = [float(rank in row[::_PER_RANK]) for row in self._before[1] + self._rows]
        return 1, steps[onset_index(signs, 0.5, 0.0, 1.0)]


def _times(family: Family) -> Floats:
    """Seconds by rank; NaN where there are none."""
    times = np.where(family.missing, np.nan, family.values).astype(np.float64)
    times[~((times >= 0.0) & (times < math.inf))] = np.nan
    return times
