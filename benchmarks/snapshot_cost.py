"""What a snapshot and going back to it cost, beside a plain copy, torch.save and torch.load.

    python -m benchmarks.snapshot_cost              # a table, in about two minutes
    python -m benchmarks.snapshot_cost --json       # one object a row
    python -m benchmarks.snapshot_cost --models 1 --rounds 5

    python -m benchmarks.snapshot_cost --device cuda --models 1 30 120

A GPT-like stack of linear layers with the two moments of AdamW. In every round each way is timed
once, one after the other; medians stand, and their ratios to the plain copy of the same bytes (into
memory that is there) of the same rounds. What reaches the disk is fsynced by us, and not by
``torch.save``; ``torch.load`` is with ``weights_only=True`` and puts the state back.

On a GPU the plain copy is to page-locked memory, and every way is timed until the device is done;
what the host alone does of a snapshot is a line of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lossguard.probes.durable import DurableTier, read_snapshot
from lossguard.probes.snapshots import SnapshotRing
from lossguard.probes.training_state import TrainingState

_WIDTHS = {"1": 256, "30": 1024, "120": 2048}
"""Millions of parameters, and the width of eight pairs of layers that have about as many."""
_PAIRS = {"1": 4, "30": 7, "120": 7}


def a_training(width: int, pairs: int, device: str) -> TrainingState:
    """After its first step, so that the moments are there."""
    torch.manual_seed(0)
    layers = [
        layer
        for _ in range(pairs)
        for layer in (nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
    ]
    model = nn.Sequential(*layers).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    model(torch.randn(2, width, device=device)).square().mean().backward()
    optimizer.step()
    return TrainingState(model, [optimizer])


class Ways:
    """Every way to keep one training's state and to go back to it."""

    def __init__(self, state: TrainingState, folder: Path, device: str) -> None:
        assert state.model is not None
        self._model, self._optimizer = state.model, state.optimizers[0]
        self._state = state
        self._folder = folder
        self._ring = SnapshotRing(state, capacity=1)
        self._snapshot = self._ring.capture(0)
        self.bytes = self._snapshot.bytes
        self._on_gpu = device != "cpu"
        self._source = torch.ones(self.bytes, dtype=torch.uint8, device=device)
        self._target = torch.zeros(self.bytes, dtype=torch.uint8, pin_memory=self._on_gpu)
        self._reported: list[str] = []
        self._step = 0

    def all(self) -> dict[str, Callable[[], object]]:
        """In the order in which they are timed: what is read was written before."""
        ways: dict[str, Callable[[], object]] = {
            "plain copy": lambda: self._target.copy_(self._source, non_blocking=True),
            "snapshot to memory": self._capture,
            "restore from memory": self._restore,
            "snapshot to disk": self._write,
            "restore from disk": self._read,
            "torch.save": self._save,
            "torch.load": self._load,
        }
        if not self._on_gpu:
            return ways
        whole: dict[str, Callable[[], object]]
        whole = {name: self._to_its_end(do) for name, do in ways.items()}
        return whole | {"snapshot to memory, the host": self._capture}

    @staticmethod
    def _to_its_end(do: Callable[[], object]) -> Callable[[], None]:
        def until_the_device_is_done() -> None:
            do()
            torch.cuda.synchronize()

        return until_the_device_is_done

    def _capture(self) -> None:
        self._snapshot = self._ring.capture(self._step)

    def _restore(self) -> None:
        self._state.restore(self._snapshot.kept, random_generators=True)

    def _write(self) -> None:
        """By the thread that does it in a training; here it is waited for."""
        self._step += 1
        tier = DurableTier(self._folder / "tier", {}, self._reported.append, interval_s=0.0)
        self._capture()
        tier.offer(self._snapshot, now=True)
        tier.settle()
        if self._reported:
            raise OSError(self._reported[0])

    def _read(self) -> None:
        found = read_snapshot(self._folder / "tier", self._step)
        self._state.restore(found.kept, random_generators=True)

    def _save(self) -> None:
        parts = {"model": self._model.state_dict(), "optimizer": self._optimizer.state_dict()}
        torch.save(parts, self._folder / "plain.pt")

    def _load(self) -> None:
        parts = torch.load(self._folder / "plain.pt", weights_only=True)
        self._model.load_state_dict(parts["model"])
        self._optimizer.load_state_dict(parts["optimizer"])


def measure(ways: Ways, rounds: int) -> Iterator[dict[str, Any]]:
    """One row a way; the first round warms up and does not count."""
    times: dict[str, list[float]] = {name: [] for name in ways.all()}
    for _ in range(rounds + 1):
        for name, do in ways.all().items():
            if torch.cuda.is_initialized():
                torch.cuda.synchronize()
            begun = time.perf_counter()
            do()
            times[name].append(time.perf_counter() - begun)
    plain = times["plain copy"][1:]
    for name, taken in times.items():
        ratios = [a / b for a, b in zip(taken[1:], plain, strict=True)]
        yield {
            "way": name,
            "mib": round(ways.bytes / 2**20, 1),
            "ms": round(1000 * statistics.median(taken[1:]), 2),
            "per_plain_copy": round(statistics.median(ratios), 2),
        }


def _rows(models: list[str], rounds: int, device: str) -> Iterator[dict[str, Any]]:
    for name in models:
        with tempfile.TemporaryDirectory(prefix="lossguard-bench-") as folder:
            training = a_training(_WIDTHS[name], _PAIRS[name], device)
            ways = Ways(training, Path(folder), device)
            yield from measure(ways, rounds)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="one object a row")
    parser.add_argument("--models", nargs="+", choices=_WIDTHS, default=["1", "30"])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", default="cpu")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    if not chosen.json:
        sys.stdout.write(f"{os.cpu_count()} cores, torch {torch.__version__}, one thread\n\n")
        sys.stdout.write("| state | way | time | / plain copy |\n| --- | --- | --- | --- |\n")
    for row in _rows(chosen.models, chosen.rounds, chosen.device):
        line = "| {mib} MiB | {way} | {ms} ms | {per_plain_copy} |".format(**row)
        sys.stdout.write((json.dumps(row) if chosen.json else line) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
