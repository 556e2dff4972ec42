"""What the model predicts: a few numbers of the logits that its cross-entropy sees."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from lossguard.probes.pieces import FLOATS, by_steps, every, is_measurable

NAMES = ("output_entropy", "top_token_share", "target_top_share", "logit_z", "eos_share")

_ROWS = 256
_FEWEST_ROWS = 16
_ELEMENTS = 1 << 22
"""No temporary is larger (16 MiB): a vocabulary of 128,000 is looked at in 32 rows."""


class OutputStatistics:
    """Of the first ``cross_entropy`` of a step, on at most 256 positions, evenly spread.

    Rows whose target is ``ignore_index`` do not count; where all are ignored, nothing is
    measured. About 25 kernels on at most 4 M elements, and no synchronisation.
    """

    def __init__(self, missing: Tensor, eos_id: int | None = None) -> None:
        self.eos_id = eos_id
        """The class that ends a text, where one is known."""
        self._missing = missing
        self._seen: Tensor | None = None

    @torch.no_grad()
    def look(self, logits: Any, target: Any, ignore_index: int) -> None:
        """``logits`` (C), (N, C) or (N, C, ...); ``target`` classes, or probabilities of them."""
        if self._seen is not None or not (is_measurable(logits) and is_measurable(target)):
            return
        if logits.dtype not in FLOATS or logits.dim() == 0:
            return
        if not logits.device == target.device == self._missing.device:  # bringing it would wait
            return
        rows, classes = _positions(logits.detach(), target.detach())
        if rows.shape[1] < 2:
            return
        self._seen = _statistics(rows, classes, ignore_index, self.eos_id, self._missing)

    def take(self) -> Tensor | None:
        """The numbers of ``NAMES``, float32, shape ``(5,)``; None when nothing was seen."""
        seen, self._seen = self._seen, None
        return seen


def _positions(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (n, C) in float32 and classes (n,) of at most 256 positions."""
    if logits.dim() == 1:
        logits = logits.unsqueeze(0)
        target = target.unsqueeze(0)
    sizes = (logits.shape[0], *logits.shape[2:])
    limit = max(_FEWEST_ROWS, min(_ROWS, _ELEMENTS // logits.shape[1]))
    steps = every(sizes, limit)
    with_classes = (steps[0], 1, *steps[1:])
    rows = (
        by_steps(logits, with_classes).movedim(1, -1).reshape(-1, logits.shape[1]).to(torch.float32)
    )
    if target.dtype in FLOATS:  # probabilities: the most likely class
        classes = by_steps(target, with_classes).argmax(1)
    else:
        classes = by_steps(target, steps)
    return rows, classes.reshape(-1).to(torch.int64)


def _statistics(
    rows: Tensor, target: Tensor, ignore_index: int, eos_id: int | None, missing: Tensor
) -> Tensor:
    num_classes = rows.shape[1]
    counts = target != ignore_index
    number = counts.sum(dtype=torch.float32)
    probabilities = torch.softmax(rows, 1)
    top = rows.max(1)
    log_sum = top.values - probabilities.amax(1).log()
    # A logit of -Inf, a class ruled out, adds nothing: 0 * -Inf would be NaN.
    entropy = log_sum - (probabilities * rows.clamp_min(-1e30)).sum(1)
    entropy = entropy.clamp_min(0.0) / math.log(num_classes)
    # Each class against each: no histogram, whose size the host would have to know.
    classes = torch.stack([top.indices, target])
    same = (classes.unsqueeze(2) == classes.unsqueeze(1)) & counts
    shared = torch.where(counts, same.sum(2, dtype=torch.float32), 0.0).amax(1)
    totals = torch.where(counts, torch.stack([entropy, log_sum.abs()]), 0.0).sum(1)
    (predicted, targeted), (uncertainty, size) = shared.unbind(), totals.unbind()
    sums = [uncertainty, predicted, targeted, size]
    if eos_id is not None:
        sums.append(((top.indices == eos_id) & counts).sum(dtype=torch.float32))
    found = torch.where(number > 0, torch.stack(sums) / number, missing)
    return found if eos_id is not None else torch.cat([found, missing.reshape(1)])
