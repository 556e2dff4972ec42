"""The commands of a run: journaled, sent, sent again until answered, and answered once."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass

from lossguard.agent.intake import words_of
from lossguard.agent.policy import Order
from lossguard.agent.store import Store
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


class Commands:
    """``send`` hands a command to the loop; False when it cannot just now."""

    def __init__(self, run: str, store: Store, send: Callable[[wire.Command], bool]) -> None:
        self._run = run
        self._store = store
        self._send = send
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
        )
        self._store.add_command(message, incident)
        log.warning("%s: ordering %s %s", self._run, action, args or "")
        self._outstanding[command] = Outstanding(message, incident)
        self.repeat(now)

    def repeat(self, now: float) -> None:
        """Send what has not been answered."""
        for waiting in self._outstanding.values():
            if now - waiting.sent_s >= REPEAT_AFTER_S and self._send(waiting.command):
                waiting.sent_s = now

    def answered(self, ack: wire.Ack) -> Outstanding | None:
        """What the answer is to; None for an answer that was heard before, or to nothing."""
        waiting = self._outstanding.pop(ack.command, None)
        if waiting is not None:
            self._store.end_command(ack.command, ack.status, ack.step, words_of(ack.result))
        return waiting

    def give_up(self, step: int, why: str) -> None:
        """Nobody is left to obey: what is outstanding has failed."""
        for command in self._outstanding:
            self._store.end_command(command, "failed", step, why)
        self._outstanding.clear()

    def restore(self) -> None:
        """Take up what had no answer when the last agent ended."""
        for command, incident in self._store.pending_commands(self._run):
            self._outstanding[command.command] = Outstanding(command, incident)


def name_of(order: Order, step: int) -> str:
    """The id of an order's command: the same order at the same step is the same command.

    The run is in it by a digest, for a probe takes no id of more than 80 characters.
    """
    run, _, number = order.incident.rpartition(".")
    digest = hashlib.sha256(run.encode()).hexdigest()[:12]
    return f"{digest}.{number}.{order.action}.{step}"
