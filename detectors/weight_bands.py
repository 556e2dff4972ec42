"""Which parameters are out of a band: their size, or that of an update to them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from lossguard.detectors.base import Family
from lossguard.detectors.depth import is_embedding

_MOST = 16
"""Layers that are named at once, from the input side."""


class Material:
    """Which parameters are large enough to be judged; biases never are.

    Large: a norm of at least ``share`` of the largest one. Before norms were seen all but biases
    are. A microsecond a hundred layers.
    """

    def __init__(self, share: float) -> None:
        self._share = share
        self._names: Sequence[str] = ()
        self._candidates: npt.NDArray[np.bool_] = np.ones(0, np.bool_)
        self._large: npt.NDArray[np.bool_] = np.ones(0, np.bool_)

    def learn(self, norms: Family) -> None:
        """Take in the norms of the weights."""
        values = np.where(np.isfinite(norms.values) & ~norms.missing, norms.values, 0.0)
        largest = float(values.max(initial=0.0))
        self._large = (values > 0.0) & (values >= self._share * largest)

    def among(self, names: Sequence[str]) -> npt.NDArray[np.bool_]:
        """Those to judge, in the order of the names."""
        if names is not self._names:
            self._candidates = np.array(["bias" not in name for name in names], np.bool_)
            self._names = names
        if len(self._large) != len(names):
            return self._candidates
        return self._candidates & self._large

    def state(self) -> list[int]:
        """Plain data for ``restore``."""
        return [len(self._large), *np.flatnonzero(self._large).tolist()]

    def restore(self, state: list[int]) -> None:
        """Take the place of the one that ``state`` came from."""
        size, *large = state
        self._large = np.zeros(size, np.bool_)
        self._large[large] = True


def embeddings_beyond(norms: Family, bound: float) -> dict[int, float]:
    """The embeddings whose norm exceeds the bound, and the norm."""
    beyond = np.flatnonzero((norms.values > bound) & ~norms.missing & np.isfinite(norms.values))
    layers = [int(i) for i in beyond if is_embedding(norms.names[int(i)])]
    return {i: float(norms.values[i]) for i in layers[:_MOST]}


def above(ratios: Family, eligible: npt.NDArray[np.bool_], most: float) -> dict[int, float]:
    """The layers whose update is larger than that share of the weight, and the share."""
    return _picked(ratios, eligible & (ratios.values > most))


def below(ratios: Family, eligible: npt.NDArray[np.bool_], least: float) -> dict[int, float]:
    """The layers whose update is smaller than that share of the weight, but not zero."""
    return _picked(ratios, eligible & (ratios.values < least) & (ratios.values > 0.0))


def _picked(ratios: Family, which: npt.NDArray[np.bool_]) -> dict[int, float]:
    usable = which & np.isfinite(ratios.values) & ~ratios.missing
    return {int(i): float(ratios.values[i]) for i in np.flatnonzero(usable)[:_MOST]}
