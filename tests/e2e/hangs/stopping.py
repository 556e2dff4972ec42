"""A small training that stops in a way of its own at a step; and its healthy twins, that do not.

python stopping.py HOW [SECONDS that what takes long takes] [SECONDS a step]
"""

import ctypes
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

AT = 30
STEPS = 60
how = sys.argv[1]
LONG_S = float(sys.argv[2]) if len(sys.argv) > 2 else 12.0
STEP_S = float(sys.argv[3]) if len(sys.argv) > 3 else 0.1


class Rows(Dataset[torch.Tensor]):
    def __len__(self) -> int:
        return 4 * (STEPS + 40)

    def __getitem__(self, index: int) -> torch.Tensor:
        if index >= 4 * AT:
            if how == "worker_waits":
                time.sleep(1000.0)
            if how == "worker_killed":
                os.kill(os.getpid(), signal.SIGKILL)
        return torch.randn(16)


def here() -> None:
    """Whoever reads our output knows that this is the moment."""
    sys.stdout.write("here\n")
    sys.stdout.flush()


def endless(step: int) -> None:
    if how == "endless" and step == AT:
        here()
    while how == "endless" and step == AT:
        time.sleep(0.001)


def evaluate(model: nn.Module) -> None:
    model.eval()
    with torch.no_grad():
        model(torch.randn(4, 16))
        time.sleep(LONG_S)
    model.train()


def save_checkpoint() -> None:
    time.sleep(LONG_S)


def compile_another() -> None:
    """With a compiler that does nothing but take its time."""

    def slowly(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        time.sleep(LONG_S)
        return graph.forward

    torch.compile(nn.Linear(16, 16), backend=slowly)(torch.randn(4, 16))


def compile_for_real() -> None:
    """With C++ compilers, until the time has gone by: one model larger than the last."""
    end_s, size = time.monotonic() + LONG_S, 16
    while time.monotonic() < end_s:
        blocks = [part for i in range(4) for part in (nn.Linear(size + i, size + i + 1), nn.GELU())]
        torch.compile(nn.Sequential(*blocks))(torch.randn(4, size))
        size += 1


def eat(limit_bytes: int) -> None:
    """Memory, until there is no more."""
    eaten: list[bytearray] = []
    while len(eaten) << 20 < limit_bytes:
        eaten += [bytearray(b"x" * (1 << 20))]


def run_out_of_memory() -> None:
    """In a group of processes with a limit: the kernel kills this one."""
    eat(4 << 30)


def be_denied_memory() -> None:
    """By a limit on the addresses: an exception in Python."""
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 28), resource.RLIM_INFINITY))
    bytearray(1 << 30)


def fail() -> None:
    raise ValueError("a bad thing")


def stop(model: nn.Module) -> None:
    """In the way that was asked for, if it is one of these."""
    ways: dict[str, Callable[[], Any]] = {
        "native": lambda: ctypes.PyDLL(None).sleep(int(LONG_S)),
        "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
        "stopped": lambda: os.kill(os.getpid(), signal.SIGSTOP),
        "raises": fail,
        "exits": lambda: sys.exit(3),
        "exits_early": lambda: sys.exit(0),
        "out_of_memory": run_out_of_memory,
        "denied_memory": be_denied_memory,
        "evaluates": lambda: evaluate(model),
        "saves": save_checkpoint,
        "compiles": compile_another,
        "compiles_for_real": compile_for_real,
        "debugs": breakpoint,
    }
    if how in ways:
        ways[how]()


def main() -> None:
    os.setpgid(0, 0)  # whoever kills this group ends the workers too
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    loader = DataLoader(Rows(), batch_size=4, num_workers=int(how.startswith("worker")))
    for step, x in enumerate(loader, start=1):
        optimizer.zero_grad()
        loss = model(x).pow(2).mean()
        endless(step)
        loss.backward()
        optimizer.step()
        time.sleep(STEP_S)
        if step == AT:
            here()
            stop(model)
        if step == STEPS:
            break


if __name__ == "__main__":
    main()
