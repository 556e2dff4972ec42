"""Where the parameters of a model stand along its depth, and how a quantity changes along it."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lossguard.detectors.base import Family

QUARTERS = 4
_LEAST_LAYERS = QUARTERS
"""Layers of one kind that have a depth to speak of."""
_LEAST_MEASURED = 0.5
"""Share of a quarter's layers that must have a usable value."""
_NUMBER = re.compile(r"\d+$")
_NORM = re.compile(
    r"(^|[._])(rms|layer_?|batch_?|group_?)?(norm|ln|bn|gn)(_|\d|\.|$)", re.IGNORECASE
)
_EMBEDDING = re.compile(
    r"(^|[._])(tok|token|pos|position|wte|wpe|\w*emb\w*)([._]|$)", re.IGNORECASE
)


def is_weight(name: str) -> bool:
    """Whether it is a matrix or kernel, going by its name.

    Biases, the gains of norms and embeddings are not: their gradients differ by nature.
    """
    called_so = "weight" in name or "kernel" in name
    last = name.rpartition(".")[2]
    return called_so and "bias" not in last and not (_NORM.search(name) or is_embedding(name))


def is_embedding(name: str) -> bool:
    """Whether it is the table of an embedding, going by its name."""
    return bool(_EMBEDDING.search(name)) and "bias" not in name


def kind_of(name: str) -> str:
    """What a weight is called in every layer that has one like it.

    ``blocks.3.fc1.weight`` is one of ``blocks.#.fc1.weight``, ``layer2.0.conv1.weight`` one of
    ``layer#.#.conv1.weight``, ``fc3.weight`` one of ``fc#.weight``: numbers up to the last part
    that is a number count layers, those after it tell roles apart.
    """
    parts = name.split(".")
    last = max((i for i, part in enumerate(parts) if part.isdigit()), default=len(parts) - 1)
    counted = [_NUMBER.sub("#", part) for part in parts[: last + 1]]
    return ".".join(counted + parts[last + 1 :])


@dataclass(frozen=True, slots=True)
class Profile:
    """A quantity along the depth: log10 of its (geometric) median in each quarter, the input
    side first."""

    quarters: tuple[float, float, float, float]
    lowest: int
    """Index of the layer of the first quarter with the smallest value."""
    highest: int
    """Index of the layer of the first quarter with the largest value."""


class Depth:
    """Compares like with like: each kind of weight is split into quarters along the depth.

    Every kind with at least four members gives as many to each quarter as the others of its
    length, so that medians over a quarter differ by depth and not by kind. In a model without such
    a kind all weights are taken in their order. A profile costs some 50 microseconds for 1,000
    layers; a new list of names a few milliseconds.
    """

    def __init__(self) -> None:
        self._names: Sequence[str] = ()
        self._quarters: list[npt.NDArray[np.intp]] = []

    def profile(self, family: Family) -> Profile | None:
        """The profile of positive values; None where too few layers have a usable one.

        Missing, zero and non-finite values are left out: a frozen layer has no gradient.
        """
        if family.names is not self._names:
            if list(family.names) != list(self._names):
                self._quarters = _quarters(family.names)
            self._names = family.names
        if not self._quarters:
            return None
        values = family.values
        usable = np.isfinite(values) & (values > 0.0) & ~family.missing
        heights = []
        for indices in self._quarters:
            mine = values[indices[usable[indices]]]
            if len(mine) < _LEAST_MEASURED * len(indices):
                return None
            mine.sort()
            middle = float(mine[(len(mine) - 1) // 2]) * float(mine[len(mine) // 2])
            heights.append(0.5 * math.log10(middle))
        first = self._quarters[0][usable[self._quarters[0]]]
        lowest, highest = first[int(values[first].argmin())], first[int(values[first].argmax())]
        q1, q2, q3, q4 = heights
        return Profile((q1, q2, q3, q4), int(lowest), int(highest))


def _quarters(names: Sequence[str]) -> list[npt.NDArray[np.intp]]:
    """The indices of the layers in each quarter; nothing where the model has no depth."""
    weights = [i for i, name in enumerate(names) if is_weight(name)]
    kinds: dict[str, list[int]] = {}
    for i in weights:
        kinds.setdefault(kind_of(names[i]), []).append(i)
    deep = [members for members in kinds.values() if len(members) >= _LEAST_LAYERS]
    if not deep and len(weights) >= _LEAST_LAYERS:
        deep = [weights]
    quarters: list[list[int]] = [[] for _ in range(QUARTERS)]
    for members in deep:
        for rank, i in enumerate(members):
            quarters[int(QUARTERS * (rank + 0.5) / len(members))].append(i)
    return [np.array(indices, np.intp) for indices in quarters] if deep else []
