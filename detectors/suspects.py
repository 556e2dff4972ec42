"""Layers that show the same sign in one sample after the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Suspect:
    """A layer that has shown the sign for long enough."""

    index: int
    since: int
    """The first step after the last sample without the sign."""
    value: float
    """How it shows it in the latest sample."""


class Suspects:
    """Counts samples in a row for each layer that shows a sign; memory only for those that do."""

    def __init__(self, least: int) -> None:
        self._least = least
        self._layers: dict[int, tuple[int, int, float]] = {}
        self._after: int | None = None

    def pass_by(self, step: int) -> None:
        """A step without a sample, in which it may have begun."""
        if self._after is None:
            self._after = step

    def push(self, step: int, found: Mapping[int, float]) -> Suspect | None:
        """Take in a sample: the layers with the sign, and how they show it.

        The suspect closest to the input that has shown it ``least`` times in a row, if any.
        """
        start = step if self._after is None else self._after
        self._after = None
        if not found:
            self._layers.clear()
            return None
        known = self._layers
        layers = {}
        for index, value in found.items():
            since, count, _ = known.get(index, (start, 0, 0.0))
            layers[index] = (since, count + 1, value)
        self._layers = layers
        lasting = [index for index, (_, count, _) in layers.items() if count >= self._least]
        if not lasting:
            return None
        since, _, value = layers[min(lasting)]
        return Suspect(min(lasting), since, value)

    def clear(self) -> None:
        """Suspect nobody."""
        self._layers.clear()
        self._after = None

    def state(self) -> dict[str, Any]:
        """Plain data for ``restore``."""
        return {
            "layers": [[index, *known] for index, known in self._layers.items()],
            "after": self._after,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take the place of the one that ``state`` came from."""
        self._layers = {index: (since, n, value) for index, since, n, value in state["layers"]}
        self._after = state["after"]
