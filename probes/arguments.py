"""What a script may give to ``attach``: checked, unpacked, or refused by name."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from lossguard.home import tcp_endpoints

_INSIDE = (
    "optimizer", "base_optimizer", "original_optimizer", "inner_optimizer", "_optimizer", "optim",
    "base",
)  # fmt: skip
_DEEPEST = 3


def remote_agent(agent: object) -> str:
    """The address, where it is an agent of another host that was asked for; else empty.

    Raises ConfigError.
    """
    if agent is None or agent in ("auto", "existing"):
        return ""
    tcp_endpoints(str(agent))
    return str(agent)


def require_model(model: object) -> None:
    """Raises TypeError."""
    if model is not None and not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")


def optimizers_in(given: Any) -> list[Optimizer]:
    """The torch optimizers that were given: one, several, or what is inside of wrappers.

    None where there are none, or where it is an optimizer that torch knows nothing of. Raises
    TypeError for anything else.
    """
    found: list[Optimizer] = []
    for one in given if isinstance(given, (list, tuple)) else [given]:
        inner = _unwrapped(one)
        if inner is not None:
            found += [] if any(inner is other for other in found) else [inner]
        elif one is not None and not callable(getattr(one, "step", None)):
            raise TypeError(
                f"optimizer must be a torch.optim.Optimizer, several, or None, "
                f"got {type(one).__name__}"
            )
    return found


def _unwrapped(given: Any) -> Optimizer | None:
    for _ in range(_DEEPEST):
        if isinstance(given, Optimizer) and _is_hooked(given):
            return given
        if not callable(getattr(given, "step", None)):
            return None
        given = next((inner for name in _INSIDE if (inner := vars_of(given).get(name))), None)
    return None


def _is_hooked(optimizer: Optimizer) -> bool:
    """Whether torch calls hooks around its ``step``: not those of a mere wrapper."""
    return bool(getattr(type(optimizer).step, "hooked", False))


def vars_of(thing: Any) -> dict[str, Any]:
    """Its own attributes; no property of somebody else's runs."""
    return getattr(thing, "__dict__", {})


def loose_parameters(model: nn.Module | None, given: Any) -> list[torch.Tensor]:
    """What is trained where no torch optimizer was given."""
    if model is not None:
        return [p for p in model.parameters() if p.requires_grad]
    groups = getattr(given, "param_groups", None) or ()
    return [p for group in groups for p in group["params"]]


def require_state(
    schedulers: Sequence[Any], scaler: object, extra: Mapping[str, Any] | None
) -> None:
    """What a rollback brings back must say how. Raises TypeError."""
    if extra is not None and not isinstance(extra, Mapping):
        raise TypeError(f"extra must be a dict of what to restore, got {type(extra).__name__}")
    things = [("scheduler", scheduler) for scheduler in schedulers]
    things += [("scaler", scaler)] if scaler is not None else []
    for name, thing in (extra or {}).items():
        if not isinstance(thing, (torch.Tensor, torch.Generator, dict, list)):
            things.append((f"extra[{name!r}]", thing))
    for name, thing in things:
        if not (hasattr(thing, "state_dict") and hasattr(thing, "load_state_dict")):
            raise TypeError(
                f"{name} must have state_dict() and load_state_dict(), got {type(thing).__name__}"
            )


def as_list(scheduler: Any) -> Sequence[Any]:
    """None, one or several."""
    if scheduler is None:
        return ()
    return tuple(scheduler) if isinstance(scheduler, (list, tuple)) else (scheduler,)


def host_number(value: object) -> float | None:
    """As a float, where the host knows it."""
    try:
        if isinstance(value, torch.Tensor):
            return float(value.detach()) if value.device.type == "cpu" else None
        return float(value)  # type: ignore[arg-type]
    except OverflowError:
        return math.inf
    except Exception:  # whatever the script's own type raises
        return None
