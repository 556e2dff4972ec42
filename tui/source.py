"""Where the dashboard's pictures come from."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Protocol

import msgspec

from lossguard.agent import feed
from lossguard.agent.client import Client
from lossguard.home import Home

RENEW_S = feed.SUBSCRIPTION_S / 3
"""How often the subscription is repeated."""
RETRY_S = 0.5
"""How often it is repeated while nothing answers."""
GONE_AFTER_S = 3.0
"""A picture comes a few times a second; this long without one, and the agent is gone."""
_POLL_S = 0.1


@dataclass(frozen=True)
class Glimpse:
    """The newest picture, and how far it can be trusted."""

    picture: feed.Picture | None = None
    age_s: float = 0.0
    """Since the picture came; without one, since the dashboard began to ask."""
    trouble: str = ""
    """What the agent could not do, in its own words."""

    @property
    def gone(self) -> bool:
        """Whether no agent answers."""
        return self.age_s > GONE_AFTER_S


class PictureSource(Protocol):
    """All that the dashboard needs to know of the world. No method may block."""

    def start(self) -> None:
        """Begin to ask for pictures."""

    def close(self) -> None:
        """Stop asking. Idempotent."""

    def watch(self, run: str) -> None:
        """Ask for another run: its id, a prefix, or a name; empty means the newest."""

    def latest(self) -> Glimpse:
        """What is known right now."""


class LiveSource:
    """Pictures from this user's agent, kept up to date by a thread of its own.

    The thread owns the socket and keeps only the newest picture. It repeats its subscription,
    so an agent that went away is found again as soon as it is back.
    """

    def __init__(self, run: str = "", *, home: Home | None = None) -> None:
        self._home = home
        self._lock = threading.Lock()
        self._run = run
        self._picture: feed.Picture | None = None
        self._heard_s = time.monotonic()
        self._trouble = ""
        self._renew = threading.Event()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to ask for pictures."""
        if self._thread is None:
            self._heard_s = time.monotonic()
            self._thread = threading.Thread(target=self._follow, name="lossguard-pictures")
            self._thread.daemon = True
            self._thread.start()

    def close(self) -> None:
        """Stop asking, and wait for the thread. Idempotent."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join(timeout=2.0)

    def watch(self, run: str) -> None:
        """Ask for another run from now on."""
        with self._lock:
            self._run = run
            self._trouble = ""
        self._renew.set()

    def latest(self) -> Glimpse:
        """What is known right now."""
        with self._lock:
            return Glimpse(self._picture, time.monotonic() - self._heard_s, self._trouble)

    def _follow(self) -> None:
        with Client(self._home) as client:
            next_renewal_s = 0.0
            while not self._closing.is_set():
                if self._renew.is_set() or time.monotonic() >= next_renewal_s:
                    self._renew.clear()
                    # Before the connection stands nothing is sent and nothing queued up.
                    asked = client.send(feed.Subscribe(run=self._run))
                    pause_s = RENEW_S if asked and not self.latest().gone else RETRY_S
                    next_renewal_s = time.monotonic() + pause_s
                try:
                    message = client.receive(_POLL_S)
                except msgspec.MsgspecError:
                    continue
                if message is not None:
                    self._take(message)

    def _take(self, message: feed.FromAgent) -> None:
        with self._lock:
            if isinstance(message, feed.Picture):
                self._picture = message
                self._heard_s = time.monotonic()
            elif isinstance(message, feed.Trouble):
                self._trouble = message.why
                self._heard_s = time.monotonic()
