"""One step: counted, measured, judged, recorded."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lossguard.home import Home
from lossguard.probes import patches, wire
from lossguard.probes.discover import compiled_forms_of, entrance_inside
from lossguard.probes.learning_rate import learning_rate
from lossguard.probes.outbox import Lost
from lossguard.probes.parameters import optimizer_parameters
from lossguard.probes.senses import EVERY, Heard
from lossguard.probes.training_state import TrainingState
from lossguard.probes.unscaling import inverse_scale, still_scaled, unscaled
from lossguard.probes.watch import Watch

_SETTLED = 2
"""By this step every part of an ordinary loop has run once."""
_SILENT_STEPS = 8
"""So many steps without a loss, and it is said that none is seen."""


class Measuring(Watch):
    """Puts together what was heard since the last step."""

    def __init__(self, state: TrainingState, hello: wire.Hello, home: Home, **more: Any) -> None:
        self._last_step_s = 0.0
        self._step_time_s = 0.0
        self._losses_heard = 0
        self._code: Tensor | None = None
        self._parameters = optimizer_parameters(state)
        self._state = state
        self._groups = self._group_sizes()
        super().__init__(state, hello, home, **more)
        self._zero = torch.zeros((), dtype=torch.float32, device=self._device)

    def _count_and_measure(
        self, optimizer: Optimizer | None, forced_code: Tensor | None, may_veto: bool = True
    ) -> None:
        self.step += 1
        self._link.step = self.step
        now = time.monotonic()
        self._step_time_s = now - self._last_step_s if self._last_step_s else 0.0
        self._last_step_s = now
        self._code = forced_code
        self._shield.call("parameters", self._notice_parameters)
        heard = self._hear(optimizer)
        self._shield.call("schedules", self._acting.begin_step)
        rate = learning_rate(self._state)
        if forced_code is None and may_veto:
            judged = (self._total(heard), heard.loss, self._link.limits, self.step)
            self._code = self._shield.call("reflex", self._acting.before_update, optimizer, *judged)
        else:
            agreed = self._shield.call("reflex", self._acting.without_veto, self.step, forced_code)
            self._code = forced_code if agreed is None else agreed
        self._shield.call("learning rate", self._acting.hold_learning_rate, self.step)
        host = {"lr": rate, "step_time": self._step_time_s or None, **self._machine.take()}
        self._record(now, heard, host)
        self._senses.is_sampled = (self.step + 1) % EVERY == 0
        self._shield.call("surroundings", self._look_around, heard)

    def _hear(self, optimizer: Optimizer | None) -> Heard:
        waiting = still_scaled(self._state.scaler, optimizer, self._state.optimizers)
        was_measured = self._senses.has_norms
        heard = self._senses.take(inverse_scale(optimizer))
        if optimizer is None or heard.norms is None or not waiting or was_measured:
            return heard
        named = self._recorder.parameters
        return heard._replace(norms=unscaled(heard.norms, named, waiting, self._state.scaler))

    def _total(self, heard: Heard) -> Tensor | None:
        """What the verdict goes by. GradScaler judges the gradients of each optimizer by itself."""
        scales = getattr(self._state.scaler, "_scale", None) is not None
        several = len(self._state.optimizers) > 1
        return None if heard.norms is None or (scales and several) else heard.norms[1]

    def _record(self, now: float, heard: Heard, host: Mapping[str, float | None]) -> None:
        code = self._zero if self._code is None else self._code
        measured = self._recorder.record(self.step, now, heard, code, host)
        self._outbox.put(Lost(self.step) if measured is None else measured)
        self._recorder.look_closer(self.step, measured, self._outbox)

    def _group_sizes(self) -> list[tuple[int, int]]:
        """Differs when the script updates other parameters. A microsecond a group."""
        return [
            (len(group["params"]), id(group["params"][0]) if group["params"] else 0)
            for group in self._state.param_groups
        ]

    def _notice_parameters(self) -> None:
        """Groups that came later, another optimizer: from now on these are measured."""
        if (sizes := self._group_sizes()) == self._groups:
            return
        self._groups = sizes
        now = optimizer_parameters(self._state)
        if {id(p) for p in now} != {id(p) for p in self._parameters}:
            self._parameters = now
            self._recorder.watch_anew()
            self._outbox.fit(self._recorder.values_per_step)

    def _look_around(self, heard: Heard) -> None:
        """What the script has brought in since: other ways to save, a compiled model."""
        patches.notice_imports()
        if self.step == _SETTLED and not self._senses.has_heard_a_forward:
            model = self._state.model
            for called in compiled_forms_of(model) or entrance_inside(model):
                self._senses.hear_forwards_of(called)
        if self.step > _SILENT_STEPS:
            return
        self._losses_heard += heard.loss is not None or self._recorder.has_logged("loss")
        if self.step == _SILENT_STEPS and not self._losses_heard and self._shield.is_on("loss"):
            self.say(
                "loss_unseen",
                "no backward() reaches the parameters: no loss is seen; guard.log(loss=...) helps",
            )
