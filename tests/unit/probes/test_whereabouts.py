"""Where a thread is, read off its stack."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from lossguard.probes.phases import Phases
from lossguard.probes.whereabouts import Place, all_stacks, place_of, standing

HELD = threading.Event()
THERE = threading.Event()


def wait_here() -> None:
    """Until the test has looked."""
    THERE.set()
    assert HELD.wait(60.0)


class Rows:
    """Data that take their time."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> torch.Tensor:
        wait_here()
        return torch.zeros(1)


class Waits(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wait_here()
        return x


class WaitsInBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: object, gradient: torch.Tensor) -> torch.Tensor:
        wait_here()
        return gradient


class WaitsInSaving:
    def __getstate__(self) -> dict[str, int]:
        wait_here()
        return {}


def save(folder: str) -> None:
    torch.save({"x": WaitsInSaving()}, f"{folder}/x.pt")


def backward() -> None:
    x = torch.zeros(1, requires_grad=True)
    WaitsInBackward.apply(x).sum().backward()  # type: ignore[no-untyped-call]


def save_checkpoint() -> None:
    wait_here()


@contextmanager
def thread_in(work: Callable[[], object]) -> Iterator[int]:
    """A thread that is in the middle of it."""
    HELD.clear()
    THERE.clear()
    thread = threading.Thread(target=work)
    thread.start()
    try:
        assert THERE.wait(60.0)
        assert thread.ident is not None
        yield thread.ident
    finally:
        HELD.set()
        thread.join()


@pytest.mark.parametrize(
    ("work", "phase"),
    [
        (wait_here, "script"),
        (lambda: next(iter(DataLoader(Rows()))), "data"),  # type: ignore[arg-type]
        (lambda: Waits()(torch.zeros(1)), "forward"),
        (backward, "backward"),
        (save_checkpoint, "checkpoint"),
    ],
)
def test_a_stack_tells_its_phase_and_the_line_of_the_script(
    work: Callable[[], object], phase: str
) -> None:
    with thread_in(work) as ident:
        place = place_of(sys._current_frames()[ident])
    assert place.phase == phase
    assert "test_whereabouts.py" in place.at
    assert "in wait_here" in place.at


def test_saving_by_torch_is_a_checkpoint(tmp_path: object) -> None:
    with thread_in(lambda: save(str(tmp_path))) as ident:
        assert place_of(sys._current_frames()[ident]).phase == "checkpoint"


def test_the_same_stack_in_an_evaluation_is_an_evaluation() -> None:
    phases = Phases()
    with thread_in(lambda: Waits()(torch.zeros(1))) as ident:
        assert standing(phases, ident)[1].phase == "forward"
        phases.forward_begins(training=False)
        moves, place = standing(phases, ident)
        assert (moves, place.phase) == (1, "eval")
        phases.forward_begins(training=True)
        assert standing(phases, ident)[1].phase == "forward"


def test_a_thread_that_is_gone_is_nowhere() -> None:
    assert place_of(None) == Place("script", "")


def test_the_stacks_of_all_threads_are_there() -> None:
    with thread_in(wait_here):
        text = all_stacks()
    assert "MainThread" in text
    assert "wait_here" in text
