"""How a run ends: by the farewells of its ranks, or by being gone."""

from __future__ import annotations

import math
from collections.abc import Callable

from lossguard.agent.acting import Acting
from lossguard.agent.attending import Attendant
from lossguard.agent.feed import RunState
from lossguard.agent.follow_up import FollowUp
from lossguard.agent.judging import Judging
from lossguard.agent.life import SILENT_AFTER_S, Life
from lossguard.agent.ranks_present import RanksPresent
from lossguard.agent.stops import failed
from lossguard.agent.store import Store
from lossguard.probes import wire


class Ending:
    """Of one run. ``save`` keeps its state at once; times are monotonic [s].

    Each call is told the judging as it stands, for another process may have taken its place.
    """

    def __init__(
        self,
        store: Store,
        ranks: RanksPresent,
        attendant: Attendant,
        follow_up: FollowUp,
        acting: Acting,
        save: Callable[[], None],
    ) -> None:
        self.life = Life()
        self._store = store
        self._ranks = ranks
        self._attendant = attendant
        self._follow_up = follow_up
        self._acting = acting
        self._save = save

    def parted(self, judging: Judging, bye: wire.Bye) -> bool:
        """A rank ended in an orderly way; False where it was not there."""
        if not self._ranks.leave(bye):
            return False
        self._attendant.stops.leave(bye.rank)
        if (finding := failed(bye, self._ranks.hello.world_size)) is not None:
            self._acting.failed(judging.run, finding, bye.error)
        judging.leave(bye.rank)
        self._acting.go_on_without(judging.run, bye.rank)
        self.life.part(bye, is_last=not self._ranks.by_number)
        return True

    def look(self, judging: Judging, now: float) -> bool:
        """A few times a second: whether it has ended or fallen silent since the last look."""
        if self.go_on(judging, now):
            return True
        if not self._ranks.by_number or self._ranks.quiet_s(now) < SILENT_AFTER_S:
            return False
        is_news = self.life.fall_silent()
        is_gone = self._attendant.stops.are_all_gone
        if is_gone:
            self._end(judging, "died")
        return is_news or is_gone

    def go_on(self, judging: Judging, now: float) -> bool:
        """Judge what waited for other ranks; the run ends when its last step is judged: whether it
        has."""
        judging.go_on(now)
        end = self.life.end
        if end is None or (judging.is_waiting and self._ranks.by_number):
            return False
        self._end(judging, end)
        return True

    def _end(self, judging: Judging, state: RunState) -> None:
        judging.go_on(math.inf)
        run, self.life.state = judging.run, state
        run.tell(state, run.step, f"the run {state}")
        self._acting.end(run)
        self._follow_up.changed(run.end())
        self._attendant.close()
        self._save()
        self._store.end_run(run.id, state)
        if state != "died":  # one that is believed dead may speak again
            run.detectors.rest()

    def spoke(self, now: float) -> None:
        """A sign of life of any rank."""
        if self.life.state == "died":  # it was too early to say
            self._store.add_run(self._ranks.hello)
            for rank in self._ranks.by_number.values():
                self._attendant.stops.join(rank.hello, now)
        self.life.spoke()
