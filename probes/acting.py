"""What a guarded loop does about trouble: veto, snapshot, roll back, hold the rate, stop."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from lossguard.probes import wire
from lossguard.probes.learning_rate import LearningRateHold, lower_rates
from lossguard.probes.orders import Handler, OrderFailed, Orders, Result, number
from lossguard.probes.outbox import Outbox, Restored
from lossguard.probes.reflex import Reflex
from lossguard.probes.snapshots import Snapshot, SnapshotRing
from lossguard.probes.training_state import TrainingState

log = logging.getLogger("lossguard")

_HOLD_FACTOR = 1.5
_HOLD_STEPS = 100


class Acting:
    """The changing half of the probe. Under ``observe`` only a person's command makes it act."""

    def __init__(
        self, state: TrainingState, hello: wire.Hello, device: torch.device, outbox: Outbox
    ) -> None:
        self._state = state
        self._hello = hello
        self._outbox = outbox
        self._guards = hello.policy == "guard"
        self._reflex = Reflex(state.optimizer, device)
        self._hold = LearningRateHold(state.optimizer)
        self._ring = SnapshotRing(state)
        self._seen_limits: wire.Limits | None = None
        self._skip_next = False
        self._observing_because = ""
        self.vetoes_possible = True
        """Not where the optimizer computes the gradients itself, by a closure."""
        self._snapshots_work = True
        self.stop_reason: str | None = None
        handlers: dict[str, Handler] = {
            "skip": self._skip,
            "rollback": self._rollback,
            "lower_lr": self._lower_lr,
            "stop": self._stop,
        }
        self._orders = Orders(hello, handlers, outbox.say)

    # --- before the update ----------------------------------------------------------------

    def before_update(
        self, total_norm: Tensor | None, loss: Tensor | None, limits: wire.Limits | None
    ) -> Tensor | None:
        """Judge the update and close the gate on a bad one; the code that stands."""
        by_command, self._skip_next = self._skip_next, False
        if not self._guards and not by_command:
            return self._reflex.overflow()
        if limits is not self._seen_limits:
            self._seen_limits = limits
            grad_norm, loss_bound = (limits.grad_norm, limits.loss) if limits else (None, None)
            self._reflex.set_bounds(grad_norm, loss_bound)
        code = self._reflex.verdict(total_norm, loss) if self._guards else None
        return self._reflex.close_gate(code, by_command)

    def only_observe(self, why: str) -> bool:
        """Act no more on our own account; False when we did not anyway."""
        did, self._guards = self._guards, False
        self._observing_because = why
        self._ring.clear()
        return did

    def hold_learning_rate(self, step: int) -> None:
        self._hold.apply(step)

    # --- after it -------------------------------------------------------------------------

    def after_update(self) -> None:
        """Open the gate and put the script's own learning rate back. Idempotent."""
        try:
            self._reflex.open_gate()
        except Exception:  # no veto any more: one that cannot be lifted would end the training
            self._guards = False
            self._reflex.forget_held()
            raise
        finally:
            self._hold.release()

    def open_gate(self) -> None:
        """No veto of this step after all."""
        self._reflex.open_gate()

    def step_died(self) -> None:
        """The last step began and never came to its end: its veto must not reach into this one."""
        self._reflex.forget_held()
        self._hold.release()

    def close(self) -> None:
        """Let go of the snapshots' memory."""
        self._ring.clear()

    def snapshot_if_due(self, step: int, step_time_s: float) -> None:
        if self._guards and self._snapshots_work and self._ring.is_due(step):
            self.snapshot(step, step_time_s)

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

    # --- the commands ---------------------------------------------------------------------

    def _skip(self, command: wire.Command, step: int) -> Result:
        if not self.vetoes_possible:
            raise OrderFailed(
                "the optimizer is stepped with a closure: its update cannot be vetoed"
            )
        self._skip_next = True
        return {"skips_step": step + 1}

    def _rollback(self, command: wire.Command, step: int) -> Result:
        """Back to the newest state whose own next step still looked healthy before the onset.

        A bad loss at step o was computed with the weights that step o-1 left; so the newest
        state that the run itself has shown to be good is the one after step o-2.
        """
        if self._observing_because:
            raise OrderFailed(self._observing_because)
        onset = int(number(command, "onset", step, 0, 2**53))
        snapshot = self._ring.newest_before(onset - 2)
        if snapshot is None:
            have = ", ".join(map(str, self._ring.steps)) or "none"
            raise OrderFailed(f"no snapshot from before step {onset - 1} (there are: {have})")
        replay = bool(number(command, "random", 0, 0, 1))
        self._ring.restore(snapshot, random_generators=replay)
        self._outbox.put(Restored(snapshot.step))
        if number(command, "hold_lr", 0, 0, 1):
            caps = [None if r is None else r * _HOLD_FACTOR for r in snapshot.learning_rates]
            self._hold.hold(caps, step + _HOLD_STEPS)
        log.warning("lossguard rolled back from step %d to the state after step %d",
                    step, snapshot.step)  # fmt: skip
        exact = "bitwise" if replay else "state"
        return {"restored_step": snapshot.step, "exactness": exact}

    def _lower_lr(self, command: wire.Command, step: int) -> Result:
        """Scale the learning rate of every group, and of the schedules' base."""
        factor = number(command, "factor", 0.1, 1e-6, 1.0)
        lower_rates(self._state.optimizer, self._state.schedulers, factor)
        return {"factor": factor}

    def _stop(self, command: wire.Command, step: int) -> Result:
        self.stop_reason = str(command.args.get("reason", "told to stop"))
        return {"stopped_after_step": step}
