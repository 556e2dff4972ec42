"""What each detector costs: time per observation, and the size of its state over a long run.

    python -m benchmarks.detector_cost                      # a table, in about a minute
    python -m benchmarks.detector_cost --steps 10000000     # the long run: bounded memory
    python -m benchmarks.detector_cost --json

Times are of processor time per observation that holds every metric of docs/metrics.md, the
median of laps, given in microseconds and in times of a bare loop that looks one value up.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from sys import path as module_path

import msgspec
from rich.console import Console
from rich.progress import track
from rich.table import Table

module_path.insert(0, str(Path(__file__).parent.parent))

from lossguard.detectors import CATALOGUE, Detector, Observation
from tests.support.healthy_run import at_step, healthy

_LAP = 10_000
_ABSENT = 2_000

Row = dict[str, float | str | list[int]]


def main() -> None:
    """Measure, then print."""
    parser = argparse.ArgumentParser(description="The cost of each detector.")
    parser.add_argument("--steps", type=int, default=30_000, help="observations for each")
    parser.add_argument("--json", action="store_true", help="one JSON object a line on stdout")
    arguments = parser.parse_args()
    run = healthy(_LAP, 1)
    look_up = _per_observation(lambda o: o.values.get("loss"), run)
    rows = [
        _measure(name, kind, run, arguments.steps, look_up)
        for name, kind in track(
            CATALOGUE.items(), "detectors", console=Console(stderr=True), transient=True
        )
    ]
    if arguments.json:
        print("\n".join(json.dumps(row) for row in rows))
    else:
        _show(rows, look_up, arguments.steps)


def _measure(
    name: str, kind: type[Detector], run: Sequence[Observation], steps: int, look_up: float
) -> Row:
    detector = kind()
    absent = [Observation(step, {"other": 1.0}) for step in range(_ABSENT)]
    laps: list[float] = []
    sizes: list[int] = []
    for lap in range(max(1, steps // _LAP)):
        moved = [at_step(o, o.step + lap * _LAP) for o in run] if lap else run
        laps.append(_per_observation(detector.update, moved))
        if lap in (0, steps // _LAP // 2, steps // _LAP - 1):
            sizes.append(len(msgspec.msgpack.encode(detector.state())))
    usual = statistics.median(laps)
    return {
        "detector": name,
        "us": usual,
        "look_ups": usual / look_up,
        "us_absent": _per_observation(kind().update, absent),
        "state_bytes": sizes,
    }


def _per_observation(
    update: Callable[[Observation], object], observations: Sequence[Observation]
) -> float:
    """Processor time of a call [microseconds]."""
    start = time.process_time()
    for observation in observations:
        update(observation)
    return 1e6 * (time.process_time() - start) / len(observations)


def _show(rows: Sequence[Row], look_up: float, steps: int) -> None:
    table = Table("detector", "us", "look-ups", "us, metric absent", "state [KiB]")
    for row in rows:
        sizes = row["state_bytes"]
        assert isinstance(sizes, list)
        table.add_row(
            str(row["detector"]),
            f"{row['us']:.1f}",
            f"{row['look_ups']:.0f}",
            f"{row['us_absent']:.2f}",
            ", ".join(f"{size / 1024:.0f}" for size in sizes),
        )
    total = sum(float(str(row["us"])) for row in rows)
    console = Console()
    console.print(table)
    console.print(
        f"all together {total:.0f} us an observation; a look-up is {look_up:.2f} us; state at the "
        f"first, middle and last lap of {steps:,} observations"
    )


if __name__ == "__main__":
    main()
