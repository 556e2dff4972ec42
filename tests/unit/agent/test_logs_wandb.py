"""The run files of Weights & Biases, whole and damaged."""

from __future__ import annotations

import math
import struct
from pathlib import Path

import pytest

from lossguard.errors import InputError
from tests.support.binary_logs import history, message, pieces, varint, write_wandb
from tests.support.logs import open_all, points, read

NAME = "run-a.wandb"


def rows(count: int, **more: object) -> list[dict[str, object]]:
    """A history."""
    return [
        {"_step": s, "train/loss": 2.0 + s, "_timestamp": 1.7e9 + s, **more} for s in range(count)
    ]


def test_the_history_is_read(tmp_path: Path) -> None:
    """Nested keys, a NaN, text that is no metric."""
    write_wandb(
        tmp_path / NAME,
        [
            {
                "_step": 0,
                "train/loss": 2.5,
                "optim/grad_norm": 0.5,
                "mood": "good",
                "_timestamp": 5,
            },
            {"_step": 3, "train/loss": math.nan, "val/loss": 3},
        ],
    )
    (log,) = open_all(tmp_path / NAME)
    first, second = log
    assert (first.step, dict(first.values)) == (0, {"loss": 2.5, "grad_norm": 0.5})
    assert first.time_s == 5.0
    assert second.step == 3
    assert math.isnan(second.values["loss"])
    assert second.values["val_loss"] == 3.0
    assert log.source.format == "Weights & Biases run"


def test_the_steps_that_people_see_in_the_charts_are_taken(tmp_path: Path) -> None:
    """``trainer/global_step`` rather than the number of the call."""
    history = [{"_step": 2 * s, "trainer/global_step": s, "loss": 2.0} for s in range(5)]
    write_wandb(tmp_path / NAME, history)
    (log,) = open_all(tmp_path / NAME)
    assert [observation.step for observation in log] == [0, 1, 2, 3, 4]


def test_typed_values_are_read(tmp_path: Path) -> None:
    """As newer versions may write them: a double, an integer, and the step apart."""
    items = [
        message(1, message(1, b"loss") + b"\x31" + struct.pack("<d", 2.5)),
        message(1, message(1, b"loss_scale") + b"\x28" + varint(2 * 1024)),
        message(2, b"\x08" + varint(7)),
    ]
    (tmp_path / NAME).write_bytes(b"".join(pieces([message(2, b"".join(items))])))
    (log,) = open_all(tmp_path / NAME)
    assert points(list(log)) == [(7, {"loss": 2.5, "loss_scale": 1024.0})]


def test_what_was_sampled_from_the_system_belongs_to_the_step_before_it(tmp_path: Path) -> None:
    """It has no step of its own; percents become shares."""
    item = message(3, message(1, b"gpu.0.gpu") + message(16, b"50.0"))
    records = [history(rows(1)[0]), message(7, item), history({"_step": 1, "train/loss": 2.0})]
    (tmp_path / NAME).write_bytes(b"".join(pieces(records)))
    (log,) = open_all(tmp_path / NAME)
    assert points(list(log)) == [(0, {"loss": 2.0, "gpu_utilization": 0.5}), (1, {"loss": 2.0})]


def test_layers_are_sorted_by_number(tmp_path: Path) -> None:
    """The program that writes the file shuffles the keys."""
    layers = {f"grad_norm/h.{i}": float(i) for i in (10, 2, 1)}
    write_wandb(tmp_path / NAME, [{"_step": 0, "loss": 2.0, **layers}])
    (log,) = open_all(tmp_path / NAME)
    (only,) = log
    assert list(only.families["grad_norm"].names) == ["h.1", "h.2", "h.10"]
    assert only.families["grad_norm"].values.tolist() == [1.0, 2.0, 10.0]


@pytest.mark.parametrize("length", [10, 127, 128, 300, 40_000, 100_000])
def test_records_may_be_of_any_length(tmp_path: Path, length: int) -> None:
    """Those that fill several blocks are put together again."""
    path = write_wandb(tmp_path / NAME, rows(20, note="x" * length))
    (log,) = open_all(path)
    assert points(list(log)) == [(s, {"loss": 2.0 + s}) for s in range(20)]
    assert log.account().troubles.count == 0


def test_a_key_of_any_length_is_read(tmp_path: Path) -> None:
    """Also one whose length looks like the beginning of a value."""
    keys = [f"grad_norm/{'x' * (n - 10)}" for n in (100, 127, 128, 130, 258, 300)]
    write_wandb(tmp_path / NAME, [{"_step": 0, "loss": 1.0, **dict.fromkeys(keys, 0.5)}])
    (log,) = open_all(tmp_path / NAME)
    (only,) = log
    assert only.families["grad_norm"].values.tolist() == [0.5] * 6


def test_damage_costs_a_block_at_most(tmp_path: Path) -> None:
    """Reading goes on with the next one, and it is said once."""
    content = bytearray(write_wandb(tmp_path / NAME, rows(3000)).read_bytes())
    assert len(content) > 3 << 15
    content[(1 << 15) + 5000] ^= 0xFF
    log, found = read(tmp_path, bytes(content), NAME)
    steps = [observation.step for observation in found]
    assert steps[-1] == 2999
    assert 2400 < len(steps) < 3000
    # What of a record lies in the next block is lost with its beginning, and counts no more.
    assert log.account().troubles.count == 1


def test_a_file_that_is_cut_off_is_read_up_to_there(tmp_path: Path) -> None:
    """The run is still going on, or was killed."""
    content = write_wandb(tmp_path / NAME, rows(10)).read_bytes()
    log, found = read(tmp_path, content[:-3], NAME)
    assert [observation.step for observation in found] == list(range(9))
    assert log.account().troubles.examples == [(10, "the file is cut off")]


def test_a_run_without_metrics_is_refused(tmp_path: Path) -> None:
    """With the keys that there are."""
    write_wandb(tmp_path / NAME, [{"_step": 0, "mood": 1.0}])
    (log,) = open_all(tmp_path / NAME)
    with pytest.raises(InputError, match=r"none of the keys \(mood\)"):
        list(log)
