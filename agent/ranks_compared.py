"""What every rank measured of a step, side by side: for whoever compares the ranks."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from lossguard.agent.ranks_whole import Cuts
from lossguard.detectors import Family, Observation

_MOST_OPEN = 64
_STEP, _BACKWARD, _FORWARD, _EVAL, _SAVE, _DATA, _SUM = range(7)
_METRICS = (
    "step_time", "backward_time", "forward_time", "eval_time", "checkpoint_time", "data_wait",
    "weight_checksum",
)  # fmt: skip
_ON_DEVICE = "memory_total"
"""Whoever measures it computes on an accelerator."""
LAG = "rank_lag"

Floats = npt.NDArray[np.float32]


class _Row:
    """One step. NaN: that rank did not measure it, or has not told yet."""

    def __init__(self, step: int, world_size: int) -> None:
        self.step = step
        self.num_told = 0
        self.values: Floats = np.full((len(_METRICS), world_size), np.nan, dtype=np.float32)


class RanksCompared:
    """Puts families with one value a rank beside the observations of rank 0.

    Nothing waits for it: they are of an earlier step where the others' words come later, step after
    step, so that none is left out. Checksums come as soon as all have told theirs, and ``rank_lag``
    says how many steps late that is. A rank that says nothing is missing from 64 steps later on.
    Memory is bounded by 64 steps; O(1) a message and O(ranks) a step.
    """

    def __init__(self, world_size: int) -> None:
        self._world_size = world_size
        self._names = tuple(str(rank) for rank in range(world_size))
        self._open: dict[int, _Row] = {}
        self._times: deque[_Row] = deque(maxlen=_MOST_OPEN)
        self._sums: deque[_Row] = deque(maxlen=_MOST_OPEN)
        self._gone: set[int] = set()
        self._newest_done = -1
        self._is_cut = False
        self._is_on_device = False

    def note(self, rank: int, cuts: Cuts, observation: Observation) -> None:
        """Take in one step of one rank."""
        step, values = observation.step, observation.values
        self._gone.discard(rank)
        if not (rank < self._world_size and step > self._newest_done and "step_time" in values):
            return
        self._is_cut = self._is_cut or bool(cuts.families or cuts.plain)
        self._is_on_device = self._is_on_device or _ON_DEVICE in values
        row = self._open.get(step)
        if row is None:
            row = self._open[step] = _Row(step, self._world_size)
        row.num_told += 1
        row.values[:, rank] = [values.get(name, np.nan) for name in _METRICS]
        if row.num_told >= self._world_size - len(self._gone):
            self._finish(step)
        elif len(self._open) > _MOST_OPEN:
            self._finish(min(self._open))

    def leave(self, rank: int) -> None:
        """Nothing more comes from it."""
        self._gone.add(rank)

    def beside(self, observation: Observation) -> Observation:
        """With what there is to compare, if there is anything."""
        values = dict(observation.values)
        values.pop("weight_checksum", None)
        found: dict[str, Floats] = {}
        if self._times:
            row = self._times.popleft().values
            found = {
                "rank_step_time": row[_STEP],
                "rank_data_time": row[_DATA],
                "rank_own_time": self._own_time(row),
            }
        if self._sums:
            sampled = self._sums.popleft()
            found["rank_checksum"] = sampled.values[_SUM]
            values[LAG] = float(max(observation.step - sampled.step, 0))
        families = {**observation.families, **self._families(found)}
        return replace(observation, values=values, families=families)

    def _finish(self, step: int) -> None:
        """The steps of a rank come in order: what others have not told of those before is lost."""
        for done in sorted(s for s in self._open if s <= step):
            row = self._open.pop(done)
            if row.num_told > 1:
                self._times.append(row)
                if not np.isnan(row.values[_SUM]).all():
                    self._sums.append(row)
        self._newest_done = max(self._newest_done, step)

    def _families(self, found: Mapping[str, Floats]) -> Mapping[str, Family]:
        return {
            name: Family(self._names, values, missing)
            for name, values in found.items()
            if not (missing := np.isnan(values)).all()
        }

    def _own_time(self, values: Floats) -> Floats:
        """Of the step's time what is not spent in a phase that waits for other ranks.

        That is the backward, where gradients are put together, and where weights are cut over
        ranks the forward as well, which collects them. Evaluation and saving are no part of a step.
        On an accelerator the host of a fast rank waits for its device anywhere: of two ranks nobody
        can tell the slow one from that, of more the one that stands out.
        """
        if self._is_on_device and self._world_size == 2:
            return np.full(self._world_size, np.nan, dtype=np.float32)
        others = [_BACKWARD, _EVAL, _SAVE, *([_FORWARD] if self._is_cut else [])]
        own: Floats = values[_STEP] - np.nansum(values[others], axis=0, dtype=np.float32)
        own[own < 0.0] = 0.0
        return own
