"""A real guarded training is stopped when its validation loss turns up, its best state kept."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import lossguard
from lossguard.agent.launching import ensure_agent
from lossguard.home import Home
from lossguard.probes import best_state
from tests.e2e.live import newest_step, runs
from tests.support.waiting import eventually

pytestmark = pytest.mark.e2e

POLICY = """\
base = "guard"
[validation]
keep_best = true
patience = 6
min_delta = 0.0
"""
_EVALUATIONS = 25


@pytest.fixture(autouse=True)
def holds_every_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    """However short the steps are: the cost of holding is not what is tested."""
    monkeypatch.setattr(best_state, "_OVERHEAD", 1e9)


class Curve:
    """A small network learns a sine from examples, few and noisy or many and clean."""

    def __init__(self, examples: int, noise: float) -> None:
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(1, 128), nn.Tanh(), nn.Linear(128, 1))
        self.optimizer = torch.optim.AdamW(self.net.parameters(), lr=5e-3, weight_decay=0.0)
        self.x = torch.linspace(-3.0, 3.0, examples).unsqueeze(1)
        self.y = self.x.sin() + noise * torch.randn(examples, 1)
        self.val_x = torch.linspace(-2.9, 2.9, 64).unsqueeze(1)
        self.steps = 0
        self.val_losses: dict[int, float] = {}

    def step(self) -> None:
        self.optimizer.zero_grad()
        nn.functional.mse_loss(self.net(self.x), self.y).backward()
        self.optimizer.step()
        self.steps += 1

    @torch.no_grad()
    def evaluate(self) -> float:
        return float(nn.functional.mse_loss(self.net(self.val_x), self.val_x.sin()))

    def evaluations(self, home: Home) -> Iterator[float]:
        """One in twenty steps; each is judged by the agent before the training goes on."""
        for _ in range(_EVALUATIONS):
            for _ in range(19):
                self.step()
            self.val_losses[self.steps] = self.evaluate()
            self.step()  # the validation loss travels with it
            eventually(lambda: newest_step(home) == self.steps)
            yield self.val_losses[self.steps - 1]


def weights(net: nn.Module, kept: dict[str, Tensor]) -> None:
    net.load_state_dict(kept, strict=False)


def test_it_stops_and_the_state_with_the_best_loss_is_what_is_on_disk(
    served_home: Home, tmp_path: Path
) -> None:
    """Twelve noisy points: the validation loss falls, then rises for good."""
    policy = tmp_path / "my.toml"
    policy.write_text(POLICY)
    ensure_agent(served_home)
    curve = Curve(examples=12, noise=0.5)
    guard = lossguard.attach(
        curve.net, curve.optimizer, policy=policy, name="turning", agent="existing"
    )
    with pytest.raises(lossguard.StopTraining) as stopped:
        for _ in curve.evaluations(served_home):
            pass
    guard.close()
    assert "early stopping: 6 evaluations without" in stopped.value.reason

    best_step = min(curve.val_losses, key=curve.val_losses.__getitem__)
    assert 0 < best_step < curve.steps - 6 * 20, curve.val_losses
    folder = next((served_home.state / "best").iterdir())
    kept = lossguard.load_snapshot(folder)
    assert [path.name for path in folder.iterdir()] == [f"step-{best_step:015d}"]
    weights(curve.net, kept["model"])
    assert (kept["step"], curve.evaluate()) == (best_step, curve.val_losses[best_step])
    eventually(lambda: runs(served_home)[0].state == "stopped")


def test_a_healthy_run_is_not_stopped(served_home: Home, tmp_path: Path) -> None:
    """The same with many clean points, under the same policy."""
    policy = tmp_path / "my.toml"
    policy.write_text(POLICY)
    ensure_agent(served_home)
    curve = Curve(examples=256, noise=0.0)
    with lossguard.attach(
        curve.net, curve.optimizer, policy=policy, name="healthy", agent="existing"
    ):
        losses = list(curve.evaluations(served_home))
    assert len(losses) == _EVALUATIONS
    assert losses[-1] < 0.1 * losses[0]
    folder = served_home.state / "best"
    assert len(list(next(folder.iterdir()).iterdir())) == 1
