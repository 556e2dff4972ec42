"""What a training loop feels when its tracker's service dies, or stops answering.

    python -m venv /tmp/wb && /tmp/wb/bin/pip install wandb
    python -m benchmarks.host_safety --wandb-python /tmp/wb/bin/python

Two faults, for Weights & Biases in offline mode (its service is ``wandb-core``) and for Lossguard
(its service is the agent), side by side. A loop of ``--steps`` iterations logs a loss at each; at
the 20th the service gets ``kill -9``, or ``SIGSTOP``. Printed is what the loop met: an exception,
its longest iteration, how far it came within ``--patience`` seconds. Without ``--wandb-python``
only Lossguard is tried. Ends with 1 where Lossguard let an exception or a stall through.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks.spine import own_home
from lossguard.probes.launch import agent_is_running

_STALL_S = 1.0

_LOOP = """
import json, os, sys, time
steps, signal_number = int(sys.argv[1]), int(sys.argv[2])
BEGIN
longest, done, error = 0.0, 0, ""
def report():
    print(json.dumps(dict(done=done, longest_s=longest, error=error)), flush=True)
for step in range(steps):
    if step == 20 and signal_number:
        os.kill(service(), signal_number)
    begun = time.perf_counter()
    try:
        ITERATION
    except Exception as caught:
        error = type(caught).__name__
    if step > 2:
        longest = max(longest, time.perf_counter() - begun)
    done += not error
    if step % 10 == 0 or error:
        report()
    if error:
        break
    time.sleep(0.002)
report()
os._exit(0)
"""


def _loop(begin: str, iteration: str) -> str:
    return _LOOP.replace("BEGIN", begin).replace("ITERATION", iteration)


_WANDB = _loop(
    begin="""
import wandb
run = wandb.init(mode="offline", project="host-safety", settings=wandb.Settings(silent=True))
def service():
    for name in sorted(filter(str.isdigit, os.listdir("/proc")), key=int, reverse=True):
        try:
            if b"wandb-core" in open(f"/proc/{name}/cmdline", "rb").read():
                return int(name)
        except OSError:
            pass
""",
    iteration='run.log({"loss": 1.0 / (step + 1), "step": step})',
)

_LOSSGUARD = _loop(
    begin="""
import torch, lossguard
from lossguard.agent.launching import ensure_agent
from lossguard.home import find_home
torch.set_num_threads(1)
agent = ensure_agent(find_home()).agent_pid
model = torch.nn.Linear(8, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
guard = lossguard.attach(model, optimizer, policy="guard", agent="existing")
x = torch.ones(4, 8)
def service():
    time.sleep(0.5)
    return agent
""",
    iteration=(
        "optimizer.zero_grad(); model(x).square().mean().backward(); optimizer.step(); "
        "guard.log(mine=step)"
    ),
)


def main() -> None:
    parser = argparse.ArgumentParser(description="A tracker's service dies: what of the loop?")
    parser.add_argument("--wandb-python", default="", help="a Python that has wandb")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--patience", type=float, default=30.0, help="seconds a loop may take")
    options = parser.parse_args()
    trackers = {"lossguard": (sys.executable, _LOSSGUARD)}
    if options.wandb_python:
        trackers["wandb"] = (options.wandb_python, _WANDB)
    print(f"{'tracker':<10} {'fault':<10} {'iterations':>12} {'longest':>10}  the loop")
    faults = {"none": 0, "kill -9": signal.SIGKILL, "SIGSTOP": signal.SIGSTOP}
    fine = True
    for fault, number in faults.items():
        for tracker, (python, script) in trackers.items():
            found = watched_loop(python, script, options.steps, int(number), options.patience)
            print(row(tracker, fault, options.steps, found), flush=True)
            if tracker == "lossguard":
                whole = found["done"] == options.steps and not found["error"]
                fine &= whole and found["longest_s"] < _STALL_S
    sys.exit(0 if fine else 1)


def row(tracker: str, fault: str, steps: int, found: dict[str, Any]) -> str:
    """One line of the table."""
    if found["error"]:
        words = f"ended by {found['error']}"
    elif found["done"] < steps:
        words = f"still blocked after {found['took_s']:.0f} s"
    else:
        words = "ran to its end"
    done = f"{found['done']}/{steps}"
    return f"{tracker:<10} {fault:<10} {done:>12} {found['longest_s'] * 1e3:>7.0f} ms  {words}"


def watched_loop(
    python: str, script: str, steps: int, number: int, patience_s: float
) -> dict[str, Any]:
    """What the loop last said of itself, and how long it took [s]; whatever it started is ended."""
    with own_home() as home, tempfile.TemporaryDirectory(prefix="host-safety-") as folder:
        env = {**os.environ, "LOSSGUARD_HOME": str(home.state.parent), "WANDB_DIR": folder}
        begun = time.monotonic()
        with (Path(folder) / "said").open("w+") as said:
            loop = subprocess.Popen(
                [python, "-c", script, str(steps), str(number)],
                stdout=said, stderr=subprocess.DEVNULL, env=env, cwd=folder,
            )  # fmt: skip
            others: set[psutil.Process] = set()
            while loop.poll() is None and time.monotonic() - begun < patience_s:
                others |= set(psutil.Process(loop.pid).children(recursive=True))
                time.sleep(0.05)
            took_s = time.monotonic() - begun
            loop.kill()
            loop.wait()
            if agent_is_running(home):
                others.add(psutil.Process(int(home.lock_path.read_text())))
            for process in others:
                if process.is_running():
                    process.kill()
            said.seek(0)
            lines = [line for line in said.read().splitlines() if line.startswith("{")]
    found: dict[str, Any] = {"done": 0, "longest_s": 0.0, "error": "it did not begin"}
    return (json.loads(lines[-1]) if lines else found) | {"took_s": took_s}


if __name__ == "__main__":
    main()
