"""What is kept of the last steps, and how it comes into the folder of an incident."""

from __future__ import annotations

import inspect
import threading
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from lossguard.agent.alerts.other_settings import APPRISE, KEY, URL
from lossguard.agent.alerts.secrecy import TOKEN, WEBHOOK
from lossguard.agent.dead_man_settings import URL as DEAD_MAN
from lossguard.errors import LossguardError
from lossguard.probes import bundle as bundles
from lossguard.probes import wire
from lossguard.probes.bundle import Bundle
from lossguard.probes.durable import files_of
from lossguard.probes.durable_files import write_folder
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
    bundle.settle(10.0)
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
    assert last.too_large


@pytest.mark.parametrize(
    "batch",
    [np.zeros(64), bytes(512), "x" * 512, [np.zeros(32), torch.zeros(64)]],
    ids=["array", "bytes", "text", "both"],
)
def test_whatever_a_batch_is_made_of_counts(batch: Any) -> None:
    last = LastSteps(256)
    last.keep_batches()
    last.forward_begins((batch,), {}, sampled=False)
    last.step_ends(1)
    found = last.find(1)
    assert found is not None
    assert not found.has_batch
    assert last.too_large


def test_a_step_that_never_ends_keeps_no_more_than_a_step_may() -> None:
    """Ten thousand forwards without an update, and one list of so many numbers."""
    last = LastSteps(1 << 20)
    last.keep_batches()
    for _ in range(10_000):
        last.forward_begins((), {"x": 1}, sampled=False)
    assert last._open is not None
    assert len(last._open.forwards) < 5_000
    last.step_ends(1)
    last.forward_begins((list(range(10_000)),), {}, sampled=False)
    assert last._open.forwards == [
        {"args": ["<too large, not kept>"], "kwargs": "<too large, not kept>"}
    ]


def test_the_step_under_way_counts_towards_the_budget() -> None:
    """The oldest ones make room for it before it is copied, not after."""
    last = fed(5, budget=5 * 64)
    last.forward_begins((torch.zeros(32),), {}, sampled=False)
    assert last.find(2) is None
    assert last.find(3) is not None


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested")
def test_data_that_cannot_be_written_is_named_and_costs_no_other() -> None:
    """A batch is made of what a script likes; the rest of it can be written without pickle."""

    class Lazy(dict[str, int]):
        def items(self) -> Any:
            raise RuntimeError("not yet")

    class Kind(IntEnum):
        A = 1

    records = np.zeros(3, dtype=[("a", np.int32)])
    nested = torch.nested.nested_tensor([torch.zeros(2)], layout=torch.strided)
    last = LastSteps(1 << 20)
    last.keep_batches()
    odd = (records, nested, np.array([object()]), Kind.A, torch.ones(2))
    last.forward_begins(odd, {}, sampled=False)
    last.forward_begins((Lazy(a=1),), {"y": torch.ones(1)}, sampled=False)
    last.step_ends(1)
    found = last.find(1)
    assert found is not None
    _, missing = files_of(found.kept)
    assert not missing
    first, second = found.kept["forwards"]
    assert all("not kept" in one for one in first["args"][:-1])
    assert torch.equal(first["args"][-1], torch.ones(2))
    assert "RuntimeError" in second["args"]
    assert torch.equal(second["kwargs"]["y"], torch.ones(1))


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
    bundle.settle(10.0)
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
    for secret in (TOKEN, WEBHOOK, URL, KEY, APPRISE, DEAD_MAN, "LOSSGUARD_OTHER_TOKEN"):
        monkeypatch.setenv(secret, "s3cret")
    model = nn.Linear(3, 2)
    config = config_of(TrainingState(model, [torch.optim.AdamW(model.parameters(), lr=3e-4)]))
    assert config["model"] == "Linear"
    assert config["parameters"] == "8"
    assert config["optimizer.group0.lr"] == "0.0003"
    assert config["optimizer.group0.betas"] == "(0.9, 0.999)"
    assert config["environment.NCCL_DEBUG"] == "INFO"
    assert "s3cret" not in str(config)


def test_what_cannot_be_told_of_a_training_costs_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Parameters without a shape yet; a precision that was set by other names."""

    def mixed() -> str:
        raise RuntimeError("mix of the legacy and new APIs")

    monkeypatch.setattr(torch, "get_float32_matmul_precision", mixed)
    model = nn.Sequential(nn.LazyLinear(4), nn.Linear(4, 1))
    config = config_of(TrainingState(model, [torch.optim.SGD(model[1].parameters(), lr=0.5)]))
    assert config["parameters"] == "5"
    assert config["precision"] == "RuntimeError: mix of the legacy and new APIs"
    assert config["optimizer.group0.lr"] == "0.5"
    assert "torch.initial_seed" in config


def test_settings_that_lie_on_a_device_are_not_read() -> None:
    """Adam takes tensors for its betas."""
    model = nn.Linear(3, 2)
    with FakeTensorMode():
        betas = (torch.tensor(0.9, device="cuda"), torch.tensor(0.99, device="cuda"))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    optimizer.param_groups[0]["betas"] = betas
    config = config_of(TrainingState(model, [optimizer]))
    assert "optimizer.group0.betas" not in config
    assert config["optimizer.group0.lr"] == "0.1"


def test_a_training_that_fails_leaves_the_batch_it_failed_on(tmp_path: Path) -> None:
    last = fed(30)
    bundle, _ = asked(tmp_path, last, "run-b.1")
    last.forward_begins((torch.full((16,), 31.0),), {}, sampled=False)
    bundle.write_last(31)
    kept = load_snapshot(tmp_path / "run-a.last" / "rank0")
    assert kept["step"] == 31
    assert kept["forwards"][0]["args"][0][0] == 31.0


def test_whoever_asks_for_evidence_does_not_wait_for_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That is the link: heartbeats, and the order to roll back, come meanwhile."""
    disk_is_free = threading.Event()

    def slow(*args: Any) -> Path:
        assert disk_is_free.wait(60.0)
        return write_folder(*args)

    monkeypatch.setattr(bundles, "write_folder", slow)
    bundle = Bundle(tmp_path, hello_of("run-a"), fed(30), Outbox("run-a", 0))
    for number in (1, 2):
        bundle.write(wire.Keep(run="run-a", incident=f"run-a.{number}", steps=[20]))
    assert not list(tmp_path.rglob("manifest.json"))
    disk_is_free.set()
    bundle.settle(60.0)
    assert len(list(tmp_path.rglob("manifest.json"))) == 2


def test_no_thread_to_be_had_is_said_and_hurts_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the process is ending."""

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    _, words = asked(tmp_path, fed(30), "run-a.1", 20)
    assert words == ["the evidence could not be written: can't start new thread"]
