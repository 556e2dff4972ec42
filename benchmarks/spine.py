"""First figures, as ratios measured side by side in one run.

    python benchmarks/spine.py            # a table, in about two minutes
    python benchmarks/spine.py --json     # one object

* probe: time inside Lossguard's code per step against the step itself, and whole steps of a
  plain, an observed and a guarded loop taken in turn;
* agent: frames per second against a bare ROUTER that only receives and decodes the same frames;
* start: ``import lossguard`` and ``lossguard --help`` against ``python -c pass``;
* memory: resident size of probe and agent over 100,000 frames.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import psutil
import zmq

from lossguard.agent import feed
from lossguard.agent.client import Client
from lossguard.agent.launching import ensure_agent
from lossguard.errors import AgentUnreachable
from lossguard.home import Home, find_home
from lossguard.probes import wire
from lossguard.probes.launch import agent_is_running

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

Figures = dict[str, float]
_PLAIN = ("lr", "step_time", "loss", "grad_norm", "loss_scale", "skipped")


def main() -> None:
    parser = argparse.ArgumentParser(description="The first figures of Lossguard.")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--frames", type=int, default=20_000, help="frames of 1,000 values")
    parser.add_argument("--soak", type=int, default=100_000, help="frames of the memory test")
    arguments = parser.parse_args()
    measures: dict[str, Callable[[], Figures]] = {
        "start": start_times,
        "probe": probe_cost,
        "agent": lambda: agent_throughput(arguments.frames),
        "memory of the agent": lambda: agent_memory(arguments.soak),
        "memory of the probe": lambda: probe_memory(arguments.soak),
    }
    figures: Figures = {}
    for name, measure in measures.items():
        print(f"measuring: {name} ...", file=sys.stderr, flush=True)
        with own_home():
            figures |= measure()
    if arguments.json:
        print(json.dumps({name: round(value, 4) for name, value in figures.items()}))
        return
    width = max(map(len, figures))
    for name, value in figures.items():
        print(f"{name.ljust(width)}  {value:12,.3f}")


@contextmanager
def own_home() -> Iterator[Home]:
    """A home of its own, and the end of the agent in it."""
    with tempfile.TemporaryDirectory(prefix="lossguard-bench-", dir="/tmp") as folder:
        before = os.environ.get("LOSSGUARD_HOME")
        os.environ["LOSSGUARD_HOME"] = folder
        home = find_home().create()
        try:
            yield home
        finally:
            if agent_is_running(home):
                with Client(home) as client, suppress(AgentUnreachable):
                    client.request(feed.Shutdown())
            if before is None:
                del os.environ["LOSSGUARD_HOME"]
            else:
                os.environ["LOSSGUARD_HOME"] = before


# --- start --------------------------------------------------------------------------------


def start_times(rounds: int = 15) -> Figures:
    """Whole processes in turn; medians, as multiples of ``python -c pass``."""
    commands = {
        "pass": [sys.executable, "-c", "pass"],
        "import": [sys.executable, "-c", "import lossguard"],
        "help": [sys.executable, "-m", "lossguard", "--help"],
    }
    taken: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            begun = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            taken[name].append(time.perf_counter() - begun)
    base = statistics.median(taken["pass"])
    return {
        "python -c pass [ms]": 1e3 * base,
        "import lossguard / python -c pass": statistics.median(taken["import"]) / base,
        "lossguard --help / python -c pass": statistics.median(taken["help"]) / base,
    }


# --- probe --------------------------------------------------------------------------------


def probe_cost(rounds: int = 60) -> Figures:
    """A 1 M parameter GPT on one thread: plain, observed and guarded steps in turn."""
    import torch

    import lossguard

    torch.set_num_threads(1)
    loops: dict[str, Callable[[], None]] = {}
    guards = {}
    for name in ("plain", "observe", "guard"):
        model, optimizer, step = small_gpt()
        loops[name] = step
        if name != "plain":
            guards[name] = lossguard.attach(
                model, optimizer, policy=name, name=name, agent="existing"
            )
    taken: dict[str, list[float]] = {name: [] for name in loops}
    for i in range(rounds + 5):
        for name, step in loops.items():
            begun = time.perf_counter()
            step()
            if i >= 5:
                taken[name].append(time.perf_counter() - begun)
    plain = statistics.median(taken["plain"])
    figures: Figures = {"step of the 1 M GPT [ms]": 1e3 * plain}
    for name, guard in guards.items():
        own = guard.own_time_s / guard.step
        figures[f"own time per step, {name} [us]"] = 1e6 * own
        figures[f"own time / step, {name} [%]"] = 100 * own / plain
        pairs = [a / b for a, b in zip(taken[name], taken["plain"], strict=True)]
        figures[f"whole step, {name} / plain"] = statistics.median(pairs)
        guard.close()
    return figures


def small_gpt() -> tuple[nn.Module, Optimizer, Callable[[], None]]:
    """The example's model and one step of its loop."""
    import torch

    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))
    from train_gpt import GPT

    torch.manual_seed(0)
    model = GPT(64, 64)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    tokens = torch.randint(64, (8, 65))

    def step() -> None:
        logits = model(tokens[:, :-1])
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return model, optimizer, step


# --- agent --------------------------------------------------------------------------------


def agent_throughput(frames: int, values: int = 1000) -> Figures:
    """Frames of 1,000 values each, sent as fast as they are taken."""
    home = find_home()
    ensure_agent(home)
    agent_s = _feed(home.probe_endpoint, frames, values, lambda: _agent_step(home))
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        endpoint, done = f"ipc://{folder}/bare", Path(folder) / "done"
        bare = subprocess.Popen([sys.executable, "-c", _BARE, endpoint, str(frames), str(done)])
        bare_s = _feed(endpoint, frames, values, lambda: frames if done.exists() else 0)
        bare.wait()
    return {
        "agent [frames/s]": frames / agent_s,
        "bare receive and decode [frames/s]": frames / bare_s,
        "agent / bare": bare_s / agent_s,
    }


_BARE = """
import sys, pathlib, zmq, numpy as np
from lossguard.probes import wire
endpoint, frames, done = sys.argv[1], int(sys.argv[2]), pathlib.Path(sys.argv[3])
socket = zmq.Context().socket(zmq.ROUTER)
socket.set(zmq.RCVHWM, 10000)
socket.bind(endpoint)
taken = 0
while taken < frames:
    _, head, *rest = socket.recv_multipart()
    if isinstance(wire.decode_from_probe(head), wire.Step):
        np.frombuffer(rest[0], dtype="<f4")
        taken += 1
done.touch()
"""


def _feed(endpoint: str, frames: int, values: int, taken: Callable[[], int]) -> float:
    """Send the frames of one healthy run; seconds until the other side has taken the last."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.connect(endpoint)
    try:
        names = [*_PLAIN, *(f"grad_norm/layer{i}" for i in range(values - len(_PLAIN)))]
        for message in (_hello(), wire.Layout(run="bench", rank=0, layout=0, names=names)):
            socket.send(wire.encode(message))
        rng = np.random.default_rng(0)
        buffers = [_buffer(rng, values) for _ in range(256)]
        begun = time.perf_counter()
        for i in range(1, frames + 1):
            header = wire.Step(
                run="bench", rank=0, step=i, applied=i, layout=0, sequence=i, time_s=0.01 * i
            )
            socket.send_multipart([wire.encode(header), buffers[i % 256]])
        while taken() < frames:
            time.sleep(0.002)
        return time.perf_counter() - begun
    finally:
        socket.close(linger=0)
        context.term()


def _buffer(rng: np.random.Generator, values: int) -> bytes:
    """A healthy step: loss about 2.5, gradient norm about 1."""
    plain = [1e-3, 0.01, rng.normal(2.5, 0.02), rng.normal(1.0, 0.05), np.nan, 0.0]
    buffer = np.concatenate([plain, rng.random(values - len(plain))]).astype(np.float32)
    buffer.view(np.uint32)[4] = wire.MISSING_BITS
    return buffer.tobytes()


def _hello() -> wire.Hello:
    return wire.Hello(
        run="bench",
        protocol=wire.PROTOCOL,
        name="bench",
        rank=0,
        world_size=1,
        pid=os.getpid(),
        host="elsewhere",
        started_s=time.time(),
        policy="observe",
        script=["bench"],
        versions={},
    )


def _agent_step(home: Home) -> int:
    with Client(home) as client:
        answer = client.request(feed.ListRuns(), timeout_s=30.0)
    runs = answer.runs if isinstance(answer, feed.RunList) else []
    return runs[0].step if runs else 0


# --- memory -------------------------------------------------------------------------------


def agent_memory(frames: int) -> Figures:
    """Resident size of the agent, before and after ``frames`` that come on top of as many.

    The first flood fills queues and histories to their limits; from there on nothing may grow.
    """
    home = find_home()
    agent = psutil.Process(ensure_agent(home).agent_pid)
    sizes = []
    for part in (frames, frames):
        _feed(home.probe_endpoint, part, 50, functools.partial(_agent_step, home))
        sizes.append(agent.memory_info().rss / 2**20)
    return {
        "agent, resident [MiB]": sizes[0],
        f"agent, growth over {frames:,} frames [MiB]": sizes[1] - sizes[0],
    }


def probe_memory(steps: int) -> Figures:
    """Resident size of a process with a tiny guarded loop, from a fifth of the steps to the end."""
    home = find_home()
    ensure_agent(home)
    done = subprocess.run(
        [sys.executable, "-c", _TINY_LOOP, str(steps)], check=True, capture_output=True, text=True
    )
    first, last = map(float, done.stdout.split())
    return {
        "probe process, resident [MiB]": first,
        f"probe process, growth over {steps:,} steps [MiB]": last - first,
    }


_TINY_LOOP = """
import sys, psutil, torch, lossguard
torch.set_num_threads(1)
steps = int(sys.argv[1])
model = torch.nn.Linear(8, 1)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
lossguard.attach(model, optimizer, policy="guard", name="tiny")
x = torch.randn(16, 8)
for step in range(1, steps + 1):
    model(x).pow(2).mean().backward()
    optimizer.step()
    optimizer.zero_grad()
    if step in (steps // 5, steps):
        print(psutil.Process().memory_info().rss / 2**20, flush=True)
"""


if __name__ == "__main__":
    main()
