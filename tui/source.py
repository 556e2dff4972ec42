"""Where the dashboard's pictures come from, and where its orders go."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import msgspec

from lossguard.agent import feed
from lossguard.agent.client import Client
from lossguard.errors import LossguardError
from lossguard.home import Home

RENEW_S = feed.SUBSCRIPTION_S / 3
"""How often the subscription is repeated."""
RETRY_S = 0.5
"""How often it, or an order, is repeated while nothing answers."""
GONE_AFTER_S = 3.0
"""A picture comes a few times a second; this long without one, and the agent is gone."""
GIVEN_UP_AFTER_S = 15.0
"""An order is not repeated for longer without an answer: nobody wants it carried out much later."""
_POLL_S = 0.02

Answer: TypeAlias = "feed.CommandResult | feed.Trouble | feed.IncidentStory"
Question: TypeAlias = "feed.SendCommand | feed.TellIncident"


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

    def want(self, wants: feed.Subscribe) -> None:
        """What to ask for from now on."""

    def latest(self) -> Glimpse:
        """What is known right now."""

    def send(self, question: Question) -> None:
        """An order, which is repeated until it is done or has failed, or a question."""

    def answers(self) -> list[Answer]:
        """What has been answered since the last call."""


@dataclass
class _Open:
    """An order that is not done yet. Times are monotonic [s]."""

    order: feed.SendCommand
    heard_s: float
    sent_s: float = float("-inf")
    said: str = ""


class LiveSource:
    """Pictures from this user's agent, kept up to date by a thread of its own.

    The thread owns the socket and keeps only the newest picture. It repeats its subscription,
    so an agent that went away is found again as soon as it is back.
    """

    def __init__(self, run: str = "", *, home: Home | None = None) -> None:
        self._home = home
        self._lock = threading.Lock()
        self._wants = feed.Subscribe(run=run)
        self._picture: feed.Picture | None = None
        self._heard_s = time.monotonic()
        self._trouble = ""
        self._renew = threading.Event()
        self._unreached = ""
        """Why an agent of another host is not reached."""
        self._closing = threading.Event()
        self._questions: deque[Question] = deque(maxlen=100)
        self._answers: deque[Answer] = deque(maxlen=1000)
        self._open: dict[str, _Open] = {}
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

    def want(self, wants: feed.Subscribe) -> None:
        """Ask for something else from now on."""
        with self._lock:
            if wants == self._wants:
                return
            if wants.run != self._wants.run:
                self._trouble = ""
            self._wants = wants
        self._renew.set()

    def latest(self) -> Glimpse:
        """What is known right now."""
        with self._lock:
            trouble = self._unreached or self._trouble
            return Glimpse(self._picture, time.monotonic() - self._heard_s, trouble)

    def send(self, question: Question) -> None:
        """It goes out within some hundredths of a second."""
        self._questions.append(question)

    def answers(self) -> list[Answer]:
        """Each is returned once."""
        return [self._answers.popleft() for _ in range(len(self._answers))]

    # --- all below runs in the thread -----------------------------------------------------

    def _follow(self) -> None:
        with Client(self._home) as client:
            next_renewal_s = 0.0
            while not self._closing.is_set():
                self._unreached = client.trouble
                if self._renew.is_set() or time.monotonic() >= next_renewal_s:
                    self._renew.clear()
                    # Before the connection stands nothing is sent and nothing queued up.
                    asked = client.send(self._wants)
                    pause_s = RENEW_S if asked and not self.latest().gone else RETRY_S
                    next_renewal_s = time.monotonic() + pause_s
                self._ask(client, time.monotonic())
                try:
                    message = client.receive(_POLL_S)
                except (msgspec.MsgspecError, LossguardError):
                    continue
                if message is not None:
                    self._take(message)

    def _ask(self, client: Client, now: float) -> None:
        while self._questions:
            question = self._questions.popleft()
            if isinstance(question, feed.SendCommand):
                self._open[question.command] = _Open(question, now)
            else:
                client.send(question)
        for waiting in list(self._open.values()):
            if now - waiting.heard_s > GIVEN_UP_AFTER_S:
                del self._open[waiting.order.command]
                self._answers.append(feed.Trouble(why=_UNHEARD, command=waiting.order.command))
            elif now - waiting.sent_s >= RETRY_S and client.send(waiting.order):
                waiting.sent_s = now

    def _take(self, message: feed.FromAgent) -> None:
        with self._lock:
            self._heard_s = time.monotonic()
            if isinstance(message, feed.Picture):
                self._picture = message
            elif isinstance(message, feed.Trouble) and not message.command:
                self._trouble = message.why
        if isinstance(message, feed.IncidentStory):
            self._answers.append(message)
        elif isinstance(message, (feed.CommandResult, feed.Trouble)) and message.command:
            self._take_answer(message)

    def _take_answer(self, answer: feed.CommandResult | feed.Trouble) -> None:
        waiting = self._open.get(answer.command)
        if waiting is None:
            return
        waiting.heard_s = time.monotonic()
        status = answer.status if isinstance(answer, feed.CommandResult) else "refused"
        if status != "pending":
            del self._open[answer.command]
        if status != waiting.said:
            waiting.said = status
            self._answers.append(answer)


_UNHEARD = "no agent answers: nobody knows whether the order was taken; see the events later"
