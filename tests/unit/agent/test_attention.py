"""What people say about incidents: kept, shown, undone, and never an order to the loop."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lossguard.agent import feed
from lossguard.agent.registry import Registry
from lossguard.agent.store import Store
from lossguard.agent.viewers import Viewers
from lossguard.probes import wire
from tests.support.probe import hello_of


class Desk:
    """An agent without sockets: what it tells viewers and the loop is in lists."""

    def __init__(self, path: Path) -> None:
        self.to_loop: list[wire.FromAgent] = []
        self.shown: list[feed.FromAgent] = []
        self.asked = 0
        self.ordered = 0
        self.store = Store(path)
        self.registry = Registry(self.store, self._send)
        self.viewers = Viewers(self.registry, self._show, lambda: None)

    def _send(self, identity: bytes, frame: bytes) -> bool:
        self.to_loop.append(wire.decode_from_agent(frame))
        return True

    def _show(self, identity: bytes, frame: bytes) -> bool:
        self.shown.append(feed.decode_from_agent(frame))
        return True

    def join(self, *names: str, **changes: Any) -> None:
        """A run says hello and names its values."""
        hello = hello_of(**changes)
        layout = wire.Layout(run=hello.run, rank=0, layout=0, names=list(names))
        for message in (hello, layout):
            self.registry.take(b"probe", [wire.encode(message)])

    def steps(self, first: int, rows: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> None:
        """So many steps."""
        for number, row in enumerate(rows, start=first):
            header = wire.Step(
                run="run-a", rank=0, step=number, applied=number, layout=0, sequence=number,
                time_s=float(number),
            )  # fmt: skip
            self.registry.take(b"probe", [wire.encode(header), row.astype("<f4").tobytes()])

    def ask(self, message: feed.FeedMessage) -> feed.FromAgent:
        """One message of a viewer, and the newest answer."""
        self.asked += 1  # each is another viewer: one alone gets four pictures a second
        self.viewers.take(str(self.asked).encode(), [feed.encode(message)])
        return self.shown[-1]

    def picture(self, **wants: object) -> feed.Picture:
        """What a viewer with these wants is shown."""
        answer = self.ask(feed.Subscribe(run="run-a", **wants))  # type: ignore[arg-type]
        assert isinstance(answer, feed.Picture)
        return answer

    def send(self, action: wire.Action, **args: float | str) -> feed.FromAgent:
        """An order with an id of its own."""
        self.ordered += 1
        name = f"c{self.ordered}"
        return self.ask(feed.SendCommand(run="run-a", command=name, action=action, args=args))


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """One run with one open incident: its loss is not finite."""
    made = Desk(tmp_path / "lossguard.db")
    made.join("loss")
    made.steps(1, np.full((40, 1), 2.0))
    made.steps(41, np.full((1, 1), np.nan))
    yield made
    made.store.close()


def only(desk: Desk) -> feed.IncidentLine:
    """The incident, as viewers see it."""
    (line,) = desk.picture().incidents
    return line


def test_an_incident_is_acknowledged_and_no_loop_is_asked(desk: Desk) -> None:
    """By its number, or all that are open; undo takes it back; the log tells."""
    assert (only(desk).acked, only(desk).muted) == (0.0, False)
    number = only(desk).id.rpartition(".")[2]
    answer = desk.send("ack", incident=int(number))
    assert isinstance(answer, feed.CommandResult)
    assert answer.status == "done"
    assert answer.result.startswith("acknowledged: nonfinite")
    assert only(desk).acked > 0
    desk.send("ack", undo=1)
    assert only(desk).acked == 0
    desk.send("ack")
    assert only(desk).acked > 0
    assert not [
        one for one in desk.to_loop if isinstance(one, wire.Command) and one.action == "ack"
    ]
    assert [event.kind for event in desk.picture().events].count("ack") == 3


def test_a_muted_symptom_is_muted_for_later_incidents_too_until_its_time_is_over(
    desk: Desk,
) -> None:
    """By symptom or incident; another symptom is not."""
    desk.send("mute", symptom="nonfinite", hours=1)
    assert only(desk).muted
    assert desk.picture().muted == ["nonfinite"]
    incidents = desk.registry.runs["run-a"].run.incidents
    assert all(incident.calls_nobody for incident in incidents.all)
    assert not incidents.end_mutes(0.0)
    assert incidents.end_mutes(float("inf"))
    assert not any(incident.calls_nobody for incident in incidents.all)
    desk.send("mute", incident=only(desk).id)
    assert desk.picture().muted == ["nonfinite"]
    desk.send("mute", incident=only(desk).id, undo=1)
    assert desk.picture().muted == []


@pytest.mark.parametrize(
    ("action", "args"),
    [("ack", {"incident": "9"}), ("mute", {}), ("mute", {"symptom": "bad_luck"}),
     ("mute", {"symptom": "nonfinite", "hours": -1}),
     ("mute", {"symptom": "nonfinite", "hours": "soon"})],
)  # fmt: skip
def test_what_does_not_exist_is_refused_in_words(
    desk: Desk, action: wire.Action, args: dict[str, float | str]
) -> None:
    """And the refusal names the order."""
    answer = desk.send(action, **args)
    assert isinstance(answer, feed.Trouble)
    assert answer.command == "c1"
    assert not only(desk).acked
    assert not only(desk).muted


def test_what_was_said_survives_the_agent_and_the_end_of_the_run(
    desk: Desk, tmp_path: Path
) -> None:
    """A run that is over can be acknowledged; the next agent knows, and so does the same order."""
    bye = wire.Bye(run="run-a", rank=0, step=41, reason="finished")
    desk.registry.take(b"probe", [wire.encode(bye)])
    desk.send("ack", incident=only(desk).id)
    desk.send("mute", symptom="nonfinite")
    desk.store.close()
    after = Desk(tmp_path / "lossguard.db")
    line = only(after)
    assert line.acked > 0
    assert line.muted
    again = after.send("ack", undo=1)
    assert isinstance(again, feed.CommandResult)
    assert again.result.startswith("acknowledged")
    after.store.close()
