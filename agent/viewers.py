"""Serving dashboards and the command line."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

import lossguard
from lossguard.agent import feed
from lossguard.agent.attention import NOTED
from lossguard.agent.close_ups import CloseUps
from lossguard.agent.gate import Gate
from lossguard.agent.intake import wrong_with_command
from lossguard.agent.live import LiveRun
from lossguard.agent.peers import OWNER, Peer
from lossguard.agent.registry import Registry
from lossguard.agent.showing import draw, summarise
from lossguard.agent.telling import story_of

if TYPE_CHECKING:
    from lossguard.agent.alerts.transport import NotifierState

PICTURE_EVERY_S = 0.25
_LEAST_S = PICTURE_EVERY_S - 0.02
"""The clock that ticks is not exact: a picture is not put off for a whole tick by a hair."""
_BUSY_S = 1.0
"""A viewer that does not keep up is left alone for so long [s]."""
_REPEAT_S = 1.0
"""Without news a picture still comes so often, to say that the agent is there [s]."""
_MAX_VIEWERS = 100


@dataclass
class Viewer:
    """A subscription. Times are monotonic [s]."""

    wants: feed.Subscribe = field(default_factory=feed.Subscribe)
    until_s: float = 0.0
    next_s: float = float("-inf")
    """No picture before this."""
    seen: tuple[int, bytes] = (-1, b"")
    """Of what was sent last: which version, and what had been asked for."""


class Viewers:
    """Answers requests, and sends pictures to those who asked."""

    def __init__(
        self,
        registry: Registry,
        send: Callable[[bytes, bytes], bool],
        shut_down: Callable[[], None],
        gate: Gate | None = None,
        alerts: Callable[[], Mapping[str, NotifierState]] = dict,
    ) -> None:
        """``alerts``: how those who tell people do."""
        self._gate = gate or Gate(registry.store)
        self._registry = registry
        self._send = send
        self._shut_down = shut_down
        self._alerts = alerts
        self.outlets: Callable[[], dict[str, str]] = dict
        """What else the agent serves or sends, and what is wrong with it."""
        self._viewers: dict[bytes, Viewer] = {}
        self._drawn: dict[tuple[int, bytes], bytes] = {}
        self._summaries: dict[tuple[str, bool], tuple[int, feed.RunSummary]] = {}
        self._close_ups = CloseUps(registry.store)
        self.heard_s = time.monotonic()

    def take(self, identity: bytes, frames: list[bytes], peer: Peer = OWNER) -> None:
        """One message of a viewer. Raises ValueError on one that makes no sense."""
        if len(frames) != 1:
            raise ValueError(f"a viewer's message has one frame, got {len(frames)}")
        try:
            message = feed.decode_from_viewer(frames[0])
        except ValueError:
            why = (
                f"this agent (lossguard {lossguard.__version__}, feed {feed.FEED_PROTOCOL}) does "
                "not understand that: install one lossguard on both sides, or restart the agent"
            )
            self._send(identity, feed.encode(feed.Trouble(why=why)))
            raise
        self.heard_s = time.monotonic()
        if isinstance(message, feed.SendCommand):
            message = self._of_one_run(message)
        if not isinstance(message, feed.Subscribe):
            self._send(identity, feed.encode(self.answer(message, peer)))
        elif why := self._gate.wrong(message, peer):
            self._send(identity, feed.encode(feed.Trouble(why=why)))
        else:
            self._subscribe(identity, message)

    def answer(self, message: feed.FromViewer, peer: Peer) -> feed.FeedMessage:
        """What there is to say to a request; a command is obeyed, once, and written down."""
        return self._gate.answer(message, peer, lambda: self._answer(message))

    def _of_one_run(self, message: feed.SendCommand) -> feed.SendCommand:
        """Its run by the id: names come again, and what is written down is read long after."""
        live = self._registry.find(message.run)
        return message if live is None else msgspec.structs.replace(message, run=live.hello.run)

    def _subscribe(self, identity: bytes, wants: feed.Subscribe) -> None:
        viewer = self._viewers.get(identity)
        if viewer is None:
            if len(self._viewers) >= _MAX_VIEWERS:
                why = f"{_MAX_VIEWERS} viewers look on already; close one"
                self._send(identity, feed.encode(feed.Trouble(why=why)))
                return
            viewer = self._viewers[identity] = Viewer()
        if viewer.wants != wants:
            viewer.wants, viewer.next_s = wants, float("-inf")  # what is new is shown at once
        viewer.until_s = self.heard_s + feed.SUBSCRIPTION_S
        self._show(identity, viewer, self.heard_s)

    def _answer(self, message: feed.FromViewer) -> feed.FeedMessage:
        if isinstance(message, feed.ListRuns):
            runs = [summarise(live) for live in self._registry.newest_first()]
            return feed.RunList(runs=runs, troubles=self._troubles())
        if isinstance(message, feed.ListIncidents):
            return self._incidents(message.run)
        if isinstance(message, feed.TellIncident):
            return self._story(message)
        if isinstance(message, feed.SendCommand):
            answer = self._command(message)
            if isinstance(answer, feed.Trouble):
                return feed.Trouble(why=answer.why, command=message.command)
            return answer
        if isinstance(message, feed.Shutdown):
            self._shut_down()
        return feed.Pong(
            agent_pid=os.getpid(),
            version=lossguard.__version__,
            troubles=self._registry.store.troubles(),
            alerts=self._waiting_alerts(),
            outlets=self.outlets(),
        )

    @property
    def has_alerts_waiting(self) -> bool:
        """Whether people are still to be told something: nobody else would."""
        return any(state.waiting for state in self._alerts().values())

    def _troubles(self) -> list[str]:
        waiting = self._waiting_alerts().items()
        alerts = [f"alerts do not get through to {name}: {why}" for name, why in waiting if why]
        return self._registry.store.troubles() + alerts

    def _waiting_alerts(self) -> dict[str, str]:
        """By whom they go to: why they wait, or empty."""
        return {
            name: state.why if state.state in ("waiting", "failing") else ""
            for name, state in self._alerts().items()
        }

    def _incidents(self, name: str) -> feed.FeedMessage:
        live = self._registry.find(name)
        if live is None:
            return _no_such_run(name)
        lines = [incident.line() for incident in live.run.incidents.all]
        return feed.IncidentList(run=live.hello.run, incidents=lines)

    def _story(self, message: feed.TellIncident) -> feed.FeedMessage:
        live = self._registry.find(message.run)
        found = live.run.incidents.find(message.incident) if live is not None else None
        if live is None or found is None:
            return feed.Trouble(why=f"no incident {message.incident[:80]!r}; it may be too old")
        return story_of(found.line(), live.folder_of(found.id))

    def _command(self, message: feed.SendCommand) -> feed.FeedMessage:
        live = self._registry.find(message.run)
        if live is None:
            return _no_such_run(message.run)
        # First what was asked before: the answer to "stop" comes as the run ends.
        if (known := live.result_of(message.command)) is not None:
            return known
        is_noted = message.action in NOTED
        if live.is_over and not is_noted:
            why = f"run {live.hello.run} is over ({live.state}): there is nobody to obey"
            return feed.Trouble(why=why)
        if wrong := wrong_with_command(message.command, message.args):
            return feed.Trouble(why=wrong)
        if is_noted:
            return self._attend(live, message)
        live.command(message.command, message.action, message.args)
        return live.result_of(message.command) or feed.Trouble(why="the command was not taken")

    def _attend(self, live: LiveRun, message: feed.SendCommand) -> feed.FeedMessage:
        try:
            live.attend(message.command, message.action, message.args)
        except ValueError as error:
            return feed.Trouble(why=str(error))
        return live.result_of(message.command) or feed.Trouble(why="it was not noted")

    def _summary(self, live: LiveRun, *, spark: bool) -> feed.RunSummary:
        """Made anew where the run has changed, once for all who look on."""
        run = live.hello.run, spark
        if self._summaries.get(run, (-1,))[0] != live.version:
            self._summaries[run] = live.version, summarise(live, spark=spark)
        return self._summaries[run][1]

    def tick(self, now: float) -> None:
        """Send pictures to whoever has not seen the newest."""
        self._drawn.clear()
        known = self._registry.runs
        self._summaries = {run: kept for run, kept in self._summaries.items() if run[0] in known}
        for identity, viewer in list(self._viewers.items()):
            if now > viewer.until_s:
                del self._viewers[identity]
            else:
                self._show(identity, viewer, now)

    def _show(self, identity: bytes, viewer: Viewer, now: float) -> None:
        wants = viewer.wants
        version = (self._registry.version, feed.encode(wants))
        nothing_new = version == viewer.seen and now < viewer.next_s + _REPEAT_S
        if nothing_new or now < viewer.next_s:
            return
        if version not in self._drawn:
            self._drawn[version] = self._draw(wants)
        if self._send(identity, self._drawn[version]):
            viewer.seen = version
            viewer.next_s = now + _LEAST_S
        else:
            viewer.next_s = now + _BUSY_S

    def _draw(self, wants: feed.Subscribe) -> bytes:
        shown = self._registry.newest_first()
        runs = [self._summary(live, spark=wants.sparks) for live in shown]
        beside = self._registry.find(wants.beside) if wants.beside else None
        live = self._registry.find(wants.run)
        picture = draw(live, runs, wants, self._close_ups, beside)
        alerts = [f"{name}: {why}" for name, why in self._waiting_alerts().items() if why]
        return feed.encode(msgspec.structs.replace(picture, alerts=alerts))


def _no_such_run(name: str) -> feed.Trouble:
    which = f"no run {name!r}" if name else "no run yet"
    return feed.Trouble(why=f"{which}; `lossguard runs` lists them")
