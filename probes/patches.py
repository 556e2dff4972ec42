"""The few places of torch that no hook reaches: ``backward()``, GradScaler, gradient clipping.

Each is wrapped once per process and calls whoever listens, then the original with the very same
arguments. Without listeners the wrappers only pass through; ``uninstall`` puts torch back.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch.nn.utils import clip_grad


class Listener(Protocol):
    """Somebody who wants to know. Must never raise."""

    def on_backward(self, tensors: Any) -> None: ...
    def on_scale(self, scaler: Any, loss: Any, scaled: Any) -> None: ...
    def before_clip(self, parameters: Any) -> None: ...
    def after_scaler_step(self, scaler: Any, optimizer: Any) -> None: ...


_listeners: list[Listener] = []
_undo: list[Callable[[], None]] = []


def listen(listener: Listener) -> None:
    """Call ``listener`` from now on."""
    if not _undo:
        _install()
    _listeners.append(listener)


def stop_listening(listener: Listener) -> None:
    """No longer. With the last listener torch is as it was. Idempotent."""
    if listener in _listeners:
        _listeners.remove(listener)
    if not _listeners:
        while _undo:
            _undo.pop()()


def _install() -> None:
    _wrap(torch.autograd, "backward", _backward)
    _wrap(clip_grad, "_clip_grads_with_norm_", _clip)
    _wrap(clip_grad, "clip_grad_value_", _clip)
    _wrap(torch.nn.utils, "clip_grad_value_", _clip)
    _wrap(torch.amp.GradScaler, "scale", _scale)
    _wrap(torch.amp.GradScaler, "step", _scaler_step)


def _wrap(owner: Any, name: str, make: Callable[[Any], Any]) -> None:
    original = getattr(owner, name, None)
    if original is None:  # another torch version: the hooks do without
        return
    wrapper = functools.wraps(original)(make(original))
    setattr(owner, name, wrapper)

    def undo() -> None:
        if getattr(owner, name, None) is wrapper:  # else somebody wrapped ours: it stays, inert
            setattr(owner, name, original)

    _undo.append(undo)


def _backward(original: Any) -> Any:
    def backward(tensors: Any, *args: Any, **kwargs: Any) -> Any:
        for listener in tuple(_listeners):
            listener.on_backward(tensors)
        return original(tensors, *args, **kwargs)

    return backward


def _clip(original: Any) -> Any:
    def clip(parameters: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(parameters, torch.Tensor):
            parameters = list(parameters)  # it may be a generator, and two of us want to read it
        for listener in tuple(_listeners):
            listener.before_clip(parameters)
        return original(parameters, *args, **kwargs)

    return clip


def _scale(original: Any) -> Any:
    def scale(self: Any, outputs: Any) -> Any:
        scaled = original(self, outputs)
        for listener in tuple(_listeners):
            listener.on_scale(self, outputs, scaled)
        return scaled

    return scale


def _scaler_step(original: Any) -> Any:
    def step(self: Any, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(self, optimizer, *args, **kwargs)
        for listener in tuple(_listeners):
            listener.after_scaler_step(self, optimizer)
        return result

    return step
