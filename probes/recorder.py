"""From what the senses heard to the message of a step."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lossguard.probes import wire
from lossguard.probes.evaluation import Evaluated
from lossguard.probes.measurement import NO_FACTORS, Measurement, Names, Scaled
from lossguard.probes.outbox import Measured
from lossguard.probes.parameters import named_parameters, watched_modules
from lossguard.probes.senses import Heard, Senses
from lossguard.probes.shield import Shield
from lossguard.probes.training_state import TrainingState

log = logging.getLogger("lossguard")

_MAX_LOGGED = 1000


class Recorder:
    """Names all that is measured of one optimizer's loop, and puts the values of a step together.

    ``logged`` are numbers of the script's own, to travel with the next step.
    """

    def __init__(self, state: TrainingState, hello: wire.Hello, shield: Shield) -> None:
        named = named_parameters(state.model, state.optimizer)
        if not named:
            raise ValueError("the optimizer has no parameters")
        parameters = [p for _, p in named]
        modules = watched_modules(state.model) if state.model is not None else []
        self._state = state
        self._shield = shield
        self.device = _main_device(parameters)
        self.senses = Senses(state.model, parameters, [m for _, m in modules], self.device, shield)
        names = Names(
            parameters=[n for n, _ in named],
            modules=[n for n, _ in modules],
            zeros=self.senses.units.zero_names,
            saturated=self.senses.units.saturated_names,
            updated=[named[i][0] for i in self.senses.weights.watched],
        )
        self._measurement = Measurement(hello.run, hello.rank, names, self.device)
        self.values_per_step = self._measurement.size
        self.logged: dict[str, float] = {}
        self._logged_names: set[str] = set()

    def log(self, name: str, value: float) -> None:
        """A number of the script's own, to travel with the next step."""
        if name not in self._logged_names:
            if len(self._logged_names) >= _MAX_LOGGED:
                log.warning("guard.log(%s=...): over %d names; ignored", name, _MAX_LOGGED)
                return
            self._logged_names.add(name)
        self.logged[name] = value

    def record(
        self, step: int, now: float, heard: Heard, code: Tensor, host: Mapping[str, float | None]
    ) -> Measured | None:
        """The message of a step; None when the way to the host is blocked.

        ``code`` is what ``skipped`` says (0-d); ``host`` is known without the senses.
        """
        sampled = self.senses.take_sample() if self.senses.is_sampled else None
        gradient_norms, total = heard.norms or (None, None)
        validation, validated = self._validation(heard.evaluated)
        plain = {
            "loss": heard.loss,
            "grad_norm": total,
            "loss_scale": getattr(self._state.scaler, "_scale", None),
            "skipped": code,
            "val_loss": validation,
            "input_top_share": heard.inputs.top_share,
            "input_distinct_share": heard.inputs.distinct_share,
            "input_absmax": heard.inputs.absmax,
        }
        assembled = self._measurement.assemble(plain, gradient_norms, heard.activations, sampled)
        logged, self.logged = self.logged, {}
        known = {**host, **heard.host, **validated, **logged}
        return self._measurement.pack(step, now, assembled, known, counts_as_update=True)

    def record_rest(self, step: int) -> Measured | None:
        """What came after the last step, an evaluation or logged numbers; None without any."""
        validation, validated = self._validation(self.senses.take_evaluation())
        logged, self.logged = self.logged, {}
        if validation is None and not logged:
            return None
        nothing = Scaled([None] * self._measurement.num_modules, NO_FACTORS)
        assembled = self._measurement.assemble({"val_loss": validation}, None, nothing)
        now = time.monotonic()
        known = {**validated, **logged}
        return self._measurement.pack(step, now, assembled, known, counts_as_update=False)

    def _validation(self, found: Evaluated) -> tuple[Tensor | None, dict[str, float | None]]:
        """The validation loss, the script's own before the one that was heard; and what goes with
        it."""
        loss = found.loss
        if (own := self.logged.get("val_loss")) is not None:
            loss = self._measurement.filled(own)
        return loss, {} if loss is None else {"eval_in_training": found.share_in_training}


def _main_device(parameters: list[Tensor]) -> torch.device:
    """Where the values of a step come together: bringing them to the CPU would wait for each."""
    devices = [p.device for p in parameters]
    return next((device for device in devices if device.type != "cpu"), devices[0])


def inverse_scale(optimizer: Any) -> Tensor | None:
    """1 / loss scale, where GradScaler leaves the un-scaling to a fused kernel."""
    scale = getattr(optimizer, "grad_scale", None)
    return scale.reciprocal() if isinstance(scale, Tensor) else None
