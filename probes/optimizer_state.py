"""What one optimizer keeps: groups and the state of each parameter, captured and restored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lossguard.probes.sharded import is_distributed, like_part
from lossguard.probes.tensors import back_in_place, to_host


def capture_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Settings of every group, and the state of every parameter, in their order."""
    return {
        "groups": [
            {"size": len(group["params"])}
            | {key: to_host(value) for key, value in group.items() if key != "params"}
            for group in optimizer.param_groups
        ],
        "state": [
            to_host(dict(optimizer.state[p])) if p in optimizer.state else None
            for group in optimizer.param_groups
            for p in group["params"]
        ],
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, kept: Mapping[str, Any]) -> None:
    """Become what ``kept`` says, in place where there is something."""
    states = iter(kept["state"])
    for group, saved in zip(optimizer.param_groups, kept["groups"], strict=True):
        for key, value in saved.items():
            if key != "size":
                group[key] = back_in_place(group.get(key), value)
        for parameter in group["params"]:
            state = next(states)
            if state is None:
                optimizer.state.pop(parameter, None)
                continue
            live = dict(optimizer.state.get(parameter, {}))
            fresh = back_in_place(live, state)
            optimizer.state[parameter] = {
                key: value if key in live else _where_it_belongs(value, parameter, group)
                for key, value in fresh.items()
            }


def _where_it_belongs(value: Any, parameter: Tensor, group: Mapping[str, Any]) -> Any:
    """State that did not exist any more: to the parameter's device, as ``load_state_dict`` does.

    A step count stays on the host, unless a kernel reads it.
    """
    on_device = value.dim() > 0 if isinstance(value, Tensor) else False
    if on_device and is_distributed(parameter):
        return like_part(parameter, value.to(parameter.device))
    if isinstance(value, Tensor) and (on_device or group.get("fused") or group.get("capturable")):
        return value.to(parameter.device)
    return value
