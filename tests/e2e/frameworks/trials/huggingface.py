"""The example for Hugging Face's Trainer, with and without its callback and trouble."""

from __future__ import annotations

import tempfile
from typing import Any

from huggingface_trainer import make_trainer
from transformers import PrinterCallback

from lossguard.integrations.huggingface import LossguardCallback
from lossguard.probes.guard import Guard
from tests.e2e.frameworks.trials.forwards import Forwards, tell_all


def train(name: str, policy: str | None, **trouble: bool) -> dict[str, Any]:
    """To the end; without ``policy`` nothing is watched."""
    callback = LossguardCallback(policy, name=name)
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(folder, [] if policy is None else [callback], steps=24)
        model: Any = trainer.model
        trainer.remove_callback(PrinterCallback)
        forwards = Forwards(model, model.lm_head, lambda: callback.guard, **trouble)
        trainer.train()
    assert callback.guard.run == Guard(None).run, "the watch has not ended with the training"
    losses = [line["eval_loss"] for line in trainer.state.log_history if "eval_loss" in line]
    return {**forwards.result(), "val_losses": losses}


if __name__ == "__main__":
    tell_all(train)
