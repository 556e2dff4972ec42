"""Too many updates skipped: skipping must not hide a run that has diverged."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

from lossguard.detectors import Finding, Severity, Symptom
from lossguard.probes import wire

_CALM_STEPS = 32
"""Steps without a skip that end a storm."""
_VETOED = wire.SKIP_NONFINITE | wire.SKIP_GRAD_NORM | wire.SKIP_LOSS
_MOST_REMEMBERED = 4096


class SkipStorm:
    """One critical finding when ``in_row`` updates in a row were vetoed, or ``in_window`` within
    ``window_steps``; the same again after every ``in_row`` further ones; and one when it is over.

    It is ``nonfinite`` where most of them were not finite, and else ``divergence``. The onset is
    the first of the skips it counts. What a person ordered, and what GradScaler drops by itself,
    does not count. Constant memory and time per step.
    """

    def __init__(self, in_row: int, in_window: int, window_steps: int) -> None:
        self._in_row = in_row
        self._in_window = in_window
        self._window = window_steps
        # Of the newest skips: step, and whether it was not finite.
        most = min(max(in_row, in_window), _MOST_REMEMBERED)
        self._skips: deque[tuple[int, bool]] = deque(maxlen=most)
        self._row = 0
        self._onset: int | None = None
        self._since_said = 0

    def take(self, step: int, code: int) -> Finding | None:
        """One step; ``code`` is the sum of the wire's SKIP_ numbers, 0 where it was not skipped."""
        if not code & _VETOED or code & (wire.SKIP_SCALER | wire.SKIP_COMMAND):
            self._row = 0
            return self._calm(step)
        self._skips.append((step, bool(code & wire.SKIP_NONFINITE)))
        self._row += 1
        self._since_said += 1
        if self._onset is not None:
            return self._found(step) if self._since_said >= self._in_row else None
        first = self._first_of_storm(step)
        if first is None:
            return None
        self._onset = first
        return self._found(step)

    def _first_of_storm(self, step: int) -> int | None:
        if self._row >= self._in_row:
            return self._skips[-min(self._in_row, len(self._skips))][0]
        if len(self._skips) < self._in_window:
            return None
        oldest = self._skips[-self._in_window][0]
        return oldest if step - oldest < self._window else None

    def _calm(self, step: int) -> Finding | None:
        if self._onset is None or step - self._skips[-1][0] < _CALM_STEPS:
            return None
        finding = self._finding(step, end_step=self._skips[-1][0])
        self.rewind()
        return finding

    def _found(self, step: int) -> Finding:
        self._since_said = 0
        return self._finding(step)

    def _finding(self, step: int, end_step: int | None = None) -> Finding:
        assert self._onset is not None
        counted = [bad for at, bad in self._skips if at >= self._onset]
        nonfinite = 2 * sum(counted) > len(counted)
        span = step - self._onset + 1
        return Finding(
            symptom=Symptom.NONFINITE if nonfinite else Symptom.DIVERGENCE,
            severity=Severity.CRITICAL,
            metric="skipped",
            onset_step=self._onset,
            detected_step=step,
            score=len(counted) / min(self._in_row, self._in_window),
            message=f"skip storm: {len(counted)} updates skipped within {span} steps; "
            "skipping alone does not cure it",
            end_step=end_step,
            evidence={"skipped": float(len(counted)), "consecutive": float(len(counted))},
        )

    def rewind(self) -> None:
        """A rollback has undone it, or it is over: count anew."""
        self._skips.clear()
        self._row, self._onset, self._since_said = 0, None, 0

    def state(self) -> dict[str, Any]:
        """Everything it knows, as plain data."""
        return {
            "skips": [list(skip) for skip in self._skips],
            "row": self._row,
            "onset": self._onset,
            "since_said": self._since_said,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take the place of the one that ``state`` came from."""
        self._skips.extend((step, bad) for step, bad in state["skips"])
        self._row, self._onset = state["row"], state["onset"]
        self._since_said = state["since_said"]
