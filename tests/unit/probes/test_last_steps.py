"""What is kept of the last steps, and how it comes into the folder of an incident."""

from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lossguard.errors import LossguardError
from lossguard.probes import wire
from lossguard.probes.bundle import Bundle
from lossguard.probes.last_steps import LastSteps
from lossguard.probes.listener import LossCall
from lossguard.probes.loading import load_snapshot
from lossguard.probes.outbox import Outbox
from lossguard.probes.run_config import config_of
from lossguard.probes.training_state import TrainingState
from tests.support.probe import hello_of


def fed(steps: int, *, keep: bool = True, budget: int = 1 << 20, size: int = 16) -> LastSteps:
    """So many steps, each fed its own number."""
    last = LastSteps(budget)
    if keep:
        last.keep_batches()
    for step in range(1, steps + 1):
        last.forward_begins((torch.full((size,), float(step)),), {}, sampled=step % 16 == 0)
        last.step_ends(step)
    return last


def asked(folder: Path, last: LastSteps, incident: str, *steps: int) -> tuple[Bundle, list[str]]:
    """The bundle after one order, and what it said in the log of the run."""
    outbox = Outbox("run-a", 0)
    bundle = Bundle(folder, hello_of("run-a"), last, outbox)
    bundle.write(wire.Keep(run="run-a", incident=incident, steps=list(steps)))
    return bundle, [word.message for word in outbox.words if isinstance(word, wire.Event)]


def test_a_batch_is_kept_as_it_was_given() -> None:
    """What the script writes into it later does not matter."""
    last = LastSteps(1 << 20)
    last.keep_batches()
    x = torch.ones(3, 2, requires_grad=True)
    odd = {"ids": [torch.arange(4), np.ones(2)], "what": object(), "scale": 2.0}
    last.forward_begins((x,), odd, sampled=False)
    with torch.no_grad():
        x.zero_()
    last.step_ends(7)
    found = last.find(7)
    assert found is not None
    (forward,) = found.kept["forwards"]
    assert torch.equal(forward["args"][0], torch.ones(3, 2))
    assert torch.equal(forward["kwargs"]["ids"][0], torch.arange(4))
    assert forward["kwargs"]["what"] == "<object, not kept>"
    assert forward["kwargs"]["scale"] == 2.0


def test_batches_stay_within_their_budget() -> None:
    """Sixteen numbers are 64 bytes: five fit, and the newest stay."""
    last = fed(40, budget=5 * 64)
    kept = [step for step in range(1, 41) if (one := last.find(step)) and one.step == step]
    assert kept == [36, 37, 38, 39, 40]


def test_a_batch_that_alone_is_too_large_is_not_kept() -> None:
    last = fed(3, budget=63)
    found = last.find(3)
    assert found is not None
    assert not found.has_batch
    assert last.too_large == 64


def test_nothing_but_random_states_is_kept_unasked() -> None:
    """Of the first step and of one in sixteen; the newest before a step is what leads to it."""
    last = fed(100, keep=False)
    assert [one.step for step in (15, 31, 100) if (one := last.find(step))] == [1, 16, 96]
    assert all(list(one.kept) == ["random"] for s in range(1, 101) if (one := last.find(s)))
    assert fed(10_000, keep=False).find(1) is None


def test_keeping_draws_no_random_number() -> None:
    torch.manual_seed(1)
    before = torch.rand(3)
    torch.manual_seed(1)
    fed(20)
    assert torch.equal(torch.rand(3), before)


def test_the_environment_may_ask_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOSSGUARD_KEEP_BATCHES", "1")
    assert LastSteps().keeps_batches
    monkeypatch.setenv("LOSSGUARD_KEEP_BATCHES", "0")
    assert not LastSteps().keeps_batches


def test_the_steps_of_an_incident_are_written_once(tmp_path: Path) -> None:
    bundle, words = asked(tmp_path, fed(30), "run-a.1", 20, 22, 20)
    assert [word.split(" is in ")[0] for word in words] == [
        "the batch of step 20", "the batch of step 22",
    ]  # fmt: skip
    places = sorted((tmp_path / "run-a.1" / "rank0").iterdir())
    assert [load_snapshot(place)["step"] for place in places] == [20, 22]
    kept = load_snapshot(places[0])
    assert torch.equal(kept["forwards"][0]["args"][0], torch.full((16,), 20.0))
    bundle.write(wire.Keep(run="run-a", incident="run-a.1", steps=[25]))
    assert sorted((tmp_path / "run-a.1" / "rank0").iterdir()) == places


def test_a_batch_that_is_no_longer_there_is_said(tmp_path: Path) -> None:
    _, words = asked(tmp_path, fed(200), "run-a.1", 20)
    assert words == ["the batch of step 20 is no longer there"]


@pytest.mark.parametrize("name", ["../run-a.1", "run-b.1", "run-a./../../x", "run-a." + "1" * 200])
def test_only_folders_of_this_run_are_written_to(tmp_path: Path, name: str) -> None:
    asked(tmp_path / "incidents", fed(30), name, 20)
    assert list(tmp_path.rglob("*")) == []


def test_a_disk_that_takes_nothing_is_said_and_hurts_nobody(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    _, words = asked(tmp_path / "file", fed(30), "run-a.1", 20)
    assert "could not be written" in words[0]


def test_one_flipped_bit_is_noticed(tmp_path: Path) -> None:
    asked(tmp_path, fed(30), "run-a.1", 20)
    (blobs,) = tmp_path.rglob("blobs")
    content = bytearray(blobs.read_bytes())
    content[3] ^= 1
    blobs.write_bytes(content)
    with pytest.raises(LossguardError, match="checksum"):
        load_snapshot(blobs.parent)


def test_targets_of_a_loss_are_kept_with_the_batch() -> None:
    last = LastSteps(1 << 20)
    last.keep_batches()
    x, y = torch.randn(4, 3), torch.tensor([0, 2, 1, 1])
    last.forward_begins((x,), {}, sampled=False)
    signature = inspect.signature(F.cross_entropy)
    last.loss_is_asked(LossCall("cross_entropy", signature, (x, y), {}, torch.zeros(())))
    last.step_ends(1)
    found = last.find(1)
    assert found is not None
    assert torch.equal(found.kept["targets"][0], y)


def test_the_config_says_how_it_trains_and_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NCCL_DEBUG", "INFO")
    monkeypatch.setenv("LOSSGUARD_TOKEN", "s3cret")
    model = nn.Linear(3, 2)
    config = config_of(TrainingState(model, [torch.optim.AdamW(model.parameters(), lr=3e-4)]))
    assert config["model"] == "Linear"
    assert config["parameters"] == "8"
    assert config["optimizer.group0.lr"] == "0.0003"
    assert config["optimizer.group0.betas"] == "(0.9, 0.999)"
    assert config["environment.NCCL_DEBUG"] == "INFO"
    assert "s3cret" not in str(config)


def test_a_training_that_fails_leaves_the_batch_it_failed_on(tmp_path: Path) -> None:
    last = fed(30)
    bundle, _ = asked(tmp_path, last, "run-b.1")
    last.forward_begins((torch.full((16,), 31.0),), {}, sampled=False)
    bundle.write_last(31)
    kept = load_snapshot(tmp_path / "run-a.last" / "rank0")
    assert kept["step"] == 31
    assert kept["forwards"][0]["args"][0][0] == 31.0
