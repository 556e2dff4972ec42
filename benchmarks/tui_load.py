"""What the dashboard costs under load: a real agent, 1,000 steps a second, a real terminal.

    python benchmarks/tui_load.py                    # a minute and a half
    python benchmarks/tui_load.py --seconds 3600     # memory over an hour
    python benchmarks/tui_load.py --json

A process of its own sends steps of 64 plain values and 200 layers, as a probe would. The dashboard
runs in a pseudo terminal of 160 by 45 cells. Keys are pressed four times a second; paint is when
the words they bring have come out of the terminal.
"""

from __future__ import annotations

import argparse
import json
import os
import pty
import select
import statistics
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fcntl import ioctl
from pathlib import Path

import numpy as np
import psutil

from lossguard.agent import feed
from lossguard.agent.client import Client
from lossguard.errors import AgentUnreachable
from lossguard.home import Home, find_home

RATE = 1_000
COLUMNS, LINES = 160, 45
_PLAIN = ("loss", "grad_norm", "lr", "step_time", "data_wait", "rss")
_LAYERS = 200
_WARM_UP_S = 8.0
_ESCAPE = b"\x1b"
"""Counted apart: a terminal sends it also as the beginning of other keys, and Textual waits 100 ms
(``ESCDELAY``) to see which it is."""
_KEYS = (
    (b"?", b"Everywhere"), (_ESCAPE, b"gradient norm"), (b"3", b"layer."), (b"5", b"Incidents"),
    (b"6", b"Events"), (b"4", b"Processes"), (b"1", b"newest"), (b"2", b"learning"),
)  # fmt: skip
"""Each with a word that only what it opens has to draw anew."""

Figures = dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description="What the dashboard costs under load.")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long to look")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--send", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.send:
        send_steps()
        return
    with tempfile.TemporaryDirectory(prefix="lgload-", dir="/tmp") as folder:
        os.environ["LOSSGUARD_HOME"] = folder
        figures = measure(find_home().create(), arguments.seconds)
    if arguments.json:
        print(json.dumps({name: round(value, 4) for name, value in figures.items()}))
        return
    for name, value in figures.items():
        print(f"{name:<44}{value:12,.2f}")


@contextmanager
def process(*command: str) -> Iterator[subprocess.Popen[bytes]]:
    """One that ends with the block."""
    running = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        yield running
    finally:
        running.terminate()
        running.wait(10)


def measure(home: Home, seconds: float) -> Figures:
    """The figures of one dashboard."""
    agent_command = (sys.executable, "-m", "lossguard", "agent")
    with process(*agent_command) as agent:
        wait_for_run(home, "")
        with process(sys.executable, __file__, "--send"):
            wait_for_run(home, "load")
            pid, terminal = open_dashboard()
            try:
                return watch(
                    home, psutil.Process(pid), psutil.Process(agent.pid), terminal, seconds
                )
            finally:
                os.kill(pid, 15)
                os.waitpid(pid, 0)
                os.close(terminal)


def wait_for_run(home: Home, name: str) -> feed.RunSummary | None:
    """Until the agent answers, and where one is named, knows the run."""
    for _ in range(300):
        with Client(home) as client:
            try:
                answer = client.request(feed.ListRuns(), timeout_s=1.0)
            except AgentUnreachable:
                continue
        if isinstance(answer, feed.RunList):
            found = next((run for run in answer.runs if run.name == name), None)
            if found is not None or not name:
                return found
        time.sleep(0.1)
    raise SystemExit("the agent did not come up")


def open_dashboard() -> tuple[int, int]:
    """``lossguard top`` in a pseudo terminal: its process id, and our end."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update(TERM="xterm-256color", COLORTERM="truecolor")
        ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
        os.execv(sys.executable, [sys.executable, "-m", "lossguard", "top", "load"])
    return pid, terminal


def watch(
    home: Home, top: psutil.Process, agent: psutil.Process, terminal: int, seconds: float
) -> Figures:
    """First nobody touches it; then keys are pressed."""
    read(terminal, _WARM_UP_S)
    begun, cpu, agent_cpu = time.perf_counter(), cpu_s(top), cpu_s(agent)
    first = steps(home)
    resident = [top.memory_info().rss]
    while (gone := time.perf_counter() - begun) < seconds:
        read(terminal, min(5.0, seconds - gone))
        resident.append(top.memory_info().rss)
    wall = time.perf_counter() - begun
    share, agent_share = (cpu_s(top) - cpu) / wall, (cpu_s(agent) - agent_cpu) / wall
    rate = (steps(home) - first) / wall
    by_key = press_keys(terminal, rounds=12)
    paints = [taken for key, found in by_key.items() if key != _ESCAPE for taken in found]
    settled = resident[len(resident) // 4 :]
    return {
        "steps a second that arrived": rate,
        "dashboard, share of one core [%]": 100 * share,
        "agent, share of one core [%]": 100 * agent_share,
        "key to paint, median [ms]": 1e3 * statistics.median(paints),
        "key to paint, p95 [ms]": 1e3 * float(np.quantile(paints, 0.95)),
        "key to paint, worst [ms]": 1e3 * max(paints),
        "keys": float(len(paints)),
        **{f"  {key!r} [ms]": 1e3 * statistics.median(found) for key, found in by_key.items()},
        "memory, first [MB]": resident[0] / 1e6,
        "memory, last [MB]": resident[-1] / 1e6,
        "memory, largest less smallest later on [MB]": (max(settled) - min(settled)) / 1e6,
        "load average of the machine": os.getloadavg()[0],
    }


def cpu_s(process: psutil.Process) -> float:
    """What it has used so far [s]."""
    times = process.cpu_times()
    return float(times.user + times.system)


def steps(home: Home) -> int:
    """Where the run is."""
    run = wait_for_run(home, "load")
    return run.step if run else 0


def read(terminal: int, seconds: float, until: bytes = b"") -> float | None:
    """Read what is painted; how long it took until this came, or None [s]."""
    begun = time.perf_counter()
    seen = b""
    while (left := begun + seconds - time.perf_counter()) > 0:
        if select.select([terminal], [], [], left)[0]:
            try:
                seen = (seen + os.read(terminal, 1 << 16))[-(1 << 18) :]
            except OSError:
                raise SystemExit(f"the dashboard ended: {seen[-2000:].decode()}") from None
            if until and until in seen:
                return time.perf_counter() - begun
    return None


def press_keys(terminal: int, rounds: int) -> dict[bytes, list[float]]:
    """Seconds from key to paint. The first round makes the screens, and does not count."""
    found: dict[bytes, list[float]] = {key: [] for key, _ in _KEYS}
    for number in range(rounds + 1):
        for key, word in _KEYS:
            read(terminal, 0.25)
            os.write(terminal, key)
            taken = read(terminal, 5.0, word)
            if taken is None:
                raise SystemExit(f"nothing like {word!r} was painted after {key!r}")
            if number:
                found[key].append(taken)
    return found


def send_steps() -> None:
    """As a probe would, until somebody ends us."""
    sys.path.insert(0, str(Path(__file__).parent.parent))
    from tests.support.probe import FakeProbe, hello_of

    names = (*_PLAIN, *(f"extra_{i}" for i in range(58)))
    names += tuple(f"grad_norm/layer.{i}.weight" for i in range(_LAYERS))
    random = np.random.default_rng(0)
    with FakeProbe(find_home(), hello_of("load-run", name="load"), names) as probe:
        probe.join()
        begun = time.monotonic()
        while True:
            due = int((time.monotonic() - begun) * RATE)
            while probe.step < due:
                values = random.normal(1.0, 0.05, len(names))
                values[0] = 2.0 + 6.0 / (1 + probe.step / 500) + 0.02 * values[0]
                probe.send_step(*values)
                if probe.step % RATE == 0:
                    probe.beat()
            while probe.hear():
                pass
            probe.heard.clear()
            time.sleep(0.002)


if __name__ == "__main__":
    main()
