"""The raw series of a run, back out of the database."""

from __future__ import annotations

import csv
import json
import math
import sqlite3
import sys
from pathlib import Path

import pytest

from lossguard.agent.backtest import backtest
from lossguard.agent.logs import LogOptions, Troubles
from lossguard.agent.logs.event import scalars_of
from lossguard.agent.logs.tfrecord import Frames
from lossguard.agent.policy_file import shipped_policy
from lossguard.agent.report.exporting import export_run
from lossguard.errors import InputError, LossguardError, UsageError
from lossguard.home import Home
from tests.support.kept_runs import RUN, add_run, add_steps
from tests.support.logs import open_all
from tests.support.streams import healthy_losses

FORMS = ("csv", "jsonl", "parquet", "tensorboard")
Row = dict[str, float]


def exported(home: Home, folder: Path, form: str) -> Path:
    """The file, under the name that it gets by itself."""
    said = export_run(home, "", form, f"{folder}/")
    return Path(said.split(": ")[0])


def read(path: Path, form: str) -> dict[int, Row]:
    """step -> metrics, by a reader that knows nothing of ours where there is one."""
    if form == "csv":
        with path.open() as file:
            rows = [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]
    elif form == "jsonl":
        rows = [
            {name: float(value) for name, value in json.loads(line).items()}
            for line in path.read_text().splitlines()
        ]
    elif form == "parquet":
        parquet = pytest.importorskip("pyarrow.parquet")
        rows = [
            {name: value for name, value in row.items() if value is not None}
            for row in parquet.read_table(path).to_pylist()
        ]
    else:
        troubles = Troubles()
        events = [scalars_of(message) for _, message in Frames(path, troubles)]
        assert not troubles.count
        rows = [{"step": step, **dict(scalars)} for _, step, scalars in events if scalars]
    return {
        int(row.pop("step")): {k: v for k, v in row.items() if k not in ("applied", "time_s")}
        for row in rows
    }


@pytest.mark.parametrize("form", FORMS)
def test_every_value_comes_back_nan_and_inf_and_gaps_too(
    home: Home, database: sqlite3.Connection, tmp_path: Path, form: str
) -> None:
    """What was not measured is not there; what was not finite is."""
    written: dict[int, Row] = {
        1: {"loss": 2.5, "grad_norm": math.inf},
        2: {"loss": math.nan},
        3: {"loss": -math.inf, "val_loss": 0.1},
        70_000: {"loss": 1e-30, "a, \"b\"": 3.0},
    }  # fmt: skip
    add_run(database)
    add_steps(database, written.items())
    found = read(exported(home, tmp_path, form), form)
    assert found.keys() == written.keys()
    for step, metrics in written.items():
        assert found[step].keys() == metrics.keys()
        for name, value in metrics.items():
            assert found[step][name] == pytest.approx(value, nan_ok=True, rel=1e-6)


@pytest.mark.parametrize("form", ["csv", "jsonl", "tensorboard"])
def test_backtest_finds_in_an_export_what_was_in_the_run(
    home: Home, database: sqlite3.Connection, tmp_path: Path, form: str
) -> None:
    """A spike, dated to the step; in a healthy twin nothing."""
    for run, spike in (("spiky", 60.0), ("calm", None)):
        losses = healthy_losses(300)
        losses[200:204] = losses[200:204] if spike is None else [spike] * 4
        add_run(database, run, started_s=2e9 if spike else 1e9)
        add_steps(database, ((s, {"loss": x}) for s, x in enumerate(losses, start=1)), run)
    found = {}
    for run in ("spiky", "calm"):
        path = (
            tmp_path / run / ("events.out.tfevents.1.x" if form == "tensorboard" else f"x.{form}")
        )
        export_run(home, run, form, str(path))
        (log,) = open_all(path, LogOptions())
        findings = backtest(log, shipped_policy("observe")).findings
        found[run] = {(str(f.symptom), f.onset_step) for f in findings}
    assert ("loss_spike", 201) in found["spiky"]
    assert not found["calm"]


def test_the_form_follows_the_name_of_the_file(
    home: Home, database: sqlite3.Connection, tmp_path: Path
) -> None:
    """And what cannot be told is asked for."""
    add_run(database)
    add_steps(database, [(1, {"loss": 1.0})])
    export_run(home, "", None, str(tmp_path / "x.jsonl"))
    assert json.loads((tmp_path / "x.jsonl").read_text())["loss"] == 1.0
    with pytest.raises(UsageError, match="say --format"):
        export_run(home, "", None, str(tmp_path / "x.xlsx"))


def test_a_run_without_steps_is_a_clear_error_and_leaves_no_file(
    home: Home, database: sqlite3.Connection, tmp_path: Path
) -> None:
    """As is an unknown run."""
    add_run(database)
    for run, why in ((RUN, "has no steps"), ("nonsense", "there is no run")):
        with pytest.raises(InputError, match=why):
            export_run(home, run, "csv", str(tmp_path / "x.csv"))
    assert not list(tmp_path.iterdir())


def test_a_row_that_cannot_be_read_is_left_out_and_said_once(
    home: Home, database: sqlite3.Connection, tmp_path: Path
) -> None:
    """CSV goes over the steps twice."""
    add_run(database)
    add_steps(database, ((step, {"loss": 1.0}) for step in range(1, 10)))
    database.execute("UPDATE steps SET metrics = x'c1' WHERE step = 4")
    database.commit()
    said = export_run(home, "", "csv", str(tmp_path / "x.csv"))
    assert "8 steps; 1 could not be read" in said


def test_without_pyarrow_parquet_says_which_extra_to_install(
    home: Home, database: sqlite3.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And leaves no half a file."""
    add_run(database)
    add_steps(database, [(1, {"loss": 1.0})])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(LossguardError, match=r"lossguard\[parquet\]"):
        export_run(home, "", "parquet", str(tmp_path / "x.parquet"))
    assert not list(tmp_path.iterdir())
