"""What comes before the first step, when nobody knows yet what there is to watch."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Any

import torch

from lossguard.probes.listener import Listener, LossCall
from lossguard.probes.losses import LossTap, mark_as_sum


class FirstStep(Listener):
    """Keeps the losses, and what a scaler or a clipping has done, for the watch that begins."""

    def __init__(self) -> None:
        self._taps: dict[int, LossTap] = {}
        self.scaler: Any = None
        self.clipped = False

    @property
    def tap(self) -> LossTap:
        """The one of this thread: what another thread trains is not our loss."""
        return self._taps.setdefault(threading.get_ident(), LossTap())

    def before_backward(self, tensors: Any) -> None:
        with suppress(Exception):
            self.tap.before_backward(tensors)

    def after_backward(self) -> None:
        with suppress(Exception):
            self.tap.after_backward()

    def on_loss(self, call: LossCall) -> None:
        with suppress(Exception):
            if torch.is_grad_enabled() and call.arguments().get("reduction") == "sum":
                mark_as_sum(call.result, call.name)

    def on_scale(self, scaler: Any, loss: Any, scaled: Any) -> None:
        with suppress(Exception):
            self.tap.on_scale(loss, scaled)

    def before_clip(self, parameters: Any, max_norm: Any) -> None:
        self.clipped = True

    def before_scaler_step(self, scaler: Any, optimizer: Any) -> None:
        self.scaler = scaler
