"""Which tensors a probe watches, and what they are called."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import torch
from torch import nn

T = TypeVar("T")


class Groups(Protocol):
    """An optimizer, or all those of one training together."""

    @property
    def param_groups(self) -> list[dict[str, Any]]: ...


_WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.")


def plain_name(name: str) -> str:
    """The name as the author of the model knows it: without what DDP and compile put around.

    >>> plain_name("module._orig_mod.blocks.0.weight")
    'blocks.0.weight'
    """
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    return name.removeprefix("module.")


def optimizer_parameters(optimizer: Groups) -> list[torch.Tensor]:
    """Every parameter an optimizer updates, each once, in its own order."""
    seen: dict[int, torch.Tensor] = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            seen.setdefault(id(parameter), parameter)
    return list(seen.values())


def named_parameters(
    model: nn.Module | None, groups: Groups, others: Mapping[str, nn.Module] | None = None
) -> list[tuple[str, torch.Tensor]]:
    """What the optimizers update, in the model's order (forward, by convention), with its names.

    Then what they update of ``others``, the name of the module before that of the parameter.
    Parameters that no module knows come last, as ``param.<i>``.
    """
    owned = {id(p): p for p in optimizer_parameters(groups)}
    named: list[tuple[str, torch.Tensor]] = []
    for prefix, module in {"": model, **(others or {})}.items():
        for name, parameter in module.named_parameters() if module is not None else ():
            if owned.pop(id(parameter), None) is not None:
                name = plain_name(name)
                named.append((f"{prefix}.{name}" if prefix else name, parameter))
    named += [(f"param.{i}", p) for i, p in enumerate(owned.values())]
    return named


def watched_modules(model: nn.Module, limit: int = 64) -> list[tuple[str, nn.Module]]:
    """The modules whose output is measured at every step: repeated blocks, embeddings, the head.

    Blocks are the outermost members of ``ModuleList`` and ``Sequential``; the head is the last
    ``Linear`` outside of them. A model without any of these is watched by its direct children.
    At most ``limit``, evenly picked.
    """
    found = list(_blocks_and_edges(model))
    heads = [i for i, (_, _, kind) in enumerate(found) if kind == "linear"]
    chosen = [
        (name, module)
        for i, (name, module, kind) in enumerate(found)
        if kind != "linear" or i == heads[-1]
    ]
    if not chosen:
        chosen = [(plain_name(name), child) for name, child in model.named_children()]
    return evenly(chosen, limit)


def evenly(items: Sequence[T], limit: int) -> list[T]:
    """At most ``limit`` of them, spread over all."""
    count = min(limit, len(items))
    return [items[i * len(items) // count] for i in range(count)]


def _blocks_and_edges(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module, str]]:
    """(name, module, "block" | "embedding" | "linear") in the order of registration."""
    containers = (nn.ModuleList, nn.Sequential)
    if isinstance(module, containers):
        for key, block in module.named_children():
            if any(True for _ in block.parameters()):
                yield plain_name(f"{prefix}{key}"), block, "block"
        return
    for name, child in module.named_children():
        path = f"{prefix}{name}"
        if isinstance(child, nn.Embedding):
            yield plain_name(path), child, "embedding"
        elif isinstance(child, nn.Linear):
            yield plain_name(path), child, "linear"
        else:
            yield from _blocks_and_edges(child, f"{path}.")
