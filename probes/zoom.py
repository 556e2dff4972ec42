"""Repeats the forward of a step that went wrong, once, to find the first module to blame."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lossguard.probes import wire
from lossguard.probes.discover import compiled_forms_of, entrance_of
from lossguard.probes.graph_capture import is_capturing
from lossguard.probes.held import Forward, Gone, HeldForwards
from lossguard.probes.hooks import Hook
from lossguard.probes.noted import Notes
from lossguard.probes.outbox import Measured
from lossguard.probes.parameters import plain_name
from lossguard.probes.purity import hooks_of_others, looks_pure
from lossguard.probes.transfer import transfer_for
from lossguard.probes.untouched import WouldChange, untouched
from lossguard.probes.zoomed import Place, Zoomed

_PAUSE_STEPS = 256
_MOST_ZOOMS = 20
_LATE_STEPS = 4

Bad = Callable[[Measured], "str | None"]


class _Waiting(NamedTuple):
    step: int
    measured: Measured
    forwards: list[Forward]


class Zoom:
    """Watches for a loss or a gradient that is not finite, and looks closer, once an incident.

    ``bad`` tells the metric of a step that is not finite ("" for none, None while that is not yet
    known); nothing waits for it, so on an accelerator the answer may come a few steps late. Nothing
    of ours listens ``in_silence``. Then
    the forward runs again on what it was given, if that is still there and unchanged, with every
    module hooked and everything around it ``untouched``. What was found is read later, by the
    link's thread. At most one zoom in 256 steps and 20 in a run. None with several ranks, with
    compiled or scripted models, or with hooks of the script's own on them; under ``observe`` only
    where the code of the model shows that it changes nothing else.
    """

    def __init__(
        self,
        model: nn.Module | None,
        hello: wire.Hello,
        device: torch.device,
        bad: Bad,
        in_silence: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._model = model
        self._hello = hello
        self._device = device
        self._bad = bad
        self._in_silence = in_silence
        self._held = HeldForwards(device)
        self._waiting: deque[_Waiting] = deque(maxlen=_LATE_STEPS)
        self._closed_until = 0
        self._left = _MOST_ZOOMS if device.type in ("cpu", "cuda") and hello.world_size == 1 else 0
        if model is None:
            self._left = 0

    def hold(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """A training forward begins."""
        if self._left:
            self._held.hold(args, kwargs)

    def look(self, step: int, measured: Measured | None) -> Zoomed | str:
        """The step was measured, and its update comes next. What a zoom has found, on its way to
        the host, or why there was none; empty where there was no need."""
        if not self._left:
            return ""
        forwards = self._held.take()
        if measured is not None and forwards:
            if not self._waiting and self._bad(measured) == "":
                return ""  # as it nearly always is, where the values are there at once
            self._waiting.append(_Waiting(step, measured, forwards))
        while self._waiting:
            metric = self._bad(self._waiting[0].measured)
            if metric is None:
                break
            waiting = self._waiting.popleft()
            if metric and step >= self._closed_until:
                self._closed_until = step + _PAUSE_STEPS
                self._left -= 1
                return self._zoom(waiting, metric)
        return ""

    def _zoom(self, waiting: _Waiting, metric: str) -> Zoomed | str:
        why_not = self._why_not()
        places: list[Place] = []
        values: list[Tensor] = []
        if not why_not:
            try:
                places, values = self._repeat_all(waiting.forwards)
            except Gone:
                why_not = "its inputs are no longer there"
            except WouldChange as operation:
                why_not = f"the forward writes to what was there before ({operation})"
        if why_not:
            return f"step {waiting.step} was not looked at more closely: {why_not}"
        device_values = torch.stack([self._here(value) for value in values])
        arrival = transfer_for(self._device, len(values)).send(device_values)
        if arrival is None:
            return ""
        return Zoomed(self._hello.run, self._hello.rank, waiting.step, metric, places, arrival)

    def _why_not(self) -> str:
        assert self._model is not None
        if any(isinstance(m, torch.jit.ScriptModule) for m in self._model.modules()):
            return "the model is scripted"
        if compiled_forms_of(self._model) or any(
            m._compiled_call_impl is not None for m in self._model.modules()
        ):
            return "the model is compiled"
        if hooks_of_others(self._model, Hook):
            return "the model has hooks of the script's own"
        if self._device.type == "cuda" and is_capturing():
            return "a graph is being captured"
        if self._hello.policy == "observe" and not looks_pure(self._model):
            return "policy observe, and repeating the forward might change more than tensors"
        return ""

    def _repeat_all(self, forwards: Sequence[Forward]) -> tuple[list[Place], list[Tensor]]:
        """One for each micro-batch that is still there; raises Gone when none is."""
        assert self._model is not None
        names = {module: plain_name(name) for name, module in self._model.named_modules()}
        noted = Notes(names, self._device)
        repeated = 0
        with self._in_silence():
            for forward in forwards:
                with suppress(Gone):
                    self._repeat(forward, self._model, noted)
                    repeated += 1
        if not repeated:
            raise Gone
        return noted.places, [*noted.values, noted.no_value]

    def _repeat(self, forward: Forward, model: nn.Module, noted: Notes) -> None:
        args, kwargs = forward.inputs()
        kind, enabled, dtype = forward.autocast
        autocast = (
            torch.autocast(kind, dtype=dtype, cache_enabled=False)
            if enabled
            else torch.autocast(kind, enabled=False)
        )
        with untouched(model), noted.listening(), autocast:
            entrance_of(model)(*args, **kwargs)

    def _here(self, value: Tensor) -> Tensor:
        return value.to(self._device, torch.float32, non_blocking=True)
