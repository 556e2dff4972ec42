"""How fast a run goes."""

from __future__ import annotations


class Pace:
    """Steps per second, smoothed over about ten steps, by the clock of the training host."""

    def __init__(self) -> None:
        self.steps_per_s = 0.0
        self._step = 0
        self._time_s = float("inf")

    def note(self, step: int, time_s: float) -> None:
        """Take in a step. A clock or a count that goes back begins anew."""
        if time_s > self._time_s and step > self._step:
            pace = (step - self._step) / (time_s - self._time_s)
            smooth = 0.9 * self.steps_per_s + 0.1 * pace
            self.steps_per_s = smooth if self.steps_per_s else pace
        self._step, self._time_s = step, time_s
