"""A run that is connected: what its ranks say, and whether it goes on."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from lossguard.agent import attention
from lossguard.agent.acting import Acting
from lossguard.agent.attending import Attendant
from lossguard.agent.ending import Ending
from lossguard.agent.feed import CommandResult, RunState
from lossguard.agent.follow_up import FollowUp
from lossguard.agent.incidents import Incident
from lossguard.agent.judging import Judging
from lossguard.agent.policy_settings import detectors_for
from lossguard.agent.rank_strips import RankStrips
from lossguard.agent.ranks import Rank
from lossguard.agent.ranks_present import RanksPresent
from lossguard.agent.reviving import again, fresh_run, replay, revived
from lossguard.agent.run import Run
from lossguard.agent.saving import Saving
from lossguard.agent.store import Store
from lossguard.detectors import Observation
from lossguard.probes import wire


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
        run = fresh_run(hello)
        self.version = 0
        """Grows with every change, so that viewers are sent only what is new."""
        self.hear: Callable[[LiveRun, Incident], None] = _nobody
        """Told of every incident that changes, after the store."""
        self.rank_strips = RankStrips()
        self._store = store
        self._saving = Saving(store)
        self._present = RanksPresent(hello, send)
        self._attendant = Attendant(hello.run, store.path.parent / "incidents", run.policy.hang)
        self._follow_up = FollowUp(
            store, self._present, self._attendant, lambda incident: self.hear(self, incident)
        )
        self._acting = Acting(
            hello.run, store, self._present, self._attendant, self._follow_up, self._keep_now
        )
        self._ending = Ending(
            store, self._present, self._attendant, self._follow_up, self._acting, self._save_now
        )
        self._judging = self._judging_of(run, hello)

    def _judging_of(self, run: Run, hello: wire.Hello) -> Judging:
        return Judging(run, hello.world_size, self._store, self._note, self._acting.act)

    def _note(self, observation: Observation) -> None:
        self._attendant.note(observation)
        self.rank_strips.note(observation)

    @property
    def state(self) -> RunState:
        """Whether it goes on, or how it ended."""
        return self._ending.life.state

    @property
    def run(self) -> Run:
        """What is known of it by what was measured."""
        return self._judging.run

    @property
    def hello(self) -> wire.Hello:
        """What it said of itself last."""
        return self._present.hello

    @property
    def ranks(self) -> dict[int, Rank]:
        """Those that are there, by number."""
        return self._present.by_number

    @property
    def dropped(self) -> int:
        """Measurements that never arrived, of all ranks that are or were."""
        return self._present.dropped

    @property
    def steps_per_s(self) -> float:
        """How fast it goes now."""
        return self._judging.pace.steps_per_s if self.state == "running" else 0.0

    @property
    def saved_s(self) -> float:
        """When its state was kept last."""
        return self._saving.saved_s

    @property
    def is_over(self) -> bool:
        """Whether nothing more is expected of it."""
        return self._ending.life.is_over

    # --- from the probe -------------------------------------------------------------------

    def greet(self, identity: bytes, hello: wire.Hello, now: float) -> None:
        """A rank says hello, for the first time or again."""
        if self._present.is_another_process(hello):
            self._begin_again(hello)
        self._present.greet(identity, hello, now)
        self._attendant.stops.join(hello, now)
        if self.run.detectors.are_at_rest:
            self.run.detectors.wake(detectors_for(self.run.policy))
        self._ending.life.greeted(hello.rank)
        self._store.add_run(hello)
        self._acting.send_limits(self.run)
        self.version += 1

    def _begin_again(self, hello: wire.Hello) -> None:
        """Another process under the same id: its steps begin at the first again."""
        before = self.run
        self._present.begin_again()
        self._acting.commands.give_up(before.step, "the process was replaced by another one")
        self._follow_up.changed(before.end())
        self._judging = self._judging_of(again(before, hello), hello)
        self._ending.life.begin()
        self._follow_up.changed(self.run.incidents.all)
        self.run.tell("restarted", 0, f"process {hello.pid} goes on as {hello.run}")
        self._store.drop_steps(hello.run)
        self._save_now()

    def lay_out(self, layout: wire.Layout) -> None:
        """A rank names its values."""
        if (rank := self.ranks.get(layout.rank)) is not None:
            rank.lay_out(layout)

    def take_step(self, header: wire.Step, payload: bytes, now: float) -> bool:
        """One step of one rank; False when its names are not known."""
        rank = self.ranks.get(header.rank)
        placed = rank.take(header, payload) if rank is not None else None
        if rank is None or placed is None:
            return False
        self._sign_of_life(rank, now)
        self._judging.take(header.rank, *placed, now)
        return True

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
        self._ending.spoke(now)
        self.version += 1

    def told(self, event: wire.Event) -> None:
        """A line for the log of the run, and what the probe saw by looking closer."""
        self.run.tell(event.kind, event.step, event.message)
        if event.kind == "zoom":
            self._follow_up.changed(self.run.zoomed(event.step, event.message, event.data))
        self.version += 1

    def answered(self, ack: wire.Ack) -> None:
        """A command was carried out, or not."""
        self._acting.answered(self.run, ack)

    def parted(self, bye: wire.Bye) -> None:
        """A rank ended in an orderly way."""
        was_there = self._ending.parted(self._judging, bye)
        if was_there and self._ending.go_on(self._judging, time.monotonic()):
            self.version += 1

    # --- by the clock ---------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """A few times a second: who is silent, who is gone, what to repeat."""
        if self.run.incidents.end_mutes(time.time()):
            self.version += 1
        if self.is_over:
            return
        if self._acting.look_for_stops(self.run, now):
            self.version += 1
        self._acting.commands.repeat(now)
        if self._ending.look(self._judging, now):
            self.version += 1

    # --- what is kept of it --------------------------------------------------------------

    def save(self, now: float, *, force: bool = False) -> bool:
        """Keep everything for a restart, every few seconds; whether there was anything to do."""
        wanted = force or self._saving.is_due(now, self.version)
        if wanted:
            self._saving.save(self.run, self._present, now, self.version)
        return wanted

    def _keep_now(self) -> None:
        self.version += 1
        self._save_now()

    def _save_now(self) -> None:
        self.save(time.monotonic(), force=True)

    def forget(self) -> None:
        """The run is no longer listed: what was kept of it goes."""
        self._attendant.forget()
        self._store.forget(self.hello.run)

    def write_again(self) -> None:
        """All that is known here goes into a database that is new."""
        self._store.add_run(self.hello)
        for incident in self.run.incidents.all:
            self._store.put_incident(incident.kept())
        self._acting.commands.write_again()
        if self.is_over:
            self._store.end_run(self.hello.run, self.state)
        self._save_now()

    def restore(self, state: str, saved: dict[str, object] | None, now: float) -> None:
        """Take up what the store knows of this run. Without word from it, it is silent."""
        self._present.restore(saved or {})
        self._judging = self._judging_of(revived(self.hello, self._store, saved), self.hello)
        self._ending.life.restore(state)
        if self.is_over:
            if self.state != "died":
                self.run.detectors.rest()
            return
        self._acting.commands.restore()
        replayed = replay(self.run, self._store, -1 if saved is None else self.run.step)
        # Its process may have ended while no agent was there: it has to say something, or to
        # be found.
        self._present.expect(saved or {}, replayed, self.run.step, now)
        self._attendant.stops.join(self.hello, now)

    # --- from and to viewers --------------------------------------------------------------

    def command(
        self, command: str, action: wire.Action, args: dict[str, float | int | str]
    ) -> None:
        """Order something; the same id again changes nothing."""
        self._acting.command(self.run, command, action, args)

    def attend(self, command: str, action: wire.Action, args: attention.Args) -> None:
        """What a person says about incidents: noted at once, here. Raises ValueError."""
        self._acting.attend(self.run, command, action, args)

    def result_of(self, command: str) -> CommandResult | None:
        """How far a command has come; None for one that was never given."""
        answer = self._store.command(command)
        if answer is None:
            return None
        return msgspec.convert({"command": command, **answer._asdict()}, CommandResult)

    def folder_of(self, incident: str) -> Path:
        """Where the evidence of an incident lies."""
        return self._attendant.evidence.folder_of(incident)


def _nobody(live: LiveRun, incident: Incident) -> None:
    """Hears of incidents where nobody else does."""
