"""What a guarded loop does about trouble: veto, snapshot, roll back, hold the rate, stop."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor

from lossguard.probes import wire
from lossguard.probes.best_state import BestState
from lossguard.probes.carrying_out import CarryingOut
from lossguard.probes.common_snapshots import CommonSnapshots
from lossguard.probes.durable import DurableTier, best_tier_of_run, tier_of_run
from lossguard.probes.held_averages import HeldAverages
from lossguard.probes.held_schedules import HeldSchedules
from lossguard.probes.learning_rate import LearningRateHold
from lossguard.probes.orders import Orders
from lossguard.probes.outbox import Outbox
from lossguard.probes.reflex import Reflex
from lossguard.probes.resuming import resume
from lossguard.probes.sharded import share_of_gradient
from lossguard.probes.snapshots import Snapshot, SnapshotRing
from lossguard.probes.together import Together
from lossguard.probes.training_state import TrainingState
from lossguard.probes.wire import SKIP_COMMAND, SKIP_SCALER

log = logging.getLogger("lossguard")

_OFFER_EVERY = 16
"""Steps between two looks for a snapshot that has proven good and may go to disk."""


class Acting:
    """The changing half of the probe. Under ``observe`` only a person's command makes it act."""

    def __init__(
        self, state: TrainingState, hello: wire.Hello, device: torch.device, outbox: Outbox
    ) -> None:
        self._state = state
        self._hello = hello
        self._outbox = outbox
        self._guards = hello.policy == "guard"
        self._device = device
        self._gates: dict[int, Reflex] = {}
        self._bounded: Reflex | None = None
        self._by_command = False
        self._total_norm: Tensor | None = None
        self._turns_back = True
        self._hold = LearningRateHold(state)
        self.schedules = HeldSchedules(state)
        self.averages = HeldAverages(state)
        self._ring = SnapshotRing(state, follows=self._what_follows)
        self._seen_limits: wire.Limits | None = None
        self._snapshots_work = True
        self._tier: DurableTier = tier_of_run(hello, self._report_disk)
        self._offered = -1
        self._promised: Snapshot | None = None
        """What this rank has voted to write to disk."""
        best_tier = best_tier_of_run(hello, self._report_disk)
        self._best = BestState(self._ring, best_tier, self._report_disk)
        self.orders = CarryingOut(state, self._ring, self._hold, self._tier, outbox, self._best)
        self._orders = Orders(hello, self.orders.handlers(), outbox.say)
        self._together: Together | None = None
        self._share: float | None = None
        if hello.world_size > 1:
            why_not = "" if self._guards else f"ranks under {hello.policy!r} do not vote"
            self._together = Together(hello, device, self._vote_lost, why_not)
            self.orders.common = CommonSnapshots(self._ring, self._together)
            self._share = share_of_gradient(state, hello.world_size)
            self.orders.gradient_is_cut = self._share is not None
        self._step = 0

    # --- before the update ----------------------------------------------------------------

    def before_update(
        self,
        optimizer: torch.optim.Optimizer,
        total_norm: Tensor | None,
        loss: Tensor | None,
        limits: wire.Limits | None,
        step: int,
    ) -> Tensor | None:
        """Judge the update and close the gate on a bad one; the code that stands."""
        self._step = step
        by_command = self.orders.take_skip()
        self._total_norm = total_norm
        self.orders.clip.apply(total_norm, optimizer)
        self._by_command = by_command
        gate = self._gate_of(optimizer)
        if not self._guards and (not by_command or self._together is not None):
            return gate.overflow()
        if limits is not self._seen_limits or self._bounded is not gate:
            self._seen_limits, self._bounded = limits, gate
            grad_norm, loss_bound = (limits.grad_norm, limits.loss) if limits else (None, None)
            gate.set_bounds(grad_norm, loss_bound)
        code = gate.verdict(total_norm, loss) if self._guards else None
        if self._together is not None:
            if by_command:
                code = torch.full((), float(SKIP_COMMAND), device=self._device)
            bound = limits.grad_norm if limits is not None else None
            code = self._judge_together(self._together, code, total_norm, bound)
            return gate.overflow() if code is None else gate.close_gate(code, False)
        return gate.close_gate(code, by_command)

    def _judge_together(
        self, together: Together, code: Tensor | None, norm: Tensor | None, bound: float | None
    ) -> Tensor | None:
        share = self._share
        square = None if share is None or norm is None else norm.double().square() * share
        due = self._turns_back and self._snapshots_work and self._ring.is_due(self._step)
        return together.judge(self._step, code, square, bound or None, due=due)

    def without_veto(self, step: int, code: Tensor | None) -> Tensor | None:
        """A step that this rank lets pass, or that GradScaler has dropped: the ranks' vote is held
        all the same, for each has to take part in every one."""
        self._step = step
        if self._together is None or not self._guards:
            return code
        agreed = self._judge_together(self._together, code, None, None)
        return code if agreed is None else agreed

    def _vote_lost(self, why: str) -> None:
        """From now on nobody acts."""
        self._guards = False
        self._ring.clear()
        log.warning("%s; nothing is skipped or rolled back any more", why)
        self._outbox.tell(self._step, "only_observing", f"{why}: nothing is skipped or rolled back")

    def leave_others(self, why: str) -> None:
        """This rank cannot act any more, so none of them does."""
        if self._together is not None:
            self._guards = False
            self._together.leave(why)

    def also_before(self, optimizer: torch.optim.Optimizer, code: Tensor | None) -> None:
        """Another optimizer of the same step: what was said of the first holds for it."""
        self.orders.clip.apply(self._total_norm, optimizer)
        if code is None or not (self._guards or self._by_command):
            return
        # GradScaler decides for each optimizer on its own.
        self._gate_of(optimizer).close_gate(torch.where(code == SKIP_SCALER, 0.0, code), False)

    def _gate_of(self, optimizer: torch.optim.Optimizer) -> Reflex:
        gate = self._gates.get(id(optimizer))
        if gate is None:
            gate = self._gates[id(optimizer)] = Reflex(optimizer, self._device)
        return gate

    def forget(self, optimizer: torch.optim.Optimizer) -> None:
        """It is not ours any more: neither its gate nor its snapshots are of use."""
        self._gates.pop(id(optimizer), None)
        self._ring.clear()

    def only_observe(self, why: str) -> bool:
        """Act no more on our own account; False when we did not anyway."""
        did, self._guards = self._guards, False
        self.leave_others(why)
        self.orders.refuses = why
        self._ring.clear()
        return did

    def only_veto(self, why: str) -> bool:
        """Take no snapshots and turn nothing back; False when that is so already."""
        did = self._guards and self._turns_back
        self._turns_back = False
        self.orders.refuses = self.orders.refuses or why
        self._ring.clear()
        return did

    def hold_learning_rate(self, step: int) -> None:
        self._hold.apply(step)

    # --- after it -------------------------------------------------------------------------

    def after_update(self) -> None:
        """Open the gate and put the script's own learning rate back. Idempotent."""
        try:
            self._note_skips()
            self.open_gate()
        except Exception:  # no veto any more: one that cannot be lifted would end the training
            self._guards = False
            self.leave_others("a veto could not be lifted")
            self._forget_held()
            raise
        finally:
            self._hold.release()

    def _note_skips(self) -> None:
        dropped = [
            optimizer
            for optimizer in self._state.optimizers
            if (gate := self._gates.get(id(optimizer))) is not None and gate.holds_back
        ]
        for optimizer in dropped:
            self.schedules.skipped(optimizer)
        if dropped and len(self._state.optimizers) == 1:
            self.averages.skipped()

    def _what_follows(self) -> dict[str, Any]:
        return {
            "schedulers": self.schedules.will_follow(),
            "averages": self.averages.will_follow(),
        }

    def begin_step(self) -> None:
        """What followed an update that was dropped is taken back; nothing has used it yet."""
        self.schedules.begin_step()
        self.averages.begin_step()

    def open_gate(self) -> None:
        """No veto of this step after all."""
        for gate in self._gates.values():
            gate.open_gate()

    def _forget_held(self) -> None:
        for gate in self._gates.values():
            gate.forget_held()

    def step_died(self) -> None:
        """The last step began and never came to its end: its veto must not reach into this one."""
        self._forget_held()
        self._hold.release()

    def close(self, *, finished: bool = False) -> None:
        """Let go of the snapshots: of those in memory, and where the training came to its end also
        of those on disk, which were for the case that it did not."""
        self.leave_others("the training is over")
        self._ring.clear()
        self._promised = None
        self._best.clear()
        if finished:
            self._tier.remove()

    def snapshot_if_due(self, step: int, step_time_s: float) -> None:
        """Take one, or hand one that has proven good to the disk. Mostly: look at two numbers."""
        if not (self._guards and self._turns_back and self._snapshots_work):
            return
        together = self._together
        if together is None:
            takes, offers = self._ring.is_due(step), step % _OFFER_EVERY == 0
        else:
            takes, offers = together.takes_snapshot, together.writes is not None
        if takes:
            self.snapshot(step, step_time_s)
        if offers:
            proven = self._proven() if together is None else self._take_promised(together)
            if proven is not None and self._tier.offer(proven, now=together is not None):
                self._offered = proven.step
        if together is not None:
            self._promise(together, step + 1)

    def _proven(self) -> Snapshot | None:
        """The newest that has proven good and is not on disk."""
        if self._seen_limits is None:
            return None
        proven = self._ring.newest_before(self._seen_limits.proven_step)
        return proven if proven is not None and proven.step > self._offered else None

    def _take_promised(self, together: Together) -> Snapshot | None:
        """What the ranks have agreed to write: another one may have been promised since."""
        promised = self._promised
        if promised is None or promised.step != together.writes:
            return None
        self._promised = None
        return promised

    def _promise(self, together: Together, coming: int) -> None:
        """What all ranks are to write soon, as far as it goes by this one. It is held until the
        next: on a GPU the vote for it is known one step late."""
        may = coming % _OFFER_EVERY == 0 and self._tier.is_idle()
        if may and (proven := self._proven()) is not None:
            self._promised, together.would_write = proven, proven.step

    def hold_evaluated(self, step: int, limits: wire.Limits | None) -> None:
        """The state after ``step`` is being evaluated: it may turn out to be the best."""
        wanted = limits is not None and limits.holds_evaluated
        if wanted and self._guards and self._turns_back:
            self._best.hold(step)

    def _report_disk(self, text: str) -> None:
        log.warning("lossguard: %s", text)
        self._outbox.tell(0, "disk", text[:500])

    def to_disk(self, step: int) -> bool:
        """A snapshot of this very state to disk, in the background; False where one is being
        written."""
        return self._tier.offer(self._ring.capture(step), now=True)

    def held(self) -> list[wire.Held]:
        """The snapshots that can be gone back to. From any thread; does not touch the disk."""
        if self.orders.refuses:
            return []
        return [*self._ring.held(), *self._tier.written][-wire.MOST_HELD :]

    def resume(self) -> int | None:
        """Take up where the latest unfinished run of this name was; see ``resuming``."""
        return resume(self._state, self._hello, self._tier)

    def snapshot(self, step: int, step_time_s: float) -> Snapshot:
        """Capture now."""
        try:
            return self._ring.take(step, step_time_s)
        except MemoryError:
            self._snapshots_work = False
            raise

    def obey(self, command: wire.Command, step: int) -> bool:
        """Carry out a command; False when its step has not come, or not all ranks have it."""
        together = self._together
        if together is None:
            return self._orders.obey(command, step)
        if self._orders.answered_before(command):
            return True
        if step > command.expires_step:
            together.drop(command)
            return self._orders.obey(command, step)
        if step < command.step:
            return False
        if together.has_agreed_on(command):
            self._orders.obey(command, step)
            together.done(command, self._orders.status_of(command))
        elif together.why_not:
            self._orders.refuse(command, step, together.why_not)
        else:
            together.hold(command, lambda: self.orders.says(command))
            return False
        return True
