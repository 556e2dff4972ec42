"""Buttons that were pressed, in the agent's loop: who may, whether it still makes sense, and once.

The thread that hears them only hands them over. What is obeyed goes the way of ``lossguard send``.
"""

from __future__ import annotations

import logging
import queue
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence

import msgspec

from lossguard.agent import feed
from lossguard.agent.alerting import Orders
from lossguard.agent.alerts.press import Press
from lossguard.agent.alerts.records import Click, News, Refusal
from lossguard.agent.alerts.tickets import PREFIX, Forged, Ticket, unseal
from lossguard.agent.audit import AuditLine
from lossguard.agent.peers import OPERATOR, Peer
from lossguard.agent.registry import Registry
from lossguard.agent.store import Answer

log = logging.getLogger(__name__)

_WHO = "Slack user "
_MOST_WAITING = 100
_A_TURN = 10
_REMEMBERED = 1000
_LOOKED_BACK = 200
"""Commands of earlier agents that are told of, the newest."""


class _Refused(Exception):
    """Why nothing is done, as whoever pressed is told."""


class Clicks:
    """``hand_over`` is for the thread that hears; all else is the loop's."""

    def __init__(
        self,
        key: bytes,
        operators: Collection[str],
        registry: Registry,
        orders: Orders,
        tell: Callable[[Sequence[News]], None],
    ) -> None:
        self._key = key
        self._operators = frozenset(operators)
        self._registry = registry
        self._orders = orders
        self._tell = tell
        self._inbox: queue.Queue[Press] = queue.Queue(_MOST_WAITING)
        self._seen: deque[tuple[str, str]] = deque(maxlen=_REMEMBERED)
        self._open: dict[str, Click] = {}
        """Without an answer so far."""
        self._is_new = True

    def hand_over(self, press: Press) -> None:
        """From another thread; never waits."""
        try:
            self._inbox.put_nowait(press)
        except queue.Full:
            log.error("more buttons are pressed than anybody can mean; one is left alone")

    def tick(self) -> None:
        """A few times a second: what was pressed, and what has been answered."""
        if self._is_new:
            self._is_new = False
            self._take_up()
        for _ in range(_A_TURN):
            try:
                press = self._inbox.get_nowait()
            except queue.Empty:
                break
            if press.id not in self._seen:  # Slack may deliver the same press again
                self._seen.append(press.id)
                self._take(press)
        for click in list(self._open.values()):
            self._follow(click)

    def _take(self, press: Press) -> None:
        ticket = None
        try:
            if press.user not in self._operators:
                raise _Refused(
                    "you are not among the operators of this agent ([slack] operators in its "
                    "agent.toml)"
                )
            ticket = self._ticket(press)
            self._check(ticket)
        except _Refused as refused:
            self._refuse(press, ticket, str(refused))
            return
        user = press.user
        peer = Peer(f"{_WHO}{user}", _account(user), OPERATOR, is_local=False)
        answer = self._orders.give(_command(ticket, user), peer)
        if isinstance(answer, feed.Trouble):
            self._say(press, ticket, f"the agent refuses it: {answer.why}")
        else:
            self._follow(_click(ticket, user))

    def _ticket(self, press: Press) -> Ticket:
        try:
            return unseal(press.value, self._key)
        except Forged:
            raise _Refused("this button was not made by this agent, or has been changed") from None

    def _check(self, ticket: Ticket) -> None:
        live = self._registry.runs.get(ticket.run)
        if (known := self._registry.store.command(ticket.command)) is not None:
            words = f"{known.status}, {known.result}" if known.result else known.status
            raise _Refused(f"this button was pressed before ({words}); each works once")
        if time.time() > ticket.expires:
            raise _Refused("this button is too old; the message gets new ones")
        if live is None or live.is_over:
            raise _Refused(f"the run {ticket.run} is over")
        incident = live.run.incidents.find(ticket.incident)
        if incident is None or not incident.is_open:
            raise _Refused("this trouble is over by now")

    def _refuse(self, press: Press, ticket: Ticket | None, why: str) -> None:
        line = AuditLine(
            time=time.time(),
            who=f"{_WHO}{press.user}",
            verb=ticket.action if ticket is not None else "press",
            result="refused",
            run=ticket.run if ticket is not None else "",
            command=ticket.command if ticket is not None else "",
            why=why,
        )
        self._orders.audit.refuse(line, _account(press.user))
        self._say(press, ticket, why)

    def _say(self, press: Press, ticket: Ticket | None, why: str) -> None:
        refusal = Refusal(
            user=press.user,
            channel=press.channel,
            words=f"Nothing was done: {why}.",
            incident=ticket.incident if ticket is not None else "",
        )
        self._tell([refusal])

    def _follow(self, click: Click) -> None:
        """Tell how far it has come, when it is new or at its end."""
        known = self._registry.store.command(click.command)
        if known is None:
            known = Answer("failed", 0, "the agent does not know of it any more")
        if known.status != "pending":
            self._open.pop(click.command, None)
        elif click.command in self._open:
            return
        else:
            self._open[click.command] = click
        self._tell([_as_it_stands(click, known)])

    def _take_up(self) -> None:
        known = list(self._of_earlier_agents())
        self._open = {click.command: click for click in known if click.status == "pending"}
        self._tell(known)

    def _of_earlier_agents(self) -> Iterator[Click]:
        """An agent that was killed may have told nobody what came of them."""
        found = self._registry.store.commands_of(f"{PREFIX}.", _LOOKED_BACK)
        people = self._orders.audit.givers({command.command for command, _ in found})
        for command, answer in found:
            _, _, number, times, action = command.command.split(".", 4)
            click = Click(
                command=command.command,
                run=command.run,
                incident=f"{command.run}.{number}",
                action=action,
                round=int(times),
                user=people.get(command.command, "").partition(_WHO)[2],
                status="pending",
            )
            yield _as_it_stands(click, answer)


def _account(user: str) -> str:
    return f"slack {user}"


def _as_it_stands(click: Click, answer: Answer) -> Click:
    return msgspec.convert({**msgspec.to_builtins(click), **answer._asdict()}, Click)


def _command(ticket: Ticket, user: str) -> feed.SendCommand:
    args: dict[str, float | int | str] = {}
    if ticket.action in ("ack", "mute"):
        args["incident"] = ticket.incident
    elif ticket.action == "rollback":
        args["onset"] = ticket.onset
    elif ticket.action == "stop":
        args["reason"] = f"asked for in Slack by {user}"
    return feed.SendCommand(run=ticket.run, command=ticket.command, action=ticket.action, args=args)


def _click(ticket: Ticket, user: str) -> Click:
    return Click(
        command=ticket.command,
        run=ticket.run,
        incident=ticket.incident,
        action=ticket.action,
        round=ticket.round,
        user=user,
        status="pending",
    )
