"""Early stopping, and which state is kept, by the validation loss: as the policy asks for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lossguard.agent.ladder import Order


@dataclass(frozen=True, kw_only=True, slots=True)
class Validation:
    """What is done by the validation loss. Nothing, where nothing is set."""

    keep_best: bool = False
    """Keep the state with the best validation loss so far on disk, apart from all others."""
    patience: int = 0
    """Evaluations in a row that are no improvement, after which the run is stopped with a
    checkpoint [evaluations, >= 0]; 0 is never."""
    min_delta: float = 0.0
    """An improvement is more than this below the best [in units of the loss, >= 0]."""

    def __post_init__(self) -> None:
        if self.patience < 0:
            raise ValueError(f"patience must be >= 0, got {self.patience}")
        if not (math.isfinite(self.min_delta) and self.min_delta >= 0.0):
            raise ValueError(f"min_delta must be a finite number >= 0, got {self.min_delta!r:.40}")

    @property
    def wants_anything(self) -> bool:
        return self.keep_best or self.patience > 0


class ValidationWatch:
    """Follows the evaluations of one run, and orders what ``settings`` ask for.

    A state is kept when its loss is below that of the last one that *was* kept: an order that
    failed leaves the next good evaluation its chance. What is not finite is no improvement.
    """

    def __init__(self, run: str, settings: Validation) -> None:
        self._settings = settings
        self._topic = f"{run}.validation"
        self._best = math.inf
        self._best_step = -1
        self._without: list[int] = []
        self._kept = math.inf
        self._keeping: float | None = None
        self._is_stopping = False

    def take(self, step: int, loss: float) -> list[Order]:
        """An evaluation that came with ``step``: of the state that the step before left."""
        orders = []
        if loss < self._best - self._settings.min_delta:
            self._best, self._best_step, self._without = loss, step - 1, []
        else:
            self._without.append(step)
        if self._settings.keep_best and self._keeping is None and loss < self._kept:
            self._keeping = loss
            args: dict[str, float | int | str] = {"keep": "best", "evaluated": step - 1}
            orders.append(Order("checkpoint", self._topic, args))
        patience = self._settings.patience
        if patience and not self._is_stopping and len(self._without) >= patience:
            self._is_stopping = True
            orders.append(Order("stop", self._topic, {"checkpoint": 1, "reason": self._why()}))
        self._without = self._without[-max(patience, 1) :]
        return orders

    def _why(self) -> str:
        since = f"{len(self._without)} evaluations without a better validation loss"
        if self._best_step < 0:
            return f"early stopping: {since} than none"
        return f"early stopping: {since} than {self._best:.4g} (step {self._best_step})"

    def answered(self, action: str, topic: str, *, done: bool) -> None:
        """An order was carried out, or not: then it may be given again."""
        if topic != self._topic:
            return
        if action == "checkpoint" and self._keeping is not None:
            self._kept = self._keeping if done else self._kept
            self._keeping = None
        elif action == "stop":
            self._is_stopping = done

    def withdraw(self, order: Order) -> None:
        """An order that was never given."""
        self.answered(order.action, order.incident, done=False)

    def rewind(self, step: int) -> None:
        """Evaluations of states after ``step`` were undone: they cost no patience. The best stays:
        its state may be on disk."""
        self._without = [at for at in self._without if at <= step]

    def state(self) -> dict[str, Any]:
        """Everything it knows, as plain data."""
        return {
            "best": self._best,
            "best_step": self._best_step,
            "without": list(self._without),
            "kept": self._kept,
            "keeping": self._keeping,
            "is_stopping": self._is_stopping,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take the place of the watch that ``state`` came from."""
        self._best = state["best"]
        self._best_step = state["best_step"]
        self._without = list(state["without"])
        self._kept = state["kept"]
        self._keeping = state["keeping"]
        self._is_stopping = state["is_stopping"]
