"""Which number the script minimises: the root of ``backward()``, as the script means it."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

_SAMPLE = 32


class _Root(NamedTuple):
    """A loss on the device, and what the script has divided it by."""

    value: Tensor
    divisor: float


class LossTap:
    """Collects the roots of ``backward()`` between two optimizer steps, on the device.

    Only a ``backward()`` that reaches the parameters counts: another model's does not. A root
    that went through ``GradScaler.scale`` counts un-scaled. Several roots (gradient accumulation)
    are averaged; where the script already divided each by their number, they are summed. Gradients
    that were thrown away (``zero_grad`` without a step) take their losses with them.

    Costs one or two tiny kernels per micro-batch, and no synchronisation. Holds no graph.
    """

    def __init__(self, parameters: Sequence[Tensor] = ()) -> None:
        trained = [p for p in parameters if p.requires_grad]
        stride = max(1, -(-len(trained) // _SAMPLE))
        self._sample = trained[::stride]
        self._reached_before = False
        self._grads: list[tuple[int, int]] = []
        self._divided_by = 1.0
        self._pending: list[_Root] = []
        self._unscaled: dict[int, tuple[weakref.ref[Tensor], _Root]] = {}
        self._sum: Tensor | None = None
        self._count = 0
        self._divisors: set[float] = set()

    def take_over(self, other: LossTap) -> None:
        """Go on from what ``other`` has collected since the last step."""
        self._sum, self._count, self._divisors = other._sum, other._count, other._divisors

    def _clear(self) -> None:
        self._sum = None
        self._count = 0
        self._divisors = set()

    def on_scale(self, loss: Any, scaled: Any) -> None:
        """``GradScaler.scale(loss)`` returned ``scaled``: a tensor each, or as many."""
        if isinstance(loss, (list, tuple)) and isinstance(scaled, (list, tuple)):
            for one, its in zip(loss, scaled, strict=False):
                self.on_scale(one, its)
        elif _is_loss(loss) and isinstance(scaled, Tensor):
            self._unscaled[id(scaled)] = (weakref.ref(scaled), _root(loss))

    def before_backward(self, tensors: Any) -> None:
        """``backward()`` begins at ``tensors``."""
        self._grads = [_grad_state(p) for p in self._sample]
        if self._sum is not None and self._reached_before and not any(g for g, _ in self._grads):
            self._clear()
        roots = [tensors] if isinstance(tensors, Tensor) else list(tensors or ())
        self._pending = [self._as_meant(root) for root in roots if _is_loss(root)]
        self._unscaled.clear()

    def after_backward(self) -> bool:
        """It has ended; whether it reached the parameters, so that its roots count."""
        grads, pending = self._grads, self._pending
        self._grads, self._pending = [], []
        reached = any(
            _grad_state(p) != before for p, before in zip(self._sample, grads, strict=False)
        )
        # A sample that no backward has reached so far may be a bad one: then every root counts.
        counts = reached or not self._reached_before
        if reached and not self._reached_before:  # it is a good one: the earlier were not ours
            self._clear()
        self._reached_before |= reached
        if counts:
            for root in pending:
                self._sum = root.value if self._sum is None else self._sum + root.value
                self._divisors.add(root.divisor)
                self._count += 1
        return counts

    def take(self) -> Tensor | None:
        """The loss of the step that ends here (float32, 0-d), or None without a backward."""
        total, count, divisors = self._sum, self._count, self._divisors
        self._clear()
        if total is None:
            return None
        if divisors == {float(count)}:
            self._divided_by = float(count)
            return total
        # The last window of an epoch may have fewer micro-batches than the script divides by.
        by_script = self._divided_by if divisors == {self._divided_by} else 1.0
        return total if by_script == count else total * (by_script / count)

    def _as_meant(self, root: Tensor) -> _Root:
        scaled, unscaled = self._unscaled.get(id(root), (None, None))
        if scaled is not None and unscaled is not None and scaled() is root:
            return unscaled
        return _root(root)


def _is_loss(thing: Any) -> bool:
    return isinstance(thing, Tensor) and thing.numel() == 1 and thing.dtype.is_floating_point


def _root(loss: Tensor) -> _Root:
    # A copy: scripts go on computing with their loss, in place too.
    value = loss.detach().reshape(()).to(torch.float32, copy=True)
    return _Root(value, _divided_by(loss))


def _grad_state(parameter: Tensor) -> tuple[int, int]:
    """Differs after something was added to the gradient; ``(0, 0)`` when there is none."""
    grad = parameter.grad
    return (0, 0) if grad is None else (id(grad), grad._version)


def _divided_by(loss: Tensor) -> float:
    """The number a script divided its loss by in the last operation (``loss / 4``), or 1.

    The autograd graph keeps that number on the host, so reading it does not touch the device.
    """
    node = loss.grad_fn
    if node is None or node.name() not in ("DivBackward0", "MulBackward0"):
        return 1.0
    try:
        other = getattr(node, "_saved_other", None)
    except RuntimeError:  # freed by an earlier backward
        return 1.0
    if isinstance(other, Tensor):
        if other.device.type != "cpu" or other.dim() != 0 or type(other) is not Tensor:
            return 1.0
        other = other.item()
    if not isinstance(other, (int, float)) or not other > 0:
        return 1.0
    return float(other) if node.name() == "DivBackward0" else round(1.0 / other, 6)
