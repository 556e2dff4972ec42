"""From what the senses heard to the message of a step."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lossguard.probes import wire
from lossguard.probes.checksum import WeightChecksum
from lossguard.probes.evaluation import Evaluated
from lossguard.probes.last_steps import LastSteps
from lossguard.probes.measurement import NO_FACTORS, Measurement, Names, Scaled
from lossguard.probes.outbox import Measured, Outbox
from lossguard.probes.parameters import named_parameters, watched_modules
from lossguard.probes.senses import Heard, Senses
from lossguard.probes.sharded import holders
from lossguard.probes.sharded_flat import flat_holders
from lossguard.probes.shield import Shield
from lossguard.probes.training_state import TrainingState
from lossguard.probes.zoom import Zoom
from lossguard.probes.zoomed import Zoomed

log = logging.getLogger("lossguard")

_MAX_LOGGED = 1000
_MAX_KINDS = 8


class Recorder:
    """Names all that is measured of one optimizer's loop, and puts the values of a step together.

    ``logged`` are numbers of the script's own, to travel with the next step.
    """

    def __init__(self, state: TrainingState, hello: wire.Hello, shield: Shield) -> None:
        named = _named(state)
        parameters = [p for _, p in named]
        modules = watched_modules(state.model) if state.model is not None else []
        self._state = state
        self._hello = hello
        self.parameters = parameters
        """In the order of their names."""
        self._hello = hello
        self._shield = shield
        self.device = _main_device(parameters)
        self.senses = Senses(state.model, parameters, [m for _, m in modules], self.device, shield)
        self._modules = [n for n, _ in modules]
        self._measurement = self._name_all(named)
        self.senses.outputs.eos_id = state.eos_id if state.eos_id is not None else _eos_id(state)
        self._said_kinds = 0
        self._said_kind = ""
        self._zoom = Zoom(state.model, hello, self.device, self._bad_metric, self.senses.in_silence)
        self.last_steps = LastSteps()
        self.senses.on_inputs = self._before_forward
        self.senses.on_target = self.last_steps.loss_is_asked
        self.logged: dict[str, float] = {}
        self._logged_names: set[str] = set()

    def _before_forward(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        self._zoom.hold(args, kwargs)
        keep = self.last_steps.forward_begins
        self._shield.call("evidence", keep, args, kwargs, self.senses.is_sampled)

    @property
    def values_per_step(self) -> int:
        """Of the device."""
        return self._measurement.size

    def _name_all(self, named: Sequence[tuple[str, Tensor]]) -> Measurement:
        flat = flat_holders([] if self._state.model is None else [self._state.model])
        names = Names(
            parameters=[n for n, _ in named],
            modules=self._modules,
            zeros=self.senses.units.zero_names,
            saturated=self.senses.units.saturated_names,
            updated=[named[i][0] for i in self.senses.weights.watched],
            adapted=[named[i][0] for i in self.senses.moments.watched],
            holders={n: ranks for n, p in named if (ranks := holders(p) or flat.get(id(p)))},
        )
        whole = [p for n, p in named if n not in names.holders and self._hello.world_size > 1]
        self._checksum = WeightChecksum(whole, self.device)
        return Measurement(self._hello.run, self._hello.rank, names, self.device)

    def watch_anew(self) -> None:
        """The script updates other parameters now: measure those."""
        named = _named(self._state)
        self.parameters = [p for _, p in named]
        self.senses.watch(self.parameters)
        before, self._measurement = self._measurement, self._name_all(named)
        self._measurement.go_on_from(before)

    def log(self, name: str, value: float) -> None:
        """A number of the script's own, to travel with the next step."""
        if name not in self._logged_names:
            if len(self._logged_names) >= _MAX_LOGGED:
                log.warning("guard.log(%s=...): over %d names; ignored", name, _MAX_LOGGED)
                return
            self._logged_names.add(name)
        self.logged[name] = value

    def has_logged(self, name: str) -> bool:
        """Whether the script has ever reported it."""
        return name in self._logged_names

    def record(
        self, step: int, now: float, heard: Heard, code: Tensor, host: Mapping[str, float | None]
    ) -> Measured | None:
        """The message of a step; None when the way to the host is blocked.

        ``code`` is what ``skipped`` says (0-d); ``host`` is known without the senses.
        """
        self._shield.call("evidence", self.last_steps.step_ends, step)
        optimizers = self._state.optimizers
        sampled = self.senses.take_sample(optimizers) if self.senses.is_sampled else None
        gradient_norms, total = heard.norms or (None, None)
        validation, validated = self._validation(heard.evaluated)
        plain = {
            "loss": self._own("loss", heard.loss),
            "grad_norm": self._own("grad_norm", total),
            "loss_scale": getattr(self._state.scaler, "_scale", None),
            "skipped": code,
            "val_loss": validation,
            "input_top_share": heard.inputs.top_share,
            "input_distinct_share": heard.inputs.distinct_share,
            "input_absmax": heard.inputs.absmax,
            "input_mean": heard.inputs.mean,
            "input_fingerprint": heard.inputs.fingerprint,
            "loss_scale_growth": getattr(self._state.scaler, "_growth_tracker", None),
            "weight_checksum": self._sum_of_weights() if sampled is not None else None,
        }
        assembled = self._measurement.assemble(plain, gradient_norms, heard.activations, sampled)
        logged, self.logged = self.logged, {}
        known = {**host, **heard.host, **validated, **logged}
        return self._measurement.pack(step, now, assembled, known, counts_as_update=True)

    def _sum_of_weights(self) -> Tensor | None:
        found: Tensor | None = self._shield.call("checksum", self._checksum.measure)
        return found

    def say_kind(self, step: int, outbox: Outbox) -> None:
        """Type and shape of what the model is fed, when it is of another type than before."""
        kind = self.senses.inputs.kind
        if kind == self._said_kind or self._said_kinds >= _MAX_KINDS:
            return
        self._said_kind = kind
        self._said_kinds += 1
        outbox.tell(step, "input", f"the model is fed {kind}")

    def look_closer(self, step: int, measured: Measured | None, outbox: Outbox) -> None:
        """Where something is not finite: find the first module to blame, and say what was found."""
        self.say_kind(step, outbox)
        if not self._state.optimizers:  # the weights are others already
            return
        found = self._shield.call("zoom", self._zoom.look, step, measured)
        if isinstance(found, Zoomed):
            outbox.put(found)
        elif found:
            outbox.tell(step, "not_zoomed", found)

    def _bad_metric(self, measured: Measured) -> str | None:
        return self._measurement.bad_metric(measured)

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

    def _own(self, name: str, heard: Tensor | None) -> Tensor | None:
        """What the script has logged under this name, before what was heard."""
        own = self.logged.get(name)
        return heard if own is None else self._measurement.filled(own)

    def _validation(self, found: Evaluated) -> tuple[Tensor | None, dict[str, float | None]]:
        """The validation loss, the script's own before the one that was heard; and what goes with
        it."""
        loss = self._own("val_loss", found.loss)
        return loss, {} if loss is None else {"eval_in_training": found.share_in_training}


def _named(state: TrainingState) -> list[tuple[str, Tensor]]:
    named = named_parameters(state.model, state, state.others)
    if not named:
        raise ValueError("there are no parameters to watch")
    return named


def _eos_id(state: TrainingState) -> int | None:
    """Where the model says so itself, as those of Hugging Face do."""
    found = getattr(getattr(state.model, "config", None), "eos_token_id", None)
    return found if isinstance(found, int) else None


def _main_device(parameters: list[Tensor]) -> torch.device:
    """Where the values of a step come together: bringing them to the CPU would wait for each."""
    devices = [p.device for p in parameters]
    return next((device for device in devices if device.type != "cpu"), devices[0])
