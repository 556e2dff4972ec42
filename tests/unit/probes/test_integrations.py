"""What the integrations share: attach at the begin, say goodbye at the end, and never raise."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from lossguard.errors import ConfigError
from lossguard.integrations.watching import Watching
from tests.unit.probes.loops import loop_of

pytestmark = pytest.mark.usefixtures("no_link")


@pytest.fixture
def watching() -> Iterator[Watching]:
    watching = Watching("guard", "a name")
    yield watching
    watching.end()


class Wrapper:
    """As Accelerate wraps a schedule."""

    def __init__(self, scheduler: Any) -> None:
        self.scheduler = scheduler

    def state_dict(self) -> Any:
        return self.scheduler.state_dict()

    def load_state_dict(self, state: Any) -> None:
        self.scheduler.load_state_dict(state)


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), fused=True)


def test_a_wrong_policy_is_said_where_the_callback_is_made() -> None:
    """Not an hour later, when the data is loaded and the training begins."""
    with pytest.raises(ConfigError, match="guard"):
        Watching("gaurd", None)


def test_the_guard_is_there_from_the_begin_to_the_end(watching: Watching) -> None:
    """A second training gets a new one; before, between and after, one that does nothing."""
    model = nn.Linear(2, 2)
    runs = []
    for _ in range(2):
        assert watching.guard.run == ""
        watching.begin(model, [adam(model)], [], None)
        runs.append(watching.guard.run)
        assert runs[-1].startswith("a-name")
        watching.end()
        watching.end()
    assert watching.guard.run == ""
    assert runs[0] != runs[1]


def test_a_training_that_begins_anew_ends_the_last_one(watching: Watching) -> None:
    """One that died on the way has not said goodbye."""
    model = nn.Linear(2, 2)
    watching.begin(model, [adam(model)], [], None)
    died = loop_of(watching.guard)
    watching.begin(model, [adam(model)], [], None)
    assert not died.is_alive
    assert loop_of(watching.guard).is_alive


def test_what_cannot_be_watched_is_one_line_in_the_log(
    watching: Watching, caplog: pytest.LogCaptureFixture
) -> None:
    """The training goes on, and everything on the guard may be called."""
    with caplog.at_level(logging.ERROR, "lossguard"):
        watching.begin("no model", [object()], [], None)
    assert [record.message.partition(" (")[0] for record in caplog.records] == [
        "lossguard cannot watch this training"
    ]
    watching.guard.log(val_loss=1.0)
    assert watching.guard.run == ""


def test_schedules_are_watched_without_their_wrapper(watching: Watching) -> None:
    """``lower_lr`` has to reach what the next rates are computed from."""
    model = nn.Linear(2, 2)
    optimizer = adam(model)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 3)
    for given in (schedule, Wrapper(schedule)):
        watching.begin(model, [optimizer], [given], None)
        assert list(loop_of(watching.guard)._state.schedulers) == [schedule]


@pytest.mark.parametrize("several", [False, True])
def test_several_optimizers_are_only_observed(
    watching: Watching, several: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody says whether their losses are one; with a single one the guard acts."""
    model = nn.Linear(2, 2)
    optimizers = [torch.optim.SGD([p], lr=0.1) for p in model.parameters()]
    with caplog.at_level(logging.WARNING, "lossguard"):
        watching.begin(model, optimizers if several else [adam(model)], [], None)
    assert any("several optimizers" in record.message for record in caplog.records) is several
