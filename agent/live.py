"""A run that is connected: its ranks, its commands, what goes to the store."""

from __future__ import annotations

import itertools
import logging
import math
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from lossguard.agent import attention
from lossguard.agent.attending import Attendant, is_stuck
from lossguard.agent.commands import Commands, Outstanding, name_of
from lossguard.agent.feed import CommandResult, RunState
from lossguard.agent.incidents import Incident
from lossguard.agent.ladder import Order
from lossguard.agent.pace import Pace
from lossguard.agent.policy_settings import detectors_for
from lossguard.agent.rank_strips import RankStrips
from lossguard.agent.ranks import Rank
from lossguard.agent.ranks_joined import RanksJoined
from lossguard.agent.reviving import fresh_run, replay, revived
from lossguard.agent.run import Outcome
from lossguard.agent.stops import failed
from lossguard.agent.store import Store
from lossguard.detectors import Observation
from lossguard.failpoints import reach
from lossguard.probes import wire

log = logging.getLogger(__name__)

SILENT_AFTER_S = 5.0
_SAVE_EVERY_S = 5.0


class LiveRun:
    """Ties one ``Run`` to its processes and to the store.

    ``send(identity, message)`` hands a message to a rank. Times are monotonic [s].
    """

    def __init__(
        self,
        hello: wire.Hello,
        store: Store,
        send: Callable[[bytes, wire.Message], bool],
    ) -> None:
        self.hello = hello
        self.run = fresh_run(hello)
        self.state: RunState = "running"
        self.ranks: dict[int, Rank] = {}
        self.version = 0
        """Grows with every change, so that viewers are sent only what is new."""
        self._store = store
        self._send = send
        self._commands = Commands(hello.run, store, self._send_command, self._obeying)
        self._limits_version = itertools.count(1)
        self.saved_s = time.monotonic()
        self._saved_version = 0
        self.pace = Pace()
        self._departed_dropped = 0
        self._is_restored = False
        """How far other ranks than the first had come is not kept."""
        self.hear: Callable[[LiveRun, Incident], None] = _nobody
        """Told of every incident that changes, after the store."""
        self.rank_strips = RankStrips()
        self._attendant = Attendant(
            hello.run, store.path.parent / "incidents", self.run.policy.hang
        )
        self._await_ranks(hello)

    def _await_ranks(self, hello: wire.Hello) -> None:
        """From the first step of a process on."""
        self._joined = RanksJoined(hello.world_size)
        self._said_incomplete = False
        self._farewell: wire.Bye | None = None

    @property
    def dropped(self) -> int:
        """Measurements that never arrived, of all ranks that are or were."""
        return self._departed_dropped + sum(rank.dropped for rank in self.ranks.values())

    @property
    def is_over(self) -> bool:
        return self.state not in ("running", "silent")

    # --- from the probe -------------------------------------------------------------------

    def greet(self, identity: bytes, hello: wire.Hello, now: float) -> None:
        """A rank says hello, for the first time or again."""
        known = self.ranks.get(hello.rank)
        if known is not None and known.is_same_process(hello):
            known.greet_again(identity, now)
        else:
            if hello.rank == 0 and _is_another_process(self.hello, hello):
                self._begin_again(hello)
            self.ranks[hello.rank] = Rank(
                identity, hello, now, is_known_from_start=not self._is_restored
            )
        self._attendant.stops.join(hello, now)
        if self.run.is_at_rest:
            self.run.wake(detectors_for(self.run.policy))
        if hello.rank == 0:
            self.hello, self._farewell = hello, None
        self.state = "running"
        self._store.add_run(hello)
        self._send_limits()
        self.version += 1

    def _begin_again(self, hello: wire.Hello) -> None:
        """Another process under the same id: its steps begin at the first again."""
        before = self.run
        self._is_restored = False
        self._commands.give_up(before.step, "the process was replaced by another one")
        self._keep(before.end())
        self.run = fresh_run(hello)
        self.run.incidents.restore([incident.kept() for incident in before.incidents.all])
        self.run.incidents.seal()
        self._keep(self.run.incidents.all)
        self.run.actions = before.actions
        self.run.tell("restarted", 0, f"process {hello.pid} goes on as {hello.run}")
        self.pace = Pace()
        self._await_ranks(hello)
        self._store.drop_steps(hello.run)
        self.save(time.monotonic(), force=True)

    def lay_out(self, layout: wire.Layout) -> None:
        if (rank := self.ranks.get(layout.rank)) is not None:
            rank.lay_out(layout)

    def take_step(self, header: wire.Step, payload: bytes, now: float) -> bool:
        """One step of one rank; False when its names are not known."""
        rank = self.ranks.get(header.rank)
        placement = rank.placements.get(header.layout) if rank is not None else None
        if rank is None or placement is None:
            return False
        observation = placement.place(header, payload)
        rank.count(header.sequence)
        rank.last, rank.step = observation.values, observation.step
        self._sign_of_life(rank, now)
        self._judge(self._joined.take(header.rank, placement, observation, now))
        return True

    def _judge(self, observations: list[Observation]) -> None:
        for observation in observations:
            self._observe(observation)
        if self._joined.incomplete and not self._said_incomplete:
            self._said_incomplete = True
            self.run.tell("parts_missing", self.run.step, "the parts of some ranks did not arrive: "
                          "norms of what is cut over ranks are left out")  # fmt: skip

    def _observe(self, observation: Observation) -> None:
        self.pace.note(observation.step, observation.time_s)
        self._store.add_step(
            self.hello.run,
            observation.step,
            observation.applied,
            observation.time_s,
            dict(observation.values),
        )
        self._attendant.note(observation)
        self.rank_strips.note(observation)
        self._act(self.run.observe(observation))

    def _act(self, outcome: Outcome) -> None:
        self._keep(outcome.incidents)
        for order in outcome.orders:
            if order.action == "stop" and self._is_stuck(order.incident):
                self._attendant.end_processes(order.incident)
                continue
            name = name_of(order, self.run.step)
            self.command(name, order.action, order.args, order.incident)
        if outcome.limits_changed:
            self._send_limits()

    def command(
        self,
        command: str,
        action: wire.Action,
        args: dict[str, float | int | str],
        incident: str = "",
    ) -> None:
        """Order something; the same id again changes nothing."""
        now = time.monotonic()
        self._commands.give(command, action, args, incident=incident, step=self.run.step, now=now)

    def attend(self, command: str, action: wire.Action, args: attention.Args) -> None:
        """What a person says about incidents: noted at once, here. Raises ValueError."""
        words, changed = attention.note(self.run.incidents, action, args, time.time())
        self._commands.noted(command, action, dict(args), words, self.run.step)
        self.run.tell(action, self.run.step, words)
        self._keep(changed)
        self.version += 1
        self.save(time.monotonic(), force=True)

    def answered(self, ack: wire.Ack) -> None:
        """A command was carried out, or not."""
        ack = self._attendant.without_stacks(ack)
        joined = self._commands.answered(ack)
        if joined is not None:  # all ranks have, and not before
            self._take_answer(*joined)

    def _take_answer(self, waiting: Outstanding, ack: wire.Ack) -> None:
        changed = self.run.answered(
            waiting.command.action, waiting.incident, ack.status == "done", ack.step, ack.result
        )
        self._keep(changed)
        self._send_limits()
        self.version += 1
        reach("live.answer_taken")
        # In one transaction with the answer: a new agent must not judge again what was undone.
        self.save(time.monotonic(), force=True)

    def _keep(self, incidents: list[Incident]) -> None:
        for incident in incidents:
            self._store.put_incident(incident.kept())
            reach("live.incident_put")
            self.hear(self, incident)
            if self._attendant.keep(incident, self.hello):
                self._ask_for_evidence(incident)

    def _ask_for_evidence(self, incident: Incident) -> None:
        """What only the ranks have: batches and random states of the steps it is about."""
        line = incident.line()
        steps = [line.onset_step, line.detected_step]
        order = wire.Keep(run=self.hello.run, incident=incident.id, steps=steps)
        for rank in self.ranks.values():
            self._send(rank.identity, order)

    def _is_stuck(self, incident: str) -> bool:
        found = self.run.incidents.find(incident)
        return found is not None and found.is_open and is_stuck(found)

    def _did(self, incident: str, action: str, result: str) -> None:
        if (found := self.run.incidents.find(incident)) is not None:
            found.did(action, self.run.step, result, time.time())
            self._keep([found])
        self.version += 1

    def _look_for_stops(self, now: float) -> None:
        """Whether it has stopped, by the clock and the process table."""
        outcome = self.run.stopped(self._attendant.look(now, self.run.step))
        if outcome.findings:
            self._act(outcome)
            for incident in filter(is_stuck, outcome.incidents):
                self._attendant.read_stacks(incident)
                if self._attendant.has_ranks_to_ask:
                    order = Order("dump_stacks", incident.id, {})
                    self.command(name_of(order, self.run.step), order.action, {}, incident.id)
            self.version += 1
        for words in self._attendant.stops.take_words():
            self.run.tell("debugger", self.run.step, words)
            self.version += 1
        for done in self._attendant.tick(now):
            self._did(done.incident, done.action, done.result)

    def heard(self, beat: wire.Heartbeat, now: float) -> bool:
        """A sign of life; False from a rank we do not know."""
        rank = self.ranks.get(beat.rank)
        if rank is None:
            return False
        rank.said_dropped, rank.beat = beat.dropped, beat
        self._attendant.stops.hear(beat, now)
        self._sign_of_life(rank, now)
        return True

    def _sign_of_life(self, rank: Rank, now: float) -> None:
        rank.heard_s = now
        if self.state == "died":  # it was too early to say
            self._store.add_run(self.hello)
            for known in self.ranks.values():
                self._attendant.stops.join(known.hello, now)
        if self.state in ("silent", "died"):
            self.state = "running"
        self.version += 1

    def told(self, event: wire.Event) -> None:
        self.run.tell(event.kind, event.step, event.message)
        if event.kind == "zoom":
            self._keep(self.run.zoomed(event.step, event.message, event.data))
        self.version += 1

    def parted(self, bye: wire.Bye) -> None:
        """A rank ended in an orderly way."""
        known = self.ranks.pop(bye.rank, None)
        if known is None:
            return
        known.part(bye.step)
        self._departed_dropped += known.dropped
        self._attendant.stops.leave(bye.rank)
        if (finding := failed(bye, self.hello.world_size)) is not None:
            outcome = self.run.stopped([finding])
            self._act(outcome)
            for incident in outcome.incidents:
                self._attendant.keep_error(incident, bye.error)
                self._attendant.evidence.take_last(incident.id)
        self._joined.leave(bye.rank)
        for waiting, answer in self._commands.without(bye.rank):
            self._take_answer(waiting, answer)
        if self._farewell is None and (bye.rank == 0 or not self.ranks):
            self._farewell = bye
        self._go_on(time.monotonic())

    def _go_on(self, now: float) -> None:
        """Judge what waited for other ranks; the run ends when its last step is judged."""
        self._judge(self._joined.ready(now))
        if self._farewell is None or self.is_over or (self._joined.is_waiting and self.ranks):
            return
        ends: dict[str, RunState] = {"exception": "failed", "stopped": "stopped"}
        self._end(ends.get(self._farewell.reason, "finished"))

    def forget(self) -> None:
        """The run is no longer listed: what was kept of it goes."""
        self._attendant.forget()
        self._store.forget(self.hello.run)

    def _end(self, state: RunState) -> None:
        self._judge(self._joined.ready(math.inf))
        self.state = state
        self.run.tell(state, self.run.step, f"the run {state}")
        why = "the run ended before it could answer"
        for waiting, answer in self._commands.give_up(self.run.step, why):
            self._take_answer(waiting, answer)
        self._keep(self.run.end())
        self._attendant.close()
        self.save(time.monotonic(), force=True)
        self._store.end_run(self.hello.run, state)
        if state != "died":  # one that is believed dead may speak again
            self.run.rest()
        self.version += 1

    # --- by the clock ---------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """A few times a second: who is silent, who is gone, what to repeat."""
        if self.run.incidents.end_mutes(time.time()):
            self.version += 1
        if self.is_over:
            return
        self._look_for_stops(now)
        self._commands.repeat(now)
        self._go_on(now)
        if self.is_over or not self.ranks:
            return
        quiet_s = now - max(rank.heard_s for rank in self.ranks.values())
        if quiet_s < SILENT_AFTER_S:
            return
        if self.state == "running":
            self.state = "silent"
            self.version += 1
        if self._attendant.stops.are_all_gone:
            self._end("died")

    def save(self, now: float, *, force: bool = False) -> bool:
        """Keep everything for a restart, every few seconds; whether there was anything to do."""
        due = now - self.saved_s >= _SAVE_EVERY_S and self.version != self._saved_version
        if not (due or force):
            return False
        self.saved_s, self._saved_version = now, self.version
        saved = self.run.state()
        first = self.ranks.get(self.hello.rank)
        saved["sequence"] = first.sequence if first else 0
        saved["dropped"] = self.dropped
        self._store.save_run(self.hello.run, saved)
        reach("live.saved")
        self._store.prune(self.hello.run, self.run.step)
        return True

    def write_again(self) -> None:
        """All that is known here goes into a database that is new."""
        self._store.add_run(self.hello)
        for incident in self.run.incidents.all:
            self._store.put_incident(incident.kept())
        self._commands.write_again()
        if self.is_over:
            self._store.end_run(self.hello.run, self.state)
        self.save(time.monotonic(), force=True)

    def _send_command(self, rank: int, command: wire.Command) -> bool:
        known = self.ranks.get(rank)
        return known is not None and self._send(known.identity, command)

    def _obeying(self) -> list[int]:
        """The ranks that have to answer a command: all that are there."""
        return list(self.ranks)

    def _send_limits(self) -> None:
        if not self.run.policy.acts:
            return
        message = wire.Limits(
            run=self.hello.run,
            version=next(self._limits_version),
            grad_norm=self.run.limits.get("grad_norm"),
            loss=self.run.limits.get("loss"),
            proven_step=self.run.proven_step,
            holds_evaluated=self.run.policy.validation.keep_best,
        )
        for rank in self.ranks.values():
            self._send(rank.identity, message)

    # --- a restart of the agent -----------------------------------------------------------

    def restore(self, state: str, saved: dict[str, object] | None, now: float) -> None:
        """Take up what the store knows of this run. Without word from it, it is silent."""
        self._is_restored = True
        self.run = revived(self.hello, self._store, saved)
        self.state = msgspec.convert(state, RunState)
        known = saved or {}
        self._departed_dropped = _count(known.get("dropped"))
        if self.is_over:
            if self.state != "died":
                self.run.rest()
            return
        self._commands.restore()
        replayed = replay(self.run, self._store, -1 if saved is None else self.run.step)
        # Its process may have ended while no agent was there: it has to say something, or to
        # be found.
        rank = self.ranks[self.hello.rank] = Rank(b"", self.hello, now)
        self._attendant.stops.join(self.hello, now)
        rank.sequence = _count(known.get("sequence")) + replayed
        rank.step = self.run.step
        self.state = "silent"

    # --- to viewers -----------------------------------------------------------------------

    def folder_of(self, incident: str) -> Path:
        """Where the evidence of an incident lies."""
        return self._attendant.evidence.folder_of(incident)

    def result_of(self, command: str) -> CommandResult | None:
        """How far a command has come; None for one that was never given."""
        answer = self._store.command(command)
        if answer is None:
            return None
        return msgspec.convert({"command": command, **answer._asdict()}, CommandResult)


def _nobody(live: LiveRun, incident: Incident) -> None:
    """Hears of incidents where nobody else does."""


def _count(saved: object) -> int:
    return saved if isinstance(saved, int) else 0


def _is_another_process(known: wire.Hello, hello: wire.Hello) -> bool:
    return known.rank == hello.rank and (known.host, known.pid, known.started_s) != (
        hello.host, hello.pid, hello.started_s,
    )  # fmt: skip
