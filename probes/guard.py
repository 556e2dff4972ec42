"""``lossguard.attach``: one line in a training script, and the handle it returns."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import nn

from lossguard.home import find_home
from lossguard.policy_choice import ChosenPolicy, choose_policy
from lossguard.probes import wire
from lossguard.probes.identity import make_hello
from lossguard.probes.loop import Loop
from lossguard.probes.losses import LossTap
from lossguard.probes.parameters import optimizer_parameters
from lossguard.probes.training_state import TrainingState

log = logging.getLogger("lossguard")


class Guard:
    """A running watch over one training loop. Everything on it is optional to call.

    ``with`` closes it at the end of the block; otherwise the end of the process does.
    """

    def __init__(self, loop: Loop | None) -> None:
        self._loop = loop

    @property
    def run(self) -> str:
        """The run's id, as ``lossguard runs`` shows it; empty when nothing is watched."""
        return self._loop.run if self._loop else ""

    @property
    def step(self) -> int:
        """How often the loop has reached ``optimizer.step()``."""
        return self._loop.step if self._loop else 0

    @property
    def own_time_s(self) -> float:
        """Time spent in Lossguard's code in the training thread so far [s]."""
        return self._loop.own_time_ns / 1e9 if self._loop else 0.0

    def log(self, **metrics: float | torch.Tensor) -> None:
        """Report numbers of your own (``val_loss=...``): they travel with the next step.

        Host numbers and CPU scalars; a device tensor would have to be waited for and is refused
        with a warning. At most 1,000 names. Never raises.
        """
        for name, value in metrics.items():
            number = _host_number(value)
            if number is None:
                log.warning("guard.log(%s=...): not a number on the host: %s", name, type(value))
            elif self._loop is not None:
                self._loop.log(name, number)

    def snapshot(self) -> bool:
        """Take a snapshot of the training state now; False when it could not be taken."""
        return self._loop is not None and self._loop.take_snapshot_now()

    def take_over(self, tap: LossTap, *, gradients_were_clipped: bool) -> None:
        """Count the ``backward()`` calls that ``tap`` heard before the watch began.

        Gradients that were clipped since then have no pre-clip norm any more.
        """
        if self._loop is not None:
            self._loop.take_over(tap, gradients_were_clipped=gradients_were_clipped)

    def only_observe(self, why: str) -> None:
        """Act no more, whatever the policy; says so, once."""
        if self._loop is not None:
            self._loop.only_observe(why)

    def close(self, reason: Literal["finished", "exception", "closed"] = "closed") -> None:
        """Stop watching, put torch back as it was, say goodbye. At most 2 s. Idempotent."""
        loop, self._loop = self._loop, None
        if loop is not None:
            loop.close(reason)

    def __enter__(self) -> Guard:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.close("finished" if kind is None else "exception")


def attach(
    model: nn.Module | None,
    optimizer: torch.optim.Optimizer,
    *,
    scheduler: Any = None,
    scaler: Any = None,
    extra: Mapping[str, Any] | None = None,
    policy: str | os.PathLike[str] | ChosenPolicy | None = None,
    agent: Literal["auto", "existing"] | None = None,
    name: str | None = None,
) -> Guard:
    """Watch a training loop from the next step on.

    ``scheduler`` (one or several), ``scaler`` and ``extra`` (an EMA model, anything with
    ``state_dict``, a tensor, a dict of tensors) are what a rollback has to bring back besides
    model and optimizer. ``policy`` is ``"observe"`` (the default: change nothing), ``"guard"``
    (skip bad updates, roll back), another of ``lossguard policies``, or a TOML file.
    ``agent="existing"`` never starts an agent.

    Raises TypeError or ConfigError on arguments that make no sense. Any failure of Lossguard's
    own is one log line and a guard that does nothing: training goes on.
    """
    schedulers = _as_list(scheduler)
    _require_types(model, optimizer)
    _require_state(schedulers, scaler, extra)
    chosen = policy if isinstance(policy, ChosenPolicy) else choose_policy(policy)
    try:
        hello = make_hello(name, chosen.base, chosen.text)
        if chosen.base == "guard" and hello.world_size > 1:
            log.warning("policy 'guard' acts on one rank only so far; this run of %d ranks is "
                        "observed", hello.world_size)  # fmt: skip
            hello = _observed(hello)
        if chosen.base == "guard" and (stray := _trained_elsewhere(model, optimizer)):
            log.warning("policy 'guard' acts on one optimizer only so far, and %r is not among its "
                        "parameters; this run is observed", stray)  # fmt: skip
            hello = _observed(hello)
        state = TrainingState(model, optimizer, schedulers, scaler, extra or {})
        home = find_home().create()
        return Guard(Loop(state, hello, home, start_agents=agent != "existing"))
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
        log.error("lossguard could not attach (%s); training goes on, unwatched", what)
        return Guard(None)


def _require_types(model: object, optimizer: object) -> None:
    if model is not None and not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(
            f"optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}; "
            "for a wrapper, pass the optimizer it wraps"
        )


def _require_state(
    schedulers: Sequence[Any], scaler: object, extra: Mapping[str, Any] | None
) -> None:
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


def _trained_elsewhere(model: nn.Module | None, optimizer: torch.optim.Optimizer) -> str:
    """The first trainable parameter of the model that the optimizer does not update, or empty."""
    owned = {id(p) for p in optimizer_parameters(optimizer)}
    for name, parameter in model.named_parameters() if model is not None else ():
        if parameter.requires_grad and id(parameter) not in owned:
            return name
    return ""


def _observed(hello: wire.Hello) -> wire.Hello:
    import msgspec

    return msgspec.structs.replace(hello, policy="observe")


def _as_list(scheduler: Any) -> Sequence[Any]:
    if scheduler is None:
        return ()
    return tuple(scheduler) if isinstance(scheduler, (list, tuple)) else (scheduler,)


def _host_number(value: object) -> float | None:
    try:
        if isinstance(value, torch.Tensor):
            return float(value.detach()) if value.device.type == "cpu" else None
        return float(value)  # type: ignore[arg-type]
    except OverflowError:
        return math.inf
    except Exception:  # whatever the script's own type raises
        return None
