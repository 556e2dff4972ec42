"""The few places of torch that no hook reaches: ``backward()``, GradScaler, gradient clipping.

Each is wrapped once per process and calls whoever listens, then the original with the very same
arguments. Without listeners the wrappers only pass through; the last one to stop puts torch back.
Inside ``torch.compile`` they are not there: nothing of ours is traced.
"""

from __future__ import annotations

import functools
import threading
import weakref
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch.nn.utils import clip_grad


class Listener(Protocol):
    """Somebody who wants to know. Must never raise."""

    def before_backward(self, tensors: Any) -> None: ...
    def after_backward(self) -> None:
        """Not called when ``backward()`` raised."""

    def on_scale(self, scaler: Any, loss: Any, scaled: Any) -> None: ...
    def before_clip(self, parameters: Any) -> None: ...
    def before_scaler_step(self, scaler: Any, optimizer: Any) -> None: ...
    def after_scaler_step(self, scaler: Any, optimizer: Any) -> None: ...


# Weak: a loop whose model and optimizer the script has let go must not be kept by us.
_listeners: list[weakref.ref[Listener]] = []
_undo: list[Callable[[], None]] = []


def listen(listener: Listener) -> None:
    """Call ``listener`` from now on, for as long as somebody else keeps it."""
    if not _undo:
        _install()
    _listeners.append(weakref.ref(listener, _forget))


def stop_listening(listener: Listener) -> None:
    """No longer. With the last listener torch is as it was. Idempotent."""
    for reference in tuple(_listeners):
        if reference() is listener:
            _forget(reference)


def _forget(reference: weakref.ref[Listener]) -> None:
    if reference in _listeners:
        _listeners.remove(reference)
    if not _listeners:
        while _undo:
            _undo.pop()()


def _heard_by() -> list[Listener]:
    return [listener for ref in tuple(_listeners) if (listener := ref()) is not None]


def _install() -> None:
    _wrap(torch.autograd, "backward", _backward)
    _wrap(clip_grad, "_clip_grads_with_norm_", _clip)
    _wrap(torch.nn.utils, "clip_grads_with_norm_", _clip)
    _wrap(clip_grad, "clip_grad_value_", _clip)
    _wrap(torch.nn.utils, "clip_grad_value_", _clip)
    _wrap(torch.amp.GradScaler, "scale", _scale)
    _wrap(torch.amp.GradScaler, "step", _scaler_step)


def _wrap(owner: Any, name: str, make: Callable[[Any], Any]) -> None:
    original = getattr(owner, name, None)
    if original is None:  # another torch version: the hooks do without
        return
    listening = make(original)
    active = True

    @functools.wraps(original)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling() or not active:
            return original(*args, **kwargs)
        return listening(*args, **kwargs)

    setattr(owner, name, wrapper)

    def undo() -> None:
        nonlocal active
        active = False
        if getattr(owner, name, None) is wrapper:  # else somebody wrapped ours: it stays, inert
            setattr(owner, name, original)

    _undo.append(undo)


def _backward(original: Any) -> Any:
    here = threading.local()

    def backward(tensors: Any, *args: Any, **kwargs: Any) -> Any:
        if getattr(
            here, "inside", False
        ):  # re-entrant checkpointing calls it within: those roots are no losses
            return original(tensors, *args, **kwargs)
        listeners = _heard_by()
        here.inside = True
        try:
            for listener in listeners:
                listener.before_backward(tensors)
            result = original(tensors, *args, **kwargs)
        finally:
            here.inside = False
        for listener in listeners:
            listener.after_backward()
        return result

    return backward


def _clip(original: Any) -> Any:
    def clip(parameters: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(parameters, torch.Tensor):
            parameters = list(parameters)  # it may be a generator, and two of us want to read it
        for listener in _heard_by():
            listener.before_clip(parameters)
        return original(parameters, *args, **kwargs)

    return clip


def _scale(original: Any) -> Any:
    def scale(self: Any, outputs: Any) -> Any:
        scaled = original(self, outputs)
        for listener in _heard_by():
            listener.on_scale(self, outputs, scaled)
        return scaled

    return scale


def _scaler_step(original: Any) -> Any:
    def step(self: Any, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
        listeners = _heard_by()
        for listener in listeners:
            listener.before_scaler_step(self, optimizer)
        result = original(self, optimizer, *args, **kwargs)
        for listener in listeners:
            listener.after_scaler_step(self, optimizer)
        return result

    return step
