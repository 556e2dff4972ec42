"""Tables as people write them: CSV and its kin."""

from __future__ import annotations

import math
import tracemalloc
from pathlib import Path

import pytest

from lossguard.agent.logs import LogOptions
from lossguard.errors import InputError
from tests.support.logs import open_all, points, read


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
    assert points(rows) == [(3, {metric: 1.5})]
    assert set(log.columns.of) == {"step", metric}


@pytest.mark.parametrize("delimiter", [",", "\t", ";", "|", " ", "   "])
def test_the_delimiter_is_found(tmp_path: Path, delimiter: str) -> None:
    """Whatever the file is called."""
    text = "step,loss,grad norm\n1,2.5,0.5\n2,2.25,0.5\n".replace("grad norm", "gnorm")
    _, rows = read(tmp_path, text.replace(",", delimiter), "numbers.txt")
    assert points(rows) == [
        (1, {"loss": 2.5, "grad_norm": 0.5}),
        (2, {"loss": 2.25, "grad_norm": 0.5}),
    ]


def test_a_decimal_comma_is_read_where_semicolons_separate(tmp_path: Path) -> None:
    """As spreadsheets of half of Europe write it."""
    _, rows = read(tmp_path, "step;loss\n1;2,5\n2;1.002,25\n")
    assert [row.values["loss"] for row in rows] == [2.5, 1002.25]


def test_the_preferred_name_wins_and_the_rest_is_named(tmp_path: Path) -> None:
    """``loss`` before ``train_loss``; what is not used is listed."""
    log, rows = read(tmp_path, "step,train_loss,loss,mood\n1,9,2,3\n")
    assert rows[0].values == {"loss": 2.0}
    assert set(log.account().ignored) == {"train_loss", "mood"}
    assert "recognised step, loss; ignored " in log.account().recognised()


def test_a_column_with_hardly_a_value_does_not_win_by_its_name(tmp_path: Path) -> None:
    """A loss once an epoch is no match for one a step."""
    text = "step,loss,train_loss\n" + "".join(f"{i},,{i}.5\n" for i in range(9)) + "9,1,9.5\n"
    _, rows = read(tmp_path, text)
    assert [row.values["loss"] for row in rows] == [i + 0.5 for i in range(10)]


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


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbfstep,loss\r\n1,2.5\r\n2,2.25\r\n\r\n",
        b"step,loss\r1,2.5\r2,2.25\r",
        b"\xff\xfe" + "step,loss\r\n1,2.5\r\n2,2.25\r\n".encode("utf-16-le"),
        b"# made by a script\n\nstep,loss\n1,2.5\n2,2.25\n",
        b"# step loss\n1 2.5\n2 2.25\n",
        b'"step","loss"\n"1","2.5"\n"2","2.25"\n',
    ],
    ids=["windows", "old mac", "utf-16", "comment", "numpy", "quoted"],
)
def test_files_of_other_systems_and_programs_are_read(tmp_path: Path, content: bytes) -> None:
    """A byte order mark, other line ends, a comment, a blank line at the end."""
    log, rows = read(tmp_path, content)
    assert [row.values["loss"] for row in rows] == [2.5, 2.25]
    assert log.account().troubles.count == 0


def test_short_and_long_rows_are_read_as_far_as_they_go(tmp_path: Path) -> None:
    """A line cut off by a crash loses what it lost, and nothing else."""
    _, rows = read(tmp_path, "step,loss,lr\n1,2.0\n2,2.0,0.1,9,9\n3")
    assert [dict(row.values) for row in rows] == [{"loss": 2.0}, {"loss": 2.0, "lr": 0.1}, {}]


def test_rows_that_cannot_be_read_are_counted_with_their_lines(tmp_path: Path) -> None:
    """Text, no step, a giant step: each is skipped, said, and not the end."""
    log, rows = read(
        tmp_path,
        "step,loss\n1,2.0\nTraceback (most recent call last):\n,5\nnan,5\n1e300,5\n"
        '9,"half a quotation\n10,2.0\n',
    )
    troubles = log.account().troubles
    assert [row.step for row in rows] == [1, 10]
    assert troubles.count == 5
    assert sorted(line for line, _ in troubles.examples) == [3, 4, 5, 6, 7]
    assert "5 lines could not be read, the first is line 3" in log.account().remarks()[-1]


def test_a_second_header_is_followed(tmp_path: Path) -> None:
    """Another program appended, with other columns in another order."""
    log, rows = read(tmp_path, "step,loss\n1,2.0\nstep,lr,loss\n2,0.1,1.5\n")
    assert points(rows) == [(1, {"loss": 2.0}), (2, {"lr": 0.1, "loss": 1.5})]
    assert log.account().troubles.count == 0
    assert any("header is written more than once" in note for note in log.account().remarks())


def test_without_a_step_column_rows_are_counted(tmp_path: Path) -> None:
    """Steps are 0, 1, 2, and that is said."""
    log, rows = read(tmp_path, "loss\n3\n2\n1\n")
    assert [row.step for row in rows] == [0, 1, 2]
    assert "there is no step column: rows are counted from 0" in log.account().remarks()


def test_without_a_step_column_rising_epochs_are_the_steps(tmp_path: Path) -> None:
    """As ``CSVLogger`` of Keras writes them; epochs that repeat are not."""
    _, rows = read(tmp_path, "epoch,loss,val_loss\n1,3,4\n2,2,3\n3,1,2\n")
    assert [row.step for row in rows] == [1, 2, 3]
    _, rows = read(tmp_path, "epoch,loss\n1,3\n1,2\n2,1\n")
    assert [row.step for row in rows] == [0, 1, 2]


def test_the_columns_of_several_runs_are_several_logs(tmp_path: Path) -> None:
    """As Weights & Biases exports a chart, with the extremes beside every column."""
    header = '"Step"' + "".join(
        f',"{run} - train/loss","{run} - train/loss__MIN","{run} - train/loss__MAX"'
        for run in ("calm-1", "wild-2")
    )
    path = tmp_path / "chart.csv"
    path.write_text(f'{header}\n"0","3","1","4","9","1","10"\n"10","2","1","4","","",""\n')
    calm, wild = open_all(path)
    assert (calm.name, wild.name) == (f"{path}#calm-1", f"{path}#wild-2")
    assert points(list(calm)) == [(0, {"loss": 3.0}), (10, {"loss": 2.0})]
    assert points(list(wild)) == [(0, {"loss": 9.0}), (10, {})]


def test_the_columns_of_one_run_are_one_log(tmp_path: Path) -> None:
    """Then the file is called by its own name."""
    log, rows = read(tmp_path, "Step,a - train/loss,a - eval/loss,a - eval/loss__MIN\n5,1,2,2\n")
    assert log.name == str(tmp_path / "log.csv")
    assert points(rows) == [(5, {"loss": 1.0, "val_loss": 2.0})]


def test_a_value_a_row_with_its_name_beside_it(tmp_path: Path) -> None:
    """The tall form; the rows of one step are one observation."""
    text = "step,tag,value\n1,train/loss,3\n1,lr,0.1\n1,mood,7\n2,train/loss,2\n2,eval/loss,2.5\n"
    _, rows = read(tmp_path, text)
    assert points(rows) == [(1, {"loss": 3.0, "lr": 0.1}), (2, {"loss": 2.0, "val_loss": 2.5})]


def test_the_download_of_a_chart_of_tensorboard_is_named_by_its_file(tmp_path: Path) -> None:
    """The metric stands in the file's name only."""
    text = "Wall time,Step,Value\n1.7e9,1,3\n1.7e9,2,2\n"
    _, rows = read(tmp_path, text, "run-a_tag-train_loss.csv")
    assert points(rows) == [(1, {"loss": 3.0}), (2, {"loss": 2.0})]


def test_layers_are_families_in_the_order_of_the_file(tmp_path: Path) -> None:
    """Blanks are missing, and alphabetical order is undone: layer 2 comes before layer 10."""
    _, rows = read(tmp_path, "step,loss,grad_norm/b,grad_norm/a,act_rms/m\n1,2,0.5,nan,\n")
    family = rows[0].families["grad_norm"]
    assert list(family.names) == ["b", "a"]
    assert family.values[0] == 0.5
    assert math.isnan(family.values[1])
    assert family.missing.tolist() == [False, False]
    assert "act_rms" not in rows[0].families
    header = ",".join(f"grad_norm/h.{i}" for i in (1, 10, 2))
    _, rows = read(tmp_path, f"step,{header}\n1,0.1,1.0,0.2\n")
    assert list(rows[0].families["grad_norm"].names) == ["h.1", "h.2", "h.10"]
    assert rows[0].families["grad_norm"].values.tolist() == pytest.approx([0.1, 0.2, 1.0])


def test_units_in_the_header_are_minded(tmp_path: Path) -> None:
    """Everything arrives in the units of docs/metrics.md."""
    _, rows = read(tmp_path, "step,loss,step time (ms),gpu utilization (%),rss_mb\n1,2,250,50,3\n")
    values = rows[0].values
    assert values["step_time"] == pytest.approx(0.25)
    assert values["gpu_utilization"] == pytest.approx(0.5)
    assert values["rss"] == pytest.approx(3e6)


def test_the_user_says_which_column_is_which(tmp_path: Path) -> None:
    """Over any usual name; the column that is replaced is ignored."""
    options = LogOptions(columns={"loss": "mine", "grad_norm/a": "g1"})
    log, rows = read(tmp_path, "step,loss,mine,g1\n1,9,2,0.5\n", options=options)
    assert rows[0].values == {"loss": 2.0}
    assert rows[0].families["grad_norm"].values.tolist() == [0.5]
    assert log.account().ignored == ["loss"]


def test_a_column_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no column 'mine' for loss; there are step, loss"):
        read(tmp_path, "step,loss\n1,9\n", options=LogOptions(columns={"loss": "mine"}))


def test_columns_without_names_are_called_by_their_numbers(tmp_path: Path) -> None:
    """They have to be said to be something."""
    with pytest.raises(InputError, match="2 columns of numbers without names"):
        read(tmp_path, "1 2.5\n2 2.25\n", "numbers.txt")
    options = LogOptions(columns={"step": "1", "loss": "2"})
    _, rows = read(tmp_path, "1 2.5\n2 2.25\n", "numbers.txt", options)
    assert points(rows) == [(1, {"loss": 2.5}), (2, {"loss": 2.25})]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "empty"),
        ("step,mood\n1,2\n", r"none of the columns \(step, mood\).*--columns loss=NAME"),
        ("step,loss\n", "there is a header, but not one row"),
        ("step,loss\nx,y\nz,w\n", "not one line could be read; line 2: 'x' is not a number"),
    ],
)
def test_a_table_without_metrics_is_refused(tmp_path: Path, content: str, why: str) -> None:
    """The message names the file, what is in it, and what to do."""
    with pytest.raises(InputError, match=why):
        read(tmp_path, content)


def test_a_million_rows_stream_in_constant_memory(tmp_path: Path) -> None:
    """Observations are handed on one by one, and what is said about bad rows is bounded."""
    file = tmp_path / "log.csv"
    with file.open("w") as out:
        out.write("step,loss,grad_norm,lr\n")
        for start in range(0, 1_000_000, 1000):
            out.writelines(f"{step},2.5,1.25,0.001\n" for step in range(start, start + 998))
            out.write("garbage,,\ngarbage,,\n")
    (log,) = open_all(file)
    rows = iter(log)
    next(rows)
    tracemalloc.start()
    for _ in range(20_000):
        next(rows)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 << 20
    assert 1 + 20_000 + sum(1 for _ in rows) == 998_000
    troubles = log.account().troubles
    assert (troubles.count, len(troubles.examples)) == (2000, 100)
