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
from lossguard.agent.store import Answer, Store
from lossguard.agent.verbs import wrong_with_arguments
from lossguard.probes import wire

_PER_SECOND = 200.0
_AT_ONCE = 1000.0
_MOST_PEERS = 1000
_MOST_OPEN = 1000
_FORGOTTEN = Answer("unknown", 0, "the journal does not know of it any more")


class Gate:
    """Nothing is looked up or done for a request that it refuses."""

    def __init__(self, store: Store, audit: AuditLog | None = None) -> None:
        self._store = store
        self._audit = audit
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """Of each peer of another host: how many requests it has left, and since when [s]."""
        self._open: dict[str, AuditLine] = {}
        """Commands that were accepted and have not come to their end."""
        self._is_new = True

    def answer(
        self, message: feed.FromViewer, peer: Peer, work: Callable[[], feed.FeedMessage]
    ) -> feed.FeedMessage:
        """What ``work`` answers, or why it was not let. A command is written down, once."""
        command = message.command if isinstance(message, feed.SendCommand) else ""
        asked_before = bool(command) and self._store.command(command) is not None
        why = self.wrong(message, peer)
        if isinstance(message, feed.SendCommand) and not asked_before:
            why = why or self._too_many(peer)
        reply = feed.Trouble(why=why, command=command) if why else work()
        refused = reply.why if isinstance(reply, feed.Trouble) else ""
        if isinstance(message, feed.Shutdown):
            self._write(_line(peer, "shutdown", refused), peer)
        elif isinstance(message, feed.SendCommand) and (refused or not asked_before):
            line = _line(peer, message.action, refused, message)
            self._write(line, peer)
            if not refused:
                self._open[command] = line
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

    def _too_many(self, peer: Peer) -> str:
        """Each is kept in memory until it is answered: why it takes no more, or empty."""
        if peer.is_local or len(self._open) < _MOST_OPEN:
            return ""
        return f"{_MOST_OPEN} commands wait for their answer already"

    def _has_left(self, peer: Peer, now: float) -> bool:
        left, since = self._left.pop(peer.account, (_AT_ONCE, now))
        left = min(_AT_ONCE, left + (now - since) * _PER_SECOND)
        self._left[peer.account] = (max(0.0, left - 1.0), now)
        if len(self._left) > _MOST_PEERS:
            self._left.popitem(last=False)
        return left >= 1.0

    def tick(self) -> None:
        """Write down what has come to its end."""
        if self._is_new:
            self._is_new = False
            self._take_up()
        for command, line in list(self._open.items()):
            answer = self._store.command(command) or _FORGOTTEN
            if answer.status == "pending":
                continue
            del self._open[command]
            if self._audit is not None:
                self._audit.add(_end(line, answer))
        if self._audit is not None:
            self._audit.tick()

    def _take_up(self) -> None:
        """What an agent before this one accepted, and did not live to see the end of."""
        if self._audit is None:
            return
        last = self._audit.commands()
        before = {name: line for name, line in last.items() if line.result == "accepted"}
        for order in self._store.pending_by_hand():
            if order.command not in last:  # killed between journal and audit log
                line = _unsigned(order)
                self._audit.add(line)
                before[order.command] = line
        self._open = before | self._open

    def _write(self, line: AuditLine, peer: Peer) -> None:
        if self._audit is None:
            return
        if line.result == "refused":
            self._audit.refuse(line, peer.account)
        else:
            self._audit.add(line)


def _end(line: AuditLine, answer: Answer) -> AuditLine:
    """The last line of a command of which ``line`` is the first."""
    why = f"step {answer.step}: {answer.result}" if answer.result else ""
    return msgspec.structs.replace(line, time=time.time(), result=answer.status, args={}, why=why)


def _unsigned(order: wire.Command) -> AuditLine:
    return AuditLine(
        time=time.time(),
        who="unknown",
        verb=order.action,
        result="accepted",
        run=order.run,
        command=order.command,
        args=order.args,
        why="it is in the journal, and who gave it is not written down",
    )


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
