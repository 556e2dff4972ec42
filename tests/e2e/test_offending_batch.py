"""The batch that did it lies in the incident's folder, bit for bit; where it was asked for."""

from __future__ import annotations

import re
import tarfile
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import lossguard
from lossguard.agent import feed
from lossguard.agent.showing_incident import show_incident
from lossguard.probes.guard import attach
from lossguard.probes.random_state import restore_random
from tests.support.agents import AgentProcess
from tests.support.waiting import eventually

pytestmark = pytest.mark.e2e

POISONED = 40


def batch(step: int) -> tuple[Tensor, Tensor]:
    """Of each step another one; in one of them a NaN with a payload of its own."""
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(8, 6, generator=generator)
    if step == POISONED:
        x.view(torch.int32)[3, 2] = 0x7FC0BEEF
    return x, torch.randint(0, 4, (8,), generator=generator)


def train(agent: AgentProcess, name: str, keep_batches: bool) -> dict[int, Tensor]:
    """One run, watched, until its evidence is there; what the dropout drew at each step."""
    torch.manual_seed(0)
    drop = nn.Dropout(0.5)
    model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), drop, nn.Linear(16, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    drawn = {}
    guard = attach(
        model, optimizer, policy="guard", name=name, agent="existing", keep_batches=keep_batches
    )
    written = agent.home.state / "incidents"
    step = 0

    def go_on() -> bool:
        nonlocal step
        step += 1
        x, y = batch(step)
        optimizer.zero_grad()
        state = torch.get_rng_state()
        drawn[step] = torch.rand(4)
        torch.set_rng_state(state)
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        return bool(step > POISONED and list(written.glob(f"{name}-*/rank0/step-*")))

    eventually(go_on)
    guard.close()
    return drawn


def incident_of(agent: AgentProcess, name: str) -> Path:
    """The folder of the one that names the step."""

    def look() -> list[feed.IncidentLine]:
        answer = agent.ask(feed.ListIncidents(run=name))
        lines = answer.incidents if isinstance(answer, feed.IncidentList) else []
        return [line for line in lines if line.symptom == "bad_batch"]

    (found,) = eventually(look)
    assert found.onset_step == POISONED
    return agent.home.state / "incidents" / found.id


def test_a_poisoned_batch_is_found_bit_for_bit(
    agent: AgentProcess, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With its targets and what the dropout drew; shown, loaded as it is said, and exported."""
    drawn = train(agent, "keeps", keep_batches=True)
    folder = incident_of(agent, "keeps")
    show_incident(agent.home, folder.name, as_json=False, archive="")
    page = capsys.readouterr().out
    assert f"Of step {POISONED} on rank 0: the random generators and the batch" in page
    assert "optimizer.group0.lr = 0.1" in page
    (place,) = re.findall(r"lossguard\.load_snapshot\('(.*)'\)", page)
    kept = lossguard.load_snapshot(place)
    x, y = batch(POISONED)
    assert kept["step"] == POISONED
    (forward,) = kept["forwards"]
    assert torch.equal(forward["args"][0].view(torch.int32), x.view(torch.int32))
    assert torch.equal(kept["targets"][0], y)
    restore_random(kept["random"])
    assert torch.equal(torch.rand(4), drawn[POISONED])
    show_incident(agent.home, folder.name, as_json=False, archive=str(tmp_path / "x.tar.gz"))
    with tarfile.open(tmp_path / "x.tar.gz") as archive:
        assert any(name.endswith("/blobs") for name in archive.getnames())


def test_no_batch_is_kept_that_nobody_asked_for(agent: AgentProcess) -> None:
    """The random generators are: those of a step before, from which the bad one can be reached."""
    drawn = train(agent, "plain", keep_batches=False)
    folder = incident_of(agent, "plain")
    kept = lossguard.load_snapshot(folder / "rank0")
    assert kept["step"] == 32
    assert "forwards" not in kept
    restore_random(kept["random"])
    assert torch.equal(torch.rand(4), drawn[32])
