"""What a report of a long run costs: time, memory, the size of the file.

    python -m benchmarks.report_cost [--steps 1000000] [--exports]

A database as the agent writes it is made first (that is not counted), with 24 metrics a step, a
spike of one step and an incident in it. Then `lossguard report` and, where asked for,
`lossguard export` are run in processes of their own.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lossguard.agent.database import open_database
from lossguard.home import find_home
from tests.support.kept_runs import RUN, add_incident, add_run, add_steps, incident

_METRICS = 24
_SPIKE = 123.0
_LIMIT_S, _LIMIT_MB = 10.0, 5.0


def main() -> int:
    """Print the table; 1 where the report is over its limits, or has lost the spike."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--exports", action="store_true", help="all four formats, too")
    options = parser.parse_args()
    steps = options.steps
    with tempfile.TemporaryDirectory(prefix="lg-report-") as root:
        os.environ["LOSSGUARD_HOME"] = root
        make(steps)
        size = find_home().database_path.stat().st_size / 1e6
        print(f"{steps:,} steps of {_METRICS} metrics, a database of {size:,.0f} MB\n")
        head = f"{'time [s]':>10} {'CPU [s]':>10} {'memory [MB]':>12} {'file [MB]':>10}"
        print(f"{'':24} {head}")
        page = Path(root, "report.html")
        seconds, megabytes = measured("report", RUN, "-o", str(page))
        for form in options.exports * ("csv", "jsonl", "parquet", "tensorboard"):
            measured("export", RUN, "--format", form, "-o", str(Path(root, f"export.{form}")))
        kept_spike = f"highest {_SPIKE:g} at step {steps // 2:,}" in page.read_text(
            encoding="utf-8"
        )
        print(f"\nthe spike of one step is {'kept' if kept_spike else 'LOST'}")
        return int(seconds > _LIMIT_S or megabytes > _LIMIT_MB or not kept_spike)


def measured(*command: str) -> tuple[float, float]:
    """Run one command of ours; (time of the processor [s], which does not depend on what else the
    machine does, size of the file [MB])."""
    begin = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "lossguard", *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begin
    if status:
        raise SystemExit(f"{' '.join(command)} ended with status {status}")
    size = Path(command[-1]).stat().st_size / 1e6
    name = " ".join(word for word in command[:4] if not word.startswith(("/", "-o", RUN)))
    cpu = usage.ru_utime + usage.ru_stime
    print(f"{name:24} {seconds:10.1f} {cpu:10.1f} {_peak_mb(usage):12,.0f} {size:10.1f}")
    return cpu, size


def _peak_mb(usage: resource.struct_rusage) -> float:
    return usage.ru_maxrss / 1024


def make(steps: int) -> None:
    """The database of a run that has come so far."""
    with open_database(find_home().database_path) as db:
        add_run(db)
        add_steps(db, rows(steps))
        add_incident(db, incident(onset_step=steps // 2))
    db.close()


def rows(steps: int) -> Iterator[tuple[int, dict[str, float]]]:
    """A loss that falls with noise, with a spike of one step in the middle."""
    noise = np.random.default_rng(0).normal(size=(4096, _METRICS)).astype(np.float32)
    others = [f"metric_{i}" for i in range(_METRICS - 4)]
    for step in range(1, steps + 1):
        values = noise[step % 4096].tolist()
        loss = 2.0 + 3.0 / step**0.3 + 0.05 * values[0]
        known = {"loss": loss, "grad_norm": 1.0 + 0.1 * abs(values[1]), "lr": 1e-3 / step**0.1,
                 "step_time": 0.1 + 0.01 * abs(values[2])}  # fmt: skip
        if step == steps // 2:
            known["loss"] = _SPIKE
        yield step, known | dict(zip(others, values[4:], strict=True))


if __name__ == "__main__":
    sys.exit(main())
