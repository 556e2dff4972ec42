"""Which column of a log holds which metric, decided on its first records."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from lossguard.agent.logs.names import EPOCH, ORDER, STEP, TIME, Recogniser
from lossguard.agent.logs.source import Record

_LISTED = 1000
_MAX_LAYERS = 1 << 14
"""Columns of one family."""
_PERCENT_OVER = 1.0


@dataclass
class Columns:
    """Which column holds which metric.

    Of several candidates for one metric those are considered that have values in at least half as
    many of the first records as the one with the most (the final mean that Hugging Face writes
    under ``train_loss`` is no loss curve); among these the best name wins.
    """

    of: dict[str, str] = field(default_factory=dict)
    """plain metric, ``step``, ``epoch`` or ``time`` -> the column's name in the file"""
    families: dict[str, list[str]] = field(default_factory=dict)
    """family -> its layers, in the file's order"""
    unknown: list[str] = field(default_factory=list)
    """Columns that are not used, at most 1,000 of them."""
    plain: dict[str, str] = field(default_factory=dict)
    """column -> metric, for the used ones"""
    layers: dict[str, tuple[str, int]] = field(default_factory=dict)
    """column -> (family, index of the layer), for the used ones"""
    scales: dict[str, float] = field(default_factory=dict)
    """metric or family/layer -> factor from the column's unit, where it is not 1"""

    @property
    def metrics(self) -> list[str]:
        """The metrics themselves, without step, epoch and time; families as ``name/*``."""
        plain = [metric for metric in self.of if metric not in (STEP, EPOCH, TIME)]
        return [*plain, *(f"{family}/*" for family in self.families)]

    def knows(self, column: str) -> bool:
        """Whether it has been decided what to do with this column."""
        return column in self.plain or column in self.layers or column in self._passed_over

    _passed_over: set[str] = field(default_factory=set)

    def take_up(self, column: str, recogniser: Recogniser) -> None:
        """A column that turns up later: it is used where its metric has no column yet."""
        meaning = recogniser.meaning(column)
        if meaning is None:
            self.pass_over(column)
            return
        family, slash, layer = meaning.metric.partition("/")
        if slash:
            layers = self.families.setdefault(family, [])
            if len(layers) >= _MAX_LAYERS or layer in layers:
                self.pass_over(column)
                return
            self.layers[column] = (family, len(layers))
            layers.append(layer)
        elif meaning.metric in self.of:
            self.pass_over(column)
            return
        else:
            self.of[meaning.metric] = column
            self.plain[column] = meaning.metric
        if meaning.scale != 1.0:
            self.scales[meaning.metric] = meaning.scale

    def pass_over(self, column: str) -> None:
        """This one is not used."""
        if len(self._passed_over) < 100 * _LISTED:
            self._passed_over.add(column)
        if len(self.unknown) < _LISTED and column not in self.unknown:
            self.unknown.append(column)


def choose(
    header: Sequence[str],
    records: Sequence[Record],
    recogniser: Recogniser,
    *,
    keeps_order: bool = True,
) -> Columns:
    """The columns by the header, where there is one, and the first records."""
    filled: dict[str, int] = dict.fromkeys(header, 0)
    for record in records:
        for column in record:
            filled[column] = filled.get(column, 0) + 1
    candidates: dict[str, list[str]] = {}
    layers: list[str] = []
    columns = Columns()
    for column in filled:
        meaning = recogniser.meaning(column)
        if meaning is None:
            columns.pass_over(column)
        elif "/" in meaning.metric:
            layers.append(column)
        else:
            candidates.setdefault(meaning.metric, []).append(column)
    for _, names in sorted(candidates.items(), key=lambda item: ORDER[item[0]]):
        columns.take_up(_best(names, filled, recogniser), recogniser)
        for name in names:
            if not columns.knows(name):
                columns.pass_over(name)
    if not keeps_order or layers == sorted(layers):
        layers.sort(key=_natural)
    for column in layers:
        columns.take_up(column, recogniser)
    _tell_percent(columns, records)
    return columns


def _best(names: list[str], filled: dict[str, int], recogniser: Recogniser) -> str:
    enough = max(filled[name] for name in names) / 2

    def rank(name: str) -> int:
        meaning = recogniser.meaning(name)
        return meaning.rank if meaning is not None else 0

    return min((name for name in names if filled[name] >= enough), key=rank)


def _tell_percent(columns: Columns, records: Iterable[Record]) -> None:
    """A utilization above 1 is one in percent."""
    column = columns.of.get("gpu_utilization")
    if column is None or "gpu_utilization" in columns.scales:
        return
    if any(record.get(column, 0.0) > _PERCENT_OVER for record in records):
        columns.scales["gpu_utilization"] = 0.01


def _natural(name: str) -> list[tuple[int, int, str]]:
    """To sort ``layers.2`` before ``layers.10``."""
    return [
        (0, int(part), "") if part.isdecimal() and len(part) < 19 else (1, 0, part)
        for part in re.split(r"(\d+)", name)
    ]
