"""Which number the script minimises: the root of ``backward()``, as the script means it."""

from __future__ import annotations

from typing import Any

from torch import Tensor


class LossTap:
    """Collects the roots of ``backward()`` between two optimizer steps, on the device.

    A root that went through ``GradScaler.scale`` counts un-scaled. Several roots (gradient
    accumulation) are averaged; where the script already divided each by their number, they are
    summed. Costs one small kernel per micro-batch after the first, and no synchronisation.
    """

    def __init__(self) -> None:
        self._unscaled: dict[int, tuple[Tensor, Tensor]] = {}
        self._clear()

    def _clear(self) -> None:
        self._sum: Tensor | None = None
        self._count = 0
        self._divisors: set[float] = set()
        self._unscaled.clear()

    def on_scale(self, loss: Any, scaled: Any) -> None:
        """``GradScaler.scale(loss)`` returned ``scaled``."""
        if isinstance(loss, Tensor) and isinstance(scaled, Tensor):
            # `scaled` is kept too: a freed tensor's id may be given to another one.
            self._unscaled[id(scaled)] = (loss, scaled)

    def on_backward(self, tensors: Any) -> None:
        """``backward()`` begins at ``tensors``."""
        roots = [tensors] if isinstance(tensors, Tensor) else list(tensors or ())
        for root in roots:
            if not isinstance(root, Tensor) or root.numel() != 1:
                continue
            loss = self._unscaled.get(id(root), (root, root))[0]
            value = loss.detach().reshape(()).float()
            self._sum = value if self._sum is None else self._sum + value
            self._divisors.add(_divided_by(loss))
            self._count += 1

    def take(self) -> Tensor | None:
        """The loss of the step that ends here (float32, 0-d), or None without a backward."""
        total, count = self._sum, self._count
        already_averaged = self._divisors == {float(count)}
        self._clear()
        if total is None or count <= 1 or already_averaged:
            return total
        return total / count


def _divided_by(loss: Tensor) -> float:
    """The number a script divided its loss by in the last operation (``loss / 4``), or 1.

    The autograd graph keeps that number on the host, so reading it does not touch the device.
    """
    node = loss.grad_fn
    if node is None or node.name() not in ("DivBackward0", "MulBackward0"):
        return 1.0
    other = getattr(node, "_saved_other", None)
    if isinstance(other, Tensor):
        if other.device.type != "cpu" or other.dim() != 0 or type(other) is not Tensor:
            return 1.0
        other = other.item()
    if not isinstance(other, (int, float)) or other <= 0:
        return 1.0
    return float(other) if node.name() == "DivBackward0" else round(1.0 / other, 6)
