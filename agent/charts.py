"""What was measured of a run, over all its steps and at the last one, in constant memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lossguard.agent.history import MetricHistory
from lossguard.agent.layer_history import LayerHistory
from lossguard.detectors import Observation

_CHARTED = 64


class Charts:
    """At most 64 plain metrics, those that came first, and the layers."""

    def __init__(self) -> None:
        self.histories: dict[str, MetricHistory] = {}
        self.last: dict[str, float] = {}
        self.layers = LayerHistory()

    def note(self, observation: Observation) -> None:
        """Take in one step."""
        for name, value in observation.values.items():
            history = self.histories.get(name)
            if history is None:
                if len(self.histories) >= _CHARTED:
                    continue
                history = self.histories[name] = MetricHistory()
            history.add(observation.step, value)
            self.last[name] = value
        self.layers.note(observation)

    def restore(
        self, histories: Mapping[str, Any], last: Mapping[str, float], layers: dict[str, Any]
    ) -> None:
        """Take up the states of before a restart."""
        self.histories.update(restored(histories))
        self.last = dict(last)
        self.layers.restore(layers)


def states(histories: Mapping[str, MetricHistory]) -> dict[str, Any]:
    """Everything about some metrics, as plain data."""
    return {name: history.state() for name, history in histories.items()}


def restored(kept: Mapping[str, Any]) -> dict[str, MetricHistory]:
    """The histories that ``states`` was called for."""
    histories = {name: MetricHistory() for name in kept}
    for name, history in histories.items():
        history.restore(kept[name])
    return histories
