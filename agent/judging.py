"""The steps of a run on their way to be judged."""

from __future__ import annotations

from collections.abc import Callable

from lossguard.agent.outcome import Outcome
from lossguard.agent.pace import Pace
from lossguard.agent.placement import Placement
from lossguard.agent.ranks_joined import RanksJoined
from lossguard.agent.run import Run
from lossguard.agent.store import Store
from lossguard.detectors import Observation


class Judging:
    """From the first step of a process on: the ranks of a step are put together, the step is
    written down and judged.

    ``note`` sees every step before it is judged, ``act`` what came of it.
    """

    def __init__(
        self,
        run: Run,
        world_size: int,
        store: Store,
        note: Callable[[Observation], None],
        act: Callable[[Run, Outcome], None],
    ) -> None:
        self.run = run
        self.pace = Pace()
        self._store = store
        self._note = note
        self._act = act
        self._joined = RanksJoined(world_size)
        self._said_incomplete = False

    def take(self, rank: int, placement: Placement, observation: Observation, now: float) -> None:
        """One step of one rank, at a monotonic time [s]; judges all that are ready by it."""
        self._judge(self._joined.take(rank, placement, observation, now))

    def go_on(self, now: float) -> None:
        """Judge what need not wait any longer for other ranks."""
        self._judge(self._joined.ready(now))

    def leave(self, rank: int) -> None:
        """A rank has said goodbye: no step waits for it."""
        self._joined.leave(rank)

    @property
    def is_waiting(self) -> bool:
        """Whether a step waits for other ranks."""
        return self._joined.is_waiting

    def _judge(self, observations: list[Observation]) -> None:
        for observation in observations:
            self._observe(observation)
        if self._joined.incomplete and not self._said_incomplete:
            self._said_incomplete = True
            self.run.tell("parts_missing", self.run.step, "the parts of some ranks did not arrive: "
                          "norms of what is cut over ranks are left out")  # fmt: skip

    def _observe(self, observation: Observation) -> None:
        self.pace.note(observation.step, observation.time_s)
        self._store.add_step(
            self.run.id,
            observation.step,
            observation.applied,
            observation.time_s,
            dict(observation.values),
        )
        self._note(observation)
        self._act(self.run, self.run.observe(observation))
