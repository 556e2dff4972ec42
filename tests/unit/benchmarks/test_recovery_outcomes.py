"""What a training of the recovery benchmark came to."""

from __future__ import annotations

import json
import math

import pytest

from benchmarks.recovery.outcomes import Outcome, Trial, table_of

SKIPS = [{"action": "skip", "step": step, "result": "done: loss"} for step in (10, 11, 12)]
BACK = {"action": "rollback", "step": 12, "result": "done: restored_step 4, exactness bitwise"}


def outcome(rule: str = "guarded", fault: str = "rate_bug", val_loss: float = 1.0) -> Outcome:
    """Of the first GRU."""
    result = {"val_loss": val_loss, "skipped": 0, "seconds": 2.0}
    return Outcome.of(Trial("gru", fault, rule, 0), result, [*SKIPS, BACK])


def test_what_a_rollback_undoes_is_lost_and_a_skipped_update_only_once() -> None:
    assert outcome().lost == 8


def test_a_rollback_that_failed_loses_nothing() -> None:
    """Its twin: only the skips."""
    failed = BACK | {"result": "failed: why no snapshot"}
    result = {"val_loss": 1.0, "skipped": 0, "seconds": 2.0}
    assert Outcome.of(outcome().trial, result, [*SKIPS, failed]).lost == 3


@pytest.mark.parametrize("val_loss", [1.25, math.nan])
def test_what_is_kept_is_read_back(val_loss: float) -> None:
    """A loss that is not finite too."""
    before = outcome(val_loss=val_loss)
    after = Outcome.from_json(json.loads(json.dumps(before.as_json())))
    assert (after.trial, after.lost, after.actions) == (before.trial, 8, before.actions)
    assert after.val_loss == pytest.approx(val_loss, nan_ok=True)


def test_rules_are_compared_with_the_clean_twin() -> None:
    clean = outcome("bare", "none", 2.0)
    table = table_of([clean, outcome(val_loss=2.01), outcome("clip", val_loss=3.0)])
    assert "| rate_bug | gru | +50.0% | +0.5% | 8 |" in table
    assert "| within 1% of the clean twin |  | **0/1** | **1/1** |  |" in table
