"""Faults put into healthy runs."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from benchmarks.detection_faults import CONTROL, FAULTS
from benchmarks.detection_injection import EARLIEST, LEAST_ROWS, Site, inject, sites
from benchmarks.detection_logs import Source
from benchmarks.rivals import RIVALS


def source(
    folder: Path, name: str, group: str = "g", rows: int = 1200, norms: bool = True
) -> Source:
    """A healthy run that falls slowly."""
    rng = random.Random(name)
    header = "step,loss,grad_norm" if norms else "step,loss"
    lines = [header]
    for step in range(rows):
        loss = 3.0 - 0.0005 * step + rng.gauss(0, 0.02)
        lines.append(f"{step},{loss}" + (f",{1.0 + rng.gauss(0, 0.05)}" if norms else ""))
    path = folder / f"{name}.csv"
    path.write_text("\n".join(lines) + "\n")
    label = {"id": name, "group": group, "kind": "healthy", "intervals": ""}
    return Source(path, {**label, "tolerated_intervals": ""})


def test_every_group_gets_the_same_number_of_sites(tmp_path: Path) -> None:
    """Its runs take turns; short runs and sick ones get none."""
    sources = [source(tmp_path, name, "many") for name in "abc"]
    sources += [source(tmp_path, "d", "one"), source(tmp_path, "e", "short", LEAST_ROWS - 1)]
    sick = source(tmp_path, "f", "sick")
    sick.label["kind"] = "divergence"
    chosen = sites([*sources, sick], 2)
    assert [(site.source.label["id"], site.number) for site in chosen] == [
        ("a", 0),
        ("b", 1),
        ("d", 0),
        ("d", 1),
    ]


@pytest.fixture(scope="module")
def injected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, int | None]]:
    """Delays by rule and fault at one site."""
    site = Site(source(tmp_path_factory.mktemp("runs"), "run"), 0)
    return {
        rule: {each.fault: each.delay for each in outcomes}
        for rule, outcomes in inject(site).items()
    }


def test_every_fault_is_tried_on_every_rule(
    injected: dict[str, dict[str, int | None]],
) -> None:
    """The control too."""
    assert set(RIVALS) <= set(injected)
    assert all(set(delays) == set(FAULTS) for delays in injected.values())


def test_the_nan_check_finds_nan_and_inf_and_nothing_else(
    injected: dict[str, dict[str, int | None]],
) -> None:
    """So what is put in is what the name says, at its row."""
    delays = injected["NaN check"]
    assert {fault for fault, delay in delays.items() if delay is not None} == {"NaN", "Inf"}
    assert (delays["NaN"], delays["Inf"]) == (0, 0)


def test_a_rule_that_minds_every_large_loss_finds_the_large_faults_at_once(
    injected: dict[str, dict[str, int | None]],
) -> None:
    """And nothing in the control, which changes nothing."""
    delays = injected["metaseq EWM 1.3"]
    assert (delays["x2, one step"], delays["BLOOM spike"]) == (0, 0)
    assert delays["to x2 in 8 steps, stays"] in (1, 2, 3)
    assert delays[CONTROL] is None
    assert delays["lr x10"] is None


def test_the_gradient_norm_of_the_bloom_spike_leads_the_loss(
    injected: dict[str, dict[str, int | None]],
) -> None:
    """A rule on the norm is ahead of the loss by up to four rows."""
    delay = injected["axlearn 20x EMA"]["BLOOM spike"]
    assert delay is not None
    assert -4 <= delay < 0


def test_a_collapsing_scale_reaches_the_minimum_after_sixteen_halvings(
    injected: dict[str, dict[str, int | None]],
) -> None:
    """Only there does DeepSpeed raise."""
    assert injected["DeepSpeed scale at minimum"]["scale collapse"] == 15


def test_the_same_site_gives_the_same_faults(tmp_path: Path) -> None:
    """The seed is the name of the run and the number of the site."""
    run = source(tmp_path, "run", norms=False)
    assert inject(Site(run, 3)) == inject(Site(run, 3))
    assert EARLIEST >= 128  # the longest warm-up among the rivals
