"""A run is taken up in a new process from what the last one left on disk."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from lossguard.home import find_home
from lossguard.probes.durable_files import write_folder
from tests.unit.probes.commanded import command
from tests.unit.probes.loops import Tiny, Watch, loop_of, loss_of, same, weights_of

pytestmark = pytest.mark.usefixtures("no_link")


class Life:
    """One process of a training: schedule, average, dropout; its batches depend on the step."""

    def __init__(self, watch: Watch, name: str = "mine", depth: int = 2) -> None:
        torch.manual_seed(0)
        self.model = Tiny(depth, dropout=0.2)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.01)
        self.schedule = lr_scheduler.OneCycleLR(self.optimizer, 0.02, total_steps=60)
        self.average = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
        self.guard = watch(
            self.model, self.optimizer, policy="guard", name=name, scheduler=self.schedule,
            extra={"ema": self.average},
        )  # fmt: skip
        self.tier = loop_of(self.guard)._acting._tier

    def train(self, first: int, last: int) -> list[float]:
        """The losses of steps ``first`` to ``last`` - 1."""
        losses = []
        for seed in range(first, last):
            self.optimizer.zero_grad()
            loss = loss_of(self.model, seed)
            loss.backward()
            self.optimizer.step()
            self.schedule.step()
            self.average.update_parameters(self.model)
            losses.append(float(loss.detach()))
        return losses

    def save(self) -> None:
        """To disk, after the whole step."""
        assert self.guard.snapshot(durable=True)
        self.tier.settle()

    def save_at_the_next_step(self) -> None:
        """To disk, between the update and what the script does after it."""
        loop_of(self.guard)._link.orders.append(command(f"c{id(self)}", "checkpoint"))

    @property
    def everything(self) -> Any:
        moments = [t.clone() for s in self.optimizer.state.values() for t in s.values()]
        rates = [group["lr"] for group in self.optimizer.param_groups]
        return weights_of(self.model), weights_of(self.average), moments, rates


def after_the_step(life: Life) -> None:
    life.train(0, 10)
    life.save()


def within_the_step(life: Life) -> None:
    life.train(0, 9)
    life.save_at_the_next_step()
    life.train(9, 10)
    life.tier.settle()


@pytest.mark.parametrize("save", [after_the_step, within_the_step])
def test_the_losses_afterwards_are_those_of_the_run_that_was_not_interrupted(
    watch: Watch, save: Callable[[Life], None]
) -> None:
    """Whether the script had stepped its schedule and its average for the last update or not."""
    first = Life(watch)
    save(first)
    uninterrupted = first.train(10, 20)
    second = Life(watch)
    second.train(0, 0)
    assert second.guard.resume() == 10
    assert second.train(10, 20) == uninterrupted
    assert same(second.everything, first.everything)


def test_it_can_be_interrupted_again_and_again(watch: Watch) -> None:
    """The steps of all processes count together."""
    whole = Life(watch, name="whole").train(0, 30)
    losses = []
    for at in (0, 10, 20):
        life = Life(watch)
        assert (life.guard.resume() or 0) == at
        losses += life.train(at, at + 10)
        life.save()
    assert losses == whole


def test_a_rollback_after_it_goes_to_a_state_of_this_process(watch: Watch) -> None:
    """Its own steps are what the agent counts; on disk they follow those of the process before."""
    after_the_step(Life(watch))
    life = Life(watch)
    life.guard.resume()
    life.train(10, 15)
    life.save()
    assert life.tier.steps == [15]
    found = life.tier.newest_before(5)
    assert found is not None
    assert found.step == 5
    assert life.tier.newest_before(4) is None


def test_where_nothing_was_left_it_says_so_and_touches_nothing(watch: Watch) -> None:
    life = Life(watch)
    before = life.everything
    assert life.guard.resume() is None
    assert same(life.everything, before)


def test_a_run_that_ended_well_is_not_taken_up_nor_those_it_came_from(watch: Watch) -> None:
    after_the_step(Life(watch))
    second = Life(watch)
    assert second.guard.resume() == 10
    second.train(10, 12)
    second.save()
    second.guard.close("finished")
    assert Life(watch).guard.resume() is None


def test_a_run_that_ended_with_an_error_is_taken_up(watch: Watch) -> None:
    first = Life(watch)
    after_the_step(first)
    first.guard.close("exception")
    assert Life(watch).guard.resume() == 10


def test_a_run_of_another_name_is_not_taken_up(watch: Watch) -> None:
    after_the_step(Life(watch, name="other"))
    assert Life(watch).guard.resume() is None


def test_a_run_whose_process_is_still_at_work_is_not_taken_up(
    watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two trainings of one name side by side, which are of one process in this test only."""
    after_the_step(Life(watch))
    second = Life(watch)
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert second.guard.resume() is None


def test_a_damaged_snapshot_is_passed_over_for_the_one_before(
    watch: Watch, caplog: pytest.LogCaptureFixture
) -> None:
    first = Life(watch)
    first.train(0, 5)
    first.save()
    first.train(5, 10)
    first.save()
    blobs = first.tier.folder / f"step-{10:015d}" / "blobs"
    blobs.write_bytes(blobs.read_bytes()[:-1])
    with caplog.at_level(logging.WARNING, "lossguard"):
        assert Life(watch).guard.resume() == 5
    assert "damaged" in caplog.text


def test_a_model_of_another_shape_is_left_as_it_is(
    watch: Watch, caplog: pytest.LogCaptureFixture
) -> None:
    after_the_step(Life(watch))
    other = Life(watch, depth=3)
    before = other.everything
    assert other.guard.resume() is None
    assert same(other.everything, before)
    assert "changed its shape" in caplog.text


def test_after_the_first_step_it_is_too_late(watch: Watch) -> None:
    after_the_step(Life(watch))
    life = Life(watch)
    life.train(0, 1)
    before = weights_of(life.model)
    assert life.guard.resume() is None
    assert same(weights_of(life.model), before)


def test_a_loss_scaler_gets_its_scale_before_its_first_use(watch: Watch) -> None:
    def life() -> tuple[torch.amp.GradScaler, nn.Module, Any, Any]:
        model = nn.Linear(2, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
        return (
            scaler,
            model,
            optimizer,
            watch(model, optimizer, policy="guard", name="scaled", scaler=scaler),
        )

    scaler, model, optimizer, guard = life()
    scaler.scale(model(torch.ones(1, 2)).sum()).backward()
    scaler.step(optimizer)
    scaler.update(512.0)
    assert guard.snapshot(durable=True)
    loop_of(guard)._acting._tier.settle()
    fresh, _, _, again = life()
    assert again.resume() == 1
    assert fresh.get_scale() == 512.0


def test_what_is_on_disk_holds_no_pickle(watch: Watch) -> None:
    """A manifest in JSON, a tree in MessagePack, and raw bytes."""
    after_the_step(Life(watch))
    (folder,) = (find_home().state / "snapshots").glob("*/step-*")
    assert {path.name for path in folder.iterdir()} == {"manifest.json", "tree", "blobs"}
    assert json.loads(Path(folder, "manifest.json").read_text().split("\n", 1)[1])["step"] == 10


def left_by_two_ranks(
    watch: Watch, monkeypatch: pytest.MonkeyPatch, drift: float = 0.0, depth: int = 2
) -> Life:
    """What the second one trained is off by ``drift``."""
    for rank in range(2):
        monkeypatch.setenv("LOSSGUARD_RUN", "mine.1")
        life = Life(watch, depth=depth)
        life.tier._about |= {"world_size": 2, "rank": rank}
        life.tier._folder = find_home().state / "snapshots" / f"mine.1.rank{rank}"
        life.train(0, 10)
        with torch.no_grad():
            next(life.model.parameters()).add_(rank * drift)
        life.save()
    monkeypatch.setenv("LOSSGUARD_RUN", "mine.2")
    return Life(watch)


def test_one_rank_takes_up_what_two_replicas_have_left(
    watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    life = left_by_two_ranks(watch, monkeypatch)
    assert life.guard.resume() == 10


@pytest.mark.parametrize("other", [{"drift": 1e-3}, {"depth": 3}], ids=["not the same", "larger"])
def test_what_two_ranks_have_left_of_another_kind_is_passed_over(
    watch: Watch,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    other: dict[str, Any],
) -> None:
    """A parameter each of their own, as experts are; or more parameters than there are now."""
    life = left_by_two_ranks(watch, monkeypatch, **other)
    before = life.everything
    assert life.guard.resume() is None
    assert same(life.everything, before)
    assert "passed over" in caplog.text


def test_what_is_no_folder_of_snapshots_is_in_nobodys_way(watch: Watch) -> None:
    """A file, a folder of something else, a manifest of before there were ranks."""
    after_the_step(Life(watch))
    snapshots = find_home().state / "snapshots"
    (snapshots / ".DS_Store").write_text("")
    (snapshots / "notes").mkdir()
    write_folder(snapshots / "old", 3, {}, {"name": "mine"})
    assert Life(watch).guard.resume() == 10
