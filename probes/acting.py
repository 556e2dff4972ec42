"""What a guarded loop does about trouble: veto, snapshot, roll back, hold the rate, stop."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from lossguard.probes import wire
from lossguard.probes.carrying_out import CarryingOut
from lossguard.probes.durable import DurableTier, tier_of_run
from lossguard.probes.learning_rate import LearningRateHold
from lossguard.probes.orders import Orders
from lossguard.probes.outbox import Outbox
from lossguard.probes.reflex import Reflex
from lossguard.probes.snapshots import Snapshot, SnapshotRing
from lossguard.probes.training_state import TrainingState
from lossguard.probes.wire import SKIP_SCALER

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
        self._ring = SnapshotRing(state)
        self._seen_limits: wire.Limits | None = None
        self._snapshots_work = True
        self._tier: DurableTier = tier_of_run(hello, self._report_disk)
        self._offered = -1
        self.orders = CarryingOut(state, self._ring, self._hold, self._tier, outbox)
        self._orders = Orders(hello, self.orders.handlers(), outbox.say)

    # --- before the update ----------------------------------------------------------------

    def before_update(
        self,
        optimizer: torch.optim.Optimizer,
        total_norm: Tensor | None,
        loss: Tensor | None,
        limits: wire.Limits | None,
    ) -> Tensor | None:
        """Judge the update and close the gate on a bad one; the code that stands."""
        by_command = self.orders.take_skip()
        self._total_norm = total_norm
        self.orders.clip.apply(total_norm, optimizer)
        self._by_command = by_command
        gate = self._gate_of(optimizer)
        if not self._guards and not by_command:
            return gate.overflow()
        if limits is not self._seen_limits or self._bounded is not gate:
            self._seen_limits, self._bounded = limits, gate
            grad_norm, loss_bound = (limits.grad_norm, limits.loss) if limits else (None, None)
            gate.set_bounds(grad_norm, loss_bound)
        code = gate.verdict(total_norm, loss) if self._guards else None
        return gate.close_gate(code, by_command)

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
            self.open_gate()
        except Exception:  # no veto any more: one that cannot be lifted would end the training
            self._guards = False
            self._forget_held()
            raise
        finally:
            self._hold.release()

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
        self._ring.clear()
        if finished:
            self._tier.remove()

    def snapshot_if_due(self, step: int, step_time_s: float) -> None:
        """Take one, or hand one that has proven good to the disk. Mostly: look at two numbers."""
        if not (self._guards and self._turns_back and self._snapshots_work):
            return
        if self._ring.is_due(step):
            self.snapshot(step, step_time_s)
        elif step % _OFFER_EVERY == 0 and self._seen_limits is not None:
            proven = self._ring.newest_before(self._seen_limits.proven_step)
            if proven is not None and proven.step > self._offered and self._tier.offer(proven):
                self._offered = proven.step

    def _report_disk(self, text: str) -> None:
        log.warning("lossguard: %s", text)
        self._outbox.tell(0, "disk", text[:500])

    def snapshot(self, step: int, step_time_s: float) -> Snapshot:
        """Capture now."""
        try:
            return self._ring.take(step, step_time_s)
        except MemoryError:
            self._snapshots_work = False
            raise

    def obey(self, command: wire.Command, step: int) -> bool:
        """Carry out a command; False when its step has not come."""
        return self._orders.obey(command, step)
