"""Which buttons there are, what they say will happen, and that nobody can make one."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lossguard.agent.alerts.buttons import Buttons, consequence, offered
from lossguard.agent.alerts.records import Click, Reply, Root, Story
from lossguard.agent.alerts.rendering import Post, render
from lossguard.agent.alerts.tickets import Forged, Offer, Ticket, key_at, seal, unseal
from lossguard.agent.verbs import ARGUMENTS
from tests.support.incidents_told import NOON, DeskAt, changed, incident, kinds, resolved
from tests.support.slack_blocks import check_blocks
from tests.support.slack_socket import buttons_of

KEY = b"k" * 32
TICKET = Ticket(
    run="run-a", incident="run-a.1", action="rollback", round=0, onset=90, expires=NOON + 9
)
ALL = ["ack", "mute", "skip", "rollback", "stop"]


def story(returns: int = 0, clicks: tuple[Click, ...] = (), **changes: Any) -> Story:
    news = incident(**changes)
    return Story(
        news=news, severity="critical", also=(), actions=(), opened=NOON, returns=returns,
        clicks=clicks,
    )  # fmt: skip


def click(action: str = "rollback", status: Any = "pending", **changes: Any) -> Click:
    known: dict[str, Any] = {
        "command": f"slack.x.1.0.{action}", "run": "run-a", "incident": "run-a.1", "round": 0,
        "user": "U01", "step": 95, "result": "",
    }  # fmt: skip
    return Click(action=action, status=status, **(known | changes))


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (story(), ALL),
        (story(acts=False), ["ack", "mute", "skip", "stop"]),  # it has no snapshots
        (story(symptom="plateau"), ["ack", "mute", "stop"]),
        (story(symptom="hang"), ["ack", "mute"]),  # nobody would hear
        (story(acked=NOON), ALL[1:]),
        (story(muted=True), ["ack", *ALL[2:]]),
        (story(clicks=(click("skip"),)), ["ack", "mute", "rollback", "stop"]),
        (story(clicks=(click("stop"),)), ["ack", "mute"]),
        (story(clicks=(click("skip"),), returns=1), ALL),
        (story(clicks=(click("skip", incident="run-a.7"),)), ALL),
        (story(state="resolved"), []),
        (msgspec.structs.replace(story(), ended=NOON, outcome="the run died"), []),
    ],
)
def test_what_makes_sense_now_and_was_not_asked_for_is_offered(
    shown: Story, expected: list[str]
) -> None:
    assert list(offered(shown)) == expected


def test_nothing_is_offered_while_nobody_listens() -> None:
    assert Buttons(KEY, lambda: False).block(story(), NOON) is None
    assert Buttons(KEY, lambda: None).block(story(), NOON) is None


def test_what_changes_the_run_asks_first_in_plain_words_and_within_the_limits_of_slack() -> None:
    block = Buttons(KEY, lambda: True).block(story(name="a-very-long-name-" * 20), NOON)
    check_blocks([block])
    buttons = buttons_of({"blocks": [block]})
    assert [name for name, one in buttons.items() if "confirm" in one] == ALL[2:]
    assert "before step 90" in consequence(story(), "rollback")
    assert "does not start again" in consequence(story(), "stop")
    assert {unseal(one["value"], KEY).command for one in buttons.values()} == {
        msgspec.structs.replace(TICKET, action=action).command for action in get_args(Offer)
    }


def test_every_button_is_a_command_that_people_may_type() -> None:
    assert set(get_args(Offer)) <= set(ARGUMENTS)


def test_the_value_of_a_button_is_not_taken_for_a_secret_and_survives() -> None:
    block = Buttons(KEY, lambda: True).block(story(), NOON)
    post = render(Root("a", True, story()), mention="", texts={}, buttons=block)
    assert isinstance(post, Post)
    assert block in post.blocks
    check_blocks(post.blocks)


@given(st.text(max_size=300) | st.binary(max_size=300).map(lambda raw: raw.hex()))
def test_what_was_not_made_with_the_key_is_no_ticket(value: str) -> None:
    with pytest.raises(Forged):
        unseal(value, KEY)


@given(st.integers(0, 200), st.integers(1, 255))
def test_no_bit_of_a_ticket_can_be_changed(place: int, flip: int) -> None:
    value = seal(TICKET, KEY)
    assert unseal(value, KEY) == TICKET
    raw = bytearray(value.encode())
    raw[place % len(raw)] ^= flip
    with pytest.raises(Forged):
        unseal(raw.decode("latin-1"), KEY)
    with pytest.raises(Forged):
        unseal(value, b"x" * 32)


def test_the_same_button_made_anew_is_the_same_command_and_another_is_another() -> None:
    assert msgspec.structs.replace(TICKET, expires=0.0, onset=3).command == TICKET.command
    others = [
        msgspec.structs.replace(TICKET, **other)
        for other in ({"run": "run-b"}, {"incident": "run-a.2"}, {"action": "stop"}, {"round": 1})
    ]
    assert len({TICKET.command, *(other.command for other in others)}) == 5


def test_the_key_is_kept_to_its_owner_and_made_anew_when_others_could_read_it(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.key"
    first = key_at(path)
    assert (len(first), path.stat().st_mode & 0o777) == (32, 0o600)
    assert key_at(path) == first
    path.chmod(0o644)
    second = key_at(path)
    assert second != first
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_bytes(second[:7])
    assert key_at(path) != second


def test_a_press_is_answered_in_the_thread_and_changes_the_root_at_once() -> None:
    at = DeskAt()
    at.hear(incident())
    assert kinds(at.hear(click())) == ["update"]
    assert kinds(at.wait(1)) == []
    (answer, _) = at.hear(click(status="done", result="restored_step 80"))
    assert isinstance(answer, Reply)
    post = render(answer, mention="", texts={})
    assert isinstance(post, Post)
    assert post.text.endswith("rolled back (restored step 80), by <@U01>")
    at.restart()
    assert at.hear(click(status="done", result="restored_step 80")) == []


def test_an_answer_comes_though_the_limit_of_the_hour_is_reached() -> None:
    at = DeskAt(max_per_run_hour=4)
    at.hear(incident())
    for number in range(2, 9):
        at.hear(incident(number, symptom="nonfinite"))
    failed = at.hear(click(status="failed", result="why no snapshot"))
    assert "answer" in kinds(failed)


def test_a_press_about_what_is_over_and_forgotten_says_nothing() -> None:
    at = DeskAt()
    at.hear(changed(resolved(incident()), opened=NOON - 9_000))
    assert at.hear(click(status="done")) == []
    assert at.desk.file.clicks == {}
