"""The few places that no hook reaches: backward, GradScaler, clipping, losses, loading, saving.

Each is changed once per process and calls whoever listens, and the original with the very same
arguments. Without listeners the changes only pass through; the last one to stop puts torch back.
Inside ``torch.compile`` they are not there: nothing of ours is traced.
"""

from __future__ import annotations

import inspect
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils import clip_grad
from torch.utils.data import dataloader

from lossguard.probes.hooks import drop_copies
from lossguard.probes.listener import Listener, LossCall
from lossguard.probes.patching import Make, Undo, swap, wrap

LOSSES = (
    "cross_entropy", "nll_loss", "mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss",
    "binary_cross_entropy", "binary_cross_entropy_with_logits", "kl_div", "poisson_nll_loss",
    "gaussian_nll_loss", "ctc_loss", "soft_margin_loss", "hinge_embedding_loss",
    "cosine_embedding_loss", "margin_ranking_loss", "triplet_margin_loss", "multi_margin_loss",
    "multilabel_margin_loss",
)  # fmt: skip
"""The losses of ``torch.nn.functional`` that are heard, and with them the modules of
``torch.nn`` that call them."""


# Weak: a loop whose model and optimizer the script has let go must not be kept by us.
_listeners: list[weakref.ref[Listener]] = []
_undo: list[Undo] = []
_not_imported: dict[str, Callable[[Any], None]] = {}


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


def notice_imports() -> None:
    """Listen to the ways of saving that the script has imported since. Nanoseconds."""
    for name in [name for name in _not_imported if name in sys.modules]:
        _not_imported.pop(name)(sys.modules[name])


def _forget(reference: weakref.ref[Listener]) -> None:
    if reference in _listeners:
        _listeners.remove(reference)
    if not _listeners:
        _not_imported.clear()
        while _undo:
            _undo.pop()()


def _heard_by() -> list[Listener]:
    return [listener for ref in tuple(_listeners) if (listener := ref()) is not None]


def _install() -> None:
    _undo.extend(undo for undo in _all_changes() if undo is not None)
    _not_imported["safetensors.torch"] = _hear_safetensors
    _not_imported["torch.distributed.checkpoint"] = _hear_distributed_checkpoint


def _all_changes() -> Iterator[Undo | None]:
    yield wrap(torch.autograd, "backward", _backward)
    norm_type = threading.local()
    for owner, name in ((clip_grad, "_get_total_norm"), (torch.nn.utils, "get_total_norm")):
        yield wrap(owner, name, _total_norm(norm_type))
    for owner, name in (
        (clip_grad, "_clip_grads_with_norm_"),
        (torch.nn.utils, "clip_grads_with_norm_"),
    ):
        yield wrap(owner, name, _clip(norm_type))
    for owner in (clip_grad, torch.nn.utils):
        yield wrap(owner, "clip_grad_value_", _clip(None))
    yield wrap(torch.amp.GradScaler, "scale", _scale)
    yield wrap(torch.amp.GradScaler, "step", _scaler_step)
    for name in LOSSES:
        yield swap(getattr(functional, name, None), _loss(name))
    yield wrap(dataloader._BaseDataLoaderIter, "__next__", _next_batch)
    yield swap(torch.save, _save) or wrap(torch, "save", _save)
    yield wrap(torch.jit._recursive, "create_script_module", _script)
    yield wrap(torch.cuda, "make_graphed_callables", _unhooked)


def _hear_safetensors(module: Any) -> None:
    if (undo := swap(getattr(module, "save_file", None), _save)) is not None:
        _undo.append(undo)


def _hear_distributed_checkpoint(module: Any) -> None:
    owners = (module, getattr(module, "state_dict_saver", None))
    _undo.extend(undo for owner in owners if (undo := wrap(owner, "save", _save)) is not None)


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


def _total_norm(last: threading.local) -> Make:
    def make(original: Any) -> Any:
        def total_norm(*args: Any, **kwargs: Any) -> Any:
            last.norm_type = args[1] if len(args) > 1 else kwargs.get("norm_type", 2.0)
            return original(*args, **kwargs)

        return total_norm

    return make


def _clip(last: threading.local | None) -> Make:
    def make(original: Any) -> Any:
        def clip(parameters: Any, *args: Any, **kwargs: Any) -> Any:
            if not isinstance(parameters, Tensor):
                parameters = list(parameters)  # a generator? Two of us want to read it.
            bound = None
            if last is not None and last.__dict__.pop("norm_type", 2.0) == 2.0:
                bound = args[0] if args else kwargs.get("max_norm")
            for listener in _heard_by():
                listener.before_clip(parameters, bound)
            return original(parameters, *args, **kwargs)

        return clip

    return make


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


def _loss(name: str) -> Make:
    def make(original: Any) -> Any:
        signature = inspect.signature(original)

        def loss(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            # Not what only stands for a tensor, while a graph is traced or a function mapped.
            if type(result) is Tensor and not torch._C._functorch.is_functorch_wrapped_tensor(
                result
            ):
                call = LossCall(name, signature, args, kwargs, result)
                for listener in _heard_by():
                    listener.on_loss(call)
            return result

        return loss

    return make


def _next_batch(original: Any) -> Any:
    def next_batch(self: Any) -> Any:
        begun = time.perf_counter()
        try:
            return original(self)
        finally:
            seconds = time.perf_counter() - begun
            for listener in _heard_by():
                listener.after_wait(seconds)

    return next_batch


def _save(original: Any) -> Any:
    unhooked = _unhooked(original)

    def save(*args: Any, **kwargs: Any) -> Any:
        result = unhooked(*args, **kwargs)
        for listener in _heard_by():
            listener.after_save()
        return result

    return save


def _script(original: Any) -> Any:
    unhooked = _unhooked(original)

    def script(module: Any, *args: Any, **kwargs: Any) -> Any:
        drop_copies(module)
        return unhooked(module, *args, **kwargs)

    return script


def _unhooked(original: Any) -> Any:
    def unhooked(*args: Any, **kwargs: Any) -> Any:
        listeners = _heard_by()
        for listener in listeners:
            listener.before_reading_modules()
        try:
            return original(*args, **kwargs)
        finally:
            for listener in listeners:
                listener.after_reading_modules()

    return unhooked
