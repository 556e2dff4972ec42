"""What is heard of torch, and by whom."""

from __future__ import annotations

import inspect
import weakref
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True, slots=True)
class LossCall:
    """A call of a loss of ``torch.nn.functional`` that returned a plain tensor."""

    name: str
    signature: inspect.Signature
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    result: Tensor

    def arguments(self) -> dict[str, Any]:
        """By name, with the defaults."""
        bound = self.signature.bind(*self.args, **self.kwargs)
        bound.apply_defaults()
        return bound.arguments


class Listener:
    """Somebody who wants to know. What it overrides must never raise."""

    def before_backward(self, tensors: Any) -> None: ...
    def after_backward(self) -> None:
        """Not called when ``backward()`` raised."""

    def on_scale(self, scaler: Any, loss: Any, scaled: Any) -> None: ...
    def after_norms(self, found: list[tuple[Tensor, Tensor]]) -> None:
        """L2 norms that torch has just computed, each with its tensor: of gradients, perhaps."""

    def before_clip(self, parameters: Any, max_norm: Any) -> None:
        """``max_norm`` bounds the L2 norm of all together; None where something else is bounded."""

    def before_scaler_step(self, scaler: Any, optimizer: Any) -> None: ...
    def after_scaler_step(self, scaler: Any, optimizer: Any) -> None: ...
    def on_loss(self, call: LossCall) -> None: ...
    def passes_over_average(self, averaged: Any, model: Any) -> bool:
        """An average of weights is about to take in those of ``model``: whether it shall not."""
        return False

    def after_wait(self, seconds: float) -> None:
        """The DataLoader gave a batch, or had none left."""

    def before_reading_modules(self) -> None:
        """Whole modules may be pickled, scripted or captured now: hooks and all."""

    def after_reading_modules(self) -> None:
        """As often as ``before_reading_modules``, whatever happened."""

    def after_save(self) -> None:
        """Something was saved to disk, from whatever thread."""


# Weak: a loop whose model and optimizer the script has let go must not be kept by us.
LISTENERS: list[weakref.ref[Listener]] = []


def heard_by() -> list[Listener]:
    """Whoever listens now, in the order in which they began."""
    return [listener for ref in tuple(LISTENERS) if (listener := ref()) is not None]
