"""The example for Lightning's Trainer, with and without its callback and trouble."""

from __future__ import annotations

from typing import Any

import lightning as L
from lightning_trainer import Classifier
from lightning_trainer import train as fit

from lossguard.integrations.lightning import LossguardCallback
from lossguard.probes.guard import Guard
from tests.e2e.frameworks.trials.forwards import Forwards, tell_all


class ValidationLosses(L.Callback):  # type: ignore[misc]
    """What the trainer has at the end of each evaluation."""

    def __init__(self) -> None:
        self.found: list[float] = []

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if not trainer.sanity_checking:
            self.found.append(trainer.callback_metrics["val_loss"].item())


def train(name: str, policy: str | None, **trouble: bool) -> dict[str, Any]:
    """To the end; without ``policy`` nothing is watched."""
    L.seed_everything(7)
    model, losses = Classifier(), ValidationLosses()
    callback = LossguardCallback(policy, name=name)
    forwards = Forwards(model.net, model.net[3], lambda: callback.guard, **trouble)
    fit(model, [losses] if policy is None else [losses, callback], epochs=2)
    assert callback.guard.run == Guard(None).run, "the watch has not ended with the training"
    return {**forwards.result(), "val_losses": losses.found}


if __name__ == "__main__":
    tell_all(train)
