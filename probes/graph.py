"""Which parameters a loss depends on, read off its graph before ``backward()`` runs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

_MOST_NODES = 50_000


def leaves_of(tensors: Iterable[Tensor]) -> list[Tensor] | None:
    """The leaves whose gradients a ``backward()`` from ``tensors`` adds to.

    Walks the whole graph on the host: about a millisecond for a thousand operations, so it is
    for the first few times only. None where the graph is too large to be walked.
    """
    waiting: list[Any] = [t.grad_fn for t in tensors if t.grad_fn is not None]
    seen = set(waiting)
    leaves: list[Tensor] = [t for t in tensors if t.grad_fn is None and t.requires_grad]
    while waiting:
        node = waiting.pop()
        variable = getattr(node, "variable", None)
        if isinstance(variable, Tensor):
            leaves.append(variable)
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                waiting.append(following)
        if len(seen) > _MOST_NODES:
            return None
    return leaves
