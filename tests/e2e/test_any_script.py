"""Trainings that are not one model, one optimizer, one loss, under ``lossguard run``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lossguard.home import Home
from tests.e2e.live import runs
from tests.support import warm_python

pytestmark = pytest.mark.e2e


def test_every_loss_of_a_script_is_a_run_with_its_own_values(
    tmp_path: Path, served_home: Home
) -> None:
    """The output is that of a plain run to the letter; the agent knows each run by its name, its
    number of steps and its last loss."""
    script = tmp_path / "odd.py"
    script.write_text(_ODD)
    outputs = []
    for launcher in ((), ("-m", "lossguard", "run")):
        done = warm_python.run([*launcher, script])
        assert done.returncode == 0, done.stderr
        outputs.append(done.stdout)
    assert outputs[0] == outputs[1]
    truth = json.loads(outputs[0].splitlines()[0])
    seen = {run.name: run for run in runs(served_home)}
    assert set(seen) == set(truth)
    for name, (steps, loss) in truth.items():
        run = seen[name]
        assert run.step == steps, name
        assert run.last["loss"] == pytest.approx(loss, rel=1e-6), name
        assert run.last["grad_norm"] > 0, name
        assert run.dropped == 0


_ODD = """
import json
import torch
from torch import nn
from torch.nn import functional

torch.manual_seed(0)
torch.set_num_threads(1)
told, weights = {}, []

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(5, 8)
        self.second = nn.Linear(8, 5)
    def forward(self, x):
        return self.second(torch.tanh(self.first(x)))

class Critic(Model):
    pass

class Plain(Model):
    pass

def split_and_scaled():
    "Two optimizers on one loss, fp16, and the first two steps overflow."
    model = Model()
    matrices = [p for p in model.parameters() if p.dim() == 2]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    optimizers = [torch.optim.SGD(matrices, lr=0.01), torch.optim.AdamW(vectors)]
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    for step in range(8):
        x = torch.randn(6, 5)
        with torch.autocast("cpu", torch.float16):
            loss = functional.mse_loss(model(x).float(), x)
        if step < 2:
            loss = loss + model.first.weight.sum() * model.second.bias.sum() * torch.tensor(3e37)
        for optimizer in optimizers:
            optimizer.zero_grad()
        scaler.scale(loss).backward()
        for optimizer in optimizers:
            scaler.step(optimizer)
        scaler.update()
    told["odd"] = 8, float(loss)
    weights.extend(model.parameters())

def gan():
    "Three steps of the critic for one of the generator."
    critic, generator = Critic(), Model()
    ours = torch.optim.Adam(critic.parameters(), lr=0.01)
    theirs = torch.optim.Adam(generator.parameters(), lr=0.01)
    for _ in range(4):
        for _ in range(3):
            ours.zero_grad()
            fake = generator(torch.randn(6, 5)).detach()
            against = (critic(fake) - critic(torch.randn(6, 5))).mean()
            against.backward()
            ours.step()
        theirs.zero_grad()
        loss = -critic(generator(torch.randn(6, 5))).mean()
        loss.backward()
        theirs.step()
    told["odd.2-Critic"] = 12, float(against)
    told["odd.3-Model"] = 4, float(loss)
    weights.extend([*critic.parameters(), *generator.parameters()])

def by_hand():
    "No optimizer, and no write that torch counts."
    model = Plain()
    for _ in range(5):
        x = torch.randn(6, 5)
        loss = functional.mse_loss(model(x), x)
        loss.backward()
        for p in model.parameters():
            p.data.add_(p.grad.data, alpha=-0.01)
            p.grad.data.zero_()
    told["odd.4-Plain"] = 5, float(loss)
    weights.extend(model.parameters())

split_and_scaled()
gan()
by_hand()
print(json.dumps(told))
print([float(w).hex() for p in weights for w in p.detach().flatten()])
"""
