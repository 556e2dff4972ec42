"""Every symptom is found in a real training that has it by its true cause, and in no other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pytest

from lossguard.detectors import AMONG_RANKS, BY_THE_CLOCK, Severity, Symptom
from tests.scenarios.catalogue import NORMAL, SCENARIOS
from tests.scenarios.trial import Result, Trial, attempt

SEEDS = (0,)
MISSED = {
    "rate_dropped_early": "a curve that stops early looks like one that has reached its floor",
}
"""Not found by name, and without a word before, in nine of ten seeds yet; and why."""
ALARMED = {
    "adversaries": "the loss of a generator rises like that of a run that diverges",
    "four_folds": "new weights every hundred steps are a loss that jumps to its start",
    "data_switch": "a step of the loss by half is critical in some seeds",
    "partial_last_batch": "a batch of three samples is a spike where it is large",
    "policy_gradient": "heavy tails of either sign",
    "label_smoothing_sets_in": "a loss that is another one from a step on",
}
"""Healthy trainings that raise a warning, or worse, in more than one of ten seeds, and why."""


def named(names: Iterable[str], known: Mapping[str, str]) -> list[object]:
    """The names as parameters; those with a known failure may fail."""
    return [pytest.param(name, marks=[*_failing(name, known), *_seldom(name)]) for name in names]


def _failing(name: str, known: Mapping[str, str]) -> list[pytest.MarkDecorator]:
    return [pytest.mark.xfail(reason=known[name], strict=False)] if name in known else []


LONG = frozenset(("behind_the_last_run",))
"""Thrice as long as any other; what finds it has a test of its own (test_slow_convergence)."""


def _seldom(name: str) -> list[pytest.MarkDecorator]:
    """Of each symptom one training in every run of the tests, the others with the long ones."""
    if name in LONG:
        return [pytest.mark.slow]
    if name not in SCENARIOS:
        return [pytest.mark.slow] if name in ALARMED else []
    symptom = SCENARIOS[name].symptom
    found = (other for other, s in SCENARIOS.items() if s.symptom is symptom)
    first = next(other for other in found if other not in MISSED)
    return [] if name == first else [pytest.mark.slow]


def words(result: Result) -> str:
    """What was said, for the message of a failed test."""
    lines = [
        f"{f.severity} {f.symptom} at {f.detected_step} (onset {f.onset_step}): {f.message}"
        for f in result.said
    ]
    return f"the cause begins at step {result.begins}; said: " + ("; ".join(lines) or "nothing")


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", named(SCENARIOS, MISSED))
def test_the_trouble_is_found_in_time_and_by_its_name(name: str, seed: int) -> None:
    """The right symptom, at most ``within`` steps after its cause began, and nothing before."""
    result = attempt(Trial(name=name, seed=seed, healthy=False))
    assert result.verdict is not None
    assert result.verdict.as_right, words(result)
    assert not result.verdict.too_early, words(result)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", named(SCENARIOS, ALARMED))
def test_the_healthy_twin_is_left_alone(name: str, seed: int) -> None:
    """The same training without the cause: no warning and nothing critical, of any symptom."""
    result = attempt(Trial(name=name, seed=seed, healthy=True))
    assert not result.said, words(result)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", named(NORMAL, ALARMED))
def test_normal_life_raises_nothing_critical(name: str, seed: int) -> None:
    """Nor a warning, but where the loss did change for good and a person may want to know."""
    result = attempt(Trial(name=name, seed=seed, healthy=True))
    least = Severity.CRITICAL if NORMAL[name].may_warn else Severity.WARNING
    assert all(f.severity.rank < least.rank for f in result.said), words(result)


@pytest.mark.parametrize("symptom", sorted(set(Symptom) - BY_THE_CLOCK - AMONG_RANKS))
def test_every_symptom_has_a_scenario(symptom: Symptom) -> None:
    """Whatever the detectors can say of one process, some training here has; what takes several is
    provoked in tests/e2e/hangs."""
    assert any(s.symptom is symptom for s in SCENARIOS.values())
