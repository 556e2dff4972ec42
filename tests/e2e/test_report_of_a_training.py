"""A real guarded training with trouble, and the report of it after its agent is gone."""

from __future__ import annotations

from pathlib import Path

import pytest

from lossguard.agent.launching import ensure_agent
from lossguard.agent.operating import stop_agent
from lossguard.agent.report.gathering import gather
from lossguard.agent.report.html_page import html_report
from lossguard.agent.report.summary import paragraph
from lossguard.home import Home
from tests.e2e.live import runs
from tests.support import warm_python
from tests.support.waiting import eventually

pytestmark = pytest.mark.e2e

SCRIPT = """\
import torch
from torch import nn
import lossguard

torch.manual_seed(0)
torch.set_num_threads(1)
model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
guard = lossguard.attach(model, optimizer, name="small", policy="guard")
for step in range(1, 201):
    x = torch.randn(32, 8)
    y = x.sum(1, keepdim=True) * (float("nan") if step == 150 else 1.0)
    optimizer.zero_grad()
    nn.functional.mse_loss(model(x), y).backward()
    if step % 40 == 0:
        guard.log(val_loss=1.0 / step)
    optimizer.step()
guard.close()
"""


def test_it_tells_what_happened(served_home: Home, tmp_path: Path) -> None:
    """The NaN, its step, the update that was dropped, that it is over, and the layers."""
    ensure_agent(served_home)
    script = tmp_path / "small.py"
    script.write_text(SCRIPT)
    warm_python.run([script]).check_returncode()
    eventually(lambda: runs(served_home) and runs(served_home)[0].state == "finished")
    stop_agent(served_home)
    data = gather(served_home, "small", lambda share: None)
    said = paragraph(data)
    assert said.startswith("The run small finished after 200 steps (199 updates in effect)")
    assert said.endswith("NaN or Inf (critical, step 150). It dropped 1 update. All of it is over.")
    step, best = data.curves["val_loss"].lowest or (0, 0.0)
    assert step == 200
    assert best == pytest.approx(0.005)
    assert {"grad_norm", "act_rms"} <= set(data.saved.layers)
    assert data.saved.bounds["grad_norm"].last.max() > 0
    text = html_report(data)
    assert "by step 15" in text
    assert text.count('class="heat"') >= 2
