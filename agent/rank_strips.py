"""How the ranks of a run have been over time, in constant memory: one strip a family of times."""

from __future__ import annotations

from lossguard.agent.layer_history import LayerMap
from lossguard.agent.ranks_compared import LAG
from lossguard.detectors import Observation

KINDS = ("rank_step_time", "rank_own_time", "rank_data_time")


class RankStrips:
    """A column a stretch of steps, a row a rank, in it the largest value there."""

    def __init__(self) -> None:
        self.maps: dict[str, LayerMap] = {}
        self.lag = 0.0
        """How many steps behind the slowest word of a rank is."""

    def note(self, observation: Observation) -> None:
        """Take in one step of all ranks."""
        self.lag = observation.values.get(LAG, self.lag)
        for kind in KINDS:
            family = observation.families.get(kind)
            if family is None:
                continue
            known = self.maps.get(kind)
            if known is None or len(known.layers) != len(family.names):
                known = self.maps[kind] = LayerMap(family.names)
            known.add(observation.step, family)
