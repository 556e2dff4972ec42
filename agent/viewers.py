"""Serving dashboards and the command line."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import lossguard
from lossguard.agent import feed
from lossguard.agent.registry import Registry

PICTURE_EVERY_S = 0.25


@dataclass
class Viewer:
    """A subscription."""

    run: str
    until_s: float
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
        self.heard_s = time.monotonic()

    def take(self, identity: bytes, frames: list[bytes]) -> None:
        """One message of a viewer. Raises ValueError on one that makes no sense."""
        if len(frames) != 1:
            raise ValueError(f"a viewer's message has one frame, got {len(frames)}")
        message = feed.decode_from_viewer(frames[0])
        self.heard_s = time.monotonic()
        if isinstance(message, feed.Subscribe):
            known = self._viewers.get(identity)
            viewer = Viewer(message.run, self.heard_s + feed.SUBSCRIPTION_S)
            if known is not None and known.run == message.run:
                viewer.seen = known.seen
            self._viewers[identity] = viewer
            self._show(identity, viewer)
            return
        self._send(identity, feed.encode(self._answer(message)))

    def _answer(self, message: feed.FromViewer) -> feed.FeedMessage:
        if isinstance(message, feed.ListRuns):
            return feed.RunList(runs=self._registry.summaries())
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
        if live.state not in ("running", "silent"):
            why = f"run {live.hello.run} is over ({live.state}): there is nobody to obey"
            return feed.Trouble(why=why)
        live.command(message.command, message.action, message.args)
        return live.result_of(message.command)

    def tick(self, now: float) -> None:
        """Send pictures to whoever has not seen the newest."""
        for identity, viewer in list(self._viewers.items()):
            if now > viewer.until_s or not self._show(identity, viewer):
                del self._viewers[identity]

    def _show(self, identity: bytes, viewer: Viewer) -> bool:
        live = self._registry.find(viewer.run)
        version = (self._registry.version, live.hello.run if live else "")
        if version == viewer.seen:
            return True
        viewer.seen = version
        runs = self._registry.summaries()
        if live is None:
            picture = feed.Picture(runs=runs, agent_pid=os.getpid(), time_s=time.time())
        else:
            picture = live.picture(runs, os.getpid())
        return self._send(identity, feed.encode(picture))


def _no_such_run(name: str) -> feed.Trouble:
    which = f"no run {name!r}" if name else "no run yet"
    return feed.Trouble(why=f"{which}; `lossguard runs` lists them")
