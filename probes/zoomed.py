"""What a zoom has found, on its way to the host, and in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from lossguard.probes import wire
from lossguard.probes.transfer import Arrival


class Place(NamedTuple):
    """A module that ran."""

    name: str
    kind: str


class Zoomed(NamedTuple):
    """Of each place, in the order in which they ended: largest input, largest output, norm of the
    weights; read when they have arrived."""

    run: str
    rank: int
    step: int
    metric: str
    places: Sequence[Place]
    arrival: Arrival

    def told(self) -> wire.Event:
        """In words, and ``where`` the first module that put out what is not finite, if any did."""
        values = self.arrival.read().tolist()
        for i, place in enumerate(self.places):
            given, put_out, weights = values[3 * i : 3 * i + 3]
            if not math.isfinite(put_out):
                return self._blame(place, given, weights)
        data: dict[str, float | int | str] = {"metric": self.metric, "modules": len(self.places)}
        if self.metric == "loss":
            words = "every module puts out finite numbers: it is the loss function, or its targets"
        else:
            words = "loss and forward are finite: the trouble is in the backward pass"
        return self._event(words, data)

    def _blame(self, place: Place, given: float, weights: float) -> wire.Event:
        if not math.isfinite(given):
            said = "its input is not finite already"
        elif not math.isfinite(weights):
            said = f"its weights are not finite, its input is, absmax {given:.2g}"
        else:
            said = f"its input is finite, absmax {given:.2g}"
        data: dict[str, float | int | str] = {
            "metric": self.metric,
            "where": place.name,
            "kind": place.kind,
            "input_is_finite": int(math.isfinite(given)),
            "weights_are_finite": int(math.isfinite(weights)),
        }
        if math.isfinite(given):
            data["input_absmax"] = given
        name = place.name or "the model itself"
        return self._event(f"first bad: {name} ({place.kind}), {said}", data)

    def _event(self, words: str, data: dict[str, float | int | str]) -> wire.Event:
        return wire.Event(
            run=self.run, rank=self.rank, step=self.step, kind="zoom", message=words, data=data
        )
