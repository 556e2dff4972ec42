"""A watch that begins by itself: when it does, when it does not, and what stays behind."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn

from lossguard.errors import ConfigError
from lossguard.policy_choice import ChosenPolicy
from lossguard.probes import self_attaching
from lossguard.probes.living import loops_alive
from lossguard.probes.self_attaching import SelfAttaching, hooks
from tests.unit.probes.loops import Tiny, Watch, loss_of

Arm = Callable[..., SelfAttaching]


def observed() -> ChosenPolicy:
    """What most runs are under."""
    return ChosenPolicy("observe", name="observe")


@pytest.fixture
def arm(no_link: None) -> Iterator[Arm]:
    """Arms one; what it watches is closed again."""
    made: list[SelfAttaching] = []

    def make(choose: Callable[[], ChosenPolicy] = observed, **more: Any) -> SelfAttaching:
        made.append(SelfAttaching(choose, "named", **more))
        made[-1].arm()
        return made[-1]

    yield make
    for one in made:
        one.disarm()
        for loop in one.loops:
            loop.close("closed")


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    """So many updates, clipped."""
    for seed in range(steps):
        optimizer.zero_grad()
        loss_of(model, seed).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()


def a_training() -> tuple[Tiny, torch.optim.Optimizer]:
    """Something that could be watched."""
    model = Tiny()
    return model, torch.optim.SGD(model.parameters(), lr=0.1)


def test_a_policy_that_does_not_exist_is_said_once(
    arm: Arm, caplog: pytest.LogCaptureFixture
) -> None:
    """And looked for once: the steps that follow cost nothing."""
    asked: list[int] = []

    def choose() -> ChosenPolicy:
        asked.append(1)
        raise ConfigError("no such policy")

    with caplog.at_level(logging.ERROR, logger="lossguard"):
        armed = arm(choose)
        train(*a_training(), steps=3)
    assert [r.getMessage() for r in caplog.records if "no such policy" in r.getMessage()]
    assert (len(asked), len(caplog.records), armed.loops) == (1, 1, [])


def test_a_late_one_begins_with_the_first_whole_step(arm: Arm) -> None:
    """What was under way counts for nothing: its norm is that from before or after a clipping,
    nobody knows. The step after it does, the one after that has everything."""
    model, optimizer = a_training()
    begun: list[Any] = []
    loss_of(model, 1).backward()
    nn.utils.clip_grad_norm_(model.parameters(), 0.1)
    armed = arm(begun=begun.append, joins_late=True)
    optimizer.step()
    assert (armed.loops, begun) == ([], [])
    train(model, optimizer, 2)
    (loop,) = armed.loops
    assert begun == [loop]
    assert loop.step == 2


def test_one_that_is_there_in_time_begins_at_once(arm: Arm) -> None:
    """The healthy twin: nothing is passed over."""
    armed = arm()
    train(*a_training(), steps=2)
    (loop,) = armed.loops
    assert loop.step == 2


def test_a_script_that_attaches_by_itself_is_watched_once(arm: Arm, watch: Watch) -> None:
    """``lossguard run`` of a script with ``lossguard.attach`` in it."""
    armed = arm()
    model, optimizer = a_training()
    guard = watch(model, optimizer)
    train(model, optimizer, 2)
    assert armed.loops == []
    assert [loop.run for loop in loops_alive()] == [guard.run]


def test_the_later_of_two_stands_and_disarmed_nothing_is_left(arm: Arm) -> None:
    before = {key: hook for key, hook in hooks().items() if key >= 0}
    first = arm()
    second = arm()
    assert self_attaching.self_attaching() is second
    first.disarm()
    assert self_attaching.self_attaching() is second
    assert len(hooks()) == len(before) + 1
    second.disarm()
    assert self_attaching.self_attaching() is None
    assert dict(hooks()) == before
    assert torch.autograd.backward.__module__ == "torch.autograd"
    assert not hasattr(torch.autograd.backward, "__wrapped__")
