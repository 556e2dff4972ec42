"""Everything a rollback must bring back: captured as copies, restored in place.

Model parameters and buffers, optimizer state and hyper-parameters, schedulers, GradScaler,
whatever the user named in ``extra`` (an EMA, a sampler), and the random generators.
"""

from __future__ import annotations

import copy
import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lossguard.probes.parameters import optimizer_parameters
from lossguard.probes.tensors import back_in_place, size_bytes, to_host


@dataclass
class TrainingState:
    """The live objects of one training loop."""

    model: nn.Module | None
    optimizer: torch.optim.Optimizer
    schedulers: Sequence[Any] = ()
    scaler: Any = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    @torch.no_grad()
    def capture(self) -> dict[str, Any]:
        """A copy in host memory. Costs one pass over the bytes; queued, not awaited, on CUDA."""
        return {
            "model": to_host(self._model_tensors()),
            "optimizer": _capture_optimizer(self.optimizer),
            "schedulers": [copy.deepcopy(s.state_dict()) for s in self.schedulers],
            "scaler": to_host(_scaler_tensors(self.scaler)),
            "extra": {name: _capture_extra(thing) for name, thing in self.extra.items()},
            "random": capture_random(),
        }

    @torch.no_grad()
    def restore(self, kept: Mapping[str, Any], *, random_generators: bool) -> None:
        """Become what ``kept`` says, in place: every live tensor keeps its identity.

        Raises ValueError, before anything is touched, when the model or the optimizer no longer
        has the shape that was captured. ``random_generators`` also turns the generators back,
        which replays batches that are drawn from them.
        """
        live = self._model_tensors()
        self._check(live, kept)
        back_in_place(live, kept["model"])
        _restore_optimizer(self.optimizer, kept["optimizer"])
        for scheduler, state in zip(self.schedulers, kept["schedulers"], strict=True):
            scheduler.load_state_dict(copy.deepcopy(state))
        _restore_scaler(self.scaler, kept["scaler"])
        for name, state in kept["extra"].items():
            _restore_extra(self.extra[name], state)
        if random_generators:
            restore_random(kept["random"])

    def live_bytes(self) -> int:
        """What a capture would take at least [bytes]; nothing is copied."""
        return size_bytes(self._model_tensors()) + size_bytes(list(self.optimizer.state.values()))

    def _model_tensors(self) -> dict[str, Tensor]:
        if self.model is None:
            owned = optimizer_parameters(self.optimizer)
            return {f"param.{i}": p.detach() for i, p in enumerate(owned)}
        tensors = dict(self.model.named_parameters()) | dict(self.model.named_buffers())
        known = {id(t) for t in tensors.values()}
        for i, parameter in enumerate(optimizer_parameters(self.optimizer)):
            if id(parameter) not in known:
                tensors[f"param.{i}"] = parameter
        return {name: tensor.detach() for name, tensor in tensors.items()}

    def _check(self, live: Mapping[str, Tensor], kept: Mapping[str, Any]) -> None:
        then = {name: (tuple(t.shape), str(t.dtype)) for name, t in kept["model"].items()}
        now = {name: (tuple(t.shape), str(t.dtype)) for name, t in live.items()}
        if then != now:
            changed = sorted(set(then.items()) ^ set(now.items()))[:3]
            raise ValueError(f"the model changed its shape since the snapshot: {changed}")
        groups = [len(group["params"]) for group in self.optimizer.param_groups]
        if groups != [group["size"] for group in kept["optimizer"]["groups"]]:
            raise ValueError(f"the optimizer changed its groups since the snapshot: {groups}")
        if len(self.schedulers) != len(kept["schedulers"]):
            raise ValueError("the number of schedulers changed since the snapshot")
        for name, state in kept["extra"].items():
            thing = self.extra.get(name)
            if isinstance(thing, Tensor) and thing.shape != state.shape:
                raise ValueError(f"extra[{name!r}] changed its shape since the snapshot")


def _capture_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
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


def _restore_optimizer(optimizer: torch.optim.Optimizer, kept: Mapping[str, Any]) -> None:
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
    if isinstance(value, Tensor) and (on_device or group.get("fused") or group.get("capturable")):
        return value.to(parameter.device)
    return value


def _scaler_tensors(scaler: Any) -> dict[str, Any]:
    """GradScaler's two device tensors; its own ``state_dict()`` would synchronise."""
    if scaler is None:
        return {}
    tensors = {key: getattr(scaler, key, None) for key in ("_scale", "_growth_tracker")}
    return {key: t for key, t in tensors.items() if isinstance(t, Tensor)}


def _restore_scaler(scaler: Any, kept: Mapping[str, Any]) -> None:
    live = _scaler_tensors(scaler)
    back_in_place(live, kept)
    if live and not kept:  # the snapshot is from before its first use
        live["_scale"].fill_(scaler._init_scale)
        live["_growth_tracker"].fill_(scaler._init_growth_tracker)


def _capture_extra(thing: Any) -> Any:
    if isinstance(thing, torch.Generator):
        return thing.get_state()
    if isinstance(thing, (Tensor, dict, list)):
        return to_host(thing)
    return to_host(thing.state_dict())


def _restore_extra(thing: Any, kept: Any) -> None:
    if isinstance(thing, torch.Generator):
        thing.set_state(kept)
    elif isinstance(thing, Tensor):
        thing.detach().copy_(kept)
    elif isinstance(thing, dict):
        fresh = back_in_place(thing, kept)
        thing.clear()
        thing.update(fresh)
    elif isinstance(thing, list):
        thing[:] = back_in_place(thing, kept)
    else:
        thing.load_state_dict(copy.deepcopy(kept))


def capture_random() -> dict[str, Any]:
    """The state of every random generator in use: Python, NumPy, torch, each CUDA device."""
    state: dict[str, Any] = {"python": random.getstate(), "torch": torch.get_rng_state()}
    if "numpy" in sys.modules:
        import numpy as np

        state["numpy"] = np.random.get_state()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def restore_random(state: Mapping[str, Any]) -> None:
    """Turn every generator back to ``capture_random()``."""
    random.setstate(state["python"])
    torch.set_rng_state(state["torch"])
    if "numpy" in state:
        import numpy as np

        np.random.set_state(state["numpy"])
    if "cuda" in state:
        torch.cuda.set_rng_state_all(state["cuda"])


def captured_bytes(kept: Mapping[str, Any]) -> int:
    """Host memory a captured state holds [bytes]."""
    return size_bytes(dict(kept))
