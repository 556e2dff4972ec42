"""Lightning: a callback for its ``Trainer``, of ``lightning`` or ``pytorch_lightning``.

    from lossguard.integrations.lightning import LossguardCallback
    trainer = Trainer(..., callbacks=[LossguardCallback(policy="guard")])

The examples/ folder has a script that does so.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

from lossguard.integrations.watching import Watching
from lossguard.probes.guard import Guard

# Two packages with the same classes; a trainer takes callbacks of its own one only.
if "pytorch_lightning" in sys.modules and "lightning.pytorch" not in sys.modules:
    from pytorch_lightning import Callback
else:
    from lightning.pytorch import Callback


class LossguardCallback(Callback):  # type: ignore[misc]
    """Watches ``trainer.fit()`` from its first step to its end.

    The arguments are those of ``lossguard.attach``. Model, optimizer, schedulers and loss scale
    come from the trainer; ``val_loss`` is what the module logs under the name ``monitor``, read
    once an evaluation, or else what the losses in ``validation_step`` tell. A policy that there
    is none of raises ConfigError here; later nothing does but StopTraining.
    """

    def __init__(
        self,
        policy: str | os.PathLike[str] | None = None,
        *,
        monitor: str = "val_loss",
        name: str | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        self._watching = Watching(policy, name, extra)
        self._monitor = monitor

    @property
    def guard(self) -> Guard:
        """The handle of the training that goes on; one that does nothing before and after."""
        return self._watching.guard

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """After the sanity check and the loading of a checkpoint, before the first batch."""
        self._watching.begin(
            pl_module,
            trainer.optimizers,
            schedulers=[config.scheduler for config in trainer.lr_scheduler_configs],
            scaler=getattr(trainer.precision_plugin, "scaler", None),
        )

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """What the module has logged is complete."""
        value = trainer.callback_metrics.get(self._monitor)
        if value is not None and not trainer.sanity_checking:
            self.guard.log(val_loss=value.detach().cpu())

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """All epochs are done, or enough of them."""
        self._watching.end()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """It is raised again afterwards, by Lightning."""
        self._watching.end("exception")
