"""Everything a report says, gathered into one record, in memory that does not grow with the run."""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import psutil

from lossguard.agent.incidents import KeptIncident
from lossguard.agent.report.bundles import Bundle, read_bundle
from lossguard.agent.report.curves import Curve, CurveBuilder, Floats, Steps
from lossguard.agent.report.decoding import tables_of
from lossguard.agent.report.reading import CommandRow, RawStep, RunReader, RunRow
from lossguard.agent.report.saved import Coarse, Saved, read_saved
from lossguard.home import Home
from lossguard.probes import wire

MAIN = ("loss", "val_loss", "grad_norm", "lr", "loss_scale", "step_time")
"""Metrics that are shown in full; the others stand folded."""
_MAIN_STRETCHES, _OTHER_STRETCHES = 2000, 300
_MOST_METRICS = 80
_MOST_SKIPS = 5000
_BUNDLES = 40
"""Incidents of which the folders are read, the newest."""

Progress = Callable[[float], None]


@dataclass
class Extent:
    """How far the run has come, by its steps."""

    first: int = 0
    last: int = 0
    count: int = 0
    applied: int = 0
    coarse_until: int = 0
    """Of the steps before this one only extremes of stretches were kept."""
    begin_s: float = math.nan
    """Monotonic clock of the training host [s], as ``end_s``."""
    end_s: float = math.nan
    skips: list[int] = field(default_factory=list)
    """Steps whose update Lossguard dropped, the first 5,000; ``num_skips`` counts all."""
    num_skips: int = 0

    @property
    def seconds(self) -> float:
        """From the first step to the last; 0 where nothing was measured."""
        length = self.end_s - self.begin_s
        return length if math.isfinite(length) and length > 0 else 0.0


@dataclass(frozen=True)
class RunData:
    """One run, as a report needs it."""

    hello: wire.Hello
    state: str
    """As the agent last knew it, or ``gone``: it says running, and there is no such process."""
    extent: Extent
    curves: dict[str, Curve]
    saved: Saved
    """Bounds (over which an update is dropped, or would be), layers, events, rollbacks (the step
    at which it happened, the step it went back to)."""
    incidents: list[KeptIncident]
    commands: list[CommandRow]
    bundles: dict[str, Bundle]
    damaged: dict[str, int]
    """What could not be read, and how many of it."""
    made_s: float
    """Wall clock [s since the epoch]."""


def gather(home: Home, name: str, progress: Progress) -> RunData:
    """Read a run. ``progress`` is told the share that is done. Raises InputError."""
    with RunReader(home.database_path) as reader:
        row = reader.find(name)
        run = row.hello.run
        saved = read_saved(row.saved, reader.damaged)
        incidents = reader.incidents(run)
        extent, curves = _curves(reader, run, saved, progress)
        commands = reader.commands(run)
    folder = home.state / "incidents"
    return RunData(
        hello=row.hello,
        state=_state(row),
        extent=extent,
        curves=curves,
        saved=saved,
        incidents=incidents,
        commands=commands,
        bundles={one.id: read_bundle(folder, one.id) for one in incidents[-_BUNDLES:]},
        damaged=dict(reader.damaged),
        made_s=time.time(),
    )


def _state(row: RunRow) -> str:
    """A killed agent leaves ``running`` behind, whatever came of the run."""
    hello = row.hello
    if row.state != "running" or hello.host != socket.gethostname():
        return row.state
    try:
        began = psutil.Process(hello.pid).create_time()
    except psutil.Error:
        return "gone"
    return row.state if began <= hello.started_s + 2.0 else "gone"


# --- from the steps -----------------------------------------------------------------------


def _curves(
    reader: RunReader, run: str, saved: Saved, progress: Progress
) -> tuple[Extent, dict[str, Curve]]:
    there = reader.extent(run)
    if there is None:
        return Extent(), {}
    begins = [int(coarse.steps[0]) for coarse in saved.histories.values() if len(coarse.steps)]
    gathered = _Gathered(min([there.first, *begins]), there.last)
    for metric, coarse in saved.histories.items():  # steps so old that they were dropped
        gathered.take_coarse(metric, coarse, there.first)
    for chunk in reader.raw_steps(run, there.last):
        if damaged := gathered.take(chunk):
            reader.damaged["steps"] += damaged
        progress((chunk[-1][0] - there.first + 1) / (there.last - there.first + 1))
    return gathered.extent, gathered.curves()


class _Gathered:
    def __init__(self, first: int, last: int) -> None:
        self.extent = Extent(first=first, last=last)
        self._builders: dict[str, CurveBuilder] = {}

    def _builder(self, metric: str) -> CurveBuilder | None:
        found = self._builders.get(metric)
        if found is None and len(self._builders) < _MOST_METRICS:
            stretches = _MAIN_STRETCHES if metric in MAIN else _OTHER_STRETCHES
            found = CurveBuilder(metric, self.extent.first, self.extent.last, stretches)
            self._builders[metric] = found
        return found

    def take_coarse(self, metric: str, coarse: Coarse, end: int) -> None:
        """What is known of the steps before ``end``, but not to the step."""
        before = (coarse.steps < end) & np.isfinite(coarse.low)
        if before.any() and (builder := self._builder(metric)) is not None:
            builder.add(coarse.steps[before], coarse.low[before])
            builder.add(coarse.steps[before], coarse.high[before])
            self.extent.coarse_until = end

    def take(self, rows: list[RawStep]) -> int:
        """Steps in their order; how many of them made no sense."""
        extent = self.extent
        if math.isnan(extent.begin_s):
            extent.begin_s = rows[0][2]
        _, extent.applied, extent.end_s, _ = rows[-1]
        extent.count += len(rows)
        steps = np.array([row[0] for row in rows], dtype=np.int64)
        tables, num_damaged = tables_of([row[3] for row in rows])
        for table in tables:
            at = steps[table.rows]
            for metric, values in zip(table.metrics, table.values.T, strict=True):
                if metric == "skipped":
                    self._note_skips(at, values)
                elif (builder := self._builder(metric)) is not None:
                    builder.add(at, values)
        return num_damaged

    def _note_skips(self, steps: Steps, codes: Floats) -> None:
        masks = np.where(np.isfinite(codes), codes, 0.0).astype(np.int64)
        ours = (masks > 0) & (masks & wire.SKIP_SCALER == 0)
        self.extent.num_skips += int(ours.sum())
        room = _MOST_SKIPS - len(self.extent.skips)
        self.extent.skips += steps[ours][: max(0, room)].tolist()

    def curves(self) -> dict[str, Curve]:
        built = {metric: builder.curve() for metric, builder in self._builders.items()}
        return {metric: curve for metric, curve in built.items() if curve.count}
