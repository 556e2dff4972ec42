"""Puts the values of one step into one flat vector, and names them."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lossguard.probes import outputs, wire
from lossguard.probes.outbox import Measured
from lossguard.probes.transfer import Values, transfer_for

log = logging.getLogger("lossguard")

_HOST = (
    "lr", "step_time", "max_norm", "train_in_eval", "eval_in_training", "input_length",
    "data_wait", "checkpoint_age", "rss", "memory_allocated", "memory_reserved", "memory_total",
    "gpu_utilization",
)  # fmt: skip
_DEVICE = (
    "loss", "grad_norm", "loss_scale", "skipped", "val_loss", "input_top_share",
    "input_distinct_share", "input_absmax",
)  # fmt: skip

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


@dataclass(frozen=True, slots=True)
class Assembled:
    """The device's part of a step."""

    vector: Tensor
    factors: Values
    """Of ``vector[factors_at : factors_at + len(factors)]``."""
    is_sampled: bool


class Measurement:
    """One float32 vector on the device; one copy a step brings it to the host.

    The order is: what the host knows (``_HOST``, logged values), then what the device knows
    (``_DEVICE``, every gradient norm, every activation norm), then, at a sampled step only, the
    shares of units, the output statistics, weight norms and update ratios. A run has two layouts,
    so that the steps between carry none of the latter.
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
            *_DEVICE,
            *(f"grad_norm/{name}" for name in parameters),
            *(f"act_rms/{name}" for name in names.modules),
        ]
        self._sampled_names = [
            *(f"zero_share/{name}" for name in names.zeros),
            *(f"saturated_share/{name}" for name in names.saturated),
            *outputs.NAMES,
            *(f"weight_norm/{name}" for name in weights),
            *(f"update_ratio/{name}" for name in names.updated),
        ]
        self.size = len(self._device_names)
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
        self._host_names: list[str] = list(_HOST)
        self._known_names = {*self._host_names, *self._device_names, *self._sampled_names}
        self._layouts = self._name_values(0)
        self._sequence = 0

    def _name_values(self, number: int) -> tuple[wire.Layout, wire.Layout]:
        """The layout of most steps, and that of a sampled one."""
        names = [*self._host_names, *self._device_names]
        more = [*names, *self._sampled_names]
        return (
            wire.Layout(run=self._run, rank=self._rank, layout=number, names=names),
            wire.Layout(run=self._run, rank=self._rank, layout=number + 1, names=more),
        )

    @torch.no_grad()
    def assemble(
        self,
        plain: Mapping[str, Tensor | None],
        gradient_norms: Tensor | None,
        activations: Scaled,
        sampled: Sampled | None = None,
    ) -> Assembled:
        """The device's part: two kernels, whatever the number of values. Does not synchronise."""
        scalars = [*(plain.get(name) for name in _DEVICE), *activations.values]
        factors = activations.factors
        if sampled is not None:
            scalars += sampled.units.values
            factors = np.concatenate([factors, sampled.units.factors])
        stacked = torch.stack([self.missing if x is None else self._here(x) for x in scalars])
        sent = gradient_norms if self._sends_each_gradient else None
        first, last = stacked.split([len(_DEVICE), len(scalars) - len(_DEVICE)])
        parts = [first, self._no_gradients if sent is None else sent, last]
        if sampled is None:
            return Assembled(torch.cat(parts, out=self._vector), factors, False)
        weights = sampled.weight_norms if self._sends_each_weight else None
        parts += [
            self._no_outputs if sampled.outputs is None else sampled.outputs,
            self._no_weights if weights is None else weights,
            self._no_ratios if sampled.update_ratios is None else sampled.update_ratios,
        ]
        return Assembled(torch.cat(parts), factors, True)

    def _here(self, value: Tensor) -> Tensor:
        """As a float32 on our device. A value of the host's is filled in: a copy would wait."""
        if value.device.type == "cpu" and self._device.type != "cpu":
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
        for name in host:
            if name not in self._known_names:
                self._host_names.append(name)
                self._known_names.add(name)
                self._layouts = self._name_values(self._layouts[0].layout + 2)
        known = np.full(len(self._host_names), wire.MISSING_BITS, dtype=np.uint32).view(np.float32)
        for i, name in enumerate(self._host_names):
            value = host.get(name)
            if value is not None:
                known[i] = _as_float32(value)
        arrival = None
        if device is None:
            blank = np.full(self.size, wire.MISSING_BITS, dtype=np.uint32).view(np.float32)
            known = np.concatenate([known, blank])
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
            skip_index=_DEVICE.index("skipped"),
            counts_as_update=counts_as_update,
        )


def _as_float32(value: float) -> float:
    """Beyond float32's range is infinite, without NumPy's warning."""
    return math.copysign(math.inf, value) if abs(value) > 3.4028234e38 else value
