"""Sending what waits, one message a turn, in order, and patiently.

Waiting is a matter of this module's own clock: nothing here sleeps, so a slow Slack stops nothing.
"""

from __future__ import annotations

import logging
from collections import deque

import msgspec

from lossguard.agent.alerts.journal import Journal, Place, Waiting
from lossguard.agent.alerts.rendering import Edit, Picture, Post, Whisper
from lossguard.agent.alerts.transport import Never, NotifierState, NotNow, Transport

log = logging.getLogger(__name__)

_BURST, _BURST_S = 5, 5.0
"""Slack wants one message a second in a channel, and lets short bursts pass. Changes of messages,
and words to one person, are counted apart."""
_LONGEST_S = 300.0
_STALE_S = 86_400.0
"""What has waited so long is news no more [s]."""
_PICTURE_TRIES = 3


class Delivery:
    """``turn`` sends at most one message. ``now`` is wall clock, ``clock_s`` monotonic [s]."""

    def __init__(self, journal: Journal, transport: Transport) -> None:
        self._journal = journal
        self._transport = transport
        self._connected = False
        self._blocked: dict[str, float] = {}
        """Until when nothing is sent to a channel, or in a lane of it; the empty name stands for
        all."""
        self._recent: dict[str, deque[float]] = {}
        self._failures = 0
        self._picture_failures: dict[int, int] = {}
        self._said = ""
        self.state = NotifierState(state="starting")

    def turn(self, now: float, clock_s: float) -> bool:
        """Whether anything was sent or dropped, so that there may be more to do at once."""
        try:
            if not self._connected and self._is_free("", clock_s):
                log.info("alerts go to %s", self._transport.connect())
                self._connected = True
                self._well()
            row = self._next(now, clock_s) if self._connected else None
            if row is not None:
                self._send(row, clock_s)
        except NotNow as trouble:
            self._wait(trouble, clock_s)
            row = None
        self._count()
        return row is not None

    def due_in(self, clock_s: float) -> float | None:
        """How long until there may be something to do [s]; None with nothing waiting."""
        if not self._journal.waiting and self._connected:
            return None
        pauses = [until - clock_s for until in self._blocked.values() if until > clock_s]
        return min(pauses, default=1.0)

    def _next(self, now: float, clock_s: float) -> Waiting | None:
        """The oldest message that can go now."""
        if not self._is_free("", clock_s):
            return None
        roots = set()
        for row in list(self._journal.waiting.values()):
            if now - row.made > _STALE_S:
                log.error("a message could not be sent for a day, and is dropped")
                self._journal.drop(row)
                continue
            if isinstance(row.what, Post) and row.what.address:
                roots.add(row.what.address)
            needs = _answered(row)
            if needs in roots:  # it is on its way itself
                continue
            if needs and needs not in self._journal.places and self._transport.has_threads:
                self._journal.drop(row)  # it was never sent
                continue
            channel = self._channel(row)
            if self._is_free(channel, clock_s) and self._is_free(_lane(row, channel), clock_s):
                return row
        return None

    def _send(self, row: Waiting, clock_s: float) -> None:
        channel, place = self._channel(row), self._journal.places.get(_answered(row))
        try:
            found = self._attempt(row, channel, place)
        except Never as trouble:
            if str(trouble) != self.state.last_refusal:
                log.error("a message was not taken and is dropped: %s", trouble)
            self._journal.drop(row)
            self._become(last_refusal=str(trouble))
            return
        except NotNow:
            if isinstance(row.what, Picture):
                tries = self._picture_failures[row.id] = self._picture_failures.get(row.id, 0) + 1
                if tries >= _PICTURE_TRIES:
                    log.error("a picture could not be sent, and is dropped")
                    self._journal.drop(row)
            raise
        self._journal.sent(row, found)
        self._note_sent(_lane(row, channel), clock_s)
        self._become(sent=self.state.sent + 1)
        self._well()

    def _attempt(self, row: Waiting, channel: str, place: Place | None) -> Place | None:
        try:
            return self._transport.deliver(row.what, channel, place)
        except Never as trouble:
            if not isinstance(row.what, Post) or not row.what.blocks:
                raise
            log.error("a message was not taken (%s); it is sent as plain text", trouble)
            plain = msgspec.structs.replace(row.what, blocks=[])
            return self._transport.deliver(plain, channel, place)

    def _channel(self, row: Waiting) -> str:
        if isinstance(row.what, Whisper):
            return row.what.channel
        place = self._journal.places.get(_answered(row))
        if place is not None:
            return place.channel
        is_critical = isinstance(row.what, Post) and row.what.is_critical
        return self._transport.channel_for(is_critical=is_critical)

    def _is_free(self, channel: str, clock_s: float) -> bool:
        return self._blocked.get(channel, clock_s) <= clock_s

    def _note_sent(self, lane: str, clock_s: float) -> None:
        recent = self._recent.setdefault(lane, deque(maxlen=_BURST))
        recent.append(clock_s)
        if len(recent) == _BURST and clock_s - recent[0] < _BURST_S:
            self._blocked[lane] = recent[0] + _BURST_S

    def _wait(self, trouble: NotNow, clock_s: float) -> None:
        after_s = trouble.after_s
        if after_s is None:
            after_s = min(_LONGEST_S, 2.0**self._failures)
            self._failures = min(self._failures + 1, 16)
        self._blocked[trouble.channel] = clock_s + after_s
        if str(trouble) != self._said:
            self._said = str(trouble)
            level = logging.ERROR if trouble.is_setup else logging.WARNING
            log.log(level, "alerts wait: %s", trouble)
        kind = "failing" if trouble.is_setup else "waiting"
        if (self.state.state, self.state.why) != (kind, str(trouble)):
            self._become(state=kind, why=str(trouble))

    def _well(self) -> None:
        self._failures = 0
        if self.state.state != "ok":
            if self._said:
                log.info("alerts are sent again")
            self._said = ""
            self._become(state="ok", why="")

    def _count(self) -> None:
        if self.state.waiting != len(self._journal.waiting):
            self._become(waiting=len(self._journal.waiting))

    def _become(self, **changes: object) -> None:
        self.state = msgspec.structs.replace(self.state, **changes)


def _lane(row: Waiting, channel: str) -> str:
    """What is counted together."""
    kind = type(row.what) if isinstance(row.what, (Edit, Whisper)) else Post
    return f"{channel} {kind.__name__}"


def _answered(row: Waiting) -> str:
    """The address of the message that it is a reply to, or a change of; empty where of none."""
    if isinstance(row.what, Edit):
        return row.what.address
    return "" if isinstance(row.what, Whisper) else row.what.thread
