"""What one row of a log stands for: a step, or an epoch."""

from __future__ import annotations

import math
from typing import Any

from lossguard.detectors.base import Observation
from lossguard.detectors.rewinding import Inputs

_ENOUGH = 8
"""Losses before the question is answered."""
_SHARE = 0.7
_MEMORY = 64
"""Losses after which the older ones count half."""


class Grain:
    """Tells a log of epochs by a validation loss, or a higher epoch, with nearly every loss.

    An epoch's loss is a mean over many batches: a few of them say as much as hundreds of steps.
    """

    __slots__ = ("_epoch", "_long", "_losses")

    def __init__(self) -> None:
        self._losses = 0.0
        self._long = 0.0
        self._epoch = -1.0

    @property
    def epochs(self) -> bool:
        """Whether a row is an epoch."""
        return self._losses >= _ENOUGH and self._long >= _SHARE * self._losses

    def push(self, loss: float | None, val_loss: float | None, epoch: float | None) -> None:
        """Take in one row."""
        further = epoch is not None and epoch - self._epoch >= 1.0
        if epoch is not None:
            self._epoch = epoch
        if loss is not None:
            self._losses += 1.0
            if self._losses > _MEMORY:
                self._losses *= 0.5
                self._long *= 0.5
        if val_loss is not None or (loss is not None and further):
            self._long += 1.0

    def state(self) -> list[Any]:
        """Plain data for ``restore``."""
        return [self._losses, self._long, self._epoch]

    def restore(self, state: list[Any]) -> None:
        """Take the place of the one that ``state`` came from."""
        self._losses, self._long, self._epoch = state


def row_inputs(observation: Observation) -> Inputs | None:
    """Loss, learning rate, validation loss and epoch of a row; None where it has no loss at all.

    A training loss that is not finite counts as none.
    """
    loss, val = observation.get("loss"), observation.get("val_loss")
    if loss is None or not math.isfinite(loss):
        return None if val is None else (None, None, val, None)
    return loss, observation.get("lr"), val, observation.get("epoch")
