"""When a loop that does nothing is stuck: how long each phase may take, learned from the run.

Pure: times come in [s, monotonic]. A loop that moves at all (a step, a forward, a backward, a save)
does not stand still, however long its evaluation is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from lossguard.detectors.thresholds import require_above, require_at_least

STARTUP = "startup"
"""Before the third step: compiling, autotuning, filling caches."""
NATIVE = "native"
"""The heartbeat is missing though the process runs: something holds the interpreter's lock."""
_STARTUP_STEPS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class HangBounds:
    """How long a loop may do nothing before it is called hung."""

    after_s: float = 24.0
    """In any phase that has no bound of its own [s, > 0]."""
    evaluation_after_s: float = 180.0
    """In an evaluation, without one forward [s, > 0]."""
    checkpoint_after_s: float = 600.0
    """While something is saved [s, > 0]."""
    startup_after_s: float = 900.0
    """Before the third step, and whenever something is compiled [s, > 0]."""
    times: float = 5.0
    """So many times the longest this phase has ever taken, where that is more [>= 1]."""
    grace_s: float = 30.0
    """Where a policy stops a run that hangs: between SIGTERM and SIGKILL [s, > 0]."""

    def __post_init__(self) -> None:
        names = [one.name for one in fields(self)]
        require_above(self, **dict.fromkeys(names, 0.0))
        require_at_least(self, times=1.0)
        for name in names:
            if math.isinf(getattr(self, name)):
                raise ValueError(f"{name} must be a finite number, got inf")

    def floor_s(self, phase: str) -> float:
        """Without anything learned."""
        own = {
            STARTUP: self.startup_after_s,
            "compile": self.startup_after_s,
            "checkpoint": self.checkpoint_after_s,
            "eval": self.evaluation_after_s,
            "debugger": math.inf,
        }
        return own.get(phase, self.after_s)


@dataclass(frozen=True, slots=True)
class Beat:
    """What one heartbeat says."""

    time_s: float
    step: int
    moves: int
    phase: str
    at: str


@dataclass(frozen=True, slots=True)
class Still:
    """A loop that has done nothing for too long."""

    phase: str
    at: str
    lasted_s: float
    allowed_s: float


class Standstill:
    """Watches one rank. Memory is constant.

    What counts is the time in a phase since the loop last did anything: a checkpoint of minutes,
    then a second of the script's own, is no minute of the latter.
    """

    def __init__(self, bounds: HangBounds | None = None) -> None:
        self._bounds = bounds or HangBounds()
        self._longest: dict[str, float] = {}
        self._spent: dict[str, float] = {}
        self._last: Beat | None = None
        self._heard_s = 0.0
        self._counted_s = 0.0
        """Up to here the time is in ``_spent``, or does not count."""

    @property
    def last(self) -> Beat | None:
        """The newest heartbeat."""
        return self._last

    def hear(self, beat: Beat) -> None:
        """A heartbeat: has the loop done anything since the last one?"""
        before, self._last = self._last, beat
        if before is not None:
            passed_s = beat.time_s - self._counted_s
            for phase in self._phases(before):
                self._spent[phase] = self._spent.get(phase, 0.0) + passed_s
            if (beat.step, beat.moves) != (before.step, before.moves):
                self._learn()
        self._heard_s = self._counted_s = beat.time_s

    def _learn(self) -> None:
        """What goes on by itself was no hang, but may have been no ordinary thing either."""
        for phase, spent_s in self._spent.items():
            taught_s = min(spent_s, 2.0 * self.allowed_s(phase))
            self._longest[phase] = max(taught_s, self._longest.get(phase, 0.0))
        self._spent = {}

    def _phases(self, beat: Beat) -> tuple[str, ...]:
        """The one whose bound holds, and what else learns from it."""
        own = beat.phase in ("debugger", "checkpoint", "compile")
        if beat.step >= _STARTUP_STEPS or own:
            return (beat.phase,)
        # Workers that take long to start do so at every epoch.
        return (STARTUP, "data") if beat.phase == "data" else (STARTUP,)

    def pardon(self, seconds: float, now: float) -> None:
        """So much time until ``now`` did not count: the machine slept, or the process or this one
        was stopped."""
        self._heard_s = min(self._heard_s + seconds, now)
        self._counted_s = min(self._counted_s + seconds, now)

    def allowed_s(self, phase: str) -> float:
        """How long the loop may do nothing in this phase."""
        learned = self._bounds.times * self._longest.get(phase, 0.0)
        return max(self._bounds.floor_s(phase), learned)

    def judge(self, now: float, missing_after_s: float) -> Still | None:
        """Whether it is stuck; without a heartbeat for ``missing_after_s``, in native code. The
        bound is that of the phase which was heard last."""
        beat = self._last
        if beat is None:
            return None
        phase = self._phases(beat)[0]
        lasted_s = self._spent.get(phase, 0.0) + now - self._counted_s
        allowed_s = self.allowed_s(phase)
        if lasted_s <= allowed_s:
            return None
        missing = now - self._heard_s > missing_after_s
        return Still(NATIVE if missing else phase, beat.at, lasted_s, allowed_s)
