"""What was heard of a training before anybody watched it: losses, and norms before clipping."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lossguard.probes.consumption import Trace
from lossguard.probes.gradients import Norms, norms_of
from lossguard.probes.graph import leaves_of
from lossguard.probes.roots import Root, Unscaled, losses_among, root_of

_KEPT = 256
_MOST_LOOKS = 32


class Backward:
    """One ``backward()``: its losses, and the parameters it was to reach (None: not known)."""

    def __init__(self, roots: list[Root], leaves: Sequence[Tensor] | None) -> None:
        self.roots = roots
        self._leaves = None if leaves is None else {id(p): weakref.ref(p) for p in leaves}

    def reaches(self, parameter: Tensor) -> bool:
        """Whether it does; also where that is not known."""
        return self._leaves is None or id(parameter) in self._leaves

    def is_known_to_reach(self, parameter: Tensor) -> bool:
        """Whether it does, for certain."""
        return self._leaves is not None and id(parameter) in self._leaves

    def leaves(self) -> list[Tensor]:
        """Those that are still alive."""
        return [p for ref in (self._leaves or {}).values() if (p := ref()) is not None]


class HeardBefore:
    """Of one thread. Forgets what has found its loop.

    While it ``walks`` the graphs it knows which parameters each loss depends on: a millisecond
    for a thousand operations. Else it notes the losses alone.
    """

    def __init__(self) -> None:
        self.backwards: list[Backward] = []
        self.scaler: Any = None
        self.trace: Trace | None = None
        self._looks_left = _MOST_LOOKS
        self._unscaled = Unscaled()
        self._pending: Backward | None = None
        self._tensors: Any = None
        self._scales = False
        self._clipped: dict[int, Tensor] = {}
        self._traced: dict[int, Tensor] = {}
        self._was_clipped = False

    def on_scale(self, loss: Any, scaled: Any, *, walks: bool) -> None:
        """``GradScaler.scale(loss)`` returned ``scaled``."""
        if walks:
            self._unscaled.note(loss, scaled)
        self._scales = not walks

    def before_backward(self, tensors: Any, *, walks: bool) -> None:
        """``backward()`` begins at ``tensors``."""
        self._tensors = tensors
        if walks:
            losses = list(losses_among(tensors))
            self._pending = Backward(self._unscaled.take(losses), leaves_of(losses))

    def after_backward(self) -> Backward | None:
        """It has come to its end, and nobody else has heard it."""
        pending, tensors = self._pending, self._tensors
        if pending is None and not self._scales:
            pending = Backward([root_of(loss) for loss in losses_among(tensors)], None)
        self.forget_pending()
        if pending is not None and pending.roots:
            self.backwards = [*self.backwards[-_KEPT:], pending]
        return pending

    def forget_pending(self) -> None:
        """It has been heard."""
        self._pending = self._tensors = None
        self._scales = False

    def before_clip(self, parameters: Sequence[Tensor], *, measures: bool) -> None:
        """Their gradients are about to change: take the norms, or know that nobody has them."""
        if measures:
            self._clipped = _norms_by_id(parameters) | self._clipped
        else:
            self._was_clipped = True

    def look_for_changes(self) -> tuple[list[Tensor], bool]:
        """The parameters that the script has changed since ``trace_leaves``, though no optimizer
        has; and whether torch has counted none of the writes."""
        if self.trace is None:
            return [], False
        self._looks_left -= 1
        return self.trace.changed()

    def trace_leaves(self, backward: Backward) -> None:
        """From the first such ``backward()`` on: what becomes of its parameters?"""
        leaves = backward.leaves()
        if self.trace is None and leaves and self._looks_left > 0:
            self.trace = Trace(leaves)
        if self.trace is not None:
            self._traced = _norms_by_id(leaves)

    def forget_changes(self) -> None:
        """An optimizer has made them."""
        self.trace = None
        self._traced = {}

    def take_roots(self, parameters: Sequence[Tensor]) -> list[Root]:
        """The losses that reach these parameters; forgets them."""
        ours = [b for b in self.backwards if any(map(b.reaches, parameters))]
        self.backwards = [b for b in self.backwards if b not in ours]
        return [root for backward in ours for root in backward.roots]

    def norms(self, parameters: Sequence[Tensor], missing: Tensor) -> tuple[Norms | None, bool]:
        """Norms from before the clipping, and whether the gradients have lost theirs."""
        if self._was_clipped or not any(id(p) in self._clipped for p in parameters):
            return None, self._was_clipped
        rest = [p for p in parameters if id(p) not in self._clipped]
        return _put_together(_norms_by_id(rest) | self._clipped, parameters, missing), False

    def norms_traced(self, parameters: Sequence[Tensor], missing: Tensor) -> Norms | None:
        """Norms after the last ``backward()`` that was traced."""
        if not any(id(p) in self._traced for p in parameters):
            return None
        return _put_together(self._traced, parameters, missing)

    def forget(self, backward: Backward) -> None:
        """It is of a loop that has heard it."""
        self.backwards = [one for one in self.backwards if one is not backward]

    def forget_clipping(self) -> None:
        """The step that it was for is over."""
        self._clipped, self._was_clipped = {}, False


@torch.no_grad()
def _norms_by_id(parameters: Sequence[Tensor]) -> dict[int, Tensor]:
    there = [p for p in parameters if p.grad is not None]
    if not there:
        return {}
    norms = norms_of([p.grad for p in there if p.grad is not None], there[0].device)
    return dict(zip(map(id, there), norms, strict=True))


def _put_together(known: dict[int, Tensor], parameters: Sequence[Tensor], missing: Tensor) -> Norms:
    each = [norm.to(missing.device) for p in parameters if (norm := known.get(id(p))) is not None]
    total = torch.linalg.vector_norm(torch.stack(each))
    found = iter(each)
    every = [next(found) if id(p) in known else missing for p in parameters]
    return torch.stack(every), total


def same_backwards(
    backwards: Sequence[Backward], parameters: Sequence[Tensor]
) -> Callable[[Tensor], bool]:
    """Whether a parameter is reached by the same losses as ``parameters``, for certain."""
    ours = [any(map(b.is_known_to_reach, parameters)) for b in backwards]

    def is_fed(parameter: Tensor) -> bool:
        theirs = [b.is_known_to_reach(parameter) for b in backwards]
        return any(theirs) and theirs == ours

    return is_fed
