"""After a rollback the same batches give bitwise the same losses again."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import lossguard
from lossguard.agent import feed
from lossguard.agent.client import Client
from lossguard.agent.launching import ensure_agent
from lossguard.home import Home
from tests.e2e.live import runs
from tests.support.waiting import eventually

pytestmark = pytest.mark.e2e


class Net(nn.Module):
    """Dropout draws from the generator, BatchNorm keeps buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 1)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layers(x)
        return out


@pytest.mark.parametrize("fused", [True, False])
def test_a_rollback_by_command_replays_bit_for_bit(own_home: Home, fused: bool) -> None:
    """Real agent, real command: model, optimizer, schedule and generators all come back."""
    ensure_agent(own_home)
    torch.manual_seed(3)
    net = Net()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2, fused=fused)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 50)
    batches = [torch.randn(32, 8) for _ in range(60)]
    guard = lossguard.attach(
        net, optimizer, scheduler=scheduler, policy="guard", name="exact", agent="existing"
    )

    def train(index: int) -> float:
        loss = (net(batches[index]) - batches[index].sum(1, keepdim=True)).pow(2).mean()
        loss.backward()
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        return float(loss.detach())

    try:
        before = [train(i) for i in range(40)]
        eventually(lambda: bool(runs(own_home)) and runs(own_home)[0].step == 40)
        with Client(own_home) as client:
            order = feed.SendCommand(
                run="exact", command="t.1", action="rollback", args={"onset": 30, "random": 1}
            )
            answer = client.request(order)
            assert isinstance(answer, feed.CommandResult)
            loop = guard._loop
            assert loop is not None
            eventually(lambda: bool(loop._link.orders))
            train(40)  # carried out at this step's end; its own schedule step comes after that

            def done() -> bool:
                nonlocal answer
                answer = client.request(order)
                return isinstance(answer, feed.CommandResult) and answer.status == "done"

            eventually(done)
        assert isinstance(answer, feed.CommandResult)
        restored = int(answer.result.split("restored_step ")[1].split(",")[0])
        assert 0 < restored <= 28
        # State after step `restored`: the next batch is the one with that index.
        again = [train(i) for i in range(restored, 40)]
        assert again == before[restored:]
    finally:
        guard.close()
