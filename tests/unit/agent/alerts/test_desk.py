"""One thread per trouble, and nothing that a tired person does not need."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lossguard.agent.alerts.budget import HOUR_S
from lossguard.agent.alerts.records import Digest, HeldBack, Plot, Reply, Root
from tests.support.incidents_told import (
    NOON,
    DeskAt,
    a_run,
    a_series,
    changed,
    deed,
    incident,
    kinds,
    resolved,
)


def a_warning(number: int = 1, /, **changes: Any) -> Any:
    return incident(number, **{"severity": "warning", "symptom": "memory_growth", **changes})


def test_critical_trouble_is_told_at_once_with_details_and_a_picture() -> None:
    desk = DeskAt()
    assert kinds(desk.hear(incident(series=(a_series(),)))) == ["root", "details", "plot"]


def test_the_same_is_told_once_however_often_it_is_heard() -> None:
    desk = DeskAt()
    desk.hear(incident())
    for _ in range(50):
        assert desk.hear(incident()) == []
        assert desk.wait(5.0) == []


def test_a_warning_that_lasts_gets_a_thread_and_not_before() -> None:
    desk = DeskAt(for_s=10)
    assert desk.hear(a_warning()) == []
    assert desk.wait(9.0) == []
    assert kinds(desk.wait(1.0)) == ["root", "details"]


def test_a_warning_that_is_over_soon_is_a_line_in_the_digest() -> None:
    desk = DeskAt(for_s=10, digest_every_s=3600)
    desk.hear(a_warning())
    desk.wait(5.0)
    assert desk.hear(resolved(a_warning())) == []
    (digest,) = desk.wait(3600.0)
    assert isinstance(digest, Digest)
    assert digest.counts == {"gpt": {"memory_growth": 1}}
    assert desk.wait(3600.0) == []


def test_info_is_only_ever_counted_until_it_gets_worse() -> None:
    desk = DeskAt()
    news = incident(severity="info", symptom="clipping")
    assert desk.hear(news) == []
    assert desk.wait(1000.0) == []
    assert kinds(desk.hear(changed(news, severity="critical"))) == ["root", "details"]


def test_critical_trouble_that_was_over_when_first_heard_of_is_told_all_the_same() -> None:
    desk = DeskAt()
    assert "root" in kinds(desk.hear(resolved(incident(actions=[deed()]))))


def test_what_the_agent_did_is_one_reply_and_a_new_root() -> None:
    desk = DeskAt()
    desk.hear(incident())
    skipped = [deed("skip", step) for step in (91, 92, 93)]
    said = desk.hear(incident(actions=[*skipped, deed("rollback")]))
    assert kinds(said) == ["actions", "update"]
    assert isinstance(said[0], Reply)
    assert [action.action for action in said[0].actions] == ["rollback"]
    assert desk.hear(incident(actions=[*skipped, deed("rollback")])) == []


def test_skipped_updates_change_the_root_now_and_then_and_ring_no_bell() -> None:
    desk = DeskAt()
    desk.hear(incident())
    said = []
    for step in range(60):
        desk.now += 1
        said += desk.hear(incident(actions=[deed("skip", 91 + i) for i in range(step)]))
    assert set(kinds(said)) == {"update"}
    assert len(said) <= 6


def test_getting_worse_is_said_aloud_once() -> None:
    desk = DeskAt(for_s=0)
    desk.hear(a_warning())
    (reply, update) = desk.hear(a_warning(severity="critical"))
    assert isinstance(reply, Reply)
    assert (reply.topic, reply.is_loud) == ("escalated", True)
    assert kinds([update]) == ["update"]
    assert desk.hear(a_warning(severity="critical")) == []


def test_getting_worse_moves_the_thread_to_the_channel_for_what_is_critical() -> None:
    desk = DeskAt(for_s=0, two_channels=True)
    desk.hear(a_warning())
    said = desk.hear(a_warning(severity="critical"))
    assert kinds(said) == ["update", "root"]
    (first, second) = desk.roots
    assert (first.is_critical, second.is_critical) == (False, True)
    assert first.address != second.address
    reply = desk.hear(a_warning(severity="critical", actions=[deed()]))[0]
    assert isinstance(reply, Reply)
    assert reply.address == second.address


def test_it_is_over_after_a_while_of_quiet() -> None:
    desk = DeskAt(keep_firing_s=60)
    desk.hear(incident())
    desk.now += 30
    assert "resolved" not in kinds(desk.hear(resolved(incident())))
    assert desk.wait(59.0)[1:] == []
    assert kinds(desk.wait(1.0)) == ["resolved", "update"]
    assert desk.wait(1000.0) == []


def test_what_comes_back_within_that_quiet_was_never_over() -> None:
    desk = DeskAt(keep_firing_s=60)
    desk.hear(incident())
    for _ in range(20):
        desk.now += 30
        desk.hear(resolved(incident()))
        desk.now += 30
        desk.hear(incident())
    assert {"resolved", "returned"}.isdisjoint(kinds(desk.said))


def test_what_flaps_goes_on_in_its_thread_and_says_so_once_in_a_cool_down() -> None:
    desk = DeskAt(keep_firing_s=10, cool_down_s=3600)
    for number in range(1, 11):
        news = incident(number, onset_step=90 * number, opened=desk.now)
        desk.hear(news)
        desk.wait(60.0)
        desk.hear(resolved(news))
        desk.wait(60.0)
    assert len(desk.roots) == 1
    assert kinds(desk.said).count("returned") == 1
    assert kinds(desk.said).count("resolved") == 2
    assert desk.desk.file.threads["run-a.1"].returns == 9


def test_what_comes_back_as_something_else_is_named_as_that() -> None:
    desk = DeskAt(keep_firing_s=10)
    desk.hear(resolved(incident(1)))
    desk.wait(20.0)
    said = desk.hear(resolved(incident(2, symptom="nonfinite", opened=desk.now)))
    assert kinds(said) == ["returned", "update"]
    assert isinstance(said[0], Reply)
    assert said[0].story.news.line.symptom == "nonfinite"


def test_the_same_trouble_long_after_is_a_thread_of_its_own() -> None:
    desk = DeskAt(keep_firing_s=10, cool_down_s=600)
    desk.hear(incident(1))
    desk.hear(resolved(incident(1)))
    desk.wait(20.0)
    desk.wait(700.0)
    desk.hear(incident(2, opened=desk.now))
    assert len(desk.roots) == 2


def test_other_trouble_and_other_runs_have_threads_of_their_own() -> None:
    desk = DeskAt()
    desk.hear(incident(1), incident(1, run="run-b"), incident(2, symptom="memory_growth"))
    assert len({root.address for root in desk.roots}) == 3


def test_a_nan_and_the_spike_it_made_are_one_thread() -> None:
    desk = DeskAt()
    desk.hear(incident(1, symptom="nonfinite"))
    said = desk.hear(incident(2, symptom="loss_spike", opened=NOON + 5))
    assert "root" not in kinds(said)
    assert len(desk.roots) == 1


def test_an_effect_is_muted_while_its_cause_lasts_and_told_if_it_outlasts_it() -> None:
    desk = DeskAt(for_s=0, keep_firing_s=60)
    desk.hear(incident(1))
    desk.now += 10
    effect = a_warning(2, symptom="output_collapse", opened=desk.now)
    assert "root" not in kinds(desk.hear(effect))
    assert "output_collapse" in desk.desk.file.story(desk.desk.file.threads["run-a.1"]).also
    desk.hear(resolved(incident(1)))
    desk.wait(60.0)
    assert len(desk.roots) == 1
    desk.wait(60.0)
    assert [root.story.news.line.symptom for root in desk.roots] == [
        "divergence",
        "output_collapse",
    ]


def test_what_was_there_before_is_no_effect() -> None:
    desk = DeskAt(for_s=0)
    desk.hear(a_warning(1, symptom="output_collapse", opened=NOON - 5), incident(2))
    assert len(desk.roots) == 2


def test_quiet_hours_hold_warnings_and_nothing_else() -> None:
    desk = DeskAt(for_s=0, quiet_hours="11:00-14:00", timezone="UTC")
    assert desk.hear(a_warning()) == []
    assert "root" in kinds(desk.hear(incident(2)))
    assert desk.wait(3600.0) == []
    assert kinds(desk.wait(3600.0)) == ["root", "details"]


def test_messages_about_a_run_are_capped_and_the_rest_is_counted() -> None:
    desk = DeskAt(for_s=0, max_per_run_hour=12, cool_down_s=0)
    for number in range(1, 21):
        desk.hear(a_warning(number, metric=f"memory{number}"))
        desk.wait(60.0)
    posts = [saying for saying in desk.said if isinstance(saying, Root | Reply)]
    assert len(posts) <= 9  # three of twelve are kept for what is critical
    assert "root" in kinds(desk.hear(incident(99, opened=desk.now)))
    assert not [saying for saying in desk.said if isinstance(saying, HeldBack)]
    desk.wait(HOUR_S)
    (held,) = [saying for saying in desk.said if isinstance(saying, HeldBack)]
    assert (held.run, held.count) == ("run-a", 17)


def test_what_was_held_back_and_goes_on_is_told_when_there_is_room() -> None:
    desk = DeskAt(for_s=0, max_per_run_hour=4)
    desk.hear(a_warning(1), a_warning(2, metric="val_loss"))
    assert len(desk.roots) == 1
    desk.wait(HOUR_S)
    assert len(desk.roots) == 2


def test_an_open_thread_ends_with_its_run_and_is_not_called_resolved() -> None:
    desk = DeskAt(keep_firing_s=60)
    desk.hear(a_run(), incident())
    said = desk.hear(a_run("died"))
    assert kinds(said) == ["resolved", "update", "runnotice"]
    assert isinstance(said[0], Reply)
    assert said[0].story.outcome == "the run died"
    assert not said[0].story.is_resolved


@pytest.mark.parametrize(
    ("chosen", "state", "is_told"),
    [
        ({}, "died", True),
        ({}, "failed", True),
        ({}, "finished", False),
        ({"run_finished": True}, "finished", True),
        ({"run_finished": True}, "stopped", True),
        ({"run_died": False}, "died", False),
    ],
)
def test_the_end_of_a_run_is_told_by_choice(chosen: Any, state: Any, is_told: bool) -> None:
    desk = DeskAt(**chosen)
    desk.hear(a_run())
    assert ("runnotice" in kinds(desk.hear(a_run(state)))) is is_told
    assert desk.hear(a_run(state)) == []


def test_a_run_that_is_silent_for_a_while_has_neither_ended_nor_begun() -> None:
    desk = DeskAt(run_started=True)
    assert kinds(desk.hear(a_run())) == ["runnotice"]
    assert desk.hear(a_run("silent")) == []
    assert desk.hear(a_run()) == []


def test_a_death_that_has_a_thread_needs_no_notice() -> None:
    desk = DeskAt()
    desk.hear(a_run(), incident(symptom="process_exit"))
    assert "runnotice" not in kinds(desk.hear(a_run("died")))


def test_what_was_over_before_anybody_was_to_be_told_is_not_told() -> None:
    desk = DeskAt()
    assert desk.hear(resolved(incident(1, opened=NOON - 10))) == []
    assert desk.hear(a_run("died", started=NOON - 10)) == []
    assert desk.hear(incident(2, opened=NOON - 10)) == []  # it ended with its run
    assert "root" in kinds(desk.hear(incident(3, run="run-b", opened=NOON - 10)))


def test_a_new_agent_says_nothing_again_and_goes_on_in_the_thread() -> None:
    desk = DeskAt(keep_firing_s=60, for_s=10)
    desk.hear(incident(1), a_warning(2, metric="lr"))
    desk.wait(5.0)
    desk.restart()
    assert desk.hear(incident(1)) == []
    assert kinds(desk.wait(5.0)) == ["root", "details"]  # the wait of the warning went on
    desk.restart()
    desk.hear(resolved(incident(1)))
    assert kinds(desk.wait(60.0)) == ["resolved", "update"]


def test_what_a_person_has_muted_gets_no_thread() -> None:
    desk = DeskAt()
    assert desk.hear(incident(muted=True)) == []
    assert "root" in kinds(desk.hear(incident(muted=False)))


def test_acknowledging_is_shown_on_the_root_and_ends_the_small_talk() -> None:
    desk = DeskAt()
    desk.hear(incident(1))
    desk.now += 10
    assert kinds(desk.hear(incident(1, acked=NOON + 10))) == ["update"]
    acked = incident(2, symptom="nonfinite", acked=NOON + 10, opened=NOON + 5)
    assert "also" not in kinds(desk.hear(acked))


def test_a_noisy_hour_of_a_diverging_run_is_one_thread() -> None:
    """Sixty acute incidents, one a minute and of every kind, with what follows from them."""
    desk = DeskAt()
    acute = ("loss_spike", "grad_spike", "nonfinite", "divergence", "exploding_gradient")
    shadows = ("oscillation", "output_collapse", "dead_units", "weight_growth")
    for minute in range(60):
        symptom = acute[minute % len(acute)]
        severity = "critical" if minute % 2 else "warning"
        news = incident(2 * minute + 1, symptom=symptom, severity=severity, opened=desk.now)
        desk.hear(news)
        desk.now += 15
        shadow = a_warning(2 * minute + 2, symptom=shadows[minute % 4], opened=desk.now)
        desk.hear(shadow)
        desk.now += 30
        desk.hear(changed(resolved(news), actions=[deed("rollback", minute)]), resolved(shadow))
        desk.now += 15
        desk.wait(0.0)
    assert len(desk.roots) == 1
    assert len([said for said in desk.said if isinstance(said, Root | Reply)]) <= 20


def test_a_noisy_hour_of_a_healthy_run_is_silent() -> None:
    desk = DeskAt()
    for minute in range(60):
        news = incident(minute, symptom="loss_spike", severity="info", opened=desk.now)
        desk.hear(news)
        desk.wait(30.0)
        desk.hear(resolved(news))
        desk.wait(30.0)
    assert desk.said == []


def test_histories_for_pictures_are_bounded() -> None:
    desk = DeskAt(severities=("critical",))
    for number in range(100):
        desk.hear(a_warning(number, series=(a_series(),)))
    assert len(desk.desk._series) <= 32


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(1, 6),
            st.sampled_from(["nonfinite", "loss_spike", "memory_growth", "hang", "plateau"]),
            st.sampled_from(["info", "warning", "critical"]),
            st.booleans(),
            st.sampled_from([0.0, 1.0, 30.0, 600.0, 4000.0]),
        ),
        max_size=60,
    )
)
def test_whatever_comes_the_cap_holds_and_no_thread_has_two_roots(
    news: list[tuple[int, str, str, bool, float]],
) -> None:
    """Incidents in any order, at any pace, with a new agent now and then."""
    desk = DeskAt(max_per_run_hour=8)
    for number, symptom, severity, is_over, after_s in news:
        one = incident(number, symptom=symptom, severity=severity, opened=desk.now)
        desk.hear(resolved(one) if is_over else one)
        desk.wait(after_s)
        if number == 1:
            desk.restart()
    said = list(zip(desk.said, desk.said_at, strict=True))
    posts = [at for saying, at in said if isinstance(saying, Root | Reply | Plot)]
    assert all(sum(at - HOUR_S < time <= at for time in posts) <= 8 for at in posts)
    roots = [(saying.address, at) for saying, at in said if isinstance(saying, Root)]
    for address, at in roots:
        assert sum(address == other and at - HOUR_S < time <= at for other, time in roots) == 1
