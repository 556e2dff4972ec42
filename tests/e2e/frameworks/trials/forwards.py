"""What a trial looks at while a framework trains, and the trouble it makes."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from typing import Any

from torch import nn

from lossguard.probes import wire
from lossguard.probes.guard import Guard
from tests.unit.probes.loops import loop_of

POISONED_FORWARD = 12
"""Of the training; with two micro-batches a step it belongs to step 6."""
ROLLED_BACK_AFTER = 16
"""Steps."""


def digest(net: nn.Module) -> str:
    """Of all weights and buffers, to the last bit."""
    tensors = b"".join(t.detach().numpy().tobytes() for t in (*net.parameters(), *net.buffers()))
    return hashlib.sha256(tensors).hexdigest()


class Forwards:
    """The weights that each step begins with; a poisoned output and an order, where wanted."""

    def __init__(
        self,
        net: nn.Module,
        head: nn.Module,
        guard: Callable[[], Guard],
        *,
        poisoned: bool = False,
        rolled_back: bool = False,
    ) -> None:
        self.before_step: dict[int, str] = {}
        self._net = net
        self._guard = guard
        self._rolled_back = rolled_back
        self._poisoned = poisoned
        self._count = 0
        net.register_forward_pre_hook(self._before)
        head.register_forward_hook(self._after)

    def _before(self, module: nn.Module, args: Any) -> None:
        if not module.training:
            return
        self._count += 1
        if self._rolled_back and self._count == 1:
            order = wire.Command(
                run=self._guard().run,
                command="by-hand",
                action="rollback",
                step=ROLLED_BACK_AFTER,
                expires_step=ROLLED_BACK_AFTER,
            )
            loop_of(self._guard())._link.orders.append(order)
        self.before_step.setdefault(self._guard().step + 1, digest(self._net))

    def _after(self, module: nn.Module, args: Any, output: Any) -> Any:
        poison = self._poisoned and module.training and self._count == POISONED_FORWARD
        return output * math.nan if poison else output

    def result(self) -> dict[str, Any]:
        """As JSON takes it."""
        weights = [t.isfinite().all().item() for t in self._net.parameters()]
        return {
            "before_step": self.before_step,
            "end": digest(self._net),
            "is_finite": all(weights),
        }


def tell_all(train: Callable[..., dict[str, Any]]) -> None:
    """What came of the same training watched in every way: the last line on stdout.

    ``train`` takes the name of the run, its policy (None: unwatched) and the trouble in it.
    """
    results = {
        "plain": train("plain", None),
        "observed": train("observed", "observe"),
        "guarded": train("guarded", "guard"),
        "poisoned": train("poisoned", "observe", poisoned=True),
        "saved": train("saved", "guard", poisoned=True),
        "rolled_back": train("rolled_back", "guard", rolled_back=True),
    }
    print(json.dumps(results))
