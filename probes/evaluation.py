"""Finds the validation loss by itself: what the script computes without gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lossguard.probes.listener import LossCall
from lossguard.probes.modes import Modes
from lossguard.probes.pieces import is_measurable
from lossguard.probes.roots import SUMMED, mark_as_sum

_DEEPEST = 6


class Evaluated(NamedTuple):
    """What lies between two optimizer steps."""

    loss: Tensor | None = None
    """Mean over the calls (float32, 0-d, on the device of the losses)."""
    share_in_training: float | None = None
    """Of the modules that depend on the mode, when the model ran without gradients."""


class Evaluation:
    """Counts forwards of the model, and losses after them, under ``no_grad``.

    A loss counts when training uses the same function, the result is one number, and the model
    has run without gradients since the last step. A summed loss is divided by its number of
    targets, unless training sums too. With more losses than forwards it is not clear what they
    mean together: nothing is reported. One or two tiny kernels a loss; no synchronisation.
    """

    def __init__(self, modes: Modes) -> None:
        self._modes = modes
        self._trained_with: dict[str, str] = {}
        self._sums: set[str] = set()
        self._in_doubt: set[str] = set()
        """Summed losses of which it is not yet known what the script does with the sum."""
        self._forwards = 0
        self._share: float | None = None
        self._sum: Tensor | None = None
        self._calls = 0
        self.on_begin: Callable[[], None] = _do_nothing
        """Called as an evaluation begins, in the state that is evaluated. Must not raise."""

    def forward_begins(self) -> None:
        """A forward of the model, without gradients."""
        self._forwards += 1
        if self._forwards == 1:
            self._share = self._modes.share_in_training()

    def on_loss(self, call: LossCall) -> None:
        """One of torch's losses was computed, with gradients or without."""
        if torch.is_grad_enabled():
            self._learn_from(call)
            return
        if not self._forwards or call.name not in self._trained_with:
            return
        value = self._as_mean(call)
        if value is None:
            return
        if self._calls == 0:  # rollouts may have come before: this is the evaluation
            self._share = self._modes.share_in_training()
            self.on_begin()
        self._calls += 1
        self._sum = value if self._sum is None else self._sum + value.to(self._sum.device)

    def _learn_from(self, call: LossCall) -> None:
        """What training uses, and how."""
        if call.name not in self._trained_with and call.result.requires_grad:
            self._trained_with[call.name] = reduction = str(call.arguments().get("reduction"))
            if reduction == "sum":
                self._sums.add(call.name)
                self._in_doubt.add(call.name)
        if call.name in self._sums and call.arguments().get("reduction") == "sum":
            mark_as_sum(call.result, call.name)

    def learn_from_roots(self, roots: Any) -> None:
        """Training minimises these. A sum that the script has divided is a mean."""
        if not self._in_doubt:
            return
        for root in [roots] if isinstance(roots, Tensor) else roots or ():
            name, was_divided = _summed_loss(root)
            if name in self._in_doubt:
                self._in_doubt.discard(name)
                if was_divided:
                    self._trained_with[name] = "mean"

    @torch.no_grad()
    def _as_mean(self, call: LossCall) -> Tensor | None:
        """The loss as a mean (float32, 0-d, a copy), or None where that is in doubt."""
        if call.result.dim() != 0 or not is_measurable(call.result):
            return None
        given = call.arguments()
        if given.get("size_average") is not None or given.get("reduce") is not None:
            return None
        trained, reduction = self._trained_with[call.name], str(given.get("reduction"))
        # A copy: scripts go on computing with their loss, in place too.
        value = call.result.detach().to(torch.float32, copy=True)
        if trained == reduction or (reduction in ("mean", "batchmean") and trained != "sum"):
            return value
        if reduction == "sum" and trained == "mean" and given.get("weight") is None:
            mean: Tensor = value / _number_of_targets(given)
            return mean
        return None

    def take(self) -> Evaluated:
        """Of the time since the last call."""
        total, calls, forwards = self._sum, self._calls, self._forwards
        share, self._share = self._share, None
        self._sum, self._calls, self._forwards = None, 0, 0
        if total is None or calls > forwards:
            return Evaluated(None, share)
        return Evaluated(total / calls, share)


def _do_nothing() -> None:
    pass


def _summed_loss(root: Any) -> tuple[str, bool]:
    """The summed loss that a root of ``backward()`` is, up to factors, and whether it has any."""
    node = getattr(root, "grad_fn", None)
    was_divided = False
    for _ in range(_DEEPEST):
        if node is None:
            break
        if SUMMED in node.metadata:
            return node.metadata[SUMMED], was_divided
        was_divided |= node.name() in ("DivBackward0", "MulBackward0")
        node = node.next_functions[0][0] if node.next_functions else None
    return "", False


def _number_of_targets(given: dict[str, Any]) -> Any:
    """What a summed loss has to be divided by to be the mean."""
    target = given.get("target")
    if "ignore_index" in given and isinstance(target, Tensor) and not target.is_floating_point():
        return (target != given["ignore_index"]).sum()
    if "ignore_index" in given:  # probabilities of the classes: one sum a row
        return max(1, given["input"].numel() // given["input"].shape[1])
    return max(1, given["input"].numel())
