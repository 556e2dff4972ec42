"""A script that captures its update into a CUDA graph, without a device."""

from __future__ import annotations

import pytest
import torch

from lossguard.probes import wire
from lossguard.probes.loop import Loop
from tests.unit.probes.loops import Tiny, Watch, loop_of, loss_of, same, weights_of

pytestmark = pytest.mark.usefixtures("no_link")


def listen_to(loop: Loop, said: list[wire.Message]) -> None:
    """What it would tell the agent goes there."""
    vars(loop._outbox)["say"] = said.append


def trained(watch: Watch | None, policy: str = "guard", others: int = 0) -> Tiny:
    """Eight steps, of which the fifth is captured."""
    torch.manual_seed(0)
    model = Tiny()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    guard = watch(model, optimizer, policy=policy) if watch is not None else None
    said: list[wire.Message] = []
    removed: list[str] = []
    for _ in range(others):
        optimizer.register_step_pre_hook(lambda *given: None)
        optimizer.register_step_post_hook(lambda *given: None)
    for step in range(1, 9):
        if guard is not None and step == 5:
            loop = loop_of(guard)
            loop._senses.is_captured = lambda: True
            listen_to(loop, said)
            vars(loop._acting._tier)["remove"] = lambda: removed.append("snapshots on disk")
        optimizer.zero_grad()
        loss_of(model, step).backward()
        optimizer.step()
    if guard is not None:
        assert guard.step == 4
        assert not loop.is_alive
        assert [word.kind for word in said if isinstance(word, wire.Event)] == ["captured"]
        assert not loop._shield._off
        farewell = loop._outbox.farewell
        assert farewell is not None
        assert farewell.reason == "closed"
        assert not removed, "the training goes on, and may crash"
        guard.close()
        assert len(optimizer._optimizer_step_pre_hooks) == others
    return model


@pytest.mark.parametrize("others", [0, 1])
@pytest.mark.parametrize("policy", ["observe", "guard"])
def test_the_run_is_no_longer_watched_and_goes_on(watch: Watch, policy: str, others: int) -> None:
    """To the same weights; also where the optimizer has hooks of the script's own, which torch is
    about to call."""
    bare = trained(None, others=others)
    assert same(weights_of(trained(watch, policy, others)), weights_of(bare))


def test_what_is_captured_in_a_forward_is_not_measured(
    watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as one captured by hand, whose update is not: the values of that step are missing."""
    capturing = True
    monkeypatch.setattr("lossguard.probes.senses.is_capturing_on", lambda _: lambda: capturing)
    model = Tiny()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    guard = watch(model, optimizer)
    senses = loop_of(guard)._senses
    loss = loss_of(model, 1)
    capturing = False
    assert senses.activations.take()[0] == [None] * len(senses.activations._modules)
    loss.backward()
    optimizer.step()
    assert guard.step == 1
