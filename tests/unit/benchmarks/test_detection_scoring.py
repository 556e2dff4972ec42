"""How a rule is scored: windows of events, episodes, false ones, and shares over groups."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from benchmarks.detection_logs import Event, Log, Source, is_critical, labelled_sources, rows_of
from benchmarks.detection_rules import LEVELS, replay
from benchmarks.detection_scoring import (
    MERGE_ROWS,
    MOST_SLACK_ROWS,
    REPEAT_ROWS,
    SLACK_ROWS,
    Alarm,
    episodes,
    score,
    window,
)
from benchmarks.detection_summary import interval, rate, share, summarise
from benchmarks.rivals import NO_DECREASE, PROGRESS, UPSET
from lossguard.detectors import Observation


def alarm(row: int, sort: str = UPSET, onset: int | None = None) -> Alarm:
    """An alarm at a row."""
    return Alarm(row, row, sort, row if onset is None else onset)


def event(first: int, last: int, kind: str = "loss_spike", critical: bool = False) -> Event:
    """An event on these rows."""
    return Event(kind, first, last, f"{first}-{last}", critical)


def log(rows: int, *events: Event, tolerated: tuple[tuple[int, int], ...] = ()) -> Log:
    """A log whose rows say nothing."""
    observations = [Observation(row, {"loss": 1.0}) for row in range(rows)]
    kind = "spike" if events else "healthy"
    return Log("run", "group", kind, observations, events, tolerated)


def test_an_event_is_found_within_its_window_and_not_outside() -> None:
    """From the slack before its first row to the slack after its last."""
    spike = event(100, 100)
    for row, found in ((94, False), (95, True), (100, True), (105, True), (106, False)):
        outcome = score(log(200, spike), [alarm(row)])
        assert (outcome.found[0].delay is not None) is found
        assert len(outcome.false) == (not found)


def test_the_slack_after_an_event_grows_with_it_up_to_a_bound() -> None:
    """Half the length of the event, at most 50 rows in all."""
    assert window(event(100, 119)) == (100 - SLACK_ROWS, 119 + SLACK_ROWS + 10)
    assert window(event(100, 9_999)) == (100 - SLACK_ROWS, 9_999 + MOST_SLACK_ROWS)


def test_delay_and_onset_are_counted_from_the_first_row_of_the_event() -> None:
    """By the first alarm in the window."""
    outcome = score(log(200, event(100, 120)), [alarm(107, onset=98), alarm(110)])
    assert (outcome.found[0].delay, outcome.found[0].onset_error) == (7, -2)


def test_an_alarm_of_another_sort_neither_finds_an_event_nor_is_false() -> None:
    """Calling a spike a plateau is no find; but something was wrong there."""
    outcome = score(log(200, event(100, 120)), [alarm(110, PROGRESS)])
    assert outcome.found[0].delay is None
    assert outcome.false == ()


def test_an_alarm_that_the_loss_does_not_fall_can_mean_a_stall_or_a_rise() -> None:
    """But not a spike."""
    for kind, found in (("stall", True), ("divergence", True), ("loss_spike", False)):
        outcome = score(log(200, event(100, 120, kind)), [alarm(110, NO_DECREASE)])
        assert (outcome.found[0].delay is not None) is found


def test_alarms_close_together_are_one_episode() -> None:
    """Up to twenty rows apart."""
    first = alarm(10)
    assert len(episodes([first, alarm(10 + MERGE_ROWS)])) == 1
    assert len(episodes([first, alarm(11 + MERGE_ROWS)])) == 2


def test_a_rule_that_always_shouts_is_counted_again_and_again() -> None:
    """Once every hundred rows: otherwise it would have one false alarm in any run."""
    outcome = score(log(1000), [alarm(row) for row in range(1000)])
    assert len(outcome.false) == 1000 // REPEAT_ROWS
    assert outcome.alarm_rows == 1000


def test_tolerated_rows_are_neither_rewarded_nor_punished() -> None:
    """Nor do they count as quiet."""
    outcome = score(log(100, tolerated=((40, 59),)), [alarm(50)])
    assert outcome.false == ()
    assert outcome.quiet_rows == 80


def test_false_episodes_are_counted_per_ten_thousand_quiet_rows() -> None:
    """Rows around events do not count."""
    outcome = score(log(1000, event(500, 500)), [alarm(100), alarm(102), alarm(800)])
    assert outcome.quiet_rows == 1000 - 2 * SLACK_ROWS - 1
    assert rate([outcome]).per_10k == pytest.approx(1e4 * 2 / outcome.quiet_rows)


def test_a_share_comes_with_an_interval_over_groups() -> None:
    """Runs of one group are drawn together: one group has no spread, two opposite ones all."""
    hit = score(log(200, event(100, 100)), [alarm(100)])
    miss = score(log(200, event(100, 100)), [])
    together = share([hit, miss], lambda _: True)
    assert (together.found, together.total, together.low, together.high) == (1, 2, 0.5, 0.5)
    apart = share([hit, replace(miss, group="other")], lambda _: True)
    assert (apart.low, apart.high) == (0.0, 1.0)


def test_an_interval_of_nothing_is_not_a_number() -> None:
    """No groups, or none with anything to count."""
    assert all(map(math.isnan, interval([])))
    assert all(map(math.isnan, interval([("a", 0, 0)])))


def test_a_summary_speaks_of_delays_of_critical_events_only() -> None:
    """The median over those that were found."""
    outcome = score(
        log(400, event(100, 120, critical=True), event(200, 220), event(300, 320, critical=True)),
        [alarm(104), alarm(219)],
    )
    summary = summarise([outcome])
    assert (summary.delay, summary.onset_error) == (4, 4)
    assert (summary.shares["critical"].found, summary.shares["critical"].total) == (1, 2)
    assert (summary.types["loss_spike"].found, summary.types["loss_spike"].total) == (2, 3)


def test_some_types_are_always_critical() -> None:
    """And some never; spikes depend on their size and length."""
    quiet = log(50).observations
    assert is_critical("nan", 10, 10, quiet)
    assert is_critical("divergence", 10, 12, quiet)
    assert not is_critical("overfitting", 10, 49, quiet)
    assert not is_critical("loss_spike", 10, 49, quiet)


@pytest.mark.parametrize(
    ("rows", "factor", "critical"), [(5, 2.0, True), (4, 9.0, False), (40, 1.9, False)]
)
def test_a_spike_is_critical_where_it_is_large_and_lasting(
    rows: int, factor: float, critical: bool
) -> None:
    """Twice the level on five rows."""
    losses = [1.0] * 60 + [factor] * rows + [1.0] * 20
    observations = [Observation(row, {"loss": loss}) for row, loss in enumerate(losses)]
    assert is_critical("loss_spike", 60, 59 + rows, observations) is critical


def test_a_span_of_steps_is_placed_on_the_rows_that_log_them() -> None:
    """One row may stand for many steps; where none lies inside, the nearest counts."""
    observations = [Observation(step, {}) for step in range(0, 1000, 100)]
    assert rows_of("200-450", observations) == (2, 4)
    assert rows_of("310-320", observations) == (3, 3)


def test_the_groups_set_apart_are_those_of_the_contract_tests() -> None:
    """By the digest of the group's name."""
    assert replace(log(1), group="KellerJordan/modded-nanogpt").held_out
    assert not replace(log(1), group="mlcommons/submissions_algorithms").held_out


def test_without_labelled_logs_there_are_no_sources(tmp_path) -> None:  # type: ignore[no-untyped-def]
    """Nothing to score, and no error."""
    assert labelled_sources(tmp_path) == []


def test_a_log_is_read_with_its_label(tmp_path) -> None:  # type: ignore[no-untyped-def]
    """Blanks are missing, nan is a value, events stand on rows, excerpts are their own group."""
    path = tmp_path / "a.csv"
    path.write_text("step,loss,val_loss\n10,2.0,\n20,nan,1.5\n30,,1.0\n")
    label = {
        "id": "a",
        "group": "pasted",
        "kind": "nan",
        "intervals": "nan:20-25",
        "tolerated_intervals": "30-30",
    }
    read = Source(path, label).read()
    assert (read.group, read.tolerated) == ("a", ((2, 2),))
    assert read.events == (Event("nan", 1, 1, "20-25", True),)
    assert "val_loss" not in read.observations[0].values
    assert math.isnan(read.observations[1].values["loss"])
    assert "loss" not in read.observations[2].values


def test_lossguard_is_scored_at_three_levels_that_contain_each_other() -> None:
    """What is critical is a warning too, and all is counted as any."""
    losses = [3.0 + 0.01 * (row % 7) for row in range(300)] + [math.nan] * 3
    observations = [Observation(row, {"loss": loss}) for row, loss in enumerate(losses)]
    replays = replay(Log("run", "group", "nan", observations), rivals=False)
    assert list(replays) == list(LEVELS)
    critical, warning, anything = (set(replays[name].alarms) for name in LEVELS)
    assert critical <= warning <= anything
    assert 300 in {said.row for said in critical}
