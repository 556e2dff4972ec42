"""Which number the script minimises: the root of ``backward()``, as the script means it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor

from lossguard.probes.roots import Root, Unscaled

_SAMPLE = 32


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
        self.watch(parameters)
        self._reached_before = False
        self._grads: list[tuple[int, int]] = []
        self._left: list[tuple[int, int]] = []
        self._divided_by = 1.0
        self._pending: list[Root] = []
        self._unscaled = Unscaled()
        self._sum: Tensor | None = None
        self._count = 0
        self._divisors: set[float] = set()
        self._shared: Tensor | None = None
        self._share = True

    def watch(self, parameters: Sequence[Tensor]) -> None:
        """It is these from now on that a ``backward()`` must reach."""
        trained = [p for p in parameters if p.requires_grad]
        stride = max(1, -(-len(trained) // _SAMPLE))
        self._sample = trained[::stride]

    def _clear(self) -> None:
        self._sum = None
        self._count = 0
        self._divisors = set()
        self._shared = None
        self._share = True

    def on_scale(self, loss: Any, scaled: Any) -> None:
        """``GradScaler.scale(loss)`` returned ``scaled``: a tensor each, or as many."""
        self._unscaled.note(loss, scaled)

    def before_backward(self, tensors: Any) -> None:
        """``backward()`` begins at ``tensors``."""
        self._grads = [_grad_state(p) for p in self._sample]
        if self._sum is not None and self._reached_before and self._were_thrown_away():
            self._clear()
        self._pending = self._unscaled.take(tensors)

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
            self.add(pending)
            self._left = [_grad_state(p) for p in self._sample]
        return counts

    def take_over(self, roots: Iterable[Root]) -> None:
        """They were heard before anybody watched; gradients that are there now are theirs."""
        self.add(roots)
        self._reached_before |= any(gradient for gradient, _ in map(_grad_state, self._sample))

    def expect_writes(self) -> None:
        """The gradients are scaled or clipped now, and not thrown away."""
        self._left = []

    def _were_thrown_away(self) -> bool:
        """All gradients are gone, or each was written to since the last ``backward()``: zeroed."""
        if not any(gradient for gradient, _ in self._grads):
            return True
        pairs = [(a, b) for a, b in zip(self._left, self._grads, strict=False) if a[0]]
        return bool(pairs) and all(a != b for a, b in pairs)

    def add(self, roots: Iterable[Root]) -> None:
        """These count for the step that is under way."""
        for root in roots:
            self._sum = root.value if self._sum is None else self._sum + root.value
            self._divisors.add(root.divisor)
            self._compare_divisors(root.shared)
            self._count += 1

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


def _grad_state(parameter: Tensor) -> tuple[int, int]:
    """Differs after something was added to the gradient; ``(0, 0)`` when there is none."""
    grad = parameter.grad
    if grad is None:
        return 0, 0
    # Of a distributed gradient what is written to is it, or the part that lies here.
    part = None if type(grad) is Tensor else getattr(grad, "_local_tensor", None)
    return id(grad), grad._version + (0 if part is None else part._version)
