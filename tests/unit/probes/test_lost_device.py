"""A kernel has failed: every call to the device raises from then on, and the script will hear."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lossguard.probes import device_events, transfer, wire
from lossguard.probes.copy_cost import CopyCost
from lossguard.probes.graph_capture import is_capturing_on, leave_captures_alone
from lossguard.probes.last_steps import LastStep
from lossguard.probes.pinned import POOL
from lossguard.probes.tensors import copies_done


class Event:
    """Of a device that is there, and then is not."""

    lost = False

    def __init__(self, at_ms: float = 0.0, done: bool = True) -> None:
        self.at_ms, self.done = at_ms, done

    def record(self, stream: object = None) -> None:
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
    monkeypatch.setattr(transfer, "record_on", lambda event, device: event.record())
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


def test_copies_from_two_devices_have_arrived_when_both_are_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever the current device is; the slower one tells how long they took."""
    monkeypatch.setattr(Event, "lost", False)
    queued: dict[str, list[Event]] = {"cuda:0": [], "cuda:1": []}
    monkeypatch.setattr(device_events, "new_event", lambda *, timing: Event())
    monkeypatch.setattr(
        device_events, "record_on", lambda event, device: queued[str(device)].append(event)
    )
    devices = [torch.device("cpu"), torch.device("cuda:0"), torch.device("cuda:1")]
    begun, done = copies_done(devices), copies_done(devices)
    assert begun is not None
    assert done is not None
    queued["cuda:0"][1].at_ms, queued["cuda:1"][1].at_ms = 3.0, 8.0
    queued["cuda:1"][1].done = False
    assert (begun.query(), done.query()) == (True, False)
    queued["cuda:1"][1].done = True
    assert done.query()
    assert begun.elapsed_time(done) == 8.0
    assert copies_done([torch.device("cpu")]) is None


def test_without_cuda_nothing_is_captured_and_nothing_asked() -> None:
    """A loop on the CPU, and a build without CUDA."""
    assert not is_capturing_on(torch.device("cpu"))()
    assert not is_capturing_on(torch.device("cuda"))()
    leave_captures_alone()
