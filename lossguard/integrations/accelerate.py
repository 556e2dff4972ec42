"""Accelerate: one line after ``accelerator.prepare``.

    from lossguard.integrations.accelerate import watch
    guard = watch(accelerator, policy="guard")

The examples/ folder has a script that does so.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import GeneralTracker

from lossguard.integrations.watching import Watching
from lossguard.probes.guard import Guard

_VALIDATION = ("val_loss", "eval_loss", "valid_loss", "validation_loss")


class LossguardTracker(GeneralTracker):  # type: ignore[misc]
    """Hears ``accelerator.log`` and ``accelerator.end_training``."""

    name = "lossguard"
    requires_logging_directory = False

    def __init__(self, watching: Watching) -> None:
        super().__init__()
        self._watching = watching

    @property
    def tracker(self) -> Guard:
        """What ``accelerator.get_tracker("lossguard", unwrap=True)`` returns."""
        return self._watching.guard

    def log(self, values: Mapping[str, Any], step: int | None = None, **kwargs: Any) -> None:
        """The validation loss, under any of its usual names."""
        for name in _VALIDATION:
            if name in values:
                self._watching.guard.log(val_loss=values[name])
                return

    def finish(self) -> None:
        """The training is over."""
        self._watching.end()


def watch(
    accelerator: Accelerator,
    policy: str | os.PathLike[str] | None = None,
    *,
    name: str | None = None,
    extra: Mapping[str, Any] | None = None,
) -> Guard:
    """Watch what was prepared, from the next step on. The arguments are those of ``attach``.

    To be called after ``accelerator.prepare``, and after ``init_trackers`` where that is used.
    ``val_loss`` (or ``eval_loss``) given to ``accelerator.log`` is taken from there, and
    ``accelerator.end_training()`` ends the watch; the end of the process does as well.

    Raises ValueError where nothing was prepared, ConfigError on a policy that there is none of.
    """
    if not accelerator._optimizers:
        raise ValueError("no optimizer was prepared: call watch() after accelerator.prepare(...)")
    models = [accelerator.unwrap_model(model) for model in accelerator._models]
    watching = Watching(policy, name, extra)
    watching.begin(
        models[0] if models else None,
        accelerator._optimizers,
        schedulers=accelerator._schedulers,
        scaler=accelerator.scaler,
    )
    accelerator.trackers.append(LossguardTracker(watching))
    return watching.guard
