"""Puts the values of one step into one flat vector, and names them."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lossguard.probes import outputs, phases, wire
from lossguard.probes.outbox import Measured
from lossguard.probes.sharded_names import Holding
from lossguard.probes.transfer import Values, transfer_for

log = logging.getLogger("lossguard")

_HOST = (
    "lr", "step_time", "max_norm", "train_in_eval", "eval_in_training", "input_length",
    "input_batch", "data_wait", "checkpoint_age", "rss", "memory_allocated", "memory_reserved",
    "memory_total", "memory_fragmented", "allocator_retries", "gpu_utilization", "gpu_temperature",
    "gpu_power", "clip_coefficient", *phases.NAMES,
)  # fmt: skip
_DEVICE = (
    "loss", "grad_norm", "loss_scale", "skipped", "val_loss", "input_top_share",
    "input_distinct_share", "input_absmax", "input_mean", "input_fingerprint", "loss_scale_growth",
    "weight_checksum",
)  # fmt: skip

_SKIPPED = _DEVICE.index("skipped")
_NORM = _DEVICE.index("grad_norm")
_CLIPPED = _HOST.index("max_norm"), _HOST.index("clip_coefficient")
_MOST = 3.4028234e38

NO_FACTORS = np.empty(0, dtype=np.float32)


def missing_value(device: torch.device) -> Tensor:
    """The 0-d float32 that says "not measured" (``wire.MISSING_BITS``)."""
    value = torch.empty((), dtype=torch.float32, device=device)
    value.view(torch.int32).fill_(wire.MISSING_BITS)
    return value


@dataclass(frozen=True, slots=True)
class Names:
    """What the families of a run are named after, in the order of the model."""

    parameters: Sequence[str] = ()
    modules: Sequence[str] = ()
    zeros: Sequence[str] = ()
    saturated: Sequence[str] = ()
    updated: Sequence[str] = ()
    adapted: Sequence[str] = ()
    holders: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """Of a parameter that is cut: the ranks that hold its parts."""


@dataclass(frozen=True, slots=True)
class Scaled:
    """0-d values on the device (None: not measured), and what the host multiplies each by."""

    values: Sequence[Tensor | None]
    factors: Values


@dataclass(frozen=True, slots=True)
class Sampled:
    """What only a sampled step has. ``units`` are the zero shares, then the saturated ones."""

    units: Scaled
    outputs: Tensor | None
    weight_norms: Tensor | None
    update_ratios: Tensor | None
    largest: Sequence[Tensor | None] = ()
    """Of each watched module's output."""
    moments: Tensor | None = None


class Assembled(NamedTuple):
    """The device's part of a step."""

    vector: Tensor
    factors: Values
    """Of ``vector[factors_at : factors_at + len(factors)]``."""
    is_sampled: bool
    known: list[tuple[int, float]]
    """Places in ``vector``, and what the host knows to belong there."""


class Measurement:
    """One float32 vector on the device; one copy a step brings it to the host.

    The order is: what the host knows (``_HOST``, logged values), then what the device knows
    (every gradient norm, ``_DEVICE``, every activation norm), then, at a sampled step only, the
    shares of units, the largest activations, the output statistics, weight norms, update ratios and
    second moments. A run has two layouts, so that the steps between carry none of the latter.
    """

    def __init__(self, run: str, rank: int, names: Names, device: torch.device) -> None:
        self._run = run
        self._rank = rank
        # All names travel in one frame: where the parameters' alone would fill too much of it,
        # only the total of their norms is sent.
        size = sum(len(name) + 16 for name in names.parameters)
        self._sends_each_gradient = size <= wire.MAX_FRAME_BYTES // 2
        self._sends_each_weight = size <= wire.MAX_FRAME_BYTES // 3
        if not self._sends_each_gradient:
            log.warning("%d parameters are too many to send the gradient norm of each",
                        len(names.parameters))  # fmt: skip
        parameters = names.parameters if self._sends_each_gradient else ()
        weights = names.parameters if self._sends_each_weight else ()
        self._device_names = [
            *(f"grad_norm/{name}" for name in parameters),
            *_DEVICE,
            *(f"act_rms/{name}" for name in names.modules),
        ]
        self._sampled_names = [
            *(f"zero_share/{name}" for name in names.zeros),
            *(f"saturated_share/{name}" for name in names.saturated),
            *(f"act_absmax/{name}" for name in names.modules),
            *outputs.NAMES,
            *(f"weight_norm/{name}" for name in weights),
            *(f"update_ratio/{name}" for name in names.updated),
            *(f"adam_ratio/{name}" for name in names.adapted),
        ]
        self.size = len(self._device_names)
        self._plain_at = len(parameters)
        self._factors_at = len(_DEVICE) + len(parameters)
        self.num_modules = len(names.modules)
        self._vector = torch.empty(self.size, dtype=torch.float32, device=device)
        self._transfer = transfer_for(device, self.size + len(self._sampled_names))
        self._device = device
        self.missing = missing_value(device)
        self._no_gradients = self.missing.expand(len(parameters))
        self._no_outputs = self.missing.expand(len(outputs.NAMES))
        self._no_weights = self.missing.expand(len(weights))
        self._no_ratios = self.missing.expand(len(names.updated))
        self._no_moments = self.missing.expand(len(names.adapted))
        self._host_names: list[str] = list(_HOST)
        self._places = dict.fromkeys((*self._device_names, *self._sampled_names), -1)
        self._places |= {name: i for i, name in enumerate(_HOST)}
        self._blank = _blank(len(_HOST))
        self._holding = Holding(names.parameters, names.holders)
        self._layouts = self._name_values(0)
        self._sequence = 0
        # Of parameters that are cut the norm on this rank is not what clipping goes by.
        self._clipped = None if names.holders else (*_CLIPPED, self._plain_at + _NORM)

    def go_on_from(self, before: Measurement) -> None:
        """Take over the numbering of an earlier one of the same run."""
        self._sequence = before._sequence
        self._layouts = self._name_values(before._layouts[1].layout + 1)

    def _name_values(self, number: int) -> tuple[wire.Layout, wire.Layout]:
        """The layout of most steps, and that of a sampled one."""
        names = [*self._host_names, *self._device_names]
        more = [*names, *self._sampled_names]
        return self._layout(number, names), self._layout(number + 1, more)

    def _layout(self, number: int, names: list[str]) -> wire.Layout:
        return wire.Layout(
            run=self._run,
            rank=self._rank,
            layout=number,
            names=names,
            holders=self._holding.groups,
            held_by=self._holding.held_by(names),
        )

    def assemble(
        self,
        plain: Mapping[str, Tensor | float | None],
        gradient_norms: Tensor | None,
        activations: Scaled,
        sampled: Sampled | None = None,
    ) -> Assembled:
        """The device's part: two kernels, whatever the number of values. Does not synchronise.

        Values of the host's among the ``plain`` ones join them at the end of the way.
        """
        missing, device = self.missing, self._device
        scalars: list[Tensor] = []
        known: list[tuple[int, float]] = []
        for i, name in enumerate(_DEVICE):
            value = plain.get(name)
            if isinstance(value, Tensor):
                scalars.append(self._here(value))
                continue
            scalars.append(missing)
            if value is not None:
                known.append((self._plain_at + i, _as_float32(value)))
        factors = activations.factors
        values = activations.values
        if sampled is not None:
            largest = sampled.largest or [None] * self.num_modules
            values = [*values, *sampled.units.values, *largest]
            factors = np.concatenate([factors, sampled.units.factors])
        for activation in values:
            if activation is None:
                scalars.append(missing)
            elif activation.dtype is torch.float32 and activation.device == device:
                scalars.append(activation)
            else:
                scalars.append(self._here(activation))
        sent = gradient_norms if self._sends_each_gradient else None
        parts = [self._no_gradients if sent is None else sent, torch.stack(scalars)]
        if sampled is None:
            return Assembled(torch.cat(parts, out=self._vector), factors, False, known)
        weights = sampled.weight_norms if self._sends_each_weight else None
        parts += [
            self._no_outputs if sampled.outputs is None else sampled.outputs,
            self._no_weights if weights is None else weights,
            self._no_ratios if sampled.update_ratios is None else sampled.update_ratios,
            self._no_moments if sampled.moments is None else sampled.moments,
        ]
        return Assembled(torch.cat(parts), factors, True, known)

    def _here(self, value: Tensor) -> Tensor:
        """As a float32 on our device. A value of the host's is filled in: a copy would wait."""
        if value.device != self._device and value.is_cpu:
            return self.filled(float(value))
        return value.to(self._device, torch.float32, non_blocking=True)

    def filled(self, value: float) -> Tensor:
        """A number the host knows, as a 0-d float32 on the device. Does not synchronise."""
        return torch.full((), _as_float32(value), dtype=torch.float32, device=self._device)

    def pack(
        self,
        step: int,
        time_s: float,
        device: Assembled | None,
        host: Mapping[str, float | None],
        *,
        counts_as_update: bool,
    ) -> Measured | None:
        """The step as the outbox takes it; None when the way to the host is blocked.

        Of two values of one name, the script's and one measured on the device, the latter stands.

        Without a ``device`` part its values count as missing.
        """
        places = self._places
        known = self._blank.copy()
        for name, value in host.items():
            place = places.get(name)
            if place is None:
                place = self._place(name)
                if place >= len(known):
                    known = np.append(known, self._blank[len(known) :])
            if value is not None and place >= 0:
                known[place] = value if -_MOST < value < _MOST else _as_float32(value)
        arrival = None
        if device is None:
            known = np.concatenate([known, _blank(self.size)])
        else:
            arrival = self._transfer.send(device.vector)
        self._sequence += 1
        if device is not None and arrival is None:
            return None
        return Measured(
            step=step,
            sequence=self._sequence,
            layout=self._layouts[device is not None and device.is_sampled],
            time_s=time_s,
            host=known,
            arrival=arrival,
            factors=NO_FACTORS if device is None else device.factors,
            factors_at=self._factors_at,
            skip_index=self._plain_at + _SKIPPED,
            counts_as_update=counts_as_update,
            known=() if device is None else device.known,
            clipped=self._clipped,
        )

    def bad_metric(self, measured: Measured) -> str | None:
        """``loss`` or ``grad_norm`` where it is NaN or Inf, else empty; None while that is not
        known. No loss scaling is to blame a gradient for. Waits for nothing."""
        if measured.arrival is None:
            return ""
        if not measured.arrival.ready():
            return None
        at = self._plain_at
        values = measured.arrival.peek(at, at + 3)
        loss, norm, scale = values.tolist()
        if math.isfinite(loss) and math.isfinite(norm):
            return ""
        loss_is_there, norm_is_there, is_scaled = values.view(np.uint32) != wire.MISSING_BITS
        if loss_is_there and not math.isfinite(loss):
            return "loss"
        if norm_is_there and not math.isfinite(norm) and not (is_scaled and scale > 1.0):
            return "grad_norm"
        return ""

    def _place(self, name: str) -> int:
        """Where a value of the host's stands that has a new name: from now on in every step."""
        self._host_names.append(name)
        self._blank = _blank(len(self._host_names))
        self._layouts = self._name_values(self._layouts[0].layout + 2)
        place = self._places[name] = len(self._host_names) - 1
        return place


def _blank(size: int) -> Values:
    return np.full(size, wire.MISSING_BITS, dtype=np.uint32).view(np.float32)


def _as_float32(value: float) -> float:
    """Beyond float32's range is infinite, without NumPy's warning."""
    return math.copysign(math.inf, value) if abs(value) > _MOST else value
