"""What training scripts print."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from lossguard.agent.logs import LogOptions
from lossguard.errors import InputError, UsageError
from tests.support.logs import points, read


@pytest.mark.parametrize(
    ("line", "step", "values"),
    [
        ("step 10 loss 2.3", 10, {"loss": 2.3}),
        ("iter 10: loss 2.31, time 135.42ms, mfu 12.1%", 10, {"loss": 2.31}),
        ("step 250: train loss 1.9, val loss 2.0", 250, {"loss": 1.9, "val_loss": 2.0}),
        ("[INFO] global_step=7 | Loss=1e-3 | lr=1.5E-04", 7, {"loss": 1e-3, "lr": 1.5e-4}),
        (
            " [2024-01-01 10:00:00] iteration      100/    1000 | consumed samples:       1600 | "
            "elapsed time per iteration (ms): 123.4 | learning rate: 1.500E-04 | global batch "
            "size:    16 | lm loss: 6.400000E+00 | loss scale: 4096.0 | grad norm: 1.200 | "
            "number of skipped iterations:   0 | number of nan iterations:   0 |",
            100,
            {"step_time": 0.1234, "lr": 1.5e-4, "loss": 6.4, "loss_scale": 4096.0,
             "grad_norm": 1.2},
        ),
        (
            '2021-05-01 10:00:00 | INFO | train_inner | {"epoch": 1, "update": 0.5, "loss": "9.2", '
            '"ppl": "275", "num_updates": "100", "lr": "1e-05", "gnorm": "1.2", "clip": "0", '
            '"loss_scale": "128", "train_wall": "10"}',
            100,
            {"epoch": 1.0, "loss": 9.2, "lr": 1e-5, "grad_norm": 1.2, "loss_scale": 128.0},
        ),
        ("[titan] step:  4  loss:  8.1  memory:  1.0GiB(2.0%)  tps: 3,000", 4, {"loss": 8.1}),
        ("2024/01/02 10:00:01 step 5: loss is nan", 5, {"loss": math.nan}),
        ("step 9 | loss inf | best val loss 0.3", 9, {"loss": math.inf}),
        ("step 3: loss 2.5 (average 2.7), grad_norm/h.0.weight: 0.5", 3, {"loss": 2.5}),
        (" 45%|####    | 450/1000 [00:10<00:12, 44.9it/s, loss=2.31]", 450, {"loss": 2.31}),
        ("Epoch: [0][ 10/5005]\tTime 0.3 (0.5)\tLoss 6.9e+00 (7.0e+00)", 10,
         {"loss": 6.9, "epoch": 0.0}),
        ("Epoch 3/10 - 5s - loss: 0.3 - val_loss: 0.4", 3,
         {"loss": 0.3, "val_loss": 0.4, "epoch": 3.0}),
    ],
)  # fmt: skip
def test_common_prints_are_understood(
    tmp_path: Path, line: str, step: int, values: dict[str, float]
) -> None:
    """Without being told what they look like."""
    _, rows = read(tmp_path, f"starting\n{line}\nbye\n", "train.log")
    assert [row.step for row in rows] == [step]
    assert dict(rows[0].values) == pytest.approx(values, nan_ok=True)


@pytest.mark.parametrize(
    "line",
    [
        "Validation: epoch 3 loss 0.4",
        "valid on 'valid' subset | loss 0.4",
        "Test Error: Accuracy: 71.0%, Avg loss: 0.4",
        "train done, evaluating: loss=0.4",
        "validation loss at iteration 10 | lm loss value: 0.4 | lm loss PPL: 3.6E+02 |",
    ],
)
def test_the_loss_of_a_line_about_an_evaluation_is_a_validation_loss(
    tmp_path: Path, line: str
) -> None:
    """It is taken at the step it was printed at."""
    _, rows = read(tmp_path, f"step 10 loss 2.0\n{line}\nstep 11 loss 2.0\n", "train.log")
    assert rows[0].step == 10
    assert (rows[0].values["loss"], rows[0].values["val_loss"]) == (2.0, 0.4)
    assert len(rows) == 2


def test_the_training_loss_beside_an_evaluation_stays_one(tmp_path: Path) -> None:
    """The word that comes last counts."""
    _, rows = read(tmp_path, "step 1 after eval: train loss 2.0\n", "train.log")
    assert points(rows) == [(1, {"loss": 2.0})]


def test_progress_bars_are_read_through_their_carriage_returns(tmp_path: Path) -> None:
    """One line of the file, many of the bar; each epoch begins it anew, and steps go on."""
    bar = "".join(
        f"\rEpoch {epoch}: {10 * n}%|##  | {n}/10 [00:01<00:01, 1.0it/s, v_num=0, train_loss={n}.5]"
        for epoch in (0, 1)
        for n in range(1, 11)
    )
    _, rows = read(tmp_path, bar, "train.log")
    assert [row.step for row in rows] == list(range(1, 21))
    assert [row.values["loss"] for row in rows[10:12]] == [1.5, 2.5]


def test_a_fraction_of_thousands_of_digits_is_no_step(tmp_path: Path) -> None:
    """A damaged file; Python refuses to make a number of it."""
    damaged = f"{'1' * 5000}/{'1' * 5000} loss: 3.0\n"
    _, rows = read(tmp_path, f"1/10 loss: 2.5\n{damaged}2/10 loss: 2.0\n", "train.log")
    assert [row.values["loss"] for row in rows] == [2.5, 3.0, 2.0]


def test_lines_without_a_step_belong_to_the_bar_before_them(tmp_path: Path) -> None:
    """As Hugging Face prints; the bar of the evaluation is another one."""
    text = (
        "  0%|   | 0/48 [00:00<?]\r  8%|   | 4/48 [00:00<?]\n{'loss': '3.5', 'epoch': '0.25'}\n"
        "100%|###| 32/32 [00:00<?]\n{'eval_loss': '3.25', 'epoch': '0.25'}\n"
        " 16%|   | 8/48 [00:00<?]\n{'loss': 2.5, 'epoch': 0.5}\n"
    )
    _, rows = read(tmp_path, text, "train.log")
    assert points(rows) == [
        (4, {"loss": 3.5, "epoch": 0.25, "val_loss": 3.25}),
        (8, {"loss": 2.5, "epoch": 0.5}),
    ]


def test_lines_without_any_step_are_counted(tmp_path: Path) -> None:
    """And that is said."""
    log, rows = read(tmp_path, "loss: 3\nchatter\nloss: 2\nval loss: 2.5\nloss: 1\n", "train.log")
    assert points(rows) == [
        (0, {"loss": 3.0}),
        (1, {"loss": 2.0, "val_loss": 2.5}),
        (2, {"loss": 1.0}),
    ]
    assert "there is no step column: rows are counted from 0" in log.account().remarks()


def test_a_step_on_a_line_of_its_own_holds_for_the_lines_after_it(tmp_path: Path) -> None:
    """Heading and details."""
    _, rows = read(tmp_path, "step 5\n  loss: 2.5\nstep 6\n  loss: 2.25\n", "train.log")
    assert points(rows) == [(5, {"loss": 2.5}), (6, {"loss": 2.25})]


def test_a_pattern_says_what_lines_look_like(tmp_path: Path) -> None:
    """Named groups are the columns; groups that did not take part are missing."""
    options = LogOptions(pattern=r"@(?P<step>\d+) L=(?P<loss>\S+)(?: V=(?P<val_loss>\S+))?")
    text = "@1 L=2.5\n@2 L=nan V=2\nstep 3 loss 9\n@4 L=oops\n"
    log, rows = read(tmp_path, text, "train.log", options)
    assert [row.step for row in rows] == [1, 2]
    assert rows[1].values["val_loss"] == 2.0
    assert math.isnan(rows[1].values["loss"])
    assert log.account().troubles.examples == [(4, "'oops' is not a number")]


def test_a_pattern_goes_with_columns(tmp_path: Path) -> None:
    """A group may have any name."""
    options = LogOptions(columns={"loss": "a"}, pattern=r"(?P<step>\d+) (?P<a>\S+)")
    _, rows = read(tmp_path, "1 2.5\n", "train.log", options)
    assert points(rows) == [(1, {"loss": 2.5})]


@pytest.mark.parametrize("pattern", ["(", r"loss (\S+)"])
def test_a_pattern_that_makes_no_sense_is_refused(tmp_path: Path, pattern: str) -> None:
    with pytest.raises(UsageError, match="--pattern"):
        read(tmp_path, "loss 1\n", "train.log", LogOptions(pattern=pattern))


def test_text_without_metrics_is_refused(tmp_path: Path) -> None:
    """And is told how to say what the lines look like."""
    with pytest.raises(
        InputError, match=r"in 2 lines nothing like a loss .*'dear diary'.*--pattern"
    ):
        read(tmp_path, "dear diary\nlr = 0.1\n", "train.log")


def test_an_endless_line_does_not_fill_the_memory(tmp_path: Path) -> None:
    """What it says at its beginning is used, and the line after it."""
    text = "step 1 loss 2.0 " + "x" * (1 << 25) + "\nstep 2 loss 1.0\n"
    _, rows = read(tmp_path, text, "train.log")
    assert points(rows) == [(1, {"loss": 2.0}), (2, {"loss": 1.0})]
