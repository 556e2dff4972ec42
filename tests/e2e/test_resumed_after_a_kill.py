"""A training that is killed goes on in a new process as if nothing had been."""

from __future__ import annotations

import signal
import weakref
from pathlib import Path

import pytest

from lossguard.home import Home
from tests.support.waiting import eventually
from tests.support.warm_python import Program

pytestmark = pytest.mark.e2e

SCRIPT = """
import sys
import torch
import lossguard

name, stops_at = sys.argv[1], int(sys.argv[2])
torch.manual_seed(0)
torch.set_num_threads(1)
model = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.Dropout(0.2), torch.nn.Linear(16, 1))
optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 40)
guard = lossguard.attach(
    model, optimizer, scheduler=scheduler, policy="guard", name=name, agent="existing"
)
for step in range(guard.resume() or 0, 40):
    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
    loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    scheduler.step()
    print(step, loss.item().hex(), flush=True)
    if step == 19:
        guard.snapshot(durable=True)
    if step == stops_at:
        sys.stdin.readline()
guard.close("finished")
"""


class Script:
    """The training in a process of its own; it waits after step ``stops_at``."""

    def __init__(self, folder: Path, name: str, stops_at: int = -1) -> None:
        path = folder / "train.py"
        path.write_text(SCRIPT)
        self.process = Program([path, name, str(stops_at)])
        weakref.finalize(self, self.process.kill)  # a test that failed leaves nothing running

    def losses(self, until: int = 39) -> dict[int, str]:
        """To the last bit, by step."""
        found: dict[int, str] = {}
        for line in self.process.stdout:
            step, loss = line.split()
            found[int(step)] = loss
            if int(step) == until:
                break
        return found

    def go_on(self) -> None:
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def end(self) -> int:
        """Its exit code."""
        self.process.communicate()
        return self.process.wait()


def test_the_losses_after_a_kill_are_bitwise_those_of_the_run_that_was_not_killed(
    own_home: Home, tmp_path: Path
) -> None:
    """SIGKILL in the middle; the next process takes it up, ends well, and leaves nothing behind."""
    killed, whole = (Script(tmp_path, name, stops_at=25) for name in ("killed", "whole"))
    snapshots = own_home.state / "snapshots"
    expected = whole.losses(until=25)
    eventually(lambda: len(list(snapshots.glob("whole-*/step-*"))) == 1)
    whole.go_on()
    expected |= whole.losses()
    assert whole.end() == 0

    assert max(killed.losses(until=25)) == 25
    eventually(lambda: len(list(snapshots.glob("killed-*/step-*"))) == 1)
    killed.process.send_signal(signal.SIGKILL)
    assert killed.end() == -signal.SIGKILL

    resumed = Script(tmp_path, "killed")
    losses = resumed.losses()
    assert resumed.end() == 0
    assert losses == {step: expected[step] for step in range(20, 40)}
    assert not list(snapshots.glob("*/step-*"))
