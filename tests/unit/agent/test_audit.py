"""The audit log: every command to its end, over restarts, and floods of refusals within bounds."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import msgspec
import pytest
import zmq
from typer.testing import CliRunner

from lossguard.agent import feed
from lossguard.agent.audit import AuditLine, AuditLog, read_audit
from lossguard.agent.cli import app
from lossguard.agent.gate import Gate
from lossguard.agent.keyring import Keyring
from lossguard.agent.listen_settings import ListenSettings
from lossguard.agent.listening import Listening
from lossguard.agent.peers import OWNER, Peer
from lossguard.agent.refusals import ONE_BY_ONE, WINDOW_S
from lossguard.agent.registry import Registry
from lossguard.agent.store import Store
from lossguard.agent.viewers import Viewers
from lossguard.home import Home
from lossguard.probes import wire
from tests.support.ports import free_port
from tests.support.probe import hello_of
from tests.support.waiting import PATIENCE_S

VIEWER = Peer("key look at 10.0.0.2", "key look", "viewer", is_local=False)
OPERATOR = Peer("key op at 10.0.0.3", "key op", "operator", is_local=False)


class Agent:
    """The loop of one, by hand; ``begin_again`` is what follows a kill."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now = 0.0
        self.begin_again()

    def begin_again(self) -> None:
        self.store = Store(self.folder / "lossguard.db")
        self.audit = AuditLog(self.folder / "audit.jsonl", clock=lambda: self.now)
        self.gate = Gate(self.store, self.audit)
        self.registry = Registry(self.store, lambda *_: True)
        self.desk = Viewers(self.registry, lambda *_: True, lambda: None, self.gate)

    def is_killed(self) -> None:
        """With what it has said, and before what comes next."""
        self.store.close()
        self.begin_again()

    def say(self, message: wire.Message) -> None:
        self.registry.take(b"p", [wire.encode(message)])

    def order(self, peer: Peer, command: str = "c", action: wire.Action = "skip") -> str:
        """Why it was refused, or empty."""
        order = feed.SendCommand(run="run-a", command=command, action=action)
        answer = self.desk.answer(order, peer)
        return answer.why if isinstance(answer, feed.Trouble) else ""

    @property
    def lines(self) -> list[AuditLine]:
        return list(read_audit(self.folder / "audit.jsonl"))

    @property
    def told(self) -> list[tuple[str, str, str, str]]:
        return [(line.who, line.command, line.result, line.why) for line in self.lines]

    @property
    def num_refused(self) -> int:
        """In all, whether one by one or in a count."""
        return sum(line.left_out or 1 for line in self.lines if line.result == "refused")


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    agent = Agent(tmp_path)
    agent.say(hello_of())
    yield agent
    agent.store.close()


def ack(status: str, **result: str) -> wire.Ack:
    return wire.Ack(run="run-a", rank=0, command="c", status=status, step=7, result=result)  # type: ignore[arg-type]


DONE = ack("done", skips_step="8")
TOO_LATE = ack("failed", why="too late: step 1500 is past 1000")
GONE = wire.Bye(run="run-a", rank=0, step=0, reason="finished")


@pytest.mark.parametrize("killed", ["never", "before its end", "after its end", "twice"])
@pytest.mark.parametrize(
    ("end", "result", "why"),
    [
        (DONE, "done", "step 7: skips_step 8"),
        (TOO_LATE, "failed", "step 7: why too late: step 1500 is past 1000"),
        (GONE, "failed", "step 0: the run ended before it could answer"),
    ],
)
def test_a_command_has_its_two_lines_wherever_the_agent_is_killed(
    agent: Agent, end: wire.Message, result: str, why: str, killed: str
) -> None:
    """Done, too late, or of a run that ended: the same lines as without a kill, and once."""
    assert agent.order(OPERATOR) == ""
    if killed in ("before its end", "twice"):
        agent.is_killed()
        agent.gate.tick()
        agent.say(hello_of())
    agent.say(end)
    if killed in ("after its end", "twice"):
        agent.is_killed()
    for _ in range(3):
        agent.gate.tick()
    agent.is_killed()
    agent.gate.tick()
    assert agent.told == [(OPERATOR.who, "c", "accepted", ""), (OPERATOR.who, "c", result, why)]


def test_what_is_still_open_after_a_restart_has_no_end(agent: Agent) -> None:
    """Nor has a refusal of the same id by somebody else ended it."""
    agent.order(OPERATOR)
    agent.order(VIEWER)
    agent.is_killed()
    agent.gate.tick()
    assert [result for _, _, result, _ in agent.told] == ["accepted", "refused"]
    agent.say(DONE)
    agent.gate.tick()
    assert agent.told[-1][:3] == (OPERATOR.who, "c", "done")


def test_a_command_that_is_only_in_the_journal_is_written_down_by_the_next_agent(
    agent: Agent,
) -> None:
    """Killed between the two. What an agent ordered by itself stands with its incident."""
    for name, incident in (("by.hand", ""), ("by.policy", "run-a.1")):
        order = wire.Command(run="run-a", command=name, action="skip", expires_step=9)
        agent.store.add_command(order, incident)
    agent.is_killed()
    agent.gate.tick()
    agent.store.end_command("by.hand", "done", 3, "")
    agent.store.end_command("by.policy", "done", 3, "")
    agent.gate.tick()
    assert [line[:3] for line in agent.told] == [
        ("unknown", "by.hand", "accepted"), ("unknown", "by.hand", "done"),
    ]  # fmt: skip


def test_a_command_that_the_journal_has_lost_ends_as_unknown(agent: Agent) -> None:
    """With its run, or with the whole database."""
    agent.order(OPERATOR)
    agent.store.forget("run-a")
    agent.is_killed()
    agent.gate.tick()
    assert agent.told[-1][:3] == (OPERATOR.who, "c", "unknown")


def test_no_accepted_command_loses_its_end_to_many_others(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of another host is refused where too many wait, and may ask for those it gave; the owner
    is not refused."""
    monkeypatch.setattr("lossguard.agent.gate._MOST_OPEN", 3)
    names = ["a", "b", "c"]
    assert [agent.order(OPERATOR, name) for name in names] == ["", "", ""]
    assert "wait for their answer" in agent.order(OPERATOR, "d")
    assert agent.order(OPERATOR, "a") == ""
    assert agent.order(OWNER, "e") == ""
    for name in [*names, "e"]:
        agent.store.end_command(name, "done", 1, "")
    agent.gate.tick()
    ends = [line.command for line in agent.lines if line.result == "done"]
    assert ends == [*names, "e"]
    assert agent.order(OPERATOR, "d") == ""


def test_a_flood_of_refusals_is_counted_and_pushes_nothing_out(agent: Agent) -> None:
    """Those of one key and verb; the others are written down one by one, as is all that was
    accepted, in the middle of it."""
    for number in range(3000):
        assert agent.order(VIEWER, str(number)) != ""
        if number == 2000:
            agent.order(OPERATOR)
            agent.say(DONE)
        agent.gate.tick()
    agent.order(VIEWER, "x", "stop")
    agent.audit.close()
    agent.audit.close()
    of_skips = [line for line in agent.lines if line.who != OPERATOR.who and line.verb == "skip"]
    assert sum(line.left_out or 1 for line in of_skips) == 3000
    assert len(of_skips) < ONE_BY_ONE + 6
    assert {line.who for line in of_skips if line.left_out} == {VIEWER.account}
    assert [(line.verb, line.left_out) for line in agent.lines if line.verb == "stop"] == [
        ("stop", 0)
    ]
    assert [line.result for line in agent.lines if line.who == OPERATOR.who] == ["accepted", "done"]


def test_a_few_refusals_are_written_down_one_by_one(agent: Agent) -> None:
    for number in range(ONE_BY_ONE):
        agent.order(VIEWER, str(number))
    agent.audit.close()
    assert [line.command for line in agent.lines] == [str(n) for n in range(ONE_BY_ONE)]


def test_that_something_is_left_out_is_said_at_once(agent: Agent) -> None:
    """And not at the end of the hour, which an agent that is killed does not see."""
    for number in range(ONE_BY_ONE + 1):
        agent.order(VIEWER, str(number))
    agent.gate.tick()
    agent.is_killed()
    assert agent.num_refused == ONE_BY_ONE + 1
    assert "1 more of these" in agent.lines[-1].why


def test_each_hour_begins_anew_and_is_counted_to_its_end(agent: Agent) -> None:
    for _ in range(3):
        for number in range(50):
            agent.order(VIEWER, str(number))
        agent.now += WINDOW_S
    agent.gate.tick()
    assert agent.num_refused == 150
    assert sum(not line.left_out for line in agent.lines) == 3 * ONE_BY_ONE


def test_counts_are_listed_with_every_run(home: Home) -> None:
    """For a count may stand for some of that run; what is of another run is not."""
    home.create()
    audit = AuditLog(home.audit_path)
    for number in range(ONE_BY_ONE + 5):
        line = AuditLine(time=0.0, who="x", verb="skip", result="refused", run=f"run-{number}")
        audit.refuse(line, "x")
    audit.close()
    told = CliRunner().invoke(app, ["audit", "run-3", "--json"]).stdout.splitlines()
    lines = [msgspec.json.decode(line, type=AuditLine) for line in told]
    assert [line.run for line in lines if not line.left_out] == ["run-3"]
    assert sum(line.left_out for line in lines) == 5


def test_a_long_refusal_is_cut(agent: Agent) -> None:
    """Its reader learns who, what and why, and the file does not fill with the rest."""
    args: dict[str, float | int | str] = {f"{n}" * 40: "\x01" * 200 for n in range(16)}
    order = feed.SendCommand(run="\x01" * 9000, command="c" * 9000, action="stop", args=args)
    agent.desk.answer(order, VIEWER)
    (line,) = agent.lines
    assert (line.who, line.verb) == (VIEWER.who, "stop")
    assert "may look on" in line.why
    assert (agent.folder / "audit.jsonl").stat().st_size < 1500


def test_knocking_with_ever_new_keys_fills_no_log(
    home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    """Each is turned away and counted; few of them one by one, in either log."""
    home.create()
    Keyring(home).init()
    audit = Counting(home.audit_path)
    number = 2 * ONE_BY_ONE
    asyncio.run(asyncio.wait_for(knock(home, audit, number), PATIENCE_S))
    audit.close()
    lines = list(read_audit(home.audit_path))
    assert {line.verb for line in lines} == {"connect"}
    assert sum(line.left_out or 1 for line in lines) == number
    assert sum(not line.left_out for line in lines) == ONE_BY_ONE
    assert caplog.text.count("a key that is not known") == ONE_BY_ONE


class Counting(AuditLog):
    asked = 0

    def refuse(self, line: AuditLine, account: str) -> bool:
        self.asked += 1
        return super().refuse(line, account)


async def knock(home: Home, audit: Counting, number: int) -> None:
    """So many times with a new key, until all are turned away."""
    settings = ListenSettings(tcp=f"tcp://127.0.0.1:{free_port()}")
    agent_key = Keyring(home).agent().public.encode()
    with zmq.Context() as context, ExitStack() as closing:
        listening = Listening(context, settings, Keyring(home), nobody, nobody, audit)
        closing.callback(listening.close)
        for _ in range(number):
            stranger = closing.enter_context(context.socket(zmq.DEALER))
            stranger.set(zmq.LINGER, 0)
            stranger.set(zmq.CURVE_SERVERKEY, agent_key)
            public, secret = zmq.curve_keypair()
            stranger.set(zmq.CURVE_PUBLICKEY, public)
            stranger.set(zmq.CURVE_SECRETKEY, secret)
            stranger.connect(settings.tcp)
        while audit.asked < number:
            await asyncio.sleep(0.005)


def nobody(identity: bytes, frames: list[bytes], peer: Peer) -> None:
    """No message gets in."""
    raise AssertionError("somebody was let in")
