"""What lost updates alone do to a training in which nothing goes wrong: the floor of the benchmark.

    python -m benchmarks.recovery.noise --seeds 3 --places 3

Updates of a clean training are left out, as many in a row as a fault takes, half way through. A
benchmark cannot tell a rescue from its clean twin better than this.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat

from benchmarks.recovery.outcomes import GOAL
from benchmarks.recovery.tasks import TASKS
from benchmarks.recovery.training import STEPS


def main() -> int:
    parser = argparse.ArgumentParser(description="What lost updates do to a clean training.")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--lost", nargs="+", type=int, default=[1, 12, 20, 60])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--places", type=int, default=3, help="where updates are lost, a seed")
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    print("| training | updates lost | mean | standard deviation | within 1% |")
    print("| --- | --- | --- | --- | --- |")
    with ThreadPoolExecutor(args.jobs) as pool:
        for task in args.tasks:
            clean = list(pool.map(_val_loss, repeat(task), range(args.seeds), repeat([])))
            for lost in args.lost:
                seeds = [seed for seed in range(args.seeds) for _ in range(args.places)]
                drops = [_in_a_row(lost, place) for place in range(len(seeds))]
                losses = pool.map(_val_loss, repeat(task), seeds, drops)
                ratios = [x / clean[seed] - 1.0 for seed, x in zip(seeds, losses, strict=True)]
                mean, spread = statistics.fmean(ratios), statistics.pstdev(ratios)
                within = f"{sum(ratio <= GOAL for ratio in ratios)}/{len(ratios)}"
                print(f"| {task} | {lost} | {mean:+.2%} | {spread:.2%} | {within} |", flush=True)
    return 0


def _in_a_row(lost: int, place: int) -> list[int]:
    first = random.Random(place).randint(int(0.4 * STEPS), int(0.6 * STEPS))
    return list(range(first, first + lost))


def _val_loss(task: str, seed: int, drop: list[int]) -> float:
    words = [task, "none", "bare", str(seed), *(["--drop", *map(str, drop)] if drop else [])]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.recovery.training", *words],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    loss: float = json.loads(done.stdout)["val_loss"]
    return loss


if __name__ == "__main__":
    sys.exit(main())
