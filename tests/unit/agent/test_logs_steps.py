"""Records become one observation a step, however the steps of a log go."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from lossguard.agent.logs import Turn
from tests.support.logs import open_all, points, read


def table(rows: Iterable[tuple[object, ...]], header: str = "step,loss") -> str:
    """A CSV."""
    return header + "\n" + "".join(",".join(map(str, row)) + "\n" for row in rows)


def turns(path: Path, content: str) -> tuple[list[tuple[int, Turn]], list[str]]:
    """Every step that does not simply go on, and what people are told."""
    path = path / "log.csv"
    path.write_text(content)
    (log,) = open_all(path)
    found: list[tuple[int, Turn]]
    found = [(o.step, turn) for o in log if (turn := log.turn) is not Turn.ON]
    return found, log.account().remarks()


def test_rows_of_one_step_are_joined(tmp_path: Path) -> None:
    """The training's and the evaluation's, in either order."""
    header = "step,loss,val_loss,lr"
    rows = [(1, 3, "", 0.1), (1, "", 4, ""), (2, "", 5, ""), (2, 2, "", 0.1), (3, 1, "", 0.1)]
    _, found = read(tmp_path, table(rows, header))
    assert points(found) == [
        (1, {"loss": 3.0, "lr": 0.1, "val_loss": 4.0}),
        (2, {"val_loss": 5.0, "loss": 2.0, "lr": 0.1}),
        (3, {"loss": 1.0, "lr": 0.1}),
    ]


def test_rows_of_one_step_that_differ_stay_apart(tmp_path: Path) -> None:
    """Two losses are two measurements; the same one twice is one."""
    rows = [(1, 3.0), (1, 2.5), (2, 2.0), (2, 2.0), (3, "nan"), (3, "nan")]
    _, found = read(tmp_path, table(rows))
    assert [o.step for o in found] == [1, 1, 2, 3]


def test_layers_of_one_step_are_joined(tmp_path: Path) -> None:
    """Each may come in a row of its own."""
    rows = [(1, 2, 0.5, ""), (1, "", "", 0.25)]
    _, found = read(tmp_path, table(rows, "step,loss,grad_norm/a,grad_norm/b"))
    (only,) = found
    assert only.families["grad_norm"].values.tolist() == [0.5, 0.25]


def test_steps_that_go_on_are_no_event(tmp_path: Path) -> None:
    """Gaps and repetitions are normal."""
    found, remarks = turns(tmp_path, table((s - s % 2, s) for s in range(10, 500, 3)))
    assert (found, remarks) == ([], [])


def test_a_resume_goes_back(tmp_path: Path) -> None:
    """To the checkpoint; said with the first place."""
    steps = [*range(1000), *range(900, 1200)]
    found, remarks = turns(tmp_path, table((s, 2.0 + i) for i, s in enumerate(steps)))
    assert found == [(900, Turn.RESUME)]
    assert remarks == [
        "the steps go back once (the first time from 999 to 900, in line 1002): a resume; what "
        "came after the checkpoint is forgotten"
    ]


def test_runs_in_one_file_begin_anew(tmp_path: Path) -> None:
    """Each from its own beginning; at 0 where the first began at 1."""
    steps = [*range(1, 100), *range(100), *range(50)]
    found, remarks = turns(tmp_path, table((s, 2.0 + i) for i, s in enumerate(steps)))
    assert found == [(0, Turn.ANEW), (0, Turn.ANEW)]
    assert "start from the beginning again 2 times" in remarks[0]
    assert "several runs in one file" in remarks[0]


def test_a_counter_within_epochs_is_counted_on(tmp_path: Path) -> None:
    """Steps of an epoch, with the epoch beside them: one run, and no step comes twice."""
    rows = [(epoch, step, 2.0) for epoch in range(3) for step in range(100)]
    path = tmp_path / "log.csv"
    path.write_text(table(rows, "epoch,step,loss"))
    (log,) = open_all(path)
    assert [o.step for o in log] == list(range(300))
    assert "start again 2 times within a run" in log.account().remarks()[0]


def test_a_counter_of_micro_steps_is_counted_on(tmp_path: Path) -> None:
    """Too short to be runs."""
    path = tmp_path / "log.csv"
    path.write_text(table((i % 4, 2.0 + i) for i in range(40)))
    (log,) = open_all(path)
    assert [(o.step, log.turn) for o in log] == [(i, Turn.ON) for i in range(40)]


def test_rows_in_reverse_are_said_to_be_out_of_order(tmp_path: Path) -> None:
    """Newest first: no thousand resumes, no run for every row."""
    found, remarks = turns(tmp_path, table((s, s) for s in range(3000, 0, -1)))
    assert {turn for _, turn in found} == {Turn.RESUME}
    assert len(found) == 1000
    assert remarks == [
        "the steps go back 2,999 times (the first time from 3000 to 2999, in line 3): the rows are "
        "out of order"
    ]


@pytest.mark.parametrize("at", [63, 1600])
def test_an_evaluation_ahead_of_the_training(tmp_path: Path, at: int) -> None:
    """At the end of an epoch between two logged steps it stays where it is; counted in samples,
    so that the training goes on behind it, it is taken at the step before it."""
    rows = [(49, 2, ""), (at, "", 3), (99, 1, "")]
    _, found = read(tmp_path, table(rows, "step,loss,val_loss"))
    expected = at if at < 99 else 49
    assert [(o.step, set(o.values)) for o in found] == [
        (49, {"loss"}), (expected, {"val_loss"}), (99, {"loss"})
    ]  # fmt: skip


def test_an_evaluation_without_a_step_belongs_to_the_step_before_it(tmp_path: Path) -> None:
    """A loss without one is no use."""
    rows = [(1, 2, ""), ("", "", 3), (2, 1, ""), ("", 1, "")]
    log, found = read(tmp_path, table(rows, "step,loss,val_loss"))
    assert points(found) == [(1, {"loss": 2.0, "val_loss": 3.0}), (2, {"loss": 1.0})]
    assert log.account().troubles.examples == [(5, "no step in it")]


def test_times_are_taken_from_the_log(tmp_path: Path) -> None:
    """Without them, rows are counted."""
    _, found = read(tmp_path, table([(1, 2, 100.5), (2, 1, 101.0)], "step,loss,timestamp"))
    assert [o.time_s for o in found] == [100.5, 101.0]
    _, found = read(tmp_path, table([(1, 2), (2, 1)]))
    assert found[1].time_s > found[0].time_s
