"""``lossguard policies --reference``: the curve of a good run, as a policy holds it."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from lossguard.agent.policy_file import parse_policy
from lossguard.agent.policy_reference import as_toml, reference_of, reference_points
from lossguard.detectors import Observation
from lossguard.errors import InputError


def observations(losses: list[float]) -> list[Observation]:
    """A loss a step, from step 1."""
    return [Observation(step=i, values={"loss": loss}) for i, loss in enumerate(losses, 1)]


def written(folder: Path, losses: list[float], name: str = "good.csv") -> str:
    """A log."""
    rows = [f"{step},{loss!r}" for step, loss in enumerate(losses, 1)]
    (folder / name).write_text("\n".join(["step,loss", *rows, ""]))
    return str(folder / name)


def test_a_short_log_is_taken_point_by_point() -> None:
    assert reference_points(observations([3.0, 2.0, 1.0])) == ((1.0, 3.0), (2.0, 2.0), (3.0, 1.0))


def test_a_long_one_becomes_medians_that_no_spike_moves() -> None:
    losses = [float(1000 - step) for step in range(1000)]
    spiked = [*losses[:500], 1e9, *losses[501:]]
    points = reference_points(observations(spiked), 100)
    assert len(points) == 100
    assert points[50][1] == pytest.approx(495.5, abs=1.0)
    assert [step for step, _ in points] == sorted(step for step, _ in points)


def test_what_is_not_a_number_is_passed_over() -> None:
    points = reference_points([*observations([3.0, math.nan, math.inf, 1.0])])
    assert points == ((1.0, 3.0), (4.0, 1.0))


def test_a_policy_takes_what_is_printed(tmp_path: Path) -> None:
    log = written(tmp_path, [2.0 + 1.0 / step for step in range(1, 400)])
    policy = parse_policy(as_toml(log), "policy.toml")
    taken = policy.settings["slow_convergence"]["reference"]
    assert [step for step, _ in taken] == [step for step, _ in reference_of(log)]


def test_a_log_of_a_few_rows_is_no_reference(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="5 losses are too few"):
        reference_of(written(tmp_path, [1.0] * 5))


def test_a_folder_of_several_runs_is_no_reference(tmp_path: Path) -> None:
    for name in ("a.csv", "b.csv"):
        written(tmp_path, [1.0] * 50, name)
    with pytest.raises(InputError, match="holds 2 logs"):
        reference_of(str(tmp_path))
