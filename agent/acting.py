"""What was decided about a live run is carried out: orders, limits, and what a hang calls for."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable

from lossguard.agent import attention
from lossguard.agent.attending import Attendant, is_stuck
from lossguard.agent.commands import Commands, Outstanding, name_of
from lossguard.agent.follow_up import FollowUp
from lossguard.agent.ladder import Order
from lossguard.agent.outcome import Outcome
from lossguard.agent.ranks_present import RanksPresent
from lossguard.agent.run import Run
from lossguard.agent.store import Store
from lossguard.detectors import Finding
from lossguard.failpoints import reach
from lossguard.probes import wire

_ENDED = "the run ended before it could answer"


class Acting:
    """By way of the ranks where they can obey, and of the processes where they are stuck.

    ``keep_now`` is called when what changed must not be lost with the agent. Each call is told the
    run as it stands, for another process may have taken its place.
    """

    def __init__(
        self,
        run: str,
        store: Store,
        ranks: RanksPresent,
        attendant: Attendant,
        follow_up: FollowUp,
        keep_now: Callable[[], None],
    ) -> None:
        self._ranks = ranks
        self._attendant = attendant
        self._follow_up = follow_up
        self._keep_now = keep_now
        self._limits_version = itertools.count(1)
        self.commands = Commands(run, store, ranks.send, lambda: list(ranks.by_number))

    def act(self, run: Run, outcome: Outcome) -> None:
        """All that came of an observation."""
        self._follow_up.changed(outcome.incidents)
        if outcome.limits_changed:  # before a rollback: they hold for what comes after it
            self.send_limits(run)
        for order in outcome.orders:
            if order.action == "stop" and _is_about_hang(run, order):
                self._attendant.end_processes(order.incident)
            else:
                self._order(run, order)

    def _order(self, run: Run, order: Order) -> None:
        self.command(run, name_of(order, run.step), order.action, order.args, order.incident)

    def command(
        self,
        run: Run,
        command: str,
        action: wire.Action,
        args: dict[str, float | int | str],
        incident: str = "",
    ) -> None:
        """Order something; the same id again changes nothing."""
        now = time.monotonic()
        self.commands.give(command, action, args, incident=incident, step=run.step, now=now)

    def attend(self, run: Run, command: str, action: wire.Action, args: attention.Args) -> None:
        """What a person says about incidents: noted at once, here. Raises ValueError."""
        words, changed = attention.note(run.incidents, action, args, time.time())
        self.commands.noted(command, action, dict(args), words, run.step)
        run.tell(action, run.step, words)
        self._follow_up.changed(changed)
        self._keep_now()

    def answered(self, run: Run, ack: wire.Ack) -> None:
        """A rank has carried out a command, or not."""
        joined = self.commands.answered(self._attendant.without_stacks(ack))
        if joined is not None:  # all ranks have, and not before
            self._take_answer(run, *joined)

    def go_on_without(self, run: Run, rank: int) -> None:
        """No answer comes from it any more."""
        for waiting, answer in self.commands.without(rank):
            self._take_answer(run, waiting, answer)

    def end(self, run: Run) -> None:
        """Nor from any other."""
        for waiting, answer in self.commands.give_up(run.step, _ENDED):
            self._take_answer(run, waiting, answer)

    def _take_answer(self, run: Run, waiting: Outstanding, ack: wire.Ack) -> None:
        changed = run.answered(
            waiting.command.action, waiting.incident, ack.status == "done", ack.step, ack.result
        )
        self._follow_up.changed(changed)
        self.send_limits(run)
        reach("live.answer_taken")
        # In one transaction with the answer: a new agent must not judge again what was undone.
        self._keep_now()

    def send_limits(self, run: Run) -> None:
        """To all ranks, where the policy acts at all."""
        if not run.policy.acts:
            return
        message = wire.Limits(
            run=run.id,
            version=next(self._limits_version),
            grad_norm=run.limits.now.get("grad_norm"),
            loss=run.limits.now.get("loss"),
            proven_step=run.proven_step,
            holds_evaluated=run.policy.validation.keep_best,
        )
        self._ranks.send_all(message)

    def failed(self, run: Run, finding: Finding, error: str) -> None:
        """A rank ended by an exception; ``error`` is its traceback."""
        outcome = run.stopped([finding])
        self.act(run, outcome)
        for incident in outcome.incidents:
            self._attendant.keep_error(incident, error)
            self._attendant.evidence.take_last(incident.id)

    def look_for_stops(self, run: Run, now: float) -> bool:
        """Whether it has stopped, by the clock and the process table, and what is done then; True
        where there was anything. ``now`` is monotonic [s]."""
        outcome = run.stopped(self._attendant.look(now, run.step))
        if outcome.findings:
            self.act(run, outcome)
            for incident in filter(is_stuck, outcome.incidents):
                self._attendant.read_stacks(incident)
                if self._attendant.has_ranks_to_ask:
                    self._order(run, Order("dump_stacks", incident.id, {}))
        debugged = self._attendant.stops.take_words()
        for words in debugged:
            run.tell("debugger", run.step, words)
        done = self._attendant.tick(now)
        for one in done:
            self._follow_up.did(run, one)
        return bool(outcome.findings or debugged or done)


def _is_about_hang(run: Run, order: Order) -> bool:
    found = run.incidents.find(order.incident)
    return found is not None and found.is_open and is_stuck(found)
