"""``lossguard.attach``: one line in a training script, and the handle it returns."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import nn

from lossguard.policy_choice import ChosenPolicy, choose_policy
from lossguard.probes.adopting import adopt_optimizers_of
from lossguard.probes.arguments import (
    as_list,
    host_number,
    loose_parameters,
    optimizers_in,
    remote_agent,
    require_model,
    require_state,
)
from lossguard.probes.beginning import begin
from lossguard.probes.loop import Loop
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
            number = host_number(value)
            if number is None:
                log.warning("guard.log(%s=...): not a number on the host: %s", name, type(value))
            elif self._loop is not None:
                self._loop.log(name, number)

    def snapshot(self, *, durable: bool = False) -> bool:
        """Take a snapshot of the training state now; False when it could not be taken.

        ``durable`` also writes it to disk, in the background: see ``resume``.
        """
        return self._loop is not None and self._loop.take_snapshot_now(durable=durable)

    def resume(self) -> int | None:
        """Take up where the latest run of this name was that did not end well; its step, or None.

        Before the first step. The newest whole snapshot of it on disk is loaded, without pickle:
        model, optimizers, schedules, GradScaler, ``extra``, loaders, random generators. The step is
        the number of updates that the run had behind it, those of the processes before included:
        the script goes on with the next. None, and nothing touched, where there is no such run, or
        where model or optimizer have another shape (said in the log). With several ranks each calls
        this; all take up the same, or none does. What another number of ranks has left is put
        together anew, without random generators and loaders. Raises LossguardError where loading
        broke off half way, or a rank did not come.
        """
        return self._loop.resume() if self._loop is not None else None

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
    optimizer: Any = None,
    *,
    scheduler: Any = None,
    scaler: Any = None,
    extra: Mapping[str, Any] | None = None,
    policy: str | os.PathLike[str] | ChosenPolicy | None = None,
    agent: str | None = None,
    name: str | None = None,
    eos_id: int | None = None,
    keep_batches: bool = False,
) -> Guard:
    """Watch a training loop from the next step on.

    ``optimizer`` is one, or a list of those that step on the gradients of one loss, or a wrapper
    around one. Without it whatever updates the parameters of ``model`` is watched: the optimizers
    that step on them, or the script itself. A GAN has two losses: attach twice.

    ``scheduler`` (one or several), ``scaler`` and ``extra`` (an EMA model, anything with
    ``state_dict``, a tensor, a dict of tensors) are what a rollback has to bring back besides
    model and optimizer. ``policy`` is ``"observe"`` (the default: change nothing), ``"guard"``
    (skip bad updates, roll back), another of ``lossguard policies``, or a TOML file.
    ``agent="existing"`` never starts an agent; ``agent="tcp://HOST:PORT"`` is one of another host,
    to which ``LOSSGUARD_KEY_FILE`` names the key (docs/security.md). ``eos_id`` is the token that
    ends a text, where the model has no ``config.eos_token_id``. ``keep_batches`` (or
    ``LOSSGUARD_KEEP_BATCHES=1``) keeps copies of the last batches in host memory, at most 256 MiB:
    an incident gets those it is about.

    Raises TypeError or ConfigError on arguments that make no sense. Any failure of Lossguard's
    own is one log line and a guard that does nothing: training goes on.
    """
    schedulers = as_list(scheduler)
    require_model(model)
    optimizers = optimizers_in(optimizer)
    require_state(schedulers, scaler, extra)
    remote = remote_agent(agent)
    chosen = policy if isinstance(policy, ChosenPolicy) else choose_policy(policy)
    loose = [] if optimizers else loose_parameters(model, optimizer)
    try:
        state = TrainingState(
            model, optimizers, schedulers, scaler, extra or {}, loose, eos_id=eos_id
        )
        loop = begin(state, chosen, name, start_agents=agent != "existing", remote=remote)
        if keep_batches:
            loop.keep_batches()
        if not optimizers:
            adopt_optimizers_of(loop)
        return Guard(loop)
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
        log.error("lossguard could not attach (%s); training goes on, unwatched", what)
        return Guard(None)
