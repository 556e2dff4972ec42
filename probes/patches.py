"""The few places that no hook reaches: backward, GradScaler, clipping, losses, loading, saving.

Each is changed once per process and calls whoever listens, and the original with the very same
arguments. Without listeners the changes only pass through; the last one to stop puts torch back.
Inside ``torch.compile`` they are not there: nothing of ours is traced.
"""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import torch
from torch.nn import functional
from torch.nn.utils import clip_grad
from torch.utils.data import dataloader

from lossguard.probes import stand_ins
from lossguard.probes.clipping import clip_of_module
from lossguard.probes.listener import LISTENERS, Listener
from lossguard.probes.patching import Undo, swap, wrap

LOSSES = (
    "cross_entropy", "nll_loss", "mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss",
    "binary_cross_entropy", "binary_cross_entropy_with_logits", "kl_div", "poisson_nll_loss",
    "gaussian_nll_loss", "ctc_loss", "soft_margin_loss", "hinge_embedding_loss",
    "cosine_embedding_loss", "margin_ranking_loss", "triplet_margin_loss", "multi_margin_loss",
    "multilabel_margin_loss",
)  # fmt: skip
"""The losses of ``torch.nn.functional`` that are heard, and with them the modules of
``torch.nn`` that call them."""


_undo: list[Undo] = []
_not_imported: dict[str, Callable[[Any], None]] = {}


def listen(listener: Listener) -> None:
    """Call ``listener`` from now on, for as long as somebody else keeps it."""
    if not _undo:
        _install()
    LISTENERS.append(weakref.ref(listener, _forget))


def stop_listening(listener: Listener) -> None:
    """No longer. With the last listener torch is as it was. Idempotent."""
    for reference in tuple(LISTENERS):
        if reference() is listener:
            _forget(reference)


def notice_imports() -> None:
    """Listen to the ways of saving that the script has imported since. Nanoseconds."""
    for name in [name for name in _not_imported if name in sys.modules]:
        _not_imported.pop(name)(sys.modules[name])


def _forget(reference: weakref.ref[Listener]) -> None:
    if reference in LISTENERS:
        LISTENERS.remove(reference)
    if not LISTENERS:
        _not_imported.clear()
        while _undo:
            _undo.pop()()


def _install() -> None:
    _undo.extend(undo for undo in _all_changes() if undo is not None)
    _not_imported["safetensors.torch"] = _hear_safetensors
    _not_imported["torch.distributed.checkpoint"] = _hear_distributed_checkpoint
    _not_imported["torch.distributed.fsdp"] = _hear_flat_clipping
    with suppress(Exception):  # asked again at every step, behind the shield
        notice_imports()


def _all_changes() -> Iterator[Undo | None]:
    yield wrap(torch.autograd, "backward", stand_ins.backward)
    norm_type = threading.local()
    for owner, name in ((clip_grad, "_get_total_norm"), (torch.nn.utils, "get_total_norm")):
        yield wrap(owner, name, stand_ins.total_norm(norm_type))
    for owner, name in (
        (clip_grad, "_clip_grads_with_norm_"),
        (torch.nn.utils, "clip_grads_with_norm_"),
    ):
        yield wrap(owner, name, stand_ins.clip(norm_type))
    for owner in (clip_grad, torch.nn.utils):
        yield wrap(owner, "clip_grad_value_", stand_ins.clip(None))
    yield wrap(torch.amp.GradScaler, "scale", stand_ins.scale)
    yield wrap(torch.amp.GradScaler, "step", stand_ins.scaler_step)
    for name in LOSSES:
        yield swap(getattr(functional, name, None), stand_ins.loss(name))
    yield wrap(dataloader._BaseDataLoaderIter, "__next__", stand_ins.next_batch)
    yield swap(torch.save, stand_ins.save) or wrap(torch, "save", stand_ins.save)
    averages = getattr(torch.optim.swa_utils, "AveragedModel", None)
    yield wrap(averages, "update_parameters", stand_ins.average)
    yield wrap(torch.jit._recursive, "create_script_module", stand_ins.script)
    yield wrap(torch.cuda, "make_graphed_callables", stand_ins.unhooked)


def _hear_safetensors(module: Any) -> None:
    if (undo := swap(getattr(module, "save_file", None), stand_ins.save)) is not None:
        _undo.append(undo)


def _hear_flat_clipping(module: Any) -> None:
    owner = getattr(module, "FullyShardedDataParallel", None)
    if (undo := wrap(owner, "clip_grad_norm_", clip_of_module)) is not None:
        _undo.append(undo)


def _hear_distributed_checkpoint(module: Any) -> None:
    owners = (module, getattr(module, "state_dict_saver", None))
    _undo.extend(
        undo for owner in owners if (undo := wrap(owner, "save", stand_ins.save)) is not None
    )
