"""The state that the agent saves of a run every few seconds, as far as a report shows it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import msgspec
import numpy as np

from lossguard.agent.feed import EventLine
from lossguard.agent.layer_history import LayerMap
from lossguard.agent.report.curves import Floats, Steps

T = TypeVar("T")


class Coarse(NamedTuple):
    """A metric over the whole run: the first step of each stretch, and what was in it."""

    steps: Steps
    low: Floats
    high: Floats
    last: Floats


@dataclass(frozen=True)
class Saved:
    """Empty parts are missing ones, or made no sense."""

    histories: dict[str, Coarse] = field(default_factory=dict)
    bounds: dict[str, Coarse] = field(default_factory=dict)
    layers: dict[str, LayerMap] = field(default_factory=dict)
    events: list[EventLine] = field(default_factory=list)
    rollbacks: list[tuple[int, int]] = field(default_factory=list)


def read_saved(state: dict[str, Any], damaged: Counter[str]) -> Saved:
    """The parts that can be read; the others are counted."""

    def part(name: str, read: Callable[[Any], T], otherwise: T) -> T:
        if name not in state:
            return otherwise
        try:
            return read(state[name])
        except (KeyError, TypeError, ValueError, AttributeError):
            damaged[f"saved {name}"] += 1
            return otherwise

    return Saved(
        histories=part("histories", _coarse, {}),
        bounds=part("bounds", _coarse, {}),
        layers=part("layers", _layers, {}),
        events=part("events", lambda events: msgspec.convert(events, list[EventLine]), []),
        rollbacks=part(
            "rollbacks", lambda pairs: msgspec.convert(pairs, list[tuple[int, int]]), []
        ),
    )


def _coarse(histories: dict[str, Any]) -> dict[str, Coarse]:
    found = {}
    for metric, history in histories.items():
        low, high, last = (
            np.frombuffer(history[part], dtype=np.float32).astype(np.float64)
            for part in ("low", "high", "last")
        )
        steps = np.frombuffer(history["steps"], dtype=np.int64)
        if not len(steps) == len(low) == len(high) == len(last):
            raise ValueError(f"{metric}: parts of different lengths")
        found[str(metric)] = Coarse(steps, low, high, last)
    return found


def _layers(state: dict[str, Any]) -> dict[str, LayerMap]:
    return {kind: LayerMap.restored(known) for kind, known in state.items()}
