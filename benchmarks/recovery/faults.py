"""What goes wrong, each once and by its true cause. Steps are the loop's own: a rollback does not
bring a fault back, as it would not bring back a broken record or a cosmic ray."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.recovery.tasks import Task

FAULTS = {
    "poisoned_batch": 1, "poisoned_window": 20, "rate_bug": 20, "nan_activation": 1,
    "overflow_storm": 12, "bit_flip": 1, "corrupted_moments": 1, "shuffled_labels": 60,
}  # fmt: skip
"""Each, and for how many steps it lasts."""
PUT_RIGHT = ("rate_bug", "bit_flip", "corrupted_moments")
"""Of a state or a rate: who knows of it puts it right at once, and has the clean twin."""


class Fault:
    """Begins at step ``at`` of the loop. ``name`` empty: nothing happens, ever."""

    def __init__(self, name: str, at: int, task: Task) -> None:
        if name and name not in FAULTS:
            raise ValueError(f"fault must be one of {', '.join(FAULTS)}, got {name!r}")
        self.name = name
        self.at = at
        self.step = 0
        self._task = task
        self._random = torch.Generator().manual_seed(at)
        task.middle.register_forward_hook(self._spoil_activation)

    def _now(self, name: str) -> bool:
        return self.name == name and self.at <= self.step < self.at + FAULTS[name]

    @property
    def spoils_update(self) -> bool:
        """Whether the update of this very step is of no use, whoever makes it."""
        return self.name not in PUT_RIGHT and any(map(self._now, FAULTS))

    def begin(self, step: int) -> None:
        """The top of the loop."""
        self.step = step
        if self._now("bit_flip"):
            self._flip_a_bit()
        if self._now("corrupted_moments"):
            self._corrupt_moments()

    def spoil_labels(self, y: Tensor) -> Tensor:
        """Labels that mean nothing."""
        wrong = (
            self._now("poisoned_batch")
            or self._now("poisoned_window")
            or self._now("shuffled_labels")
        )
        if not wrong:
            return y
        return torch.randint(self._task.classes, y.shape, generator=self._random)

    def loss_weight(self) -> float:
        """What a weight column does that was never normalised."""
        if self._now("poisoned_batch"):
            return 1000.0
        return 30.0 if self._now("poisoned_window") else 1.0

    def rate_factor(self) -> float:
        """What a bug in the schedule makes of the learning rate."""
        return 50.0 if self._now("rate_bug") else 1.0

    def _spoil_activation(self, module: object, args: object, output: Tensor) -> Tensor | None:
        if not self._task.model.training:
            return None
        if self._now("nan_activation"):
            spoilt = output.clone()
            spoilt.view(-1)[0] = torch.nan
            return spoilt
        if self._now("overflow_storm"):
            return (output * 1e6).half().float()  # a layer in FP16 that is too large for it
        return None

    @torch.no_grad()
    def _flip_a_bit(self) -> None:
        """The highest bit of an exponent, in the largest weight of the middle module."""
        weight = max(self._task.middle.parameters(), key=lambda p: p.numel())
        place = weight.view(-1)[weight.numel() // 2 : weight.numel() // 2 + 1]
        place.copy_((place.view(torch.int32) ^ (1 << 30)).view(torch.float32))

    @torch.no_grad()
    def _corrupt_moments(self) -> None:
        """Second moments that were lost, or a momentum of another unit."""
        for state in self._task.optimizer.state.values():
            if "exp_avg_sq" in state:
                state["exp_avg_sq"].mul_(1e-8)
            elif "momentum_buffer" in state:
                state["momentum_buffer"].mul_(1e4)
