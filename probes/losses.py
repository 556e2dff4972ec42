"""Which number the script minimises: the root of ``backward()``, as the script means it."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

_SAMPLE = 32
_DEEPEST = 6

SUMMED = "lossguard.summed"
"""Where a graph's node says which summed loss it is."""


class _Root(NamedTuple):
    """A loss on the device, and what the script has divided it by."""

    value: Tensor
    divisor: float
    shared: Tensor | None
    """The divisor where it is a tensor: perhaps one and the same for several losses."""


class LossTap:
    """Collects the roots of ``backward()`` between two optimizer steps, on the device.

    Only a ``backward()`` that reaches the parameters counts: another model's does not. A root
    that went through ``GradScaler.scale`` counts un-scaled. Several roots (gradient accumulation)
    are averaged; where the script already divided each by their number, or the sum of each over
    its tokens by one and the same tensor (the number of tokens in all), they are summed.
    Gradients that were thrown away (``zero_grad`` without a step) take their losses with them.

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
        self._shared: Tensor | None = None
        self._share = True

    def take_over(self, other: LossTap) -> None:
        """Go on from what ``other`` has collected since the last step."""
        self._sum, self._count, self._divisors = other._sum, other._count, other._divisors
        self._shared, self._share = other._shared, other._share

    def _clear(self) -> None:
        self._sum = None
        self._count = 0
        self._divisors = set()
        self._shared = None
        self._share = True

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
                self._compare_divisors(root.shared)
                self._count += 1
        return counts

    def _compare_divisors(self, divisor: Tensor | None) -> None:
        # The first is held, so that no other comes to lie in its place.
        if self._count == 0:
            self._shared = divisor
        elif divisor is None or self._shared is None:
            self._share = False
        else:
            self._share &= divisor.data_ptr() == self._shared.data_ptr()

    def take(self) -> Tensor | None:
        """The loss of the step that ends here (float32, 0-d), or None without a backward."""
        total, count, divisors = self._sum, self._count, self._divisors
        one_divisor = self._share and self._shared is not None
        self._clear()
        if total is None:
            return None
        if divisors == {float(count)}:
            self._divided_by = float(count)
            return total
        if one_divisor and (self._divided_by == 1.0 or divisors != {self._divided_by}):
            return total
        # The last window of an epoch may have fewer micro-batches than the script divides by.
        by_script = self._divided_by if divisors == {self._divided_by} else 1.0
        return total if by_script == count else total * (by_script / count)

    def _as_meant(self, root: Tensor) -> _Root:
        scaled, unscaled = self._unscaled.get(id(root), (None, None))
        if scaled is not None and unscaled is not None and scaled() is root:
            return unscaled
        return _root(root)


def _root(loss: Tensor) -> _Root:
    # A copy: scripts go on computing with their loss, in place too.
    value = loss.detach().reshape(()).to(torch.float32, copy=True)
    return _Root(value, *_divisor(loss))


def _is_loss(thing: Any) -> bool:
    return isinstance(thing, Tensor) and thing.numel() == 1 and thing.dtype.is_floating_point


def _grad_state(parameter: Tensor) -> tuple[int, int]:
    """Differs after something was added to the gradient; ``(0, 0)`` when there is none."""
    grad = parameter.grad
    return (0, 0) if grad is None else (id(grad), grad._version)


def _divisor(loss: Tensor) -> tuple[float, Tensor | None]:
    """The number a script divided its loss by in the last operation (``loss / 4``), or 1; and the
    tensor that a summed loss was divided by at some time before.

    The autograd graph keeps both on the host's side, so looking does not touch the device.
    """
    number, node = 1.0, loss.grad_fn
    for _ in range(_DEEPEST):
        if node is None or node.name() not in ("DivBackward0", "MulBackward0"):
            break
        try:
            other = getattr(node, "_saved_other", None)
        except RuntimeError:  # freed by an earlier backward
            break
        inner: Any = node.next_functions[0][0]
        divides = node.name() == "DivBackward0"
        if type(other) is Tensor and divides and inner is not None and SUMMED in inner.metadata:
            return _as_divisor(other) if number == 1.0 else number, other.detach()
        if number == 1.0:
            number = _as_divisor(other) if divides else round(1.0 / _as_divisor(other), 6)
        node = inner
    return number, None


def _as_divisor(other: Any) -> float:
    """As a number, where the host knows it; else 1."""
    if type(other) is Tensor and other.device.type == "cpu" and other.dim() == 0:
        other = other.item()
    return float(other) if isinstance(other, (int, float)) and other > 0 else 1.0


def mark_as_sum(loss: Tensor, name: str) -> None:
    """Note on the graph of a loss that it is a sum over all targets."""
    node: Any = loss.grad_fn
    if node is not None:
        node.metadata[SUMMED] = name
