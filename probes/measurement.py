"""Puts the values of one step into one flat vector, and names them."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from lossguard.probes import wire
from lossguard.probes.outbox import Measured
from lossguard.probes.transfer import Values, transfer_for

log = logging.getLogger("lossguard")

_PLAIN_HOST = ("lr", "step_time")
_PLAIN_DEVICE = ("loss", "grad_norm", "loss_scale", "skipped")


def missing_value(device: torch.device) -> Tensor:
    """The 0-d float32 that says "not measured" (``wire.MISSING_BITS``)."""
    value = torch.empty((), dtype=torch.float32, device=device)
    value.view(torch.int32).fill_(wire.MISSING_BITS)
    return value


class Measurement:
    """One preallocated float32 vector on the device; one copy a step brings it to the host.

    The order is: what the host knows (lr, step_time, logged values), then what the device knows
    (loss, grad_norm, loss_scale, skipped, every gradient norm, every activation norm).
    """

    def __init__(
        self,
        run: str,
        rank: int,
        parameter_names: Sequence[str],
        module_names: Sequence[str],
        device: torch.device,
    ) -> None:
        self._run = run
        self._rank = rank
        # All names travel in one frame: where the parameters' alone would fill half of it, only
        # the total of their norms is sent.
        if sum(len(name) + 16 for name in parameter_names) > wire.MAX_FRAME_BYTES // 2:
            log.warning("%d parameters are too many to send the gradient norm of each",
                        len(parameter_names))  # fmt: skip
            parameter_names = []
        self._sends_each_gradient = bool(parameter_names)
        self._device_names = [
            *_PLAIN_DEVICE,
            *(f"grad_norm/{name}" for name in parameter_names),
            *(f"act_rms/{name}" for name in module_names),
        ]
        self.size = len(self._device_names)
        self._vector = torch.empty(self.size, dtype=torch.float32, device=device)
        self._transfer = transfer_for(device, self.size)
        self._device = device
        self.missing = missing_value(device)
        self._no_gradients = self.missing.expand(len(parameter_names))
        self._host_names: list[str] = list(_PLAIN_HOST)
        self._known_names = {*self._host_names, *self._device_names}
        self._layout = self._name_values(0)
        self._sequence = 0

    def _name_values(self, number: int) -> wire.Layout:
        names = [*self._host_names, *self._device_names]
        return wire.Layout(run=self._run, rank=self._rank, layout=number, names=names)

    @torch.no_grad()
    def assemble(
        self,
        *,
        loss: Tensor | None,
        total_norm: Tensor | None,
        loss_scale: Tensor | None,
        skipped: Tensor | None,
        gradient_norms: Tensor | None,
        activation_norms: Sequence[Tensor | None],
    ) -> Tensor:
        """The device's part: two kernels, whatever the number of values. Does not synchronise."""
        plain = [loss, total_norm, loss_scale, skipped]
        scalars = [
            self.missing if x is None else x.to(self._device, torch.float32)
            for x in (*plain, *activation_norms)
        ]
        stacked = torch.stack(scalars)
        sent = gradient_norms if self._sends_each_gradient else None
        gradients = self._no_gradients if sent is None else sent
        count = len(plain)
        head, tail = stacked.split([count, len(activation_norms)])
        parts = [head, gradients, tail]
        return torch.cat(parts, out=self._vector)

    def pack(
        self,
        step: int,
        time_s: float,
        vector: Tensor | None,
        host: Mapping[str, float | None],
        factors: Values,
        *,
        counts_as_update: bool,
    ) -> Measured | None:
        """The step as the outbox takes it; None when the way to the host is blocked.

        Of two values of one name, the script's and one measured on the device, the latter stands.

        Without a ``vector`` the device's values count as missing.
        """
        for name in host:
            if name not in self._known_names:
                self._host_names.append(name)
                self._known_names.add(name)
                self._layout = self._name_values(self._layout.layout + 1)
        known = np.full(len(self._host_names), wire.MISSING_BITS, dtype=np.uint32).view(np.float32)
        for i, name in enumerate(self._host_names):
            value = host.get(name)
            if value is not None:
                known[i] = _as_float32(value)
        arrival = None
        if vector is None:
            blank = np.full(self.size, wire.MISSING_BITS, dtype=np.uint32).view(np.float32)
            known = np.concatenate([known, blank])
        else:
            arrival = self._transfer.send(vector)
        self._sequence += 1
        if vector is not None and arrival is None:
            return None
        return Measured(
            step=step,
            sequence=self._sequence,
            layout=self._layout,
            time_s=time_s,
            host=known,
            arrival=arrival,
            factors=factors,
            skip_index=_PLAIN_DEVICE.index("skipped"),
            counts_as_update=counts_as_update,
        )


def _as_float32(value: float) -> float:
    """Beyond float32's range is infinite, without NumPy's warning."""
    return math.copysign(math.inf, value) if abs(value) > 3.4028234e38 else value
