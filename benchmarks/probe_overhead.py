"""What watching costs: Lossguard and others, on a small and on a larger model, side by side.

    python -m benchmarks.probe_overhead             # a table, in about fifteen minutes
    python -m benchmarks.probe_overhead --json      # one object a row
    python -m benchmarks.probe_overhead --models small --rounds 32
    python -m benchmarks.probe_overhead --device cuda --models small gpt2 --rounds 24

Each watcher steps in turn with a plain twin, in the order plain, watched, watched, plain. Of every
pair the ratio is taken; the median of the ratios stands with an interval of 95 % from resampling
the pairs. The own time is what a stopwatch around the watcher's code says, on average over 16 steps
(Lossguard samples every 16th): the medians of ordinary steps, of a sampled one and of the one
before it, weighted.

On a GPU a turn is 16 steps, and only then is the device waited for: whoever makes the host wait in
between pays for it. The own time is the host's, a sixteenth of what the turn took.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from benchmarks.spine import own_home
from benchmarks.watchers import SAME, WATCHERS, NotInstalled, Watcher
from lossguard.agent.launching import ensure_agent

_WARM_UP = 3


@dataclass(frozen=True)
class Size:
    """A GPT, and how many tokens it sees a step."""

    layers: int
    width: int
    heads: int
    length: int
    batch: int
    rounds: int
    vocabulary: int = 64


SIZES = {
    "small": Size(layers=5, width=128, heads=4, length=64, batch=8, rounds=64),
    "larger": Size(layers=10, width=512, heads=8, length=128, batch=4, rounds=16),
    "gpt2": Size(12, 768, 12, length=1024, batch=8, rounds=16, vocabulary=50_304),
    "medium": Size(24, 1024, 16, length=1024, batch=8, rounds=16, vocabulary=50_304),
}
_FOR_CPU = ("small", "larger")
_A_TURN = 16
"""Steps between two waits for a GPU."""


@dataclass(frozen=True)
class Row:
    """One watcher on one model."""

    model: str
    parameters: int
    watcher: str
    clips: bool
    step_ms: float
    """Of the plain twin, median."""
    own_ms: float
    """Averaged over 16 steps."""
    ratio: float
    low: float
    high: float


def main() -> None:
    parser = argparse.ArgumentParser(description="What watching costs.")
    parser.add_argument("--json", action="store_true", help="one JSON object a line on stdout")
    parser.add_argument("--models", nargs="+", choices=SIZES, default=list(_FOR_CPU))
    parser.add_argument("--watchers", nargs="+", default=list(WATCHERS), help="as in the table")
    parser.add_argument("--rounds", type=int, help="pairs of steps; a multiple of 16 is fairest")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--device", default="cpu", help="on cuda under autocast to bfloat16")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows: list[Row] = []
    with own_home() as home:
        ensure_agent(home)
        for model in arguments.models:
            cases = [(name, False) for name in arguments.watchers]
            cases += [(n, True) for n in arguments.watchers if n == "lossguard, observe (default)"]
            for name, clips in cases:
                print(f"measuring: {model}, {name} ...", file=sys.stderr, flush=True)
                try:
                    rows.append(measure(model, name, clips, arguments.rounds, arguments.device))
                except NotInstalled as error:
                    print(f"skipped: {name} is not installed ({error})", file=sys.stderr)
                    continue
                if arguments.json:
                    print(json.dumps(asdict(rows[-1])), flush=True)
    if not arguments.json:
        print(table(rows))
        print(verdict(rows))


def measure(model: str, name: str, clips: bool, rounds: int | None, device: str) -> Row:
    """One watcher beside a plain twin."""
    size = SIZES[model]
    kind = Loop if device == "cpu" else OnDevice
    plain = kind(size, Watcher, clips, device)
    watched = kind(size, WATCHERS[name], clips, device)
    try:
        for _ in range(_WARM_UP if device == "cpu" else 1):
            plain.turn()
            watched.turn()
        own: dict[int, list[float]] = {}
        times: list[tuple[float, float]] = []
        for i in range(rounds or size.rounds):
            order = (plain, watched) if i % 2 == 0 else (watched, plain)
            before = watched.watcher.own_s
            taken = {id(loop): loop.turn() for loop in order}
            spent = (watched.watcher.own_s - before) / watched.steps_a_turn
            own.setdefault(watched.kind_of_turn(), []).append(spent)
            times.append((taken[id(plain)], taken[id(watched)]))
    finally:
        watched.watcher.close()
    ratios = [b / a for a, b in times]
    low, high = interval(ratios)
    return Row(
        model=model,
        parameters=plain.num_parameters,
        watcher=name,
        clips=clips,
        step_ms=1e3 * statistics.median(a for a, _ in times),
        own_ms=1e3 * weighted(own),
        ratio=statistics.median(ratios),
        low=low,
        high=high,
    )


def weighted(own: dict[int, list[float]]) -> float:
    """A step's on average, from the medians of each kind of step."""
    weights = {0: 14, 1: 1, 2: 1}
    medians = {kind: statistics.median(values) for kind, values in own.items()}
    total = sum(weights[kind] for kind in medians)
    return sum(weights[kind] * median for kind, median in medians.items()) / total


class Loop:
    """A GPT and the loop that trains it; a turn is one step."""

    steps_a_turn = 1

    def __init__(self, size: Size, kind: type[Watcher], clips: bool, device: str) -> None:
        torch.manual_seed(0)
        with _examples():
            from train_gpt import GPT

            shape = (size.vocabulary, size.length, size.layers, size.width, size.heads)
            self._model: nn.Module = GPT(*shape).to(device)
        self._device = torch.device(device)
        self._optimizer: Optimizer = torch.optim.AdamW(self._model.parameters(), fused=True)
        tokens = torch.randint(size.vocabulary, (size.batch, size.length + 1))
        self._tokens: Tensor = tokens.to(device)
        self._clips = clips
        self.num_parameters = sum(p.numel() for p in self._model.parameters())
        self.watcher = kind(self._model, self._optimizer)
        self.steps = 0

    def turn(self) -> float:
        """How long it took [s]."""
        begun = time.perf_counter()
        self.step()
        return time.perf_counter() - begun

    def kind_of_turn(self) -> int:
        """Ordinary (0), before a sampled step (1), of a sampled one (2)."""
        return {0: 2, 15: 1}.get(self.steps % 16, 0)

    def step(self) -> None:
        """Forward, backward, update."""
        self.watcher.begin_step(self.steps)
        with torch.autocast(self._device.type, torch.bfloat16, self._device.type == "cuda"):
            logits = self._model(self._tokens[:, :-1])
            targets = self._tokens[:, 1:].flatten()
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), targets)
        loss.backward()
        self.watcher.after_backward(self.steps)
        if self._clips:
            nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self.steps += 1


class OnDevice(Loop):
    """On a GPU, which a turn of several steps waits for at its end."""

    steps_a_turn = _A_TURN

    def turn(self) -> float:
        torch.cuda.synchronize()
        begun = time.perf_counter()
        for _ in range(_A_TURN):
            self.step()
        torch.cuda.synchronize()
        return (time.perf_counter() - begun) / _A_TURN

    def kind_of_turn(self) -> int:
        """All alike: each has one sampled step."""
        return 0


@contextmanager
def _examples() -> Iterator[None]:
    folder = str(Path(__file__).resolve().parents[1] / "examples")
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def interval(values: list[float], draws: int = 2000) -> tuple[float, float]:
    """Of the median, 95 %: from medians of as many values drawn with replacement."""
    chance = random.Random(0)
    medians = sorted(statistics.median(chance.choices(values, k=len(values))) for _ in range(draws))
    return medians[draws // 40], medians[-draws // 40]


def table(rows: list[Row]) -> str:
    """As Markdown."""
    lines = [
        "| model | watcher | own time a step | of the step | step, watched / plain |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        name = row.watcher + (", in a loop that clips" if row.clips else "")
        own, share = f"{row.own_ms:.2f} ms", f"{100 * row.own_ms / row.step_ms:.2f} %"
        if not row.own_ms:
            own = share = "-"
        lines.append(
            f"| {row.parameters / 1e6:.1f} M, {row.step_ms:.1f} ms | {name} | {own} | {share} | "
            f"{row.ratio:.3f} ({row.low:.3f} to {row.high:.3f}) |"
        )
    return "\n".join(lines)


def verdict(rows: list[Row]) -> str:
    """The default settings against one pass over the gradients and the cheapest like rival."""
    lines = [""]
    for model in dict.fromkeys(row.model for row in rows):
        own = {row.watcher: row.own_ms for row in rows if row.model == model and not row.clips}
        ours = own.get("lossguard, observe (default)")
        if ours is None:
            continue
        parts: list[str] = []
        if (once := own.get("one pass over the gradients' memory")) is not None:
            parts.append(f"{ours / once:.1f} passes over the gradients' memory")
        if alike := [own[name] for name in SAME if name in own]:
            parts.append(f"{ours / min(alike):.2f} of the cheapest rival that measures the same")
        lines.append(f"{model}, default settings: own time is {' and '.join(parts)}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
