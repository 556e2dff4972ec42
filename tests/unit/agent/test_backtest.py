"""The live path, driven from a file."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from lossguard.agent.backtest import backtest
from lossguard.agent.listing import print_backtests
from lossguard.agent.policy import find_policy
from lossguard.agent.run import Run
from lossguard.detectors import Observation, default_detectors
from tests.support.streams import healthy_losses

FIELDS = [
    "file", "symptom", "severity", "metric", "onset_step", "detected_step", "end_step", "score",
    "message",
]  # fmt: skip


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A training with a leap that lasts, and a NaN."""
    calm = healthy_losses(270)
    losses = [*calm[:200], *[40.0] * 4, *calm[200:260], math.nan, *calm[260:]]
    path = tmp_path / "log.csv"
    rows = (f"{step},{loss!r}\n" for step, loss in enumerate(losses, start=1))
    path.write_text("step,loss\n" + "".join(rows))
    return path


def test_a_file_gives_the_findings_that_the_live_run_would(log: Path) -> None:
    """One code path: the same episodes, dated and detected at the same steps."""
    run = Run("live", find_policy("observe"), default_detectors(), lambda: 0.0)
    seen: dict[tuple[str, int], int] = {}
    for line in log.read_text().splitlines()[1:]:
        step, loss = line.split(",")
        for found in run.observe(Observation(int(step), {"loss": float(loss)})).findings:
            seen.setdefault((str(found.symptom), found.onset_step), found.detected_step)
    result = backtest(str(log))
    assert {(str(f.symptom), f.onset_step): f.detected_step for f in result.findings} == seen
    assert ("loss_spike", 201) in seen
    assert ("nonfinite", 265) in seen
    assert [i.onset_step for i in result.incidents.all] == [i.onset_step for i in run.incidents.all]


def refuse(constant: str) -> Any:
    """JSON knows neither NaN nor Infinity."""
    raise AssertionError(constant)


def test_json_is_one_strict_object_a_finding(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exactly the documented fields, in order, one finding a line, one finding an episode."""
    assert print_backtests([str(log)], as_json=True) is False
    lines = capsys.readouterr().out.splitlines()
    objects = [json.loads(line, parse_constant=refuse) for line in lines]
    assert all(list(one) == FIELDS for one in objects)
    assert len({(one["symptom"], one["onset_step"]) for one in objects}) == len(objects)
    spike = next(one for one in objects if one["symptom"] == "loss_spike")
    assert (spike["severity"], spike["onset_step"], spike["end_step"]) == ("critical", 201, 204)
    assert spike["file"] == str(log)


def test_a_file_that_cannot_be_read_does_not_keep_from_the_others(
    log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is said on stderr, and the command fails."""
    assert print_backtests(["/nowhere.csv", str(log)], as_json=True) is True
    out, err = capsys.readouterr()
    assert out
    assert "lossguard: /nowhere.csv: cannot be read" in err


def test_people_get_a_table(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What was recognised, and what was found; or that nothing was."""
    print_backtests([str(log)], as_json=False)
    out = capsys.readouterr().out
    assert "275 rows; recognised step=step, loss=loss" in out
    assert "critical  loss_spike" in out
    log.write_text("step,loss\n1,1.0\nx,y\n")
    print_backtests([str(log)], as_json=False)
    out = capsys.readouterr().out
    assert "1 rows skipped, the first in line 3" in out
    assert "nothing found" in out
