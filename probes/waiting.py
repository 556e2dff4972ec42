"""How long a step waited for its data."""

from __future__ import annotations


class DataWait:
    """Adds up the waits for the DataLoader that belong to training. Host arithmetic only.

    A wait is not yet known to be training's when it ends: the forward that follows says so.
    Where no forward of the model is heard (it is compiled), every wait counts.
    """

    def __init__(self) -> None:
        self._pending: float | None = None
        self._claimed: float | None = None
        self._hears_forwards = False

    def add(self, seconds: float) -> None:
        """A batch has come, or there was none left."""
        self._pending = (self._pending or 0.0) + seconds

    def forward_begins(self, training: bool) -> None:
        """Whoever runs the model now has waited."""
        self._hears_forwards = True
        pending, self._pending = self._pending, None
        if training and pending is not None:
            self._claimed = (self._claimed or 0.0) + pending

    def take(self) -> float | None:
        """Seconds of the step that ends here; None when no DataLoader was used."""
        if not self._hears_forwards:
            self.forward_begins(training=True)
        self._hears_forwards = False
        claimed, self._claimed = self._claimed, None
        return claimed
