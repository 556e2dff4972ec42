"""The thread that tells people: it takes news, asks the desk, writes intents down, sends."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import msgspec

from lossguard.agent.alerts.buttons import Buttons
from lossguard.agent.alerts.delivery import Delivery
from lossguard.agent.alerts.desk import Desk
from lossguard.agent.alerts.journal import Journal
from lossguard.agent.alerts.records import (
    Click,
    IncidentNews,
    News,
    Reply,
    Root,
    RunNews,
    Saying,
    Update,
)
from lossguard.agent.alerts.rendering import Outgoing, bare, mention_of, render
from lossguard.agent.alerts.secrecy import redacted
from lossguard.agent.alerts.settings import AlertSettings, SlackSettings
from lossguard.agent.alerts.tickets import LIFETIME_S
from lossguard.agent.alerts.transport import NotifierState, Transport

log = logging.getLogger(__name__)

_LOOK_EVERY_S = 1.0
_AFTER_TROUBLE_S = 5.0
_TEXTS = ("stacks.txt", "traceback.txt")
_MAX_TEXT = 1 << 16

Words: TypeAlias = Callable[[Saying, float], Outgoing | None]
"""What is to be said, in somebody's words, at a wall clock [s]; None for what is not said there."""


class Teller:
    """Desk, journal and delivery as one: ``hear``, then ``turn`` again and again. One thread's."""

    def __init__(
        self,
        path: Path,
        transport: Transport,
        slack: SlackSettings,
        alerts: AlertSettings,
        now: float,
        *,
        words: Words | None = None,
        buttons: Buttons | None = None,
    ) -> None:
        """``words``: how to put it; None: as Slack wants it, with ``buttons`` where there are."""
        self.journal = Journal(path, now)
        two_channels = bool(slack.critical_channel) and transport.has_threads
        self._desk = Desk(alerts, self.journal.case_file, two_channels=two_channels)
        self.delivery = Delivery(self.journal, transport)
        self._mention = mention_of(slack.mention_critical)
        self._words = words or self._in_slack
        self._buttons = buttons
        self._drawn: tuple[bool, float] | None = None
        """Whether the newest root messages have buttons, and since when [s]."""

    def hear(self, news: News, now: float) -> None:
        """How an incident or a run stands."""
        self._desk.take(news, now)

    def turn(self, now: float, clock_s: float) -> bool:
        """Write down what is to be said, and send one message; whether to come back at once."""
        self._renew_buttons(now)
        put = [self._put(saying, now) for saying in self._desk.due(now)]
        self.journal.intend([message for message in put if message is not None], now)
        return self.delivery.turn(now, clock_s)

    def _put(self, saying: Saying, now: float) -> Outgoing | None:
        """In words. It counts as said already: what fails here must not take others with it."""
        try:
            return self._words(saying, now)
        except Exception:
            log.exception("a %s could not be put into words", type(saying).__name__.lower())
            return bare(saying) if self._words == self._in_slack else None

    def _renew_buttons(self, now: float) -> None:
        """Before they expire, and when somebody begins or ceases to listen."""
        is_live = self._buttons.is_live() if self._buttons is not None else None
        if is_live is None:
            return
        if (
            self._drawn is None
            or self._drawn[0] != is_live
            or now - self._drawn[1] > LIFETIME_S / 2
        ):
            self._drawn = is_live, now
            self._desk.draw_again()

    def _in_slack(self, saying: Saying, now: float) -> Outgoing:
        texts = bundle_texts(saying.story.news.bundle) if isinstance(saying, Reply) else {}
        block = None
        has_moved = isinstance(saying, Update) and saying.has_moved
        if self._buttons is not None and isinstance(saying, Root | Update) and not has_moved:
            block = self._buttons.block(saying.story, now)
        return render(saying, mention=self._mention, texts=texts, buttons=block)


class Worker:
    """Runs a ``Teller`` in a thread of its own. Whatever goes wrong there is said in the log."""

    def __init__(self, open_teller: Callable[[], Teller]) -> None:
        self._open = open_teller
        self._inbox: dict[str, News] = {}
        """The newest of each incident, run, button and person who pressed one in vain: it cannot
        grow beyond what there is to watch."""
        self._lock = threading.Lock()
        self._something = threading.Event()
        self._ending = False
        self._said: set[str] = set()
        self.state = NotifierState(state="starting")
        self._thread = threading.Thread(target=self._run, name="lossguard-alerts", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def tell(self, news: Sequence[News]) -> None:
        """Hand over; never waits for Slack or the disk."""
        with self._lock:
            for item in news:
                self._inbox[_key(item)] = item
        self._something.set()

    def end(self) -> None:
        """Let what is under way end; what is left waits on disk."""
        self._ending = True
        self._something.set()

    def close(self, patience_s: float) -> None:
        """As ``end``, and wait for it for up to ``patience_s`` [s]."""
        self.end()
        self._thread.join(patience_s)

    def _run(self) -> None:
        teller = None
        while not self._ending or self._inbox:
            try:
                teller = teller or self._open()
                self._turn(teller)
            except Exception as error:
                self._say(error)
                if self._ending:
                    break
                self._something.wait(_AFTER_TROUBLE_S)
        if teller is not None:
            teller.journal.close()

    def _turn(self, teller: Teller) -> None:
        self._something.clear()
        with self._lock:
            news, self._inbox = self._inbox, {}
        now = time.time()
        for item in news.values():
            teller.hear(item, now)
        more = teller.turn(now, time.monotonic())
        self.state = teller.delivery.state
        if not more and not self._ending:
            pause = teller.delivery.due_in(time.monotonic())
            self._something.wait(min(_LOOK_EVERY_S, _LOOK_EVERY_S if pause is None else pause))

    def _say(self, error: Exception) -> None:
        why = redacted(f"{type(error).__name__}: {error}")
        self.state = msgspec.structs.replace(self.state, state="failing", why=why)
        if why not in self._said and len(self._said) < 100:
            self._said.add(why)
            log.exception("alerts failed (%s); they are tried again", why)


def _key(item: News) -> str:
    if isinstance(item, IncidentNews):
        return f"incident {item.line.id}"
    if isinstance(item, RunNews):
        return f"run {item.run}"
    return f"click {item.command}" if isinstance(item, Click) else f"refusal {item.user}"


def bundle_texts(folder: str) -> Mapping[str, str]:
    """The files of an incident that are worth a look, the beginning of each."""
    texts = {}
    for name in _TEXTS if folder else ():
        try:
            with (Path(folder) / name).open("rb") as file:
                texts[name] = file.read(_MAX_TEXT).decode(errors="replace")
        except OSError:
            continue
    return texts
