"""Hugging Face: a callback for ``transformers.Trainer``.

    from lossguard.integrations.huggingface import LossguardCallback
    trainer = Trainer(..., callbacks=[LossguardCallback(policy="guard")])

The examples/ folder has a script that does so.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from transformers import TrainerCallback

from lossguard.integrations.watching import Watching
from lossguard.probes.guard import Guard


class LossguardCallback(TrainerCallback):  # type: ignore[misc]
    """Watches ``trainer.train()`` from its first step to its end.

    The arguments are those of ``lossguard.attach``. Model, optimizer, schedule and loss scale
    come from the trainer; ``eval_loss`` becomes ``val_loss`` (the mean of them, where several
    data sets are evaluated at one step). A policy that there is none of raises ConfigError here;
    later nothing does but StopTraining.
    """

    def __init__(
        self,
        policy: str | os.PathLike[str] | None = None,
        *,
        name: str | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        self._watching = Watching(policy, name, extra)
        self._evaluated: dict[str, float] = {}

    @property
    def guard(self) -> Guard:
        """The handle of the training that goes on; one that does nothing before and after."""
        return self._watching.guard

    def on_train_begin(self, args: Any, state: Any, control: Any, **trainer: Any) -> None:
        """The trainer has made its optimizer, and wrapped what it wraps."""
        optimizer, scheduler = trainer.get("optimizer"), trainer.get("lr_scheduler")
        self._watching.begin(
            trainer.get("model"),
            [optimizer],
            schedulers=[] if scheduler is None else [scheduler],
            scaler=getattr(optimizer, "scaler", None),
        )

    def on_step_begin(self, args: Any, state: Any, control: Any, **trainer: Any) -> None:
        """An evaluation that went on before has ended."""
        self._evaluated.clear()

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: Any = None, **trainer: Any
    ) -> None:
        """``eval_loss``, or with several data sets ``eval_<name>_loss`` of one of them."""
        for key, value in (metrics or {}).items():
            if key.startswith("eval_") and key.endswith("loss") and isinstance(value, float):
                self._evaluated[key] = value
        if self._evaluated:
            self.guard.log(val_loss=sum(self._evaluated.values()) / len(self._evaluated))

    def on_train_end(self, args: Any, state: Any, control: Any, **trainer: Any) -> None:
        """Evaluations that come later belong to no step."""
        self._watching.end()
