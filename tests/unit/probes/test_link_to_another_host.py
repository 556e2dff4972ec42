"""The link over TCP: refused or alone it says so once, and the training never notices."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from lossguard import connection
from lossguard.agent import feed
from lossguard.agent.keyring import Keyring
from lossguard.errors import ConfigError
from lossguard.home import Home
from lossguard.probes import link
from lossguard.probes.guard import Guard, attach
from tests.support.ports import free_port
from tests.support.site import Site
from tests.support.waiting import eventually
from tests.unit.probes.loops import Tiny, loss_of, same, weights_of


@pytest.fixture(autouse=True)
def heard(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """What is said to whoever trains."""
    caplog.set_level(logging.INFO, "lossguard")
    return caplog


def lines(heard: pytest.LogCaptureFixture, level: int = logging.WARNING) -> list[str]:
    """Warnings and errors of ours."""
    ours = [r for r in heard.records if r.name.startswith("lossguard") and r.levelno >= level]
    return [record.getMessage() for record in ours]


@pytest.fixture(autouse=True)
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Home]]:
    """Where the link has started an agent of its own: nowhere, whatever happens."""
    homes: list[Home] = []
    monkeypatch.setattr(link, "start_agent", homes.append)
    yield homes
    assert homes == []


class Loop:
    """A small training with a guard on it."""

    def __init__(self, agent: str | None) -> None:
        torch.manual_seed(0)
        self.model = Tiny()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3)
        self.guard: Guard | None = None
        if agent is not None:
            self.guard = attach(self.model, self.optimizer, agent=agent, name="far")
        self.steps = 0

    def train(self, steps: int) -> None:
        """So many more."""
        for _ in range(steps):
            self.steps += 1
            self.optimizer.zero_grad()
            loss_of(self.model, self.steps).backward()
            self.optimizer.step()

    def weights(self) -> list[torch.Tensor]:
        """As they are now, after the end of the watch."""
        if self.guard is not None:
            self.guard.close("finished")
        return weights_of(self.model)


def plain(steps: int) -> list[torch.Tensor]:
    """What the training comes to without anybody watching."""
    loop = Loop(None)
    loop.train(steps)
    return loop.weights()


@pytest.fixture
def key_file(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the key of this host is looked for."""
    monkeypatch.setenv("LOSSGUARD_KEY_FILE", str(tmp_path / "mine.key"))
    return tmp_path / "mine.key"


def test_an_agent_that_is_not_there_costs_one_line(
    home: Home, key_file: Path, heard: pytest.LogCaptureFixture
) -> None:
    """The training is bit for bit that without a watch, and no agent is started here instead."""
    ring = Keyring(home)
    ring.init()
    ring.add("mine", "probe", key_file)
    loop = Loop(f"tcp://127.0.0.1:{free_port()}")
    loop.train(30)
    eventually(lambda: lines(heard))
    loop.train(10)
    assert same(loop.weights(), plain(40))
    (said,) = lines(heard)
    assert "nothing listens at" in said
    assert said.endswith("training goes on, unwatched")


def test_a_key_that_cannot_be_used_costs_one_line(
    home: Home, key_file: Path, heard: pytest.LogCaptureFixture
) -> None:
    """Here there is none; the line names the file."""
    loop = Loop("tcp://127.0.0.1:7700")
    loop.train(20)
    eventually(lambda: lines(heard))
    assert same(loop.weights(), plain(20))
    (said,) = lines(heard)
    assert f"{key_file}: cannot be read" in said


def test_an_address_that_makes_no_sense_is_refused_at_once(home: Home) -> None:
    """As any other argument of ``attach``."""
    model = nn.Linear(1, 1)
    for wrong in ("somewhere", "tcp://host", "tcp://host:0", "tcp://a b:1", "ipc:///tmp/x"):
        with pytest.raises(ConfigError, match=r"wanted is tcp://HOST:PORT"):
            attach(model, torch.optim.SGD(model.parameters()), agent=wrong)


def test_a_key_is_rotated_under_a_running_training(
    site: Site,
    key_file: Path,
    heard: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Revoked, it is refused in one line; with the new file in the place of the old one the run is
    watched again, without a restart of anything."""
    monkeypatch.setattr(connection, "RETRY_S", 0.2)
    site.ring.add("gpu", "probe", key_file)
    loop = Loop(site.address)
    with site.agent_client() as owner:

        def seen() -> int:
            loop.train(1)
            answer = owner.request(feed.ListRuns())
            assert isinstance(answer, feed.RunList)
            return next((run.step for run in answer.runs if run.name == "far"), 0)

        eventually(seen)
        assert lines(heard) == []
        site.ring.revoke("gpu")

        def refused() -> list[str]:
            loop.train(1)
            return lines(heard)

        eventually(refused)
        (said,) = lines(heard)
        assert "does not know this key any more" in said
        refused_at = loop.steps
        key_file.unlink()
        site.ring.add("gpu", "probe", key_file)
        eventually(lambda: seen() > refused_at)
    assert same(loop.weights(), plain(loop.steps))
    assert lines(heard) == [said]
