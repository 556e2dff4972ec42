"""A home of its own for every test, and watches that are closed again."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lossguard.home import Home, find_home
from lossguard.probes.guard import Guard, attach
from tests.unit.probes.loops import NoLink, Watch


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    """A short path (socket names are), and no setting of the machine's user."""
    root = tempfile.mkdtemp(prefix="lg-", dir="/tmp")
    for name in ("LOSSGUARD_POLICY", "LOSSGUARD_NAME", "LOSSGUARD_RUN", "RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LOSSGUARD_HOME", root)
    yield find_home().create()
    shutil.rmtree(root, ignore_errors=True)
    assert not Path(root).exists()


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Small kernels, and the same sums every time."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def same_numbers() -> None:
    """Every test draws the same random numbers."""
    torch.manual_seed(0)


@pytest.fixture
def watch() -> Iterator[Watch]:
    """``attach`` without an agent; closes what the test leaves open."""
    guards: list[Guard] = []

    def attach_it(model: nn.Module | None, optimizer: torch.optim.Optimizer, **more: Any) -> Guard:
        guard = attach(model, optimizer, agent="existing", **more)
        guards.append(guard)
        return guard

    yield attach_it
    for guard in guards:
        guard.close()


@pytest.fixture
def no_link(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loops without a thread: for tests that make many, or that give the orders themselves."""
    monkeypatch.setattr("lossguard.probes.watch.Link", NoLink)
