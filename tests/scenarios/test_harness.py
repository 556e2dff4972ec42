"""The harness of the scenarios sees what a real agent sees."""

from __future__ import annotations

import math
import os
import time

import pytest
import torch
from torch import nn

import lossguard
from lossguard.detectors import Severity, Symptom
from tests.scenarios.clock import own_clock
from tests.scenarios.harness import watch


def train(steps: int = 30, *, nan_at: int = -1) -> int:
    """A linear model, whose loss is NaN at one step if asked."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with lossguard.attach(model, optimizer) as guard:
        for step in range(1, steps + 1):
            loss = model(torch.randn(8, 4)).square().mean()
            if step == nan_at:
                loss = loss * math.nan
            guard.log(answer=42.0)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return nan_at


def test_every_step_is_observed_with_what_the_probes_measure() -> None:
    """Plain metrics, families and the script's own numbers, once a step and in order."""
    record = watch(train)
    assert [o.step for o in record.observations] == list(range(1, 31))
    assert all(o.values["loss"] > 0.0 for o in record.observations)
    assert set(record.column("answer")) == {42.0}
    assert {"grad_norm", "act_rms"} <= record.observations[-1].families.keys()
    assert not record.findings


def test_findings_incidents_and_the_beginning_are_kept() -> None:
    """A NaN at step 20 is one incident with one critical finding there."""
    record = watch(lambda: train(nan_at=20))
    assert record.begins == 20
    (first, *_) = record.said(Severity.CRITICAL)
    assert (first.symptom, first.detected_step) == (Symptom.NONFINITE, 20)
    assert [incident.lead.symptom for incident in record.incidents] == [Symptom.NONFINITE]


def test_several_runs_in_one_training_are_all_kept() -> None:
    """A script may attach more than once."""
    record = watch(lambda: train(nan_at=20) and train(nan_at=10))
    assert len(record.observations) == 60
    assert [incident.onset_step for incident in record.incidents] == [20, 10]


def test_a_training_that_is_not_watched_is_no_success() -> None:
    """Silence because nothing was measured must not pass for silence of the detectors."""
    with pytest.raises(RuntimeError, match="not watched"):
        watch(lambda: 1)


def test_nothing_of_it_stays() -> None:
    """Random numbers, environment and threads are as before."""
    before = torch.random.get_rng_state(), dict(os.environ), torch.get_num_threads()
    watch(train)
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert (dict(os.environ), torch.get_num_threads()) == before[1:]


def test_sleep_takes_no_time_and_moves_every_clock() -> None:
    """An hour of sleep is over at once, and all clocks show it."""
    with own_clock():
        before = time.monotonic(), time.time(), time.perf_counter_ns()
        time.sleep(3600.0)
        after = time.monotonic(), time.time(), time.perf_counter_ns()
    assert after[0] - before[0] == pytest.approx(3600.0, abs=60.0)
    assert after[1] - before[1] == pytest.approx(3600.0, abs=60.0)
    assert (after[2] - before[2]) / 1e9 == pytest.approx(3600.0, abs=60.0)


def test_the_clock_does_not_run_while_nothing_is_computed() -> None:
    """Two looks at it are no further apart than the processor time between them."""
    with own_clock():
        processor, clock = time.process_time(), time.monotonic()
        passed = time.monotonic() - clock
        assert 0.0 <= passed <= time.process_time() - processor
