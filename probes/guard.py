"""``lossguard.attach``: one line in a training script, and the handle it returns."""

from __future__ import annotations

import atexit
import logging
import math
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import nn

from lossguard.errors import ConfigError, LossguardError
from lossguard.home import find_home
from lossguard.probes import wire
from lossguard.probes.identity import make_hello
from lossguard.probes.loop import Loop
from lossguard.probes.training_state import TrainingState

log = logging.getLogger("lossguard")

POLICIES = ("observe", "guard")


class Guard:
    """A running watch over one training loop. Everything on it is optional to call.

    ``with`` closes it at the end of the block; otherwise the end of the process does.
    """

    def __init__(self, loop: Loop | None) -> None:
        self._loop = loop
        self._pid = os.getpid()
        if loop is not None:
            atexit.register(self._at_exit)

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

    def log(self, **metrics: float) -> None:
        """Report numbers of your own (``val_loss=...``): they travel with the next step.

        Host numbers and CPU scalars; a device tensor would have to be waited for and is refused
        with a warning. Never raises.
        """
        for name, value in metrics.items():
            number = _host_number(value)
            if number is None:
                log.warning("guard.log(%s=...): not a number on the host: %r", name, type(value))
            elif self._loop is not None:
                self._loop.logged[name] = number

    def snapshot(self) -> bool:
        """Take a snapshot of the training state now; False when it could not be taken."""
        return self._loop is not None and self._loop.take_snapshot_now()

    def replay_backward(self, tensors: Any, *, gradients_were_clipped: bool) -> None:
        """Count a ``backward()`` that began at ``tensors`` before the watch did.

        Gradients that were clipped since then have no pre-clip norm any more.
        """
        if self._loop is not None:
            self._loop.on_backward(tensors)
            self._loop.gradients_unknown = gradients_were_clipped

    def close(self, reason: Literal["finished", "exception", "closed"] = "closed") -> None:
        """Stop watching, put torch back as it was, say goodbye. At most 2 s. Idempotent."""
        loop, self._loop = self._loop, None
        if loop is not None:
            atexit.unregister(self._at_exit)
            loop.close(reason)

    def _at_exit(self) -> None:
        if os.getpid() == self._pid:
            failed = getattr(sys, "last_type", None) is not None
            self.close("exception" if failed else "finished")

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
    policy: str | None = None,
    agent: Literal["auto", "existing"] | None = None,
    name: str | None = None,
) -> Guard:
    """Watch a training loop from the next step on.

    ``scheduler`` (one or several), ``scaler`` and ``extra`` (an EMA model, anything with
    ``state_dict``, a tensor, a dict of tensors) are what a rollback has to bring back besides
    model and optimizer. ``policy`` is ``"observe"`` (the default: change nothing) or ``"guard"``
    (skip bad updates, roll back). ``agent="existing"`` never starts an agent.

    Raises TypeError or ConfigError on arguments that make no sense. Any failure of Lossguard's
    own is one log line and a guard that does nothing: training goes on.
    """
    _require_types(model, optimizer)
    chosen = _known_policy(policy or os.environ.get("LOSSGUARD_POLICY") or "observe")
    try:
        hello = make_hello(name, chosen)
        if chosen == "guard" and hello.world_size > 1:
            log.warning("policy 'guard' acts on one rank only so far; this run of %d ranks is "
                        "observed", hello.world_size)  # fmt: skip
            hello = _observed(hello)
        state = TrainingState(model, optimizer, _as_list(scheduler), scaler, extra or {})
        home = find_home().create()
        return Guard(Loop(state, hello, home, start_agents=agent != "existing"))
    except LossguardError:
        raise
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


def _known_policy(policy: str) -> str:
    if policy not in POLICIES:
        raise ConfigError(f"policy must be one of {', '.join(POLICIES)}; got {policy!r}")
    return policy


def _observed(hello: wire.Hello) -> wire.Hello:
    import msgspec

    return msgspec.structs.replace(hello, policy="observe")


def _as_list(scheduler: Any) -> Sequence[Any]:
    if scheduler is None:
        return ()
    return tuple(scheduler) if isinstance(scheduler, (list, tuple)) else (scheduler,)


def _host_number(value: object) -> float | None:
    if isinstance(value, torch.Tensor):
        if value.numel() != 1 or value.device.type != "cpu":
            return None
        return float(value.detach())
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    except OverflowError:
        return math.inf
