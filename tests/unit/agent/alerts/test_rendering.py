"""What people read: all they need is in it, nothing they must not see, and Slack takes it."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lossguard.agent.alerts.blocks import BUDGET, fitted, section
from lossguard.agent.alerts.case_file import CaseFile
from lossguard.agent.alerts.desk import Desk
from lossguard.agent.alerts.measuring import measure
from lossguard.agent.alerts.records import (
    Digest,
    HeldBack,
    IncidentNews,
    Plot,
    Reply,
    Root,
    RunNotice,
    Saying,
    Story,
    Update,
)
from lossguard.agent.alerts.rendering import Edit, Picture, Post, mention_of, render
from lossguard.agent.alerts.settings import AlertSettings
from lossguard.agent.alerts.wording import lasted
from lossguard.agent.feed import ActionLine
from lossguard.detectors import Symptom
from tests.support.incidents_told import NOON, a_run, a_series, deed, incident
from tests.support.slack_blocks import check_blocks


def story(news: IncidentNews | None = None, **changes: Any) -> Story:
    """Of one critical incident that goes on."""
    known: dict[str, Any] = {"severity": "critical", "also": (), "actions": (), "opened": NOON}
    return Story(news=news or incident(), **(known | changes))


def words(saying: Saying, mention: str = "", **texts: str) -> str:
    """All of a message as text, as Slack gets it; it has been checked."""
    files = {name.replace("_txt", ".txt"): text for name, text in texts.items()}
    out = render(saying, mention=mention, texts=files)
    assert isinstance(out, Post | Edit)
    check_blocks(out.blocks)
    assert len(json.dumps(out.blocks)) <= BUDGET
    return "\n".join(_texts(out.blocks))


def _texts(part: Any) -> list[str]:
    if isinstance(part, list):
        return [text for item in part for text in _texts(item)]
    if isinstance(part, dict):
        own = [part["text"]] if isinstance(part.get("text"), str) else []
        return own + [t for name in ("text", "fields", "elements") for t in _texts(part.get(name))]
    return []


def test_the_root_says_what_where_how_far_since_when_what_was_done_and_what_to_do() -> None:
    said = words(Root("a", True, story(actions=(deed(),), also=("loss_spike",))))
    assert ":red_circle: " in said
    assert "gpt" in said
    assert "`run-a`" in said
    assert "the loss has risen from 2.1 to 8.3" in said
    assert "90, noticed at 94" in said
    assert "8.3, expected 2 to 2.4" in said
    assert f"<!date^{int(NOON)}^" in said
    assert "step 95: rolled back (restored step 80)" in said
    assert "`lossguard show run-a.1`" in said
    assert "also: loss_spike" in said


def test_without_an_action_the_root_names_the_command_to_type() -> None:
    said = words(Root("a", True, story(incident(acts=False))))
    assert "only observes" in said
    assert "`lossguard send run-a rollback`" in said


def test_skipped_updates_are_one_line() -> None:
    skips = tuple(deed("skip", step, "done: over the bound") for step in range(91, 99))
    assert "8 updates skipped, steps 91 to 98" in words(Root("a", True, story(actions=skips)))


def test_resolved_and_ended_unresolved_read_differently() -> None:
    over = words(Update("a", True, story(ended=NOON + 185, outcome="resolved")))
    assert ":white_check_mark:" in over
    assert "resolved, 3 min 5 s after it began" in over
    assert "Nothing is urgent" in over
    died = words(Update("a", True, story(ended=NOON + 185, outcome="the run died")))
    assert ":red_circle:" in died
    assert "not resolved: the run died" in died


def test_only_what_is_critical_calls_people() -> None:
    mention = mention_of(("here", "U012AB3CD", "S012AB3CD"))
    assert mention == "<!here> <@U012AB3CD> <!subteam^S012AB3CD>"
    assert mention in words(Root("a", True, story()), mention)
    assert mention not in words(Root("a", False, story(severity="warning")), mention)
    escalated = Reply("a", True, "escalated", story(), is_loud=True)
    assert mention in words(escalated, mention)
    assert mention not in words(Reply("a", True, "resolved", story(ended=NOON)), mention)


def test_details_say_what_it_may_be_what_helps_and_how_it_ended() -> None:
    said = words(
        Reply("a", True, "details", story(incident(bundle="/state/incidents/run-a.1"))),
        traceback_txt="Traceback\n" + "x" * 9000 + "\nRuntimeError: boom",
    )
    assert "*What it may be*" in said
    assert "*What helps*" in said
    assert "RuntimeError: boom" in said
    assert "/state/incidents/run-a.1" in said


def test_stacks_come_with_the_action_that_read_them() -> None:
    read = ActionLine(action="dump_stacks", step=9, result="done: 2 processes, in /x")
    said = words(
        Reply("a", True, "actions", story(), (read,)), stacks_txt="rank 0\n  in forward <here>"
    )
    assert "in forward &lt;here&gt;" in said
    assert "in forward" not in words(
        Reply("a", True, "actions", story(), (deed(),)), stacks_txt="in forward"
    )


def test_words_of_others_call_nobody_and_keep_no_secrets() -> None:
    message = "<!channel> xoxb-12-34-abc https://hooks.slack.com/services/T0/B0/xyz <@U1>"
    news = incident(message=message, name="<!here>", where="xapp-1-a-b")
    for saying in (
        Root("a", True, story(news)),
        Reply("a", True, "details", story(news), is_loud=True),
        Reply("a", True, "escalated", story(news)),
    ):
        out = render(saying, mention="", texts={"traceback.txt": message})
        assert isinstance(out, Post)
        raw = json.dumps([out.blocks[1:], out.text])
        assert "<!channel>" not in raw
        assert "<@U1>" not in raw
        for secret in ("xoxb-", "xapp-", "hooks.slack.com"):
            assert secret not in raw


@pytest.mark.parametrize("symptom", list(Symptom))
def test_every_symptom_fits(symptom: Symptom) -> None:
    of_it = story(incident(symptom=str(symptom)))
    assert words(Root("a", True, of_it))
    assert words(Reply("a", True, "details", of_it))


LONG = st.text(max_size=8).map(lambda text: text * 3000) | st.text(max_size=30)


@settings(max_examples=30, deadline=None)
@given(LONG, LONG, LONG, st.integers(0, 300), st.sampled_from(["open", "resolved", "the run died"]))
def test_nothing_breaks_a_limit_of_slack(
    message: str, name: str, text: str, count: int, end: str
) -> None:
    actions = tuple(deed("rollback", step, f"failed: {text}") for step in range(count))
    news = incident(message=message, name=name, where=text, metric=text[:5000], bundle=text)
    ended = {"ended": NOON, "outcome": end} if end != "open" else {}
    of_it = story(news, actions=actions, also=(name,) * (count // 10), returns=count, **ended)
    for topic in ("details", "actions", "also", "escalated", "returned", "resolved"):
        words(Reply("a", True, topic, of_it, actions), text, traceback_txt=text, stacks_txt=text)
    words(Root("a", True, of_it), text[:500])
    words(HeldBack(name, message, count))
    words(Digest({f"{name} {i}": {text: i} for i in range(count)}, NOON))


def test_what_does_not_fit_is_said_to_be_missing() -> None:
    blocks = fitted(section("x" * 2900) for _ in range(10))
    assert len(json.dumps(blocks)) <= BUDGET
    assert "more than fits" in json.dumps(blocks[-1])
    assert len(fitted(section("x") for _ in range(200))) == 50


def test_runs_and_digests_have_a_line_each() -> None:
    assert "Run gpt died at step 120" in words(RunNotice(a_run("died")))
    assert "2 clipping" in words(Digest({"gpt": {"clipping": 2}}, NOON))
    assert "3 messages" in words(HeldBack("run-a", "gpt", 3))


def test_what_makes_sense_alone_is_marked_for_webhooks() -> None:
    alone = {
        topic: render(
            Reply("a", True, topic, story(ended=NOON), (), topic == "escalated"),
            mention="",
            texts={},
        )
        for topic in ("details", "actions", "escalated", "resolved")
    }
    assert {name for name, out in alone.items() if isinstance(out, Post) and out.stands_alone} == {
        "escalated",
        "resolved",
    }
    assert isinstance(render(Update("a", True, story()), mention="", texts={}), Edit)


def test_a_value_is_measured_against_what_was_usual_before_the_onset() -> None:
    found = measure(a_series(), 90)
    assert found is not None
    assert found.value == pytest.approx(8.3)
    assert 1.85 <= found.low < found.high <= 2.15
    broken = measure(a_series(broken=True), 90)
    assert broken is not None
    assert broken.value != broken.value
    assert measure(a_series(), 3) is None  # too little is known of before


def test_the_picture_is_a_png_drawn_by_another_process() -> None:
    from lossguard.agent.alerts.picture import picture_of

    news = incident(series=(a_series("lr"), a_series("loss", broken=True)), metric="lr")
    out = render(Plot("a", True, news), mention="", texts={})
    assert isinstance(out, Picture)
    assert picture_of(out.news).startswith(b"\x89PNG\r\n")


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0 s"), (59.6, "1 min 0 s"), (185, "3 min 5 s"), (7800, "2 h 10 min"), (1e6, "11 d 13 h")],
)
def test_durations_are_said_in_two_units(seconds: float, said: str) -> None:
    assert lasted(seconds) == said


def test_a_whole_story_of_the_desk_fits() -> None:
    desk = Desk(AlertSettings(), CaseFile(since=NOON))
    desk.take(incident(actions=[deed()]), NOON)
    for saying in desk.due(NOON):
        assert words(saying)


@pytest.mark.parametrize(("symptom", "has_value"), [("hang", False), ("divergence", True)])
def test_what_has_no_value_is_shown_without_one(symptom: str, has_value: bool) -> None:
    """A heartbeat that is "1 times the threshold" helps nobody at night."""
    news = msgspec.structs.replace(incident(symptom=symptom, metric="heartbeat"), measured=None)
    said = words(Root("a", True, story(news)))
    assert ("times the threshold" in said) == has_value
