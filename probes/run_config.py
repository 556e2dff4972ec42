"""How a run trains, in words: for whoever opens an incident later."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from lossguard.probes.training_state import TrainingState

_MOST_LINES = 200
_MOST_CHARACTERS = 300
_MOST_GROUPS = 8
_PREFIXES = ("TORCH", "PYTORCH_", "NCCL_", "GLOO_", "CUDA_", "CUBLAS_", "OMP_", "MKL_", "LOSSGUARD")
_HIDDEN = ("KEY", "TOKEN", "SECRET", "PASS", "AUTH", "URL")
"""An address may be a secret, too: that of a webhook, of a health check."""
_PLAIN = (bool, int, float, str, type(None))


def config_of(state: TrainingState) -> dict[str, str]:
    """Model, optimizers with their settings, schedules, scaler, what torch was told.

    No weights, and nothing is read off a device. Of the environment only what torch and its
    libraries look at. What cannot be told is left out, and why stands in its place.
    """
    found: list[tuple[str, str]] = []
    for part in (_of_model, _of_optimizers, _of_others, _of_torch, _of_precision, _of_environment):
        try:
            found += part(state)
        except Exception as error:  # parameters without a shape yet, settings that do not agree
            found.append((part.__name__.removeprefix("_of_"), f"{type(error).__name__}: {error}"))
    return {name: value[:_MOST_CHARACTERS] for name, value in found[:_MOST_LINES]}


def _of_model(state: TrainingState) -> Iterator[tuple[str, str]]:
    if state.model is not None:
        yield "model", type(state.model).__qualname__
        sizes = [(p.numel(), p.requires_grad) for p in state.model.parameters() if not is_lazy(p)]
        yield "parameters", str(sum(size for size, _ in sizes))
        yield "parameters_trained", str(sum(size for size, trained in sizes if trained))


def _of_optimizers(state: TrainingState) -> Iterator[tuple[str, str]]:
    for number, optimizer in enumerate(state.optimizers):
        name = f"optimizer.{number}" if len(state.optimizers) > 1 else "optimizer"
        yield name, type(optimizer).__qualname__
        for place, group in enumerate(optimizer.param_groups[:_MOST_GROUPS]):
            for key, value in group.items():
                if _is_readable(value):
                    yield f"{name}.group{place}.{key}", str(value)


def _of_others(state: TrainingState) -> Iterator[tuple[str, str]]:
    for number, schedule in enumerate(state.schedulers):
        yield f"schedule.{number}", type(schedule).__qualname__
    if state.scaler is not None:
        yield "scaler", type(state.scaler).__qualname__
    yield "extra", ", ".join(state.extra)


def _of_torch(state: TrainingState) -> Iterator[tuple[str, str]]:
    yield "torch.threads", str(torch.get_num_threads())
    yield "torch.default_dtype", str(torch.get_default_dtype())
    yield "torch.deterministic", str(torch.are_deterministic_algorithms_enabled())
    yield "torch.initial_seed", str(torch.initial_seed())


def _of_precision(state: TrainingState) -> Iterator[tuple[str, str]]:
    """Raises where a script has set it by torch's newer names."""
    yield "torch.float32_matmul_precision", torch.get_float32_matmul_precision()


def _of_environment(state: TrainingState) -> Iterator[tuple[str, str]]:
    for name, value in sorted(os.environ.items()):
        if name.startswith(_PREFIXES) and not any(word in name for word in _HIDDEN):
            yield f"environment.{name}", value


def _is_readable(value: Any) -> bool:
    """Whether it can be printed without a word from a device."""
    if isinstance(value, tuple):
        return all(isinstance(item, _PLAIN) or _is_on_host(item) for item in value)
    return isinstance(value, _PLAIN) or _is_on_host(value)


def _is_on_host(value: Any) -> bool:
    return isinstance(value, Tensor) and value.numel() == 1 and value.device.type == "cpu"
