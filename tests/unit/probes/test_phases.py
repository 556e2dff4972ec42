"""The phases of a step add up, and none is longer than the step."""

from __future__ import annotations

import io

import pytest
import torch
from torch import nn

from lossguard.probes import phases
from lossguard.probes.phases import NAMES, Phases
from tests.unit.probes.loops import Records, Tiny, Watch, loss_of

pytestmark = pytest.mark.usefixtures("no_link")


class Clock:
    """Moves by as much as it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(phases, "_clock", lambda: self.now)

    def moves(self, seconds: float) -> None:
        """Time passes."""
        self.now += seconds


def test_each_phase_has_its_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two micro-batches, an update, an evaluation that the next forward ends."""
    clock, found = Clock(monkeypatch), Phases()
    for _ in range(2):
        found.forward_begins(training=True)
        clock.moves(1.0)
        found.forward_begins(training=True)  # a second forward of the same loss
        clock.moves(2.0)
        found.backward_begins()
        clock.moves(5.0)
        found.end("backward_time")
        clock.moves(100.0)
    assert found.take() == {"forward_time": 6.0, "backward_time": 10.0}
    found.begin("optimizer_time")
    clock.moves(0.5)
    found.end("optimizer_time")
    found.forward_begins(training=False)
    clock.moves(7.0)
    found.forward_begins(training=False)
    clock.moves(1.0)
    assert found.take() == {"optimizer_time": 0.5}, "the evaluation goes on"
    found.forward_begins(training=True)
    assert found.take() == {"eval_time": 8.0}
    assert found.take() == {}


def test_what_nothing_began_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A backward that raised, an update before the watch."""
    clock, found = Clock(monkeypatch), Phases()
    found.end("optimizer_time")
    found.backward_begins()
    clock.moves(3.0)
    found.backward_begins()  # the first one raised
    clock.moves(1.0)
    found.end("backward_time")
    assert found.take() == {"backward_time": 4.0}


def test_a_real_loop_has_them(watch: Watch) -> None:
    """Within the time of the step; no evaluation and no saving where there was none."""
    model = Tiny()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    records = Records(watch(model, optimizer))
    for i in range(4):
        if i == 2:
            with torch.no_grad():
                model(torch.zeros(4, 6, dtype=torch.long))
            torch.save(model.state_dict(), io.BytesIO())
        loss_of(model, i).backward()
        optimizer.step()
    usual = {"forward_time", "backward_time", "optimizer_time"}
    assert [set(NAMES) & set(step) for step in records.steps] == [
        usual - {"optimizer_time"}, usual, usual | {"eval_time", "checkpoint_time"}, usual,
    ]  # fmt: skip
    for step in records.steps[1:]:
        parts = [step[name] for name in usual]
        assert all(part > 0.0 for part in parts)
        assert sum(parts) < step["step_time"]


def test_a_model_that_is_never_called_has_no_forward(watch: Watch) -> None:
    """Backward and update are heard all the same."""
    layer = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    records = Records(watch(None, optimizer))
    for _ in range(2):
        layer(torch.ones(3, 2)).sum().backward()
        optimizer.step()
    assert set(NAMES) & set(records.steps[1]) == {"backward_time", "optimizer_time"}
