"""What the rules of ``Divergence`` report while they hold."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rise:
    """The loss stands at ``after`` where it stood at ``before``."""

    before: float
    after: float
    since: int
    """A step before which it had not begun: where to look for the onset."""
    severe: bool
    text: str
