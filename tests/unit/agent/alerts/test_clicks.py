"""What the agent's loop does about a press: who may, whether it still makes sense, and once."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lossguard.agent.alerting import Orders
from lossguard.agent.alerts.clicks import Clicks
from lossguard.agent.alerts.press import Press, press_of
from lossguard.agent.alerts.records import Click, News, Refusal
from lossguard.agent.alerts.tickets import Ticket, seal
from lossguard.agent.audit import AuditLog, read_audit
from lossguard.agent.gate import Gate
from lossguard.agent.registry import Registry
from lossguard.agent.store import Store
from lossguard.agent.viewers import Viewers
from lossguard.probes import wire
from tests.support.probe import hello_of
from tests.support.streams import healthy_losses

KEY = b"k" * 32
_stamps = itertools.count()


class Agent:
    """The loop of one, by hand; ``begin_again`` is what follows a kill."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.told: list[News] = []
        self.sent: list[wire.Command] = []
        self.begin_again()

    def begin_again(self) -> None:
        self.store = Store(self.folder / "lossguard.db")
        self.registry = Registry(self.store, self._send)
        self.audit = AuditLog(self.folder / "audit.jsonl")
        viewers = Viewers(
            self.registry, lambda *_: True, lambda: None, Gate(self.store, self.audit)
        )
        orders = Orders(viewers.answer, self.audit)
        self.clicks = Clicks(KEY, ["U01"], self.registry, orders, self._tell)

    def _send(self, identity: bytes, frame: bytes) -> bool:
        message = wire.decode_from_agent(frame)
        if isinstance(message, wire.Command):
            self.sent.append(message)
        return True

    def _tell(self, news: Sequence[News]) -> None:
        self.told += news

    def diverge(self) -> None:
        """A run that is observed, with an incident that goes on."""
        hello = hello_of(policy="observe")
        layout = wire.Layout(run=hello.run, rank=0, layout=0, names=["loss"])
        for message in (hello, layout):
            self.registry.take(b"p", [wire.encode(message)])
        for step, loss in enumerate([*healthy_losses(80), *[math.nan] * 6], start=1):
            header = wire.Step(run=hello.run, rank=0, step=step, applied=step, layout=0,
                               sequence=step, time_s=float(step))  # fmt: skip
            frames = [wire.encode(header), np.array([loss], dtype="<f4").tobytes()]
            self.registry.take(b"p", frames)

    def press(self, user: str = "U01", value: str | None = None, **changes: Any) -> Press:
        """A new press of a button that this agent could have made, but for what is changed."""
        sealed = seal(a_ticket(**changes), KEY) if value is None else value
        press = Press(user=user, channel="C1", value=sealed, moment=str(next(_stamps)))
        self.clicks.hand_over(press)
        self.clicks.tick()
        return press

    @property
    def refusals(self) -> list[str]:
        return [news.words for news in self.told if isinstance(news, Refusal)]

    @property
    def states(self) -> list[tuple[str, str]]:
        return [(n.action, n.status) for n in self.told if isinstance(n, Click)]


def a_ticket(**changes: Any) -> Ticket:
    known: dict[str, Any] = {"run": "run-a", "incident": "run-a.1", "action": "skip", "round": 0,
                             "onset": 81, "expires": time.time() + 60}  # fmt: skip
    return Ticket(**(known | changes))


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    agent = Agent(tmp_path)
    agent.diverge()
    yield agent
    agent.store.close()


def test_a_press_is_an_order_and_its_answer_is_told(agent: Agent) -> None:
    agent.press(action="stop")
    (order,) = agent.sent
    assert (order.command, order.action) == (a_ticket(action="stop").command, "stop")
    assert order.args == {"reason": "asked for in Slack by U01"}
    agent.clicks.tick()
    assert agent.states == [("stop", "pending")]
    ack = wire.Ack(run="run-a", rank=0, command=order.command, status="done", step=87)
    agent.registry.take(b"p", [wire.encode(ack)])
    agent.clicks.tick()
    agent.clicks.tick()
    assert agent.states == [("stop", "pending"), ("stop", "done")]
    assert agent.refusals == []


def test_a_rollback_goes_to_before_the_step_that_the_dialog_named(agent: Agent) -> None:
    agent.press(action="rollback", onset=55)
    assert agent.sent[0].args == {"onset": 55}


@pytest.mark.parametrize("action", ["ack", "mute"])
def test_what_no_loop_has_to_do_is_done_at_once(agent: Agent, action: str) -> None:
    agent.press(action=action)
    assert agent.states == [(action, "done")]
    (incident,) = agent.registry.runs["run-a"].run.incidents.open
    assert incident.calls_nobody
    assert agent.sent == []


def another_key(value: str) -> str:
    return seal(a_ticket(), b"z" * 32)


@pytest.mark.parametrize(
    ("press", "why"),
    [
        ({"user": "U02"}, "not among the operators"),
        ({"user": ""}, "not among the operators"),
        ({"value": ""}, "was not made by this agent"),
        ({"value": seal(a_ticket(), b"z" * 32)}, "was not made by this agent"),
        ({"value": seal(a_ticket(), KEY)[:-8]}, "was not made by this agent"),
        ({"expires": 1.0}, "too old"),
        ({"run": "run-b"}, "run run-b is over"),
        ({"incident": "run-a.9"}, "over by now"),
    ],
)
def test_what_cannot_be_meant_is_refused_said_to_one_person_and_written_down(
    agent: Agent, press: dict[str, Any], why: str
) -> None:
    agent.press(**press)
    (told,) = agent.told
    assert isinstance(told, Refusal)
    assert told.words.startswith("Nothing was done: ")
    assert why in told.words
    assert agent.sent == []
    (line,) = read_audit(agent.folder / "audit.jsonl")
    assert (line.result, line.who) == ("refused", f"Slack user {press.get('user', 'U01')}")
    assert why in line.why


def test_the_same_press_delivered_twice_is_one_and_a_second_press_is_told_that_it_is_used(
    agent: Agent,
) -> None:
    press = agent.press()
    agent.clicks.hand_over(press)
    agent.clicks.tick()
    assert agent.refusals == []
    agent.press()
    (words,) = agent.refusals
    assert "was pressed before (pending)" in words
    assert len({order.command for order in agent.sent}) == 1
    assert [line.result for line in read_audit(agent.folder / "audit.jsonl")] == [
        "accepted",
        "refused",
    ]


def test_a_run_or_trouble_that_is_over_is_left_alone(agent: Agent) -> None:
    bye = wire.Bye(run="run-a", rank=0, step=86, reason="finished")
    agent.registry.take(b"p", [wire.encode(bye)])
    agent.press()
    agent.press(action="ack")
    assert agent.refusals == ["Nothing was done: the run run-a is over."] * 2
    assert agent.sent == []


def test_whoever_presses_without_end_holds_nobody_up(agent: Agent) -> None:
    for number in range(5_000):
        agent.clicks.hand_over(Press(user="U02", channel="C", value="x", moment=f"m{number}"))
    for _ in range(50):
        agent.clicks.tick()
    assert 0 < len(agent.refusals) <= 200
    agent.press()
    assert agent.states == [("skip", "pending")]


def test_the_next_agent_knows_what_was_asked_by_whom_and_waits_for_the_answer(
    agent: Agent,
) -> None:
    agent.press()
    (order,) = agent.sent
    agent.registry.save()
    agent.store.close()
    agent.told.clear()
    agent.begin_again()
    agent.clicks.tick()
    agent.clicks.tick()
    (known,) = agent.told
    assert isinstance(known, Click)
    assert (known.user, known.status, known.incident, known.action) == (
        "U01", "pending", "run-a.1", "skip",
    )  # fmt: skip
    ack = wire.Ack(run="run-a", rank=0, command=order.command, status="failed", step=87)
    agent.registry.take(b"p", [wire.encode(ack)])
    agent.clicks.tick()
    assert agent.states == [("skip", "pending"), ("skip", "failed")]


def envelope(**changes: Any) -> dict[str, Any]:
    payload = {
        "type": "block_actions", "user": {"id": "U01", "name": "x"}, "channel": {"id": "C1"},
        "actions": [{"action_id": "lossguard.ack", "value": "v", "action_ts": "1.2"}],
    }  # fmt: skip
    return {"type": "interactive", "envelope_id": "e", "payload": payload | changes}


def test_a_button_of_ours_is_understood() -> None:
    assert press_of(envelope()) == Press(user="U01", channel="C1", value="v", moment="1.2")


@pytest.mark.parametrize(
    "message",
    [
        {},
        envelope(type="view_submission"),
        envelope(user=None),
        envelope(actions=[]),
        envelope(actions=[{"action_id": "other.ack", "value": "v"}]),
        envelope(actions=[{"action_id": "lossguard.ack", "value": {"a": 1}}]),
        {"payload": ["lossguard"]},
    ],
)
def test_whatever_else_slack_says_is_nothing(message: dict[str, Any]) -> None:
    assert press_of(message) is None
