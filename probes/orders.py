"""Carrying out commands at a step boundary: once each, and answered."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeAlias

from lossguard.probes import wire

Result: TypeAlias = dict[str, "float | int | str"]
Handler: TypeAlias = Callable[[wire.Command, int], Result]
_ID = re.compile(r"[A-Za-z0-9._-]{1,80}\Z")
_REMEMBERED = 512


class OrderFailed(Exception):
    """The command cannot be carried out; says why. Nothing was changed."""


class Orders:
    """Executes commands by a closed table of handlers.

    A command id that was carried out before is answered again and not repeated; one that comes
    too late, or for an action this loop does not know, is answered ``failed``. So is one that is
    older than the oldest answer that is remembered: it may have been carried out.
    """

    def __init__(
        self,
        hello: wire.Hello,
        handlers: dict[str, Handler],
        say: Callable[[wire.Message], None],
    ) -> None:
        self._hello = hello
        self._handlers = handlers
        self._say = say
        self._answers: OrderedDict[str, wire.Ack] = OrderedDict()
        self._numbers: dict[str, int] = {}
        self._forgotten = 0
        """The highest number of a command whose answer is no longer remembered."""

    def answered_before(self, command: wire.Command) -> bool:
        """Say the same again, where it was carried out before; else False."""
        if (answer := self._answers.get(command.command)) is not None:
            self._say(answer)
        return answer is not None

    def status_of(self, command: wire.Command) -> str:
        """``done``, ``failed``, or empty."""
        answer = self._answers.get(command.command)
        return answer.status if answer is not None else ""

    def refuse(self, command: wire.Command, step: int, why: str) -> None:
        """Answer that nothing was done."""
        self._answer(command, "failed", step, {"why": why})

    def obey(self, command: wire.Command, step: int) -> bool:
        """Carry it out if its step has come; False when it is too early."""
        if self.answered_before(command):
            return True
        if step < command.step:
            return False
        try:
            result = self._carry_out(command, step)
            status: Any = "done"
        except OrderFailed as error:
            result, status = {"why": str(error)}, "failed"
        except Exception as error:
            result, status = {"why": f"{type(error).__name__}: {error}"}, "failed"
        self._answer(command, status, step, result)
        return True

    def _carry_out(self, command: wire.Command, step: int) -> Result:
        if not _ID.match(command.command):
            raise OrderFailed(f"not a command id: {command.command[:80]!r}")
        if 0 < command.number <= self._forgotten:
            raise OrderFailed("too old: it may have been carried out before")
        if step > command.expires_step:
            raise OrderFailed(f"too late: step {step} is past {command.expires_step}")
        handler = self._handlers.get(command.action)
        if handler is None:
            known = ", ".join(sorted(self._handlers))
            raise OrderFailed(f"this run cannot do {command.action!r} (it can: {known})")
        return handler(command, step)

    def _answer(self, command: wire.Command, status: Any, step: int, result: Result) -> None:
        answer = wire.Ack(
            run=self._hello.run,
            rank=self._hello.rank,
            command=command.command,
            status=status,
            step=step,
            result=result,
        )
        self._answers[command.command] = answer
        self._numbers[command.command] = command.number
        while len(self._answers) > _REMEMBERED:
            oldest, _ = self._answers.popitem(last=False)
            self._forgotten = max(self._forgotten, self._numbers.pop(oldest))
        self._say(answer)


def number(command: wire.Command, key: str, default: float, low: float, high: float) -> float:
    """A numeric argument within bounds. Raises OrderFailed."""
    value = command.args.get(key, default)
    try:
        as_number = float(value)
    except ValueError:
        raise OrderFailed(f"{key} must be a number, got {value!r}") from None
    if not low <= as_number <= high:
        raise OrderFailed(f"{key} must be between {low:g} and {high:g}, got {value!r}")
    return as_number
