"""Which steps all charts show, and how: one thing for all of them, changed by keys."""

from __future__ import annotations

from dataclasses import dataclass, replace

LEAST_SPAN = 8
"""Nobody needs to look at fewer steps."""
SMOOTHING = (0.0, 0.02, 0.08)
"""Half-lives of the smoothed line, in shares of the width; 0 is none."""


@dataclass(frozen=True)
class Window:
    """The first and the last step in view."""

    first: int
    last: int

    @property
    def span(self) -> int:
        return max(1, self.last - self.first)


@dataclass(frozen=True)
class View:
    """``span`` 0 is the whole run; ``end`` -1 follows the newest step; ``cursor`` -1 is none."""

    span: int = 0
    end: int = -1
    cursor: int = -1
    log: bool = False
    smoothing: int = 1
    """An index into ``SMOOTHING``."""

    @property
    def half_life(self) -> float:
        return SMOOTHING[self.smoothing]

    def window(self, whole: Window) -> Window:
        """The steps in view, of a run that has ``whole``."""
        if not self.span or self.span >= whole.span:
            return whole
        last = whole.last if self.end < 0 else min(self.end, whole.last)
        last = max(last, whole.first + self.span)
        return Window(last - self.span, last)

    def zoomed(self, factor: float, whole: Window) -> View:
        """Nearer (below 1) or further, around the cursor or else the middle."""
        now = self.window(whole)
        span = max(LEAST_SPAN, round(now.span * factor))
        if span >= whole.span:
            return replace(self, span=0, end=-1)
        if self.end < 0 and self.cursor < 0:
            return replace(self, span=span)
        around = self.cursor if now.first <= self.cursor <= now.last else now.first + now.span // 2
        share = (around - now.first) / now.span
        return self._until(round(around + (1 - share) * span), span, whole)

    def panned(self, share: float, whole: Window) -> View:
        """To the left (negative) or the right by a share of the width; at the end it follows."""
        now = self.window(whole)
        if now == whole:
            return self
        return self._until(now.last + round(share * now.span), now.span, whole)

    def moved(self, cells: int, of: int, whole: Window) -> View:
        """The cursor by so many of ``of`` columns; what is in view goes with it."""
        now = self.window(whole)
        by = cells * max(1.0, now.span / max(1, of))
        start = self.cursor if self.cursor >= 0 else (now.last if cells < 0 else now.first)
        return self.at(round(start + by), whole)

    def at(self, step: int, whole: Window) -> View:
        """The cursor on a step, which is brought into view."""
        step = min(max(step, whole.first), whole.last)
        now = self.window(whole)
        seen = self
        if now != whole and not now.first <= step <= now.last:
            seen = self._until(step + now.span // 2, now.span, whole)
        return replace(seen, cursor=step)

    def _until(self, last: int, span: int, whole: Window) -> View:
        last = max(last, whole.first + span)
        return replace(self, span=span, end=-1 if last >= whole.last else last)
