"""Three accidents that happen to real training runs, for ``train_gpt.py --trouble``.

    at 35 % of the steps   one poisoned batch: random labels with loss weights of 1000
    at 55 %                a scheduler bug: the learning rate 100 times too high, for 12 steps
    at 80 %                a NaN out of an activation function in a middle block, for one step

All are keyed on the loop's own count of iterations, because accidents in the data and the
machine do not come again when a run is rolled back: each happens once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from train_gpt import GPT, Batch

LR_STEPS = 12
LR_FACTOR = 100.0
WEIGHT = 1000.0


class Trouble:
    """Knows at which iteration of the loop it is, and what goes wrong there.

    Without ``enabled`` it changes nothing at all.
    """

    def __init__(self, model: GPT, steps: int, *, enabled: bool) -> None:
        self.enabled = enabled
        self.iteration = 0
        self.poisoned_at = round(0.35 * steps)
        self.lr_from = round(0.55 * steps)
        self.nan_at = round(0.80 * steps)
        self._news = {
            self.poisoned_at: "a poisoned batch",
            self.lr_from: f"the learning rate times {LR_FACTOR:g} for {LR_STEPS} steps",
            self.nan_at: "a NaN activation in the middle block",
        }
        if enabled:
            middle = model.get_submodule(f"blocks.{len(model.blocks) // 2}.mlp")
            middle.activation = FaultyGELU(self)

    def begin(self, iteration: int) -> None:
        """To be called at the top of the loop."""
        self.iteration = iteration
        if self.enabled and iteration in self._news:
            print(f"trouble at step {iteration + 1}: {self._news[iteration]}", flush=True)

    def spoil(self, batch: Batch) -> Batch:
        """The batch, or a poisoned one: labels that mean nothing, each counted a thousand times.

        What a broken join between samples and labels does, together with a weight column that
        was never normalised. The gradient is some thousand times its usual norm.
        """
        if not (self.enabled and self.iteration == self.poisoned_at):
            return batch
        generator = torch.Generator().manual_seed(self.iteration)
        highest = int(batch.targets.max()) + 1
        labels = torch.randint(highest, batch.targets.shape, generator=generator)
        return batch._replace(
            targets=labels.to(batch.targets.device), weights=batch.weights * WEIGHT
        )

    def lr_factor(self) -> float:
        """The bug in the learning rate schedule: what it is multiplied with.

        The scheduler steps at the end of an iteration, for the next one: hence the shift.
        """
        wrong = range(self.lr_from - 1, self.lr_from - 1 + LR_STEPS)
        return LR_FACTOR if self.enabled and self.iteration in wrong else 1.0

    @property
    def breaks_activation(self) -> bool:
        return self.enabled and self.iteration == self.nan_at


class FaultyGELU(nn.GELU):
    """A GELU with a rare bug in its kernel: at one training step, one NaN in its output."""

    def __init__(self, trouble: Trouble) -> None:
        super().__init__()
        self.trouble = trouble

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (named so in nn.GELU)
        out = super().forward(input)
        if self.training and self.trouble.breaks_activation:
            out = out.clone()
            out.view(-1)[0] = float("nan")
        return out
