"""From records to observations: one a step, in the order of the file."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from lossguard.agent.logs.columns import Columns
from lossguard.agent.logs.names import EPOCH, STEP, TIME, Recogniser
from lossguard.agent.logs.source import Record, Troubles
from lossguard.agent.logs.steps import Steps, Turn
from lossguard.detectors import Family, Observation

_LARGEST_STEP = 2.0**53


@dataclass
class _Open:
    """The observation that is being put together."""

    where: int
    step: int
    values: dict[str, float]
    layers: dict[str, dict[int, float]]
    time_s: float | None
    trains: bool
    turn: Turn


@dataclass
class Assembly:
    """Joins the records of one step, sees where the steps go back, and counts.

    Records of one step that follow each other become one observation, unless they hold different
    values of one metric. An evaluation alone (no loss, no gradient) whose step lies before the
    training's, or that has none, belongs to the step at which it was written.
    """

    columns: Columns
    recogniser: Recogniser
    troubles: Troubles
    count_rows: bool = False
    """There is no step in the file: rows are counted."""
    count_evaluations: bool = True
    """A row with an evaluation alone counts as well."""
    epoch_is_step: bool = False
    num_rows: int = 0
    """Records that were used."""
    num_observations: int = 0
    steps: Steps = field(default_factory=Steps)
    turn: Turn = Turn.ON
    """Of the observation that was handed out last."""
    _open: _Open | None = None
    _ordinal: int = -1
    _last_trained: int | None = None
    _names: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def observations(self, records: Iterable[tuple[int, Record]]) -> Iterator[Observation]:
        """The observations, each as soon as the record after it is known."""
        columns, plain = self.columns, self.columns.plain
        for where, record in records:
            values: dict[str, float] = {}
            layers: dict[str, dict[int, float]] = {}
            for column, value in record.items():
                metric = plain.get(column)
                if metric is not None:
                    values[metric] = value
                elif (layer := columns.layers.get(column)) is not None:
                    layers.setdefault(layer[0], {})[layer[1]] = value
                elif not columns.knows(column):
                    columns.take_up(column, self.recogniser)
                    if (metric := plain.get(column)) is not None:
                        values[metric] = value
                    elif (layer := columns.layers.get(column)) is not None:
                        layers.setdefault(layer[0], {})[layer[1]] = value
            if columns.scales:
                _to_units(values, columns.scales)
            done = self._take(where, values, layers)
            if done is not None:
                yield self._observation(done)
        if self._open is not None:
            yield self._observation(self._open)
            self._open = None

    def _take(
        self, where: int, values: dict[str, float], layers: dict[str, dict[int, float]]
    ) -> _Open | None:
        """Take in one record; the observation that is complete with it."""
        given, time_s = values.pop(STEP, None), values.pop(TIME, None)
        trains = bool(layers) or "loss" in values or "grad_norm" in values
        if self.epoch_is_step:
            given = values.get(EPOCH)
        if (epoch := values.get(EPOCH)) is not None and not math.isfinite(epoch):
            del values[EPOCH]
        if given is None and (
            not self.count_rows or not (trains or self.count_evaluations or self.steps.now is None)
        ):
            return self._stepless(where, values, time_s, trains=trains)
        if self.count_rows:
            self._ordinal += 1
            step = self._ordinal
        elif given is None or not abs(given) < _LARGEST_STEP:
            self.troubles.note(where, "no step in it")
            return None
        else:
            step = int(given)
        self.num_rows += 1
        before = self._open
        turn = Turn.ON
        if trains:
            step, turn = self.steps.go(where, step, values.get(EPOCH))
        elif (now := self.steps.now) is not None:
            step += self.steps.offset
            if step < now and values:
                self.steps.turns.elsewhere += 1
                step = now
        if before is not None:
            if turn is Turn.ON and step == before.step and _agree(before, values, layers):
                _join(before, values, layers, time_s, trains=trains)
                return None
            if trains and not before.trains and before.turn is Turn.ON:
                self._put_back(before, step)
        self._open = _Open(where, step, values, layers, time_s, trains, turn)
        return before

    def _stepless(
        self, where: int, values: dict[str, float], time_s: float | None, *, trains: bool
    ) -> _Open | None:
        """A record that does not say its step: an evaluation belongs to the step before it."""
        if trains or not values:
            self.troubles.note(where, "no step in it")
            return None
        before = self._open
        if before is None:
            return None
        self.num_rows += 1
        self.steps.turns.stepless += "val_loss" in values
        if _agree(before, values, {}) or "val_loss" not in values:
            _join(before, values, {}, time_s, trains=False)
            return None
        self._open = _Open(where, before.step, values, {}, time_s, False, Turn.ON)
        return before

    def _put_back(self, evaluation: _Open, step: int) -> None:
        """An evaluation ahead of the training that goes on behind it: another count of steps."""
        last = self._last_trained
        if last is not None and last < step < evaluation.step:
            self.steps.turns.elsewhere += 1
            evaluation.step = last

    def _observation(self, done: _Open) -> Observation:
        self.num_observations += 1
        self.turn = done.turn
        if done.trains:
            self._last_trained = done.step
        time_s = done.time_s if done.time_s is not None else float(self.num_observations)
        families = {}
        for family, values in done.layers.items():
            families[family] = self._family(family, values)
        return Observation(done.step, done.values, time_s, -1, families)

    def _family(self, family: str, values: dict[int, float]) -> Family:
        layers = self.columns.families[family]
        names = self._names.get(family, ())
        if len(names) != len(layers):
            names = self._names[family] = tuple(layers)
        array = np.full(len(names), np.nan, dtype=np.float32)
        missing = np.ones(len(names), dtype=np.bool_)
        at = list(values)
        with np.errstate(over="ignore"):
            array[at] = list(values.values())
        missing[at] = False
        return Family(names, array, missing)


def _agree(before: _Open, values: dict[str, float], layers: dict[str, dict[int, float]]) -> bool:
    """Whether two records say nothing different about the same thing."""
    held = before.values
    for metric, value in values.items():
        other = held.get(metric, value)
        if other != value and not (math.isnan(other) and math.isnan(value)):
            return False
    for family, of_layer in layers.items():
        if before.layers.get(family, {}).keys() & of_layer.keys():
            return False
    return True


def _join(
    before: _Open,
    values: dict[str, float],
    layers: dict[str, dict[int, float]],
    time_s: float | None,
    *,
    trains: bool,
) -> None:
    before.values.update(values)
    for family, of_layer in layers.items():
        before.layers.setdefault(family, {}).update(of_layer)
    before.time_s = time_s if time_s is not None else before.time_s
    before.trains = before.trains or trains


def _to_units(values: dict[str, float], scales: dict[str, float]) -> None:
    for metric, scale in scales.items():
        if metric in values:
            values[metric] *= scale
