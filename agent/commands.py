"""The commands of a run: journaled, sent, sent again until answered, and answered once."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

import msgspec

from lossguard.agent.intake import words_of
from lossguard.agent.policy import Order
from lossguard.agent.store import Store
from lossguard.failpoints import reach
from lossguard.probes import wire

log = logging.getLogger(__name__)

REPEAT_AFTER_S = 1.0
_EXPIRY_STEPS = 1000


@dataclass
class Outstanding:
    """A command without an answer so far."""

    command: wire.Command
    incident: str
    sent_s: float = float("-inf")
    answers: dict[int, wire.Ack] = field(default_factory=dict)
    """By rank."""


class Commands:
    """``send`` hands a command to a rank; False when it cannot just now. ``ranks`` are those that
    have to answer: it is done when all have done it."""

    def __init__(
        self,
        run: str,
        store: Store,
        send: Callable[[int, wire.Command], bool],
        ranks: Callable[[], Collection[int]] = lambda: (0,),
    ) -> None:
        self._run = run
        self._store = store
        self._send = send
        self._ranks = ranks
        self._outstanding: dict[str, Outstanding] = {}

    def give(
        self,
        command: str,
        action: wire.Action,
        args: dict[str, float | int | str],
        *,
        incident: str,
        step: int,
        now: float,
    ) -> None:
        """Journal a command, then send it. An id that was given before is left alone."""
        if self._store.command(command) is not None:
            return
        message = wire.Command(
            run=self._run,
            command=command,
            action=action,
            expires_step=step + _EXPIRY_STEPS,
            args=args,
            number=time.time_ns(),
        )
        self._store.add_command(message, incident)
        reach("commands.journaled")
        log.warning("%s: ordering %s %s", self._run, action, args or "")
        self._outstanding[command] = Outstanding(message, incident)
        self.repeat(now)
        reach("commands.sent")

    def noted(
        self,
        command: str,
        action: wire.Action,
        args: dict[str, float | int | str],
        words: str,
        step: int,
    ) -> None:
        """Journal what was done at once, without the loop: the same id is answered from then on."""
        message = wire.Command(
            run=self._run, command=command, action=action, expires_step=step, args=args
        )
        self._store.add_command(message, "")
        self._store.end_command(command, "done", step, words)

    def repeat(self, now: float) -> None:
        """Send what has not been answered."""
        for waiting in self._outstanding.values():
            if now - waiting.sent_s < REPEAT_AFTER_S:
                continue
            silent = [rank for rank in self._ranks() if rank not in waiting.answers]
            sent = [self._send(rank, waiting.command) for rank in silent]
            if any(sent):
                waiting.sent_s = now

    def answered(self, ack: wire.Ack) -> tuple[Outstanding, wire.Ack] | None:
        """What the answer is to, and that of all ranks together; None while some have not answered,
        and for an answer that was heard before, or to nothing."""
        waiting = self._outstanding.get(ack.command)
        if waiting is None:
            return None
        waiting.answers[ack.rank] = ack
        return self._joined(waiting)

    def without(self, rank: int) -> list[tuple[Outstanding, wire.Ack]]:
        """A rank has left and answers nothing any more: what all others have answered."""
        open_now = [waiting for waiting in self._outstanding.values() if waiting.answers]
        for waiting in open_now:
            waiting.answers.setdefault(rank, _gone(rank, waiting.command))
        return [joined for waiting in open_now if (joined := self._joined(waiting)) is not None]

    def _joined(self, waiting: Outstanding) -> tuple[Outstanding, wire.Ack] | None:
        if not set(self._ranks()) <= waiting.answers.keys():
            return None
        return waiting, self._close(waiting)

    def _close(self, waiting: Outstanding) -> wire.Ack:
        ack = _of_all(waiting.answers)
        reach("commands.answered")
        del self._outstanding[ack.command]
        self._store.end_command(ack.command, ack.status, ack.step, words_of(ack.result))
        return ack

    def give_up(self, step: int, why: str) -> list[tuple[Outstanding, wire.Ack]]:
        """Nobody is left to obey: what is outstanding has failed. Where some ranks have answered,
        theirs is the answer, for no rank acts alone; these are returned."""
        answered = [waiting for waiting in self._outstanding.values() if waiting.answers]
        found = [(waiting, self._close(waiting)) for waiting in answered]
        for command in self._outstanding:
            self._store.end_command(command, "failed", step, why)
        self._outstanding.clear()
        return found

    def write_again(self) -> None:
        """Journal anew what has no answer: the database is a new one."""
        for waiting in self._outstanding.values():
            self._store.add_command(waiting.command, waiting.incident)

    def restore(self) -> None:
        """Take up what had no answer when the last agent ended."""
        for command, incident in self._store.pending_commands(self._run):
            self._outstanding[command.command] = Outstanding(command, incident)


def _of_all(answers: Mapping[int, wire.Ack]) -> wire.Ack:
    """The first rank's answer, or where some rank failed, why."""
    failed = [answers[rank] for rank in sorted(answers) if answers[rank].status == "failed"]
    if not failed:
        return answers[min(answers)]
    first = failed[0]
    if len(failed) == len(answers):  # of one mind, and in the same words
        return first
    why = f"rank {first.rank}: {first.result.get('why', 'failed')}"
    return msgspec.structs.replace(first, result={"why": why})


def _gone(rank: int, command: wire.Command) -> wire.Ack:
    return wire.Ack(
        run=command.run,
        rank=rank,
        command=command.command,
        status="failed",
        step=0,
        result={"why": "it ended before it could answer"},
    )


def name_of(order: Order, step: int) -> str:
    """The id of an order's command: the same order at the same step is the same command.

    The run is in it by a digest, for a probe takes no id of more than 80 characters.
    """
    run, _, number = order.incident.rpartition(".")
    digest = hashlib.sha256(run.encode()).hexdigest()[:12]
    return f"{digest}.{number}.{order.action}.{step}"
