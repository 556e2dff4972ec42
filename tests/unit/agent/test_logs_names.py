"""What columns are called."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lossguard.agent.logs.names import FAMILIES, PLAIN_METRICS, is_metric, meaning_of

METRICS_PAGE = Path(__file__).parents[3] / "docs" / "metrics.md"


def test_every_documented_metric_can_be_read_from_a_log() -> None:
    """By its own name; and none is read that is not documented."""
    plain, families = METRICS_PAGE.read_text().split("## Families")
    plain_names = {
        name
        for row in plain.splitlines()
        if row.startswith("| `")
        for name in re.findall(r"`(\w+)`", row.split("|")[1])
    }
    family_names = set(re.findall(r"^\| `(\w+)` \|", families, re.MULTILINE))
    assert plain_names == set(PLAIN_METRICS)
    assert family_names == set(FAMILIES)
    for name in plain_names:
        found = meaning_of(name)
        assert found is not None
        assert (found.metric, found.rank, found.scale) == (name, 0, 1.0)
    for name in family_names:
        found = meaning_of(f"{name}/h.0.Weight")
        assert found is not None
        assert found.metric == f"{name}/h.0.Weight"


@pytest.mark.parametrize(
    ("column", "metric"),
    [
        ("Loss/train", "loss"),
        ("train/CE loss", "loss"),
        ("loss_metrics/global_avg_loss", "loss"),
        ("metrics/train/loss", "loss"),
        ("Validation Loss", "val_loss"),
        ("eval/wikitext_loss", "val_loss"),
        ("grad_2.0_norm_total", "grad_norm"),
        ("grad_norm/total", "grad_norm"),
        ("optim/total grad norm", "grad_norm"),
        ("lr-AdamW/pg1", "lr"),
        ("train/learning_rate", "lr"),
        ("scaler.scale", "loss_scale"),
        ("system.gpu.0.gpu", "gpu_utilization"),
        ("train/grad_norm/h.0", "grad_norm/h.0"),
        ("grad_2.0_norm/h.0", "grad_norm/h.0"),
        ("param_norm/h.0", "weight_norm/h.0"),
        ("_step", "step"),
        ("Wall time", "time"),
    ],
)
def test_names_of_many_programs_are_known(column: str, metric: str) -> None:
    found = meaning_of(column)
    assert found is not None
    assert found.metric == metric


@pytest.mark.parametrize(
    "column",
    ["mood", "", "loss_weight", "train_runtime", "val_accuracy", "perplexity",
     "lossy", "train/loss__MIN", "image_scale", "steps_per_second", "/", " ", "x" * 10_000],
)  # fmt: skip
def test_other_names_mean_nothing(column: str) -> None:
    assert meaning_of(column) is None


@pytest.mark.parametrize(
    ("column", "scale"),
    [
        ("step_time", 1.0),
        ("step time (ms)", 1e-3),
        ("iter_time_s", 1.0),
        ("memory/max_reserved(GiB)", 2.0**30),
        ("gpu_memory_mb", 1e6),
        ("GPU utilization (%)", 0.01),
        ("loss (ms)", None),
    ],
)
def test_units_in_names_are_minded(column: str, scale: float | None) -> None:
    """Where they make sense for the metric."""
    found = meaning_of(column)
    assert (None if found is None else found.scale) == scale


def test_only_metrics_can_be_declared() -> None:
    assert all(map(is_metric, ["loss", "step", "epoch", "time", "grad_norm", "grad_norm/a"]))
    assert not any(map(is_metric, ["mood", "mood/a", "loss/a", "grad_norm/", ""]))
