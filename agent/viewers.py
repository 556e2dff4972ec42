"""Serving dashboards and the command line."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import lossguard
from lossguard.agent import feed
from lossguard.agent.intake import wrong_with_command
from lossguard.agent.registry import Registry
from lossguard.agent.showing import draw, summarise

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

    run: str
    until_s: float
    next_s: float = float("-inf")
    """No picture before this."""
    seen: tuple[int, str] = (-1, "")


class Viewers:
    """Answers requests, and sends pictures to those who asked."""

    def __init__(
        self,
        registry: Registry,
        send: Callable[[bytes, bytes], bool],
        shut_down: Callable[[], None],
    ) -> None:
        self._registry = registry
        self._send = send
        self._shut_down = shut_down
        self._viewers: dict[bytes, Viewer] = {}
        self._drawn: dict[tuple[int, str], bytes] = {}
        self.heard_s = time.monotonic()

    def take(self, identity: bytes, frames: list[bytes]) -> None:
        """One message of a viewer. Raises ValueError on one that makes no sense."""
        if len(frames) != 1:
            raise ValueError(f"a viewer's message has one frame, got {len(frames)}")
        message = feed.decode_from_viewer(frames[0])
        self.heard_s = time.monotonic()
        if isinstance(message, feed.Subscribe):
            self._subscribe(identity, message.run)
        else:
            self._send(identity, feed.encode(self._answer(message)))

    def _subscribe(self, identity: bytes, run: str) -> None:
        viewer = self._viewers.get(identity)
        if viewer is None:
            if len(self._viewers) >= _MAX_VIEWERS:
                why = f"{_MAX_VIEWERS} viewers look on already; close one"
                self._send(identity, feed.encode(feed.Trouble(why=why)))
                return
            viewer = self._viewers[identity] = Viewer(run, 0.0)
        viewer.run = run
        viewer.until_s = self.heard_s + feed.SUBSCRIPTION_S
        self._show(identity, viewer, self.heard_s)

    def _answer(self, message: feed.FromViewer) -> feed.FeedMessage:
        if isinstance(message, feed.ListRuns):
            return feed.RunList(runs=self._summaries())
        if isinstance(message, feed.ListIncidents):
            return self._incidents(message.run)
        if isinstance(message, feed.SendCommand):
            return self._command(message)
        if isinstance(message, feed.Shutdown):
            self._shut_down()
        return feed.Pong(agent_pid=os.getpid(), version=lossguard.__version__)

    def _incidents(self, name: str) -> feed.FeedMessage:
        live = self._registry.find(name)
        if live is None:
            return _no_such_run(name)
        lines = [incident.line() for incident in live.run.incidents.all]
        return feed.IncidentList(run=live.hello.run, incidents=lines)

    def _command(self, message: feed.SendCommand) -> feed.FeedMessage:
        live = self._registry.find(message.run)
        if live is None:
            return _no_such_run(message.run)
        # First what was asked before: the answer to "stop" comes as the run ends.
        if (known := live.result_of(message.command)) is not None:
            return known
        if live.is_over:
            why = f"run {live.hello.run} is over ({live.state}): there is nobody to obey"
            return feed.Trouble(why=why)
        if wrong := wrong_with_command(message.command, message.args):
            return feed.Trouble(why=wrong)
        live.command(message.command, message.action, message.args)
        return live.result_of(message.command) or feed.Trouble(why="the command was not taken")

    def _summaries(self) -> list[feed.RunSummary]:
        return [summarise(live) for live in self._registry.newest_first()]

    def tick(self, now: float) -> None:
        """Send pictures to whoever has not seen the newest."""
        self._drawn.clear()
        for identity, viewer in list(self._viewers.items()):
            if now > viewer.until_s:
                del self._viewers[identity]
            else:
                self._show(identity, viewer, now)

    def _show(self, identity: bytes, viewer: Viewer, now: float) -> None:
        live = self._registry.find(viewer.run)
        version = (self._registry.version, live.hello.run if live else "")
        nothing_new = version == viewer.seen and now < viewer.next_s + _REPEAT_S
        if nothing_new or now < viewer.next_s:
            return
        if version not in self._drawn:
            self._drawn[version] = feed.encode(draw(live, self._summaries()))
        if self._send(identity, self._drawn[version]):
            viewer.seen = version
            viewer.next_s = now + _LEAST_S
        else:
            viewer.next_s = now + _BUSY_S


def _no_such_run(name: str) -> feed.Trouble:
    which = f"no run {name!r}" if name else "no run yet"
    return feed.Trouble(why=f"{which}; `lossguard runs` lists them")
