"""Reading logs as people write them."""

from __future__ import annotations

import math
import tracemalloc
from pathlib import Path

import pytest

from lossguard.agent.readers import CsvLog
from lossguard.detectors import Observation
from lossguard.errors import InputError


def read(path: Path, content: str | bytes) -> tuple[CsvLog, list[Observation]]:
    """A log of this content, and its rows."""
    file = path / "log.csv"
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    log = CsvLog(file)
    return log, list(log)


@pytest.mark.parametrize(
    ("header", "metric"),
    [
        ("step,loss", "loss"),
        ("Step, Train_Loss ", "loss"),
        ("global_step,train/loss", "loss"),
        ("iteration,lm loss", "loss"),
        ("_step,gnorm", "grad_norm"),
        ("iter,train/grad_norm", "grad_norm"),
        ("step,eval_loss", "val_loss"),
        ("trainer/global_step,val/loss", "val_loss"),
    ],
)
def test_columns_are_known_by_their_usual_names(tmp_path: Path, header: str, metric: str) -> None:
    """In whatever case, with spaces around."""
    log, rows = read(tmp_path, f"{header}\n3,1.5\n")
    assert [(row.step, dict(row.values)) for row in rows] == [(3, {metric: 1.5})]
    assert set(log.columns.of) == {"step", metric}


def test_the_preferred_name_wins_and_the_rest_is_named(tmp_path: Path) -> None:
    """``loss`` before ``train_loss``; what is not used is listed."""
    log, rows = read(tmp_path, "step,train_loss,loss,mood\n1,9,2,3\n")
    assert rows[0].values == {"loss": 2.0}
    assert log.columns.unknown == ["train_loss", "mood"]


def test_blanks_are_missing_and_nan_and_inf_are_values(tmp_path: Path) -> None:
    """What was not measured is absent; what was measured as NaN is NaN."""
    _, rows = read(
        tmp_path, "step,loss,grad_norm,lr\n1,,None,-\n2,nan,inf,1e-3\n3,NaN,-Infinity,N/A\n"
    )
    assert rows[0].values == {}
    assert math.isnan(rows[1].values["loss"])
    assert (rows[1].values["grad_norm"], rows[1].values["lr"]) == (math.inf, 1e-3)
    assert rows[2].values["grad_norm"] == -math.inf
    assert "lr" not in rows[2].values


def test_windows_files_are_read(tmp_path: Path) -> None:
    """A byte order mark, CRLF, a blank line at the end."""
    log, rows = read(tmp_path, b"\xef\xbb\xbfstep,loss\r\n1,2.5\r\n2,2.25\r\n\r\n")
    assert [row.values["loss"] for row in rows] == [2.5, 2.25]
    assert log.num_skipped == 0


def test_short_and_long_rows_are_read_as_far_as_they_go(tmp_path: Path) -> None:
    """A line cut off by a crash loses what it lost, and nothing else."""
    _, rows = read(tmp_path, "step,loss,lr\n1,2.0\n2,2.0,0.1,9,9\n3")
    assert [dict(row.values) for row in rows] == [{"loss": 2.0}, {"loss": 2.0, "lr": 0.1}, {}]


def test_rows_that_cannot_be_read_are_counted_with_their_lines(tmp_path: Path) -> None:
    """Text, a second header, no step, a giant step: each is skipped, said, and not the end."""
    log, rows = read(
        tmp_path,
        "step,loss\n1,2.0\nTraceback (most recent call last):\nstep,loss\n,5\nnan,5\n1e300,5\n"
        '9,"half a quotation\n10,2.0\n',
    )
    assert [row.step for row in rows] == [1, 10]
    assert log.num_skipped == 6
    assert [line for line, _ in log.skipped] == [3, 4, 5, 6, 7, 8]
    assert log.num_rows == 2


def test_without_a_step_column_rows_are_counted(tmp_path: Path) -> None:
    """Steps are 0, 1, 2."""
    _, rows = read(tmp_path, "loss\n3\n2\n1\n")
    assert [row.step for row in rows] == [0, 1, 2]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "empty"),
        ("\n\n", "empty"),
        ("step,mood\n1,2\n", r"none of the columns \(step, mood\)"),
        (b"\x00\x01\xff\xfe" * 100, "none of the columns|empty"),
    ],
)
def test_a_file_that_is_no_log_is_refused(tmp_path: Path, content: str, why: str) -> None:
    """The message names the file and what would be read."""
    with pytest.raises(InputError, match=why):
        read(tmp_path, content)


def test_a_file_that_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    """Missing, or a directory."""
    for path in (tmp_path / "missing.csv", tmp_path):
        with pytest.raises(InputError, match="cannot be read"):
            list(CsvLog(path))


def test_a_million_rows_stream_in_constant_memory(tmp_path: Path) -> None:
    """Rows are handed on one by one, and what is said about bad ones is bounded."""
    file = tmp_path / "log.csv"
    with file.open("w") as out:
        out.write("step,loss,grad_norm,lr\n")
        for start in range(0, 1_000_000, 1000):
            out.writelines(f"{step},2.5,1.25,0.001\n" for step in range(start, start + 998))
            out.write("garbage,,\ngarbage,,\n")
    log = CsvLog(file)
    rows = iter(log)
    next(rows)
    tracemalloc.start()
    for _ in range(20_000):
        next(rows)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20
    assert 1 + 20_000 + sum(1 for _ in rows) == 998_000
    assert (log.num_skipped, len(log.skipped)) == (2000, 1000)
