"""From the begin of a framework's training to its end."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from lossguard.policy_choice import choose_policy
from lossguard.probes.guard import Guard, attach

log = logging.getLogger("lossguard")


class Watching:
    """One guard at a time. Made before the training, so that a wrong policy is said at once."""

    def __init__(
        self,
        policy: str | os.PathLike[str] | None,
        name: str | None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        self._policy = choose_policy(policy)
        self._name = name
        self._extra = dict(extra or {})
        self.guard = Guard(None)

    def begin(
        self, model: Any, optimizers: Sequence[Any], schedulers: Sequence[Any], scaler: Any
    ) -> None:
        """Attach. What cannot be watched is one line in the log: training goes on."""
        self.end("closed")
        try:
            self.guard = attach(
                model,
                list(optimizers),
                scheduler=[_inner(scheduler) for scheduler in schedulers],
                scaler=scaler,
                extra=self._extra,
                policy=self._policy,
                name=self._name,
            )
        except Exception as error:
            log.error("lossguard cannot watch this training (%s); it goes on, unwatched", error)
            return
        if len(optimizers) > 1:  # of one loss, or of several? A rollback may only turn back all.
            self.guard.only_observe("the framework steps several optimizers")

    def end(self, reason: Literal["finished", "exception", "closed"] = "finished") -> None:
        """Say goodbye. Idempotent."""
        self.guard.close(reason)


def _inner(scheduler: Any) -> Any:
    """Without Accelerate's wrapper, which hides what the schedule computes its rates from."""
    inner = getattr(scheduler, "scheduler", None)
    return inner if hasattr(inner, "load_state_dict") else scheduler
