"""What each order does to the training: at a step boundary, whole, or refused with a reason."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Literal

from lossguard.probes import wire
from lossguard.probes.best_state import BestState
from lossguard.probes.common_snapshots import CommonSnapshots
from lossguard.probes.durable import Durable, DurableTier
from lossguard.probes.interventions import CannotDo, ClipBound, reset_moments, set_loss_scale
from lossguard.probes.learning_rate import LearningRateHold, lower_rates
from lossguard.probes.orders import Handler, OrderFailed, Result, number
from lossguard.probes.outbox import Outbox, Restored
from lossguard.probes.snapshots import Snapshot, SnapshotRing
from lossguard.probes.training_state import TrainingState

log = logging.getLogger("lossguard")

Exactness = Literal["bitwise", "order-exact", "model-only"]
"""Of a restored state: the same batches give the same losses; they do but for what is drawn at
random; some part could not be written to disk, and was not restored."""
_HOLD_FACTOR = 1.5
_HOLD_STEPS = 100
_MOST_STEPS = 1_000_000
_LEAST_FACTOR = 1e-6
_WRITE_PATIENCE_S = 600.0
"""A stop waits so long for its snapshot to be on disk: the training is over anyway."""


class CarryingOut:
    """The orders of one loop. ``refuses`` says why there is no rollback, where there is none."""

    def __init__(
        self,
        state: TrainingState,
        ring: SnapshotRing,
        hold: LearningRateHold,
        tier: DurableTier,
        outbox: Outbox,
        best: BestState,
    ) -> None:
        self._state = state
        self._ring = ring
        self._hold = hold
        self._tier = tier
        self._outbox = outbox
        self._best = best
        self._skip_next = False
        self.clip = ClipBound()
        self.refuses = ""
        self.vetoes_possible = True
        """Not where the optimizer computes the gradients itself, in a way unknown to us."""
        self.stop_reason: str | None = None
        self.common: CommonSnapshots | None = None
        """Where several ranks must go back to the same step."""
        self.gradient_is_cut = False
        """Over ranks: none knows the norm of the whole before all have said theirs."""

    def handlers(self) -> dict[str, Handler]:
        """The closed table of what may be ordered."""
        return {
            "skip": self._skip,
            "rollback": self._rollback,
            "lower_lr": self._lower_lr,
            "reset_moments": _possible(self._reset_moments),
            "set_clip": self._set_clip,
            "set_loss_scale": _possible(self._set_loss_scale),
            "checkpoint": self._checkpoint,
            "stop": self._stop,
        }

    def says(self, command: wire.Command) -> str:
        """What the other ranks must know before all vote for it."""
        if self.common is None or command.action != "rollback":
            return ""
        return self.common.says(command, self.refuses)

    def take_skip(self) -> bool:
        """Whether the coming update was ordered to be skipped; asked once."""
        skip, self._skip_next = self._skip_next, False
        return skip

    def _skip(self, command: wire.Command, step: int) -> Result:
        if not self.vetoes_possible:
            raise OrderFailed(
                "the optimizer computes its gradients in a closure: its update cannot be vetoed"
            )
        self._skip_next = True
        return {"skips_step": step + 1}

    def _rollback(self, command: wire.Command, step: int) -> Result:
        """Back to the newest state whose own next step still looked healthy before the onset.

        A bad loss at step o was computed with the weights that step o-1 left; so the newest
        state that the run itself has shown to be good is the one after step o-2. ``deeper`` goes
        so many snapshots further back, as far as there are any. What memory does not hold is
        looked for on disk.
        """
        if self.refuses and self.common is None:  # else it is said before the vote, and to all
            raise OrderFailed(self.refuses)
        onset = int(number(command, "onset", step, 0, 2**53))
        factor = number(command, "lr", 1.0, _LEAST_FACTOR, 1.0)
        ramp = int(number(command, "warmup_steps", 0, 0, _MOST_STEPS))
        random = bool(number(command, "random", 0, 0, 1))
        replay = bool(number(command, "replay", 0, 0, 1))
        deeper = int(number(command, "deeper", 0, 0, 1000))
        back = self._back_to(command, onset - 2, deeper, random)
        replayed = _replayed(self._state.replay(back.kept)) if replay else {}
        self._outbox.put(Restored(back.step))
        if factor < 1.0:
            lower_rates(self._state, self._state.schedulers, factor)
        if number(command, "hold_lr", 0, 0, 1):
            scaled = [None if r is None else r * factor for r in back.learning_rates]
            caps = [None if r is None else r * _HOLD_FACTOR for r in scaled]
            self._hold.hold(caps, step + _HOLD_STEPS)
        self._hold.warm_up(step, ramp)
        log.warning("lossguard rolled back from step %d to the state after step %d",
                    step, back.step)  # fmt: skip
        result: Result = {"restored_step": back.step, "exactness": _exactness(back, random)}
        if isinstance(back, Durable):
            result["from"] = "disk"
        return (result if factor == 1.0 else result | {"lr": factor}) | replayed

    def _back_to(
        self, command: wire.Command, step: int, deeper: int, random: bool
    ) -> Snapshot | Durable:
        if self.common is not None:
            snapshot: Snapshot | None = self.common.choose(command, step, deeper)
        else:
            snapshot = self._ring.newest_before(step, deeper)
        if snapshot is not None:
            self._ring.restore(snapshot, random_generators=random)
            self._tier.forget_after(snapshot.step)
            return snapshot
        durable = self._tier.newest_before(step)
        if durable is None:
            have = ", ".join(map(str, self._ring.steps)) or "none"
            raise OrderFailed(f"no snapshot from before step {step + 1} (kept is: {have})")
        self._state.restore(durable.kept, random_generators=random)
        self._ring.clear()
        self._tier.forget_after(durable.step)
        return durable

    def _lower_lr(self, command: wire.Command, step: int) -> Result:
        """Scale the learning rate of every group, and of the schedules' base."""
        factor = number(command, "factor", 0.1, _LEAST_FACTOR, 1.0)
        ramp = int(number(command, "warmup_steps", 0, 0, _MOST_STEPS))
        if not self._state.optimizers:
            raise OrderFailed("there is no optimizer whose rate could be lowered")
        lower_rates(self._state, self._state.schedulers, factor)
        self._hold.warm_up(step, ramp)
        return {"factor": factor}

    def _reset_moments(self, command: wire.Command, step: int) -> Result:
        return {"parameters": reset_moments(self._state.optimizers)}

    def _set_clip(self, command: wire.Command, step: int) -> Result:
        if self.gradient_is_cut:
            raise OrderFailed("the gradient is cut over the ranks: none of them knows its norm")
        self.clip.max_norm = number(command, "max_norm", 1.0, 1e-12, 1e12)
        return {"max_norm": self.clip.max_norm}

    def _set_loss_scale(self, command: wire.Command, step: int) -> Result:
        scale = number(command, "scale", 1024.0, _LEAST_FACTOR, 2.0**40)
        return {"scale": set_loss_scale(self._state.scaler, scale)}

    def _checkpoint(self, command: wire.Command, step: int) -> Result:
        """A snapshot of this very state, to disk; or of the one that was evaluated, as the best.

        Answered when it is taken; written after.
        """
        if "keep" in command.args:
            return self._keep(command)
        snapshot = self._ring.capture(step)
        if not self._tier.offer(snapshot, now=True):
            raise OrderFailed("another snapshot is being written: try again")
        return {"step": step, "folder": str(self._tier.folder)}

    def _keep(self, command: wire.Command) -> Result:
        if command.args["keep"] != "best":
            raise OrderFailed(f"keep must be best, got {command.args['keep']!r:.40}")
        evaluated = int(number(command, "evaluated", -1, 0, 2**53))
        return {"step": evaluated, "kept": "best", "folder": str(self._best.keep(evaluated))}

    def _stop(self, command: wire.Command, step: int) -> Result:
        result: Result = {"stopped_after_step": step}
        if number(command, "checkpoint", 0, 0, 1):
            self._tier.settle(_WRITE_PATIENCE_S)
            result |= self._checkpoint(command, step)
            self._tier.settle(_WRITE_PATIENCE_S)
        self.stop_reason = str(command.args.get("reason", "told to stop"))
        return result


def _exactness(back: Snapshot | Durable, random: bool) -> Exactness:
    """What the same batches in the same order give from here on."""
    if isinstance(back, Durable) and back.missing:
        return "model-only"
    return "bitwise" if random else "order-exact"


def _replayed(answers: dict[str, str]) -> Result:
    """Which loaders went back as well, and why not the others."""
    result: Result = {"replayed": ", ".join(name for name, why in answers.items() if not why)}
    if not result["replayed"]:
        result["replayed"] = "nothing"
    if not answers:
        result["not_replayed"] = "there is no loader with a state in extra"
    for name, why in answers.items():
        if why:
            result["not_replayed"] = f"{name}: {why}"
    return result


def _possible(handler: Callable[[wire.Command, int], Result]) -> Handler:
    """The handler, with what does not fit this run as a refusal."""

    def carried_out(command: wire.Command, step: int) -> Any:
        try:
            return handler(command, step)
        except CannotDo as error:
            raise OrderFailed(str(error)) from error

    return carried_out
