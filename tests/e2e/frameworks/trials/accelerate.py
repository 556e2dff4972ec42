"""The example for Accelerate, with and without its line of Lossguard and trouble."""

from __future__ import annotations

from typing import Any

from accelerate import Accelerator
from accelerate.tracking import GeneralTracker
from accelerate.utils import set_seed
from accelerate_loop import small_net
from accelerate_loop import train as fit

from lossguard.integrations.accelerate import watch
from lossguard.probes.guard import Guard
from tests.e2e.frameworks.trials.forwards import Forwards, tell_all


class ValidationLosses(GeneralTracker):  # type: ignore[misc]
    """What the script logs."""

    name = "validation losses"
    requires_logging_directory = False
    tracker = None

    def __init__(self) -> None:
        super().__init__()
        self.found: list[float] = []

    def log(self, values: dict[str, Any], step: int | None = None, **kwargs: Any) -> None:
        self.found.append(values["val_loss"])


def train(name: str, policy: str | None, **trouble: bool) -> dict[str, Any]:
    """To the end; without ``policy`` nothing is watched."""
    set_seed(7)
    net, losses = small_net(), ValidationLosses()
    guards = [Guard(None)]
    forwards = Forwards(net, net[3], lambda: guards[-1], **trouble)  # type: ignore[index]

    def begin(accelerator: Accelerator) -> None:
        accelerator.trackers.append(losses)
        if policy is not None:
            guards.append(watch(accelerator, policy, name=name))

    fit(net, begin, epochs=2)
    assert guards[-1].run == Guard(None).run, "the watch has not ended with the training"
    return {**forwards.result(), "val_losses": losses.found}


if __name__ == "__main__":
    tell_all(train)
