"""A run that is connected: its ranks, its outstanding commands, what goes to the store."""

from __future__ import annotations

import itertools
import logging
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import psutil

from lossguard.agent.feed import CommandResult, Picture, RunState, RunSummary
from lossguard.agent.incidents import Incident
from lossguard.agent.placement import Placement
from lossguard.agent.policy import Order, find_policy
from lossguard.agent.run import Outcome, Run
from lossguard.agent.store import Store
from lossguard.detectors import Observation, default_detectors
from lossguard.probes import wire

log = logging.getLogger(__name__)

SILENT_AFTER_S = 5.0
_REPEAT_COMMAND_S = 1.0
_EXPIRY_STEPS = 1000
_SAVE_EVERY_S = 5.0
_ORDER_OF_SEVERITY = ("info", "warning", "critical")


@dataclass
class Rank:
    """One training process of a run."""

    identity: bytes
    hello: wire.Hello
    heard_s: float
    placement: Placement | None = None
    sequence: int = 0
    lost_on_the_way: int = 0
    dropped: int = 0
    asked_s: float = float("-inf")


@dataclass
class Outstanding:
    """A command without an answer so far."""

    command: wire.Command
    incident: str
    sent_s: float = float("-inf")


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
        self.run = Run(hello.run, find_policy(hello.policy), default_detectors(), time.time)
        self.state: RunState = "running"
        self.ranks: dict[int, Rank] = {}
        self.version = 0
        """Grows with every change, so that viewers are sent only what is new."""
        self._store = store
        self._send = send
        self._outstanding: dict[str, Outstanding] = {}
        self._limits_version = itertools.count(1)
        self._saved_s = time.monotonic()
        self._rate = 0.0
        self._rate_from = (float("inf"), 0)

    # --- from the probe -------------------------------------------------------------------

    def greet(self, identity: bytes, hello: wire.Hello, now: float) -> None:
        """A rank says hello, for the first time or again."""
        self.hello = hello if hello.rank == 0 else self.hello
        known = self.ranks.get(hello.rank)
        rank = Rank(identity, hello, now)
        if known is not None and known.hello.pid == hello.pid:
            rank.placement, rank.sequence = known.placement, known.sequence
            rank.lost_on_the_way, rank.dropped = known.lost_on_the_way, known.dropped
        self.ranks[hello.rank] = rank
        self.state = "running"
        self._store.add_run(hello)
        self._send_limits()
        self.version += 1

    def lay_out(self, layout: wire.Layout) -> None:
        if (rank := self.ranks.get(layout.rank)) is not None:
            rank.placement = Placement(layout)

    def take_step(self, header: wire.Step, payload: bytes, now: float) -> bool:
        """One step of one rank; False when its names are not known."""
        rank = self.ranks.get(header.rank)
        if rank is None or rank.placement is None or rank.placement.layout != header.layout:
            return False
        rank.heard_s = now
        if rank.sequence and header.sequence > rank.sequence + 1:
            rank.lost_on_the_way += header.sequence - rank.sequence - 1
        rank.sequence = max(rank.sequence, header.sequence)
        self.version += 1
        if header.rank == 0:
            self._observe(rank.placement.place(header, payload))
        return True

    def _observe(self, observation: Observation) -> None:
        before_s, before_step = self._rate_from
        if observation.time_s > before_s and observation.step > before_step:
            pace = (observation.step - before_step) / (observation.time_s - before_s)
            self._rate = pace if not self._rate else 0.9 * self._rate + 0.1 * pace
        self._rate_from = (observation.time_s, observation.step)
        outcome = self.run.observe(observation)
        self._store.add_step(
            self.hello.run,
            observation.step,
            observation.applied,
            observation.time_s,
            dict(observation.values),
        )
        self._act(outcome)

    def _act(self, outcome: Outcome) -> None:
        for incident in outcome.incidents:
            self._store.put_incident(incident.line())
        for order in outcome.orders:
            self._order(order)
        if outcome.limits_changed:
            self._send_limits()

    def _order(self, order: Order) -> None:
        name = f"{order.incident}.{order.action}.{self.run.step}"
        self.command(name, order.action, order.args, order.incident)

    def command(
        self,
        command: str,
        action: wire.Action,
        args: dict[str, float | int | str],
        incident: str = "",
    ) -> None:
        """Journal a command, then send it; it is sent again until it is answered."""
        if self._store.command(command) is not None:
            return
        message = wire.Command(
            run=self.hello.run,
            command=command,
            action=action,
            expires_step=self.run.step + _EXPIRY_STEPS,
            args=args,
        )
        self._store.add_command(message, incident)
        log.warning("%s: ordering %s %s", self.hello.run, action, args or "")
        self._outstanding[command] = Outstanding(message, incident)
        self.repeat_commands(time.monotonic())

    def repeat_commands(self, now: float) -> None:
        """Send what has not been answered."""
        rank = self.ranks.get(0)
        for waiting in self._outstanding.values():
            if rank is not None and now - waiting.sent_s >= _REPEAT_COMMAND_S:
                waiting.sent_s = now
                self._send(rank.identity, waiting.command)

    def answered(self, ack: wire.Ack) -> None:
        """A command was carried out, or not."""
        waiting = self._outstanding.pop(ack.command, None)
        if waiting is None:
            return  # a repeated answer
        words = ", ".join(f"{key} {value}" for key, value in ack.result.items())
        self._store.end_command(ack.command, ack.status, ack.step, words)
        changed = self.run.answered(
            waiting.command.action, waiting.incident, ack.status == "done", ack.step, ack.result
        )
        self._keep(changed)
        self._send_limits()
        self.version += 1

    def _keep(self, incidents: list[Incident]) -> None:
        for incident in incidents:
            self._store.put_incident(incident.line())

    def heard(self, beat: wire.Heartbeat, now: float) -> bool:
        """A sign of life; False from a rank we do not know."""
        rank = self.ranks.get(beat.rank)
        if rank is None:
            return False
        rank.heard_s = now
        rank.dropped = beat.dropped
        if self.state == "silent":
            self.state = "running"
        self.version += 1
        return True

    def told(self, event: wire.Event) -> None:
        self.run.tell(event.kind, event.step, event.message)
        self.version += 1

    def parted(self, bye: wire.Bye) -> None:
        """A rank ended in an orderly way."""
        self.ranks.pop(bye.rank, None)
        if bye.rank == 0 or not self.ranks:
            ends: dict[str, RunState] = {"exception": "failed", "stopped": "stopped"}
            self._end(ends.get(bye.reason, "finished"))

    def _end(self, state: RunState) -> None:
        self.state = state
        self.run.tell(state, self.run.step, f"the run {state}")
        self._outstanding.clear()
        self.save(time.monotonic(), force=True)
        self._store.end_run(self.hello.run, state)
        self.version += 1

    # --- by the clock ---------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """A few times a second: who is silent, who is gone, what to repeat, what to save."""
        if self.state not in ("running", "silent"):
            return
        self.repeat_commands(now)
        self.save(now)
        if not self.ranks:
            return
        quiet_s = now - max(rank.heard_s for rank in self.ranks.values())
        if quiet_s < SILENT_AFTER_S:
            return
        if self.state == "running":
            self.state = "silent"
            self.version += 1
        if all(_is_gone(rank.hello) for rank in self.ranks.values()):
            self._end("died")

    def save(self, now: float, *, force: bool = False) -> None:
        """Keep everything for a restart, every few seconds."""
        if force or now - self._saved_s >= _SAVE_EVERY_S:
            self._saved_s = now
            self._store.save_run(self.hello.run, self.run.state())
            self._store.prune(self.hello.run, self.run.step)

    def _send_limits(self) -> None:
        if not self.run.policy.acts:
            return
        message = wire.Limits(
            run=self.hello.run,
            version=next(self._limits_version),
            grad_norm=self.run.limits.get("grad_norm"),
            loss=self.run.limits.get("loss"),
        )
        for rank in self.ranks.values():
            self._send(rank.identity, message)

    # --- a restart of the agent -----------------------------------------------------------

    def restore(self, state: str, saved: dict[str, object] | None) -> None:
        """Take up what the store knows of this run."""
        name = self.hello.run
        self.run.incidents.restore(self._store.incidents(name))
        if saved is not None:
            self.run.restore(saved)
        if state in ("running", "silent"):
            # What came after the last save is in the steps: the same path again, without acting.
            for kept in self._store.steps_after(name, self.run.step):
                observation = Observation(kept.step, kept.metrics, kept.time_s, kept.applied)
                self.run.observe(observation)
            for command, incident in self._store.pending_commands(name):
                self._outstanding[command.command] = Outstanding(command, incident)
            self.state = "silent"
        else:
            self.state = msgspec.convert(state, RunState)

    # --- to viewers -----------------------------------------------------------------------

    def result_of(self, command: str) -> CommandResult:
        """How far a command has come."""
        status, step, words = self._store.command(command) or ("failed", 0, "no such command")
        known = {"command": command, "status": status, "step": step, "result": words}
        return msgspec.convert(known, CommandResult)

    def summary(self) -> RunSummary:
        run = self.run
        open_now = run.incidents.open
        ranks = [str(i.lead.severity) for i in open_now]
        return RunSummary(
            run=run.id,
            name=self.hello.name,
            state=self.state,
            step=run.step,
            applied=run.applied,
            world_size=self.hello.world_size,
            started=self.hello.started_s,
            metrics=list(run.histories),
            last=dict(run.last),
            incidents=len(run.incidents.all),
            actions=run.actions,
            dropped=sum(max(r.dropped, r.lost_on_the_way) for r in self.ranks.values()),
            policy=run.policy.name,
            open_incidents=len(open_now),
            worst=max(ranks, key=_ORDER_OF_SEVERITY.index, default=""),
            steps_per_s=self._rate,
        )

    def picture(self, runs: list[RunSummary], agent_pid: int) -> Picture:
        run = self.run
        return Picture(
            runs=runs,
            run=run.id,
            series=[history.series(name) for name, history in run.histories.items()],
            incidents=[incident.line() for incident in run.incidents.all],
            events=list(run.events)[-200:],
            limits=run.limits,
            rollbacks=list(run.rollbacks),
            agent_pid=agent_pid,
            time_s=time.time(),
        )


def _is_gone(hello: wire.Hello) -> bool:
    """Whether the process has ended. Only the same host can tell."""
    if hello.host != socket.gethostname():
        return False
    try:
        process = psutil.Process(hello.pid)
        # A process that began after the run said hello merely has the same number.
        return bool(
            process.status() == psutil.STATUS_ZOMBIE
            or process.create_time() > hello.started_s + 1.0
        )
    except psutil.NoSuchProcess:
        return True
    except psutil.AccessDenied:
        return False
