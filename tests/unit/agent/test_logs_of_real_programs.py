"""Logs that TensorBoard, Weights & Biases, Lightning and Hugging Face wrote (tests/data/logs)."""

from __future__ import annotations

import math

import pytest

from tests.support.logs import GOLDEN, open_all

CURVES = ["events.out.tfevents.golden", "run-golden.wandb"]


@pytest.mark.parametrize("name", CURVES)
def test_the_same_run_is_read_from_tensorboard_and_from_wandb(name: str) -> None:
    """A falling loss with a NaN, a gradient norm, a warm-up, four evaluations."""
    (log,) = open_all(GOLDEN / name)
    observations = list(log)
    assert [o.step for o in observations] == list(range(40))
    losses = [o.values["loss"] for o in observations]
    assert [i for i, loss in enumerate(losses) if math.isnan(loss)] == [25]
    assert losses[0] == pytest.approx(4.025763695063109)
    assert losses[39] == pytest.approx(4 * math.exp(-39 / 30), abs=0.1)
    assert [o.values["lr"] for o in observations[:3]] == pytest.approx([1e-4, 2e-4, 3e-4])
    assert all(1.5 <= o.values["grad_norm"] <= 1.6 for o in observations)
    assert [o.step for o in observations if "val_loss" in o.values] == [9, 19, 29, 39]
    assert log.account().troubles.count == 0


def test_layers_are_read_from_wandb() -> None:
    (log,) = open_all(GOLDEN / "run-golden.wandb")
    family = next(iter(log)).families["grad_norm"]
    assert list(family.names) == ["layers.0.weight", "layers.10.weight"]
    assert family.values.tolist() == [0.5, 0.25]


def test_lightning_writes_training_and_evaluation_in_rows_of_their_own() -> None:
    """48 steps, 3 evaluations, and the norm of every gradient."""
    (log,) = open_all(GOLDEN / "lightning_metrics.csv")
    observations = list(log)
    assert [o.step for o in observations] == list(range(48))
    assert all("loss" in o.values and "grad_norm" in o.values for o in observations)
    assert [o.step for o in observations if "val_loss" in o.values] == [15, 31, 47]
    assert observations[15].values["val_loss"] == pytest.approx(4.581568717956543)
    assert list(observations[0].families["grad_norm"].names) == ["l.bias", "l.weight"]
    assert log.account().ignored == ["train_loss_epoch"]


def test_hugging_face_saves_the_history_of_the_trainer() -> None:
    """Every 4 of 48 steps, 3 evaluations; the mean at the end is no loss of a step."""
    (log,) = open_all(GOLDEN / "trainer_state.json")
    observations = list(log)
    assert [o.step for o in observations] == list(range(4, 49, 4))
    assert [o.step for o in observations if "val_loss" in o.values] == [16, 32, 48]
    assert observations[0].values["loss"] == pytest.approx(10.230550765991211)
    assert log.account().columns["lr"] == "learning_rate"


def test_what_hugging_face_prints_says_the_same() -> None:
    """Losses and evaluations in the same order, from between the progress bars."""
    (saved,), (printed,) = (
        open_all(GOLDEN / name) for name in ("trainer_state.json", "hf_console.log")
    )
    for metric in ("loss", "val_loss"):
        expected = [o.values[metric] for o in saved if metric in o.values]
        found = [o.values[metric] for o in printed if metric in o.values]
        assert found == pytest.approx(expected, rel=1e-3)
    assert printed.account().columns["grad_norm"] == "grad_norm"
