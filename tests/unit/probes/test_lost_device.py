"""A kernel has failed: every call to the device raises from then on, and the script will hear."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lossguard.probes import transfer, wire
from lossguard.probes.copy_cost import CopyCost
from lossguard.probes.graph_capture import is_capturing_on, leave_captures_alone
from lossguard.probes.last_steps import LastStep
from lossguard.probes.pinned import POOL


class Event:
    """Of a device that is there, and then is not."""

    lost = False

    def __init__(self, at_ms: float = 0.0, done: bool = True) -> None:
        self.at_ms, self.done = at_ms, done

    def record(self) -> None:
        """Now."""

    def query(self) -> bool:
        """Whether the device has come to it."""
        if Event.lost:
            raise RuntimeError("CUDA error: device-side assert triggered")
        return self.done

    def synchronize(self) -> None:
        """Waits."""
        self.query()

    def elapsed_time(self, other: Event) -> float:
        """[ms]"""
        return other.at_ms - self.at_ms


@pytest.fixture
def ring(monkeypatch: pytest.MonkeyPatch) -> transfer.PinnedTransfer:
    """Of two places, over plain memory."""
    monkeypatch.setattr(Event, "lost", False)
    monkeypatch.setattr(transfer, "new_event", Event)
    monkeypatch.setattr(POOL, "take", lambda size: torch.zeros(size, dtype=torch.uint8))
    return transfer.PinnedTransfer(3, places=2)


def test_what_arrives_is_read_once_and_its_place_is_used_again(
    ring: transfer.PinnedTransfer,
) -> None:
    """The healthy twin."""
    for step in range(5):
        arrival = ring.send(torch.tensor([1.0, 2.0, float(step)]))
        assert arrival is not None
        assert arrival.ready()
        assert arrival.read().tolist() == [1.0, 2.0, step]


@pytest.mark.parametrize("asks_first", [True, False])
def test_what_does_not_arrive_any_more_is_missing(
    ring: transfer.PinnedTransfer, asks_first: bool
) -> None:
    """The reader goes on, and can still say goodbye; nothing is queued again."""
    arrivals = [ring.send(torch.ones(3)) for _ in range(2)]
    Event.lost = True
    for arrival in arrivals:
        assert arrival is not None
        assert not asks_first or arrival.ready()
        assert set(arrival.read().view("uint32")) == {wire.MISSING_BITS}
    assert ring.send(torch.ones(3)) is None


def test_the_evidence_of_a_step_that_did_not_arrive_is_not_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As long as it is asked for."""
    monkeypatch.setattr(Event, "lost", False)
    step: Any = LastStep(3, {}, 0, Event())
    assert step.is_here
    Event.lost = True
    assert not step.is_here


def test_the_cost_of_copies_is_that_of_the_device_once_that_is_known() -> None:
    """The host only queues them; what it says is all there is before, and on the CPU."""
    cost = CopyCost()
    cost.took(0.001, Event(10.0), done := Event(60.0, done=False))
    assert not cost.is_news()
    assert cost.seconds == 0.001
    done.done = True
    assert cost.is_news()
    assert cost.seconds == pytest.approx(0.05)
    assert not cost.is_news()
    cost.took(0.2, None, None)
    cost.took(0.3, None, None)
    assert not cost.is_news()
    assert cost.seconds == 0.2, "the middle of three"


def test_the_slower_of_host_and_device_counts() -> None:
    """New memory costs the host more than the copies the device."""
    cost = CopyCost()
    cost.took(0.4, Event(0.0), Event(20.0))
    assert not cost.is_news()
    assert cost.seconds == 0.4


def test_without_cuda_nothing_is_captured_and_nothing_asked() -> None:
    """A loop on the CPU, and a build without CUDA."""
    assert not is_capturing_on(torch.device("cpu"))()
    assert not is_capturing_on(torch.device("cuda"))()
    leave_captures_alone()
