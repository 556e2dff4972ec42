"""Forgetting what a rollback undid: snapshots of the state, and a journal of the inputs since."""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Mapping
from typing import Any

from lossguard.detectors.base import Detector, Finding, Observation

_JOURNAL = 512
"""Observations whose inputs are kept."""
_EVERY = 128
"""Observations between two snapshots."""
_SNAPSHOTS = 8
"""Snapshots kept: one from before the first observation, some old, the last few complete."""

Inputs = tuple[float | None, ...]


class RewindingDetector(Detector):
    """A detector whose ``rewind`` is exact over the last few hundred observations.

    ``rewind(step)`` takes the newest snapshot that is not younger than ``step`` and replays the
    journal up to it. Further back it lands on the newest older snapshot, thinned out so that
    the distance grows with the age. An episode still open at ``step`` is dropped.

    Subclasses implement ``inputs_of``, ``judge`` and the four that save, load and clear.
    """

    def __init__(self) -> None:
        self.__count = 0
        self.__last_step = -1
        self.__journal: deque[tuple[int, Inputs]] = deque(maxlen=_JOURNAL)
        self.__snapshots: list[tuple[int, int, dict[str, Any]]] = []

    @abstractmethod
    def inputs_of(self, observation: Observation) -> Inputs | None:
        """What ``judge`` needs of an observation; None where there is nothing to judge."""

    @abstractmethod
    def judge(self, step: int, inputs: Inputs) -> Finding | None:
        """Take in one step."""

    @abstractmethod
    def save(self) -> dict[str, Any]:
        """The state that ``judge`` works on, as plain data that later steps do not change."""

    @abstractmethod
    def load(self, saved: Mapping[str, Any]) -> None:
        """Put back what ``save`` gave."""

    @abstractmethod
    def drop_episode(self) -> None:
        """Forget the open episode, silently."""

    def update(self, observation: Observation) -> Finding | None:
        """Take in one step."""
        inputs = self.inputs_of(observation)
        if inputs is None:
            return None
        return self._advance(observation.step, inputs)

    def state(self) -> dict[str, Any]:
        """Everything it knows, as plain data."""
        return {
            "now": self.save(),
            "count": self.__count,
            "last_step": self.__last_step,
            "journal": [[step, list(inputs)] for step, inputs in self.__journal],
            "snapshots": [list(snapshot) for snapshot in self.__snapshots],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take the place of the detector that ``state`` came from."""
        self.load(state["now"])
        self.__count = state["count"]
        self.__last_step = state["last_step"]
        self.__journal = deque(
            ((step, tuple(inputs)) for step, inputs in state["journal"]), maxlen=_JOURNAL
        )
        self.__snapshots = [(count, step, saved) for count, step, saved in state["snapshots"]]

    def rewind(self, step: int) -> None:
        """Forget the observations of steps after ``step``."""
        if self.__last_step > step and self.__snapshots:
            kept = [snapshot for snapshot in self.__snapshots if snapshot[1] <= step]
            count, last_step, saved = kept.pop() if kept else self.__snapshots[0]
            replayed = [entry for entry in self.__journal if last_step < entry[0] <= step]
            earlier = [entry for entry in self.__journal if entry[0] <= last_step]
            self.load(saved)
            self.__count, self.__last_step = count, last_step
            self.__snapshots = kept
            self.__journal = deque(earlier, maxlen=_JOURNAL)
            for replayed_step, inputs in replayed:
                self._advance(replayed_step, inputs)
        self.drop_episode()

    def _advance(self, step: int, inputs: Inputs) -> Finding | None:
        if self.__count % _EVERY == 0:
            self.__snapshots.append((self.__count, self.__last_step, self.save()))
            self._thin_out()
        self.__count += 1
        self.__last_step = step
        self.__journal.append((step, inputs))
        return self.judge(step, inputs)

    def _thin_out(self) -> None:
        """Drop the snapshot that leaves the smallest gap for its age; never the last few."""
        if len(self.__snapshots) <= _SNAPSHOTS:
            return
        counts = [snapshot[0] for snapshot in self.__snapshots]
        recent = _JOURNAL // _EVERY + 1
        candidates = range(1, len(counts) - recent)
        gaps = {
            i: (counts[i + 1] - counts[i - 1]) / (self.__count - counts[i] + 1) for i in candidates
        }
        del self.__snapshots[min(gaps, key=gaps.__getitem__)]
