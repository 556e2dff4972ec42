"""What stands in the place of torch's functions: it calls the original, and whoever listens.

Each maker gets the original and returns what calls it with the very same arguments.
"""

from __future__ import annotations

import inspect
import threading
import time
from typing import Any

import torch
from torch import Tensor

from lossguard.probes.clipping import Found, noting
from lossguard.probes.hooks import drop_copies
from lossguard.probes.last_resort import tell
from lossguard.probes.listener import Listener, LossCall, heard_by
from lossguard.probes.patching import Make


def backward(original: Any) -> Any:
    """``torch.autograd.backward``, which ``Tensor.backward`` calls."""
    here = threading.local()

    def listening(tensors: Any, *args: Any, **kwargs: Any) -> Any:
        if getattr(
            here, "inside", False
        ):  # re-entrant checkpointing calls it within: those roots are no losses
            return original(tensors, *args, **kwargs)
        told: list[Listener] = []
        here.inside = True
        try:
            while fresh := [one for one in heard_by() if one not in told]:
                told += fresh  # somebody may begin to listen now
                for listener in fresh:
                    tell(listener.before_backward, tensors)
            result = original(tensors, *args, **kwargs)
        finally:
            here.inside = False
        for listener in reversed(told):
            tell(listener.after_backward)
        return result

    return listening


def average(original: Any) -> Any:
    """``AveragedModel.update_parameters``: passed over where the update before it was dropped."""

    def listening(averaged: Any, model: Any) -> Any:
        passed_over = [
            tell(listener.passes_over_average, averaged, model) for listener in heard_by()
        ]
        return None if any(passed_over) else original(averaged, model)

    return listening


def total_norm(last: threading.local) -> Make:
    """The first half of ``clip_grad_norm_``: ``last`` keeps for the second which norm it was."""

    def make(original: Any) -> Any:
        twin = noting(original)

        def listening(*args: Any, **kwargs: Any) -> Any:
            last.norm_type = args[1] if len(args) > 1 else kwargs.get("norm_type", 2.0)
            if twin is None or last.norm_type != 2.0:
                return original(*args, **kwargs)
            found: Found = []
            total = twin(found, *args, **kwargs)
            for listener in heard_by():
                tell(listener.after_norms, found)
            return total

        return listening

    return make


def clip(last: threading.local | None) -> Make:
    """What scales or cuts gradients; with ``last``, to a norm."""

    def make(original: Any) -> Any:
        def listening(parameters: Any, *args: Any, **kwargs: Any) -> Any:
            if not isinstance(parameters, Tensor):
                parameters = list(parameters)  # a generator? Two of us want to read it.
            bound = None
            if last is not None and last.__dict__.pop("norm_type", 2.0) == 2.0:
                bound = args[0] if args else kwargs.get("max_norm")
            for listener in heard_by():
                tell(listener.before_clip, parameters, bound)
            return original(parameters, *args, **kwargs)

        return listening

    return make


def scale(original: Any) -> Any:
    """``GradScaler.scale``."""

    def listening(self: Any, outputs: Any) -> Any:
        scaled = original(self, outputs)
        for listener in heard_by():
            tell(listener.on_scale, self, outputs, scaled)
        return scaled

    return listening


def scaler_step(original: Any) -> Any:
    """``GradScaler.step``."""

    def listening(self: Any, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
        for listener in heard_by():
            tell(listener.before_scaler_step, self, optimizer)
        result = original(self, optimizer, *args, **kwargs)
        for listener in heard_by():  # asked again: one may have begun meanwhile
            tell(listener.after_scaler_step, self, optimizer)
        return result

    return listening


def loss(name: str) -> Make:
    """A loss of ``torch.nn.functional``."""

    def make(original: Any) -> Any:
        signature = inspect.signature(original)

        def listening(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            # Not what only stands for a tensor, while a graph is traced or a function mapped.
            if type(result) is Tensor and not torch._C._functorch.is_functorch_wrapped_tensor(
                result
            ):
                call = LossCall(name, signature, args, kwargs, result)
                for listener in heard_by():
                    tell(listener.on_loss, call)
            return result

        return listening

    return make


def next_batch(original: Any) -> Any:
    """``next()`` of a DataLoader."""

    def listening(self: Any) -> Any:
        begun = time.perf_counter()
        try:
            return original(self)
        finally:
            seconds = time.perf_counter() - begun
            for listener in heard_by():
                tell(listener.after_wait, seconds)

    return listening


def save(original: Any) -> Any:
    """A way to save."""
    without_hooks = unhooked(original)

    def listening(*args: Any, **kwargs: Any) -> Any:
        result = without_hooks(*args, **kwargs)
        for listener in heard_by():
            tell(listener.after_save)
        return result

    return listening


def script(original: Any) -> Any:
    """TorchScript's compiler, which would compile hooks too."""
    without_hooks = unhooked(original)

    def listening(module: Any, *args: Any, **kwargs: Any) -> Any:
        drop_copies(module)
        return without_hooks(module, *args, **kwargs)

    return listening


def unhooked(original: Any) -> Any:
    """What reads whole modules: meanwhile they carry no hooks of ours."""

    def listening(*args: Any, **kwargs: Any) -> Any:
        listeners = heard_by()
        for listener in listeners:
            tell(listener.before_reading_modules)
        try:
            return original(*args, **kwargs)
        finally:
            for listener in listeners:
                tell(listener.after_reading_modules)

    return listening
