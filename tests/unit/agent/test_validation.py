"""Early stopping and the best state, by the validation loss."""

from __future__ import annotations

import math

import pytest

from lossguard.agent.policy_file import parse_policy
from lossguard.agent.policy_text import as_full_toml, as_toml
from lossguard.agent.run import Run
from lossguard.agent.validation import Validation, ValidationWatch
from lossguard.detectors import Observation
from lossguard.errors import ConfigError
from lossguard.probes.wire import Action


def ordered(watch: ValidationWatch, *losses: float) -> list[list[Action]]:
    """What each evaluation led to; every kept state is answered as done."""
    found = []
    for number, loss in enumerate(losses, start=1):
        orders = watch.take(10 * number, loss)
        found.append([order.action for order in orders])
        for order in orders:
            watch.answered(order.action, order.incident, done=True)
    return found


def test_it_stops_after_patience_evaluations_without_an_improvement_and_only_once() -> None:
    watch = ValidationWatch("run", Validation(patience=3))
    assert ordered(watch, 1.0, 0.5, 0.6, 0.5, 0.7, 0.8) == [[], [], [], [], ["stop"], []]


def test_the_reason_names_the_best_loss_and_the_step_it_was_of() -> None:
    watch = ValidationWatch("run", Validation(patience=1))
    watch.take(11, 0.5)
    (stop,) = watch.take(21, 0.6)
    assert stop.args["checkpoint"] == 1
    assert stop.args["reason"] == (
        "early stopping: 1 evaluations without a better validation loss than 0.5 (step 10)"
    )


def test_a_run_that_improves_is_never_stopped() -> None:
    watch = ValidationWatch("run", Validation(patience=2))
    assert not any(ordered(watch, *[1.0 / n for n in range(1, 30)]))


def test_an_improvement_smaller_than_min_delta_is_none() -> None:
    losses = (1.0, 0.95, 0.91)
    strict = ValidationWatch("run", Validation(patience=2, min_delta=0.1))
    assert ordered(strict, *losses) == [[], [], ["stop"]]
    assert not any(ordered(ValidationWatch("run", Validation(patience=2)), *losses))


def test_what_is_not_finite_is_no_improvement_and_is_not_kept() -> None:
    watch = ValidationWatch("run", Validation(patience=2, keep_best=True))
    assert ordered(watch, math.nan, math.inf) == [[], ["stop"]]


def test_each_new_best_state_is_kept_and_named_by_the_step_that_left_it() -> None:
    watch = ValidationWatch("run", Validation(keep_best=True))
    (first,) = watch.take(11, 1.0)
    assert first.args == {"keep": "best", "evaluated": 10}
    watch.answered(first.action, first.incident, done=True)
    assert watch.take(21, 1.5) == []
    assert [order.args["evaluated"] for order in watch.take(31, 0.5)] == [30]


def test_what_could_not_be_kept_leaves_the_next_one_below_the_kept_one_its_chance() -> None:
    watch = ValidationWatch("run", Validation(keep_best=True))
    assert ordered(watch, 1.0) == [["checkpoint"]]
    (lost,) = watch.take(21, 0.5)
    watch.answered(lost.action, lost.incident, done=False)
    assert [order.action for order in watch.take(31, 0.7)] == ["checkpoint"]


def test_evaluations_that_a_rollback_undid_cost_no_patience() -> None:
    undone, kept = (ValidationWatch("run", Validation(patience=3)) for _ in range(2))
    for watch in (undone, kept):
        ordered(watch, 1.0, 2.0, 2.0)
    undone.rewind(15)
    assert undone.take(40, 2.0) == []
    assert [order.action for order in kept.take(40, 2.0)] == ["stop"]


def test_a_restart_of_the_agent_forgets_nothing() -> None:
    settings = Validation(patience=2, keep_best=True)
    before = ValidationWatch("run", settings)
    ordered(before, 1.0, 2.0)
    after = ValidationWatch("run", settings)
    after.restore(before.state())
    assert [o.action for o in after.take(30, 1.5)] == ["stop"]


@pytest.mark.parametrize(("base", "actions"), [("guard", ["checkpoint"]), ("observe", [])])
def test_only_a_policy_that_acts_orders_anything(base: str, actions: list[str]) -> None:
    policy = parse_policy(f'base = "{base}"\n[validation]\nkeep_best = true\n', "my.toml")
    run = Run("run-a", policy, [], lambda: 0.0)
    outcome = run.observe(Observation(5, {"loss": 1.0, "val_loss": 1.0}))
    assert [order.action for order in outcome.orders] == actions


def test_nothing_is_done_by_the_validation_loss_unless_it_is_asked_for() -> None:
    run = Run("run-a", parse_policy('base = "guard"', "my.toml"), [], lambda: 0.0)
    losses = [1.0, *[2.0] * 50]
    outcomes = [run.observe(Observation(n, {"val_loss": v})) for n, v in enumerate(losses, 1)]
    assert not any(outcome.orders for outcome in outcomes)


def test_a_policy_says_it_and_reads_back_as_it_was_written() -> None:
    text = 'base = "guard"\n[validation]\nkeep_best = true\npatience = 5\nmin_delta = 0.01\n'
    policy = parse_policy(text, "my.toml")
    assert policy.validation == Validation(keep_best=True, patience=5, min_delta=0.01)
    for written in (as_toml(policy), as_full_toml(policy)):
        assert parse_policy(written, "again").validation == policy.validation


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("patience = -1", "validation.patience: must be >= 0, got -1"),
        ("patience = 2.5", "validation.patience: must be a whole number, got 2.5"),
        ("patience = true", "validation.patience: must be a whole number, got True"),
        ("min_delta = nan", "validation.min_delta: must be a finite number >= 0, got nan"),
        ("keep_best = 1", "validation.keep_best: must be true or false, got 1"),
        ("patiense = 3", "validation.patiense: there is no such setting; did you mean 'patience'?"),
    ],
)
def test_a_mistake_is_named_with_key_and_line(line: str, words: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_policy(f'base = "guard"\n\n[validation]\n{line}\n', "my.toml")
    assert str(raised.value) == f"my.toml:4: {words}"
