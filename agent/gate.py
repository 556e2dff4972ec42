"""In front of everything that viewers ask for: who may, how often, and what is written down."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable

import msgspec

from lossguard.agent import feed
from lossguard.agent.audit import AuditLine, AuditLog
from lossguard.agent.intake import shortened
from lossguard.agent.peers import Peer
from lossguard.agent.store import Store
from lossguard.agent.verbs import wrong_with_arguments

_PER_SECOND = 200.0
_AT_ONCE = 1000.0
_MOST_PEERS = 1000
_MOST_OPEN = 1000


class Gate:
    """Nothing is looked up or done for a request that it refuses."""

    def __init__(self, store: Store, audit: AuditLog | None = None) -> None:
        self._store = store
        self._audit = audit
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """Of each peer of another host: how many requests it has left, and since when [s]."""
        self._open: OrderedDict[str, AuditLine] = OrderedDict()
        """Commands that were accepted and have not come to their end."""

    def answer(
        self, message: feed.FromViewer, peer: Peer, work: Callable[[], feed.FeedMessage]
    ) -> feed.FeedMessage:
        """What ``work`` answers, or why it was not let. A command is written down, once."""
        command = message.command if isinstance(message, feed.SendCommand) else ""
        asked_before = bool(command) and self._store.command(command) is not None
        if why := self.wrong(message, peer):
            reply: feed.FeedMessage = feed.Trouble(why=why, command=command)
        else:
            reply = work()
        refused = reply.why if isinstance(reply, feed.Trouble) else ""
        if isinstance(message, feed.Shutdown):
            self._write(_line(peer, "shutdown", refused))
        elif isinstance(message, feed.SendCommand) and (refused or not asked_before):
            line = _line(peer, message.action, refused, message)
            self._write(line)
            if not refused:
                self._open[command] = line
                if len(self._open) > _MOST_OPEN:
                    self._open.popitem(last=False)
        return reply

    def wrong(self, message: feed.FromViewer, peer: Peer) -> str:
        """Why it is refused, or empty."""
        if not peer.is_local and not self._has_left(peer, time.monotonic()):
            return f"more than {_PER_SECOND:g} requests a second; slow down"
        if isinstance(message, (feed.SendCommand, feed.Shutdown)) and not peer.may_command:
            return (
                f"this key ({peer.account}) may look on and give no commands: that takes one with "
                "--role operator"
            )
        if isinstance(message, feed.SendCommand):
            return wrong_with_arguments(message.action, message.args)
        return ""

    def _has_left(self, peer: Peer, now: float) -> bool:
        left, since = self._left.pop(peer.account, (_AT_ONCE, now))
        left = min(_AT_ONCE, left + (now - since) * _PER_SECOND)
        self._left[peer.account] = (max(0.0, left - 1.0), now)
        if len(self._left) > _MOST_PEERS:
            self._left.popitem(last=False)
        return left >= 1.0

    def tick(self) -> None:
        """Write down what has come to its end."""
        for command, line in list(self._open.items()):
            answer = self._store.command(command)
            if answer is not None and answer.status == "pending":
                continue
            del self._open[command]
            if answer is not None:
                why = f"step {answer.step}: {answer.result}" if answer.result else ""
                self._write(
                    AuditLine(
                        time=time.time(),
                        who=line.who,
                        verb=line.verb,
                        result=answer.status,
                        run=line.run,
                        command=command,
                        why=why,
                    )
                )

    def _write(self, line: AuditLine) -> None:
        if self._audit is not None:
            self._audit.add(line)


def _line(
    peer: Peer, verb: str, refused: str, message: feed.SendCommand | None = None
) -> AuditLine:
    line = AuditLine(
        time=time.time(),
        who=peer.who,
        verb=verb,
        result="refused" if refused else "accepted",
        why=shortened(refused),
    )
    if message is None:
        return line
    return msgspec.structs.replace(
        line,
        run=shortened(message.run, 160),
        command=shortened(message.command, 80),
        args={
            shortened(name, 40): value if _is_number(value) else shortened(str(value), 200)
            for name, value in list(message.args.items())[:16]
        },
    )


def _is_number(value: float | int | str) -> bool:
    """One that JSON knows."""
    return not isinstance(value, str) and math.isfinite(value)
