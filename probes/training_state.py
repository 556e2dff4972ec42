"""Everything a rollback must bring back: captured as copies, restored in place.

Model parameters and buffers, state and hyper-parameters of every optimizer, schedulers, GradScaler,
whatever the user named in ``extra`` (an EMA, a sampler), and the random generators.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lossguard.probes.cut import CutOtherwise, Path, Place, leaves, place_of, places_in
from lossguard.probes.data_position import capture_position, is_data_position, replay_from
from lossguard.probes.optimizer_state import capture_optimizer, restore_optimizer
from lossguard.probes.parameters import optimizer_parameters
from lossguard.probes.pinned import side_by_side
from lossguard.probes.random_state import capture_random, restore_random
from lossguard.probes.sharded import is_distributed, local_part
from lossguard.probes.sharded_flat import flat_holders
from lossguard.probes.tensors import back_in_place, size_bytes, to_host

_BETWEEN_BYTES = 1 << 18
"""For the gaps between the tensors of a capture."""


@dataclass
class TrainingState:
    """The live objects of one training loop.

    ``others`` are models beside the main one, by name; ``loose`` are parameters that the script
    updates without an optimizer.
    """

    model: nn.Module | None
    optimizers: list[torch.optim.Optimizer]
    schedulers: Sequence[Any] = ()
    scaler: Any = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    loose: Sequence[Tensor] = ()
    others: Mapping[str, nn.Module] = field(default_factory=dict)
    eos_id: int | None = None
    """The class that ends a text, for the share of it among the predictions."""
    _wanted: dict[Path, Place] | None = field(default=None, init=False, repr=False)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Those of all optimizers, and one of the loose parameters where there are any."""
        groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]
        return [*groups, {"params": self.loose}] if self.loose else groups

    def ids_in_models(self) -> set[int]:
        """Of all parameters of the models, also of those that are not trained now."""
        models = [m for m in (self.model, *self.others.values()) if m is not None]
        return {id(p) for model in models for p in model.parameters()}

    @torch.no_grad()
    def capture(self) -> dict[str, Any]:
        """A copy in host memory. Costs one pass over the bytes; queued, not awaited, on CUDA.

        Of tensors that are cut over ranks the part that lies here, and in ``places`` where it lies,
        or in words why nobody can say.
        """
        states = {name: _state_of(thing) for name, thing in self.extra.items()}
        tensors = self._named_tensors()
        try:
            places: Any = self._places(tensors, states)
        except Exception as error:  # a cut of a kind that torch itself cannot place: no less kept
            places = str(error) if isinstance(error, CutOtherwise) else repr(error)
        with side_by_side(self.live_bytes() + _BETWEEN_BYTES):
            return ({"places": places} if places else {}) | {
                "model": to_host(tensors),
                "optimizers": [capture_optimizer(optimizer) for optimizer in self.optimizers],
                "schedulers": [copy.deepcopy(s.state_dict()) for s in self.schedulers],
                "scaler": to_host(_scaler_tensors(self.scaler)),
                "extra": to_host(states),
                "random": capture_random(),
            }

    @torch.no_grad()
    def restore(self, kept: Mapping[str, Any], *, random_generators: bool) -> None:
        """Become what ``kept`` says, in place: every live tensor keeps its identity.

        Raises ValueError, before anything is touched, when the model or the optimizer no longer
        has the shape that was captured. ``random_generators`` also turns the generators back,
        which replays batches that are drawn from them. Loaders in ``extra`` go on: see ``replay``.
        """
        live = self._model_tensors()
        self._check(live, kept, random_generators)
        back_in_place(live, kept["model"])
        for optimizer, state in zip(self.optimizers, kept["optimizers"], strict=True):
            restore_optimizer(optimizer, state)
        for scheduler, state in zip(self.schedulers, kept.get("schedulers", ()), strict=True):
            scheduler.load_state_dict(copy.deepcopy(state))
        if self.scaler is not None:
            _restore_scaler(self.scaler, kept["scaler"])
        for name, state in kept["extra"].items():
            if not is_data_position(self.extra[name]):
                _restore_extra(self.extra[name], state)
        if random_generators:
            restore_random(kept["random"])

    def check(self, kept: Mapping[str, Any], *, random_generators: bool) -> None:
        """Raises ValueError where ``restore`` would; nothing is touched."""
        self._check(self._model_tensors(), kept, random_generators)

    def replay(self, kept: Mapping[str, Any]) -> dict[str, str]:
        """Take every loader in ``extra`` back as well: of each, empty or why it goes on."""
        answers = {}
        for name, thing in self.extra.items():
            if is_data_position(thing):
                try:
                    answers[name] = replay_from(thing, kept["extra"].get(name))
                except Exception as error:  # a loader of the script's own
                    answers[name] = f"{type(error).__name__}: {error}"[:200]
        return answers

    def _places(self, tensors: dict[str, Tensor], extra: Mapping[str, Any]) -> dict[Path, Place]:
        """Of all that ``capture`` copies in part. Raises CutOtherwise."""
        if not (dist.is_available() and dist.is_initialized()):
            return {}
        models = [m for m in (self.model, *self.others.values()) if m is not None]
        if flat_holders(models):
            raise CutOtherwise("the first FSDP lays tensors out in a row and cuts that")
        places = places_in(tensors, ("model",))
        for i, optimizer in enumerate(self.optimizers):
            for j, parameter in enumerate(_parameters_of(optimizer)):
                state = optimizer.state.get(parameter, {})
                places |= places_in(state, ("optimizers", i, "state", j))
        return places | places_in(extra, ("extra",))

    def place_wanted(self, path: Path, whole: tuple[int, ...]) -> Place | None:
        """Where the part belongs that this rank has of a captured tensor, by its path; None where
        it has all of it. What an optimizer keeps is cut as its parameter. Raises ValueError."""
        if self._wanted is None:
            things = self.extra.items()
            extra = {
                name: _state_of(thing) for name, thing in things if not is_data_position(thing)
            }
            self._wanted = self._places(self._named_tensors(), extra)
        if path[0] != "optimizers" or len(path) < 4 or path[2] != "state":
            return self._wanted.get(path)
        place = place_of(_parameters_of(self.optimizers[path[1]])[path[3]], path)
        if place is None or not whole:
            return None
        if place[0] != whole:
            raise CutOtherwise(f"{path} has the shape {whole}, and its parameter {place[0]}")
        return place

    def devices(self) -> set[torch.device]:
        """Where its tensors lie."""
        tensors = [
            *self._named_tensors().values(),
            *(t for t in self.extra.values() if _is_tensor(t)),
        ]
        return {local_part(tensor.detach()).device for tensor in tensors}

    def parameter_names(self) -> list[str]:
        """Of ``model`` in a capture what is trained, or could be: no buffers."""
        tensors = self._named_tensors().items()
        return [name for name, tensor in tensors if isinstance(tensor, nn.Parameter)]

    def live_bytes(self) -> int:
        """What a capture would take at least [bytes]; nothing is copied."""
        states = [list(optimizer.state.values()) for optimizer in self.optimizers]
        return size_bytes(self._model_tensors()) + size_bytes(states)

    def _model_tensors(self) -> dict[str, Tensor]:
        return {name: local_part(t.detach()) for name, t in self._named_tensors().items()}

    def _named_tensors(self) -> dict[str, Tensor]:
        if self.model is None:
            return {f"param.{i}": p for i, p in enumerate(optimizer_parameters(self))}
        tensors = _tensors_of(self.model)
        for prefix, module in self.others.items():
            tensors |= {f"{prefix}.{name}": t for name, t in _tensors_of(module).items()}
        known = {id(t) for t in tensors.values()}
        for i, parameter in enumerate(optimizer_parameters(self)):
            if id(parameter) not in known:
                tensors[f"param.{i}"] = parameter
        return tensors

    def _needs(self, random_generators: bool) -> dict[str, bool]:
        """Which parts of a snapshot a restore cannot do without."""
        return {
            "model": True,
            "optimizers": True,
            "schedulers": bool(self.schedulers),
            "scaler": self.scaler is not None,
            "random": random_generators,
        }

    def _check(
        self, live: Mapping[str, Tensor], kept: Mapping[str, Any], random_generators: bool
    ) -> None:
        lacks = [
            part
            for part, needed in self._needs(random_generators).items()
            if needed and part not in kept
        ]
        if lacks:
            raise ValueError(
                f"the snapshot has no {' and no '.join(lacks)} part: it holds what cannot be "
                "written to disk without pickle"
            )
        then = {name: (tuple(t.shape), str(t.dtype)) for name, t in kept["model"].items()}
        now = {name: (tuple(t.shape), str(t.dtype)) for name, t in live.items()}
        if then != now:
            changed = sorted(set(then.items()) ^ set(now.items()))[:3]
            raise ValueError(f"the model changed its shape since the snapshot: {changed}")
        groups = [[len(group["params"]) for group in o.param_groups] for o in self.optimizers]
        if groups != [[group["size"] for group in o["groups"]] for o in kept["optimizers"]]:
            raise ValueError(f"the optimizer changed its groups since the snapshot: {groups}")
        if len(self.schedulers) != len(kept.get("schedulers", ())):
            raise ValueError("the number of schedulers changed since the snapshot")
        for name, state in kept["extra"].items():
            if name not in self.extra:
                raise ValueError(f"the snapshot has extra[{name!r}], and this run has not")
            thing = self.extra[name]
            if isinstance(thing, Tensor) and local_part(thing).shape != state.shape:
                raise ValueError(f"extra[{name!r}] changed its shape since the snapshot")


def _tensors_of(module: nn.Module) -> dict[str, Tensor]:
    return dict(module.named_parameters()) | dict(module.named_buffers())


def _is_tensor(thing: Any) -> bool:
    return isinstance(thing, Tensor)


def _scaler_tensors(scaler: Any) -> dict[str, Any]:
    """GradScaler's two device tensors; its own ``state_dict()`` would synchronise."""
    if scaler is None:
        return {}
    tensors = {key: getattr(scaler, key, None) for key in ("_scale", "_growth_tracker")}
    return {key: t for key, t in tensors.items() if isinstance(t, Tensor)}


def _restore_scaler(scaler: Any, kept: Mapping[str, Any]) -> None:
    live = _scaler_tensors(scaler)
    if kept and not live:  # it is new: it makes its tensors at its first use
        scaler._lazy_init_scale_growth_tracker(torch.device(getattr(scaler, "_device", "cpu")))
        live = _scaler_tensors(scaler)
    back_in_place(live, kept)
    if live and not kept:  # the snapshot is from before its first use
        live["_scale"].fill_(scaler._init_scale)
        live["_growth_tracker"].fill_(scaler._init_growth_tracker)


def _state_of(thing: Any) -> Any:
    if is_data_position(thing):
        return capture_position(thing)
    if isinstance(thing, torch.Generator):
        return thing.get_state()
    return thing if isinstance(thing, (Tensor, dict, list)) else thing.state_dict()


def _parameters_of(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def _restore_extra(thing: Any, kept: Any) -> None:
    if isinstance(thing, torch.Generator):
        thing.set_state(kept)
    elif isinstance(thing, Tensor):
        local_part(thing.detach()).copy_(kept)
    elif isinstance(thing, dict):
        fresh = back_in_place(thing, kept)
        thing.clear()
        thing.update(fresh)
    elif isinstance(thing, list):
        thing[:] = back_in_place(thing, kept)
    else:
        # Of what is cut over ranks, parts were kept: they go where the live parts are.
        live = thing.state_dict()
        cut = any(is_distributed(tensor) for _, tensor in leaves(live))
        thing.load_state_dict(back_in_place(live, kept) if cut else copy.deepcopy(kept))


def captured_bytes(kept: Mapping[str, Any]) -> int:
    """Host memory a captured state holds [bytes]."""
    return size_bytes(dict(kept))
