"""Evaluations in training mode, training in eval mode, or a gap that looks like one of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from lossguard.detectors.base import Finding, Observation, Severity, Symptom
from lossguard.detectors.episodic import EpisodicDetector
from lossguard.detectors.first_gap import FirstGap
from lossguard.detectors.forgotten_mode import TrainingInEval
from lossguard.detectors.rewinding import Inputs
from lossguard.detectors.thresholds import require_at_least


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalModeMismatchConfig:
    """Thresholds. Sources in the docstring of ``EvalModeMismatch``."""

    in_training: float = 0.5
    """Share of dropout and batch-norm modules in training mode at which an evaluation is wrong
    [0 < share < 1]; 0 is right."""
    stay: int = 20
    """Training steps in a row in eval mode before a word is said [observations, >= 2]."""
    gap: float = 3.0
    """Validation loss, in units of the training loss, that is far from it [> 1]."""
    calm_steps: int = 5
    """Training steps in a row in the right mode that end an episode [observations, >= 1]."""

    def __post_init__(self) -> None:
        if not 0.0 < self.in_training < 1.0:
            raise ValueError(f"in_training must be in (0, 1), got {self.in_training}")
        if not self.gap > 1.0:
            raise ValueError(f"gap must be > 1, got {self.gap}")
        require_at_least(self, stay=2, calm_steps=1)


class EvalModeMismatch(EpisodicDetector):
    """Flag a forgotten ``model.eval()`` or ``model.train()``.

    *In training*: more than half of the dropout and batch-norm modules are in training mode in
    an evaluation. Once is a line, twice in a row a warning; one right evaluation ends it.
    *In eval*: the training forwards of 20 steps in a row run with modules in eval mode that were
    in training mode before (``TrainingInEval``). A warning where an evaluation came right before;
    else a line, for batch norm is also frozen on purpose. *Gap*: for logs that know of no modes,
    the first three validation losses are all more than 3 times the training loss, beyond its
    noise and not growing apart (``FirstGap``). A line.
    """

    symptom: ClassVar[Symptom] = Symptom.EVAL_MODE_MISMATCH
    inputs: ClassVar[tuple[str, ...]] = ("eval_in_training", "train_in_eval", "val_loss")

    def __init__(self, config: EvalModeMismatchConfig | None = None) -> None:
        super().__init__()
        self.config = config or EvalModeMismatchConfig()
        self._training = TrainingInEval()
        self._gap = FirstGap(self.config.gap)
        self._wrong = 0
        self._first_wrong = 0

    def inputs_of(self, observation: Observation) -> Inputs | None:
        """Shares and losses, where there is anything to look at."""
        get = observation.values.get
        in_training, in_eval = get("eval_in_training"), get("train_in_eval")
        val_loss, loss = get("val_loss"), get("loss")
        if in_eval is not None or in_training is not None or val_loss is not None:
            return in_training, in_eval, val_loss, loss
        if loss is None or not self._needs_loss:
            return None
        return in_training, in_eval, val_loss, loss

    def judge(self, step: int, inputs: Inputs) -> Finding | None:
        """Take in one step."""
        in_training, in_eval, val_loss, loss = inputs
        found = None
        if in_training is not None or val_loss is not None:
            self._training.evaluated()
        if in_training is not None and 0.0 <= in_training <= 1.0:
            found = self._evaluation(step, in_training)
        if in_eval is not None and 0.0 <= in_eval <= 1.0:
            row = self._training.push(step, in_eval)
            found = found or self._training_step(step, in_eval, row)
        if loss is not None and self._needs_loss:
            self._gap.train(loss)
        if val_loss is not None:
            found = found or self._validation(step, val_loss)
        return found

    def save(self) -> dict[str, Any]:
        """The state that ``judge`` works on."""
        return super().save() | {
            "training": self._training.state(),
            "gap": self._gap.state(),
            "wrong": [self._wrong, self._first_wrong],
        }

    def load(self, saved: Mapping[str, Any]) -> None:
        """Put back what ``save`` gave."""
        super().load(saved)
        self._training.restore(saved["training"])
        self._gap.restore(saved["gap"])
        self._wrong, self._first_wrong = saved["wrong"]

    def drop_episode(self) -> None:
        """Forget the open episode, silently."""
        super().drop_episode()
        self._training.drop()
        self._wrong = 0

    @property
    def _needs_loss(self) -> bool:
        """Whether the gap is still to be looked for, or open."""
        return not self._gap.decided or self.open_kind == "gap"

    def _evaluation(self, step: int, share: float) -> Finding | None:
        """Take in the share of modules that were in training mode in an evaluation."""
        if share <= self.config.in_training:
            self._wrong = 0
            if self.open_kind == "in training":
                return self.end(step, "the model is evaluated in eval mode again")
            return None
        if self._wrong == 0:
            self._first_wrong = step
        self._wrong += 1
        severity = Severity.WARNING if self._wrong >= 2 else Severity.INFO
        return self.hit(
            step,
            severity,
            share / self.config.in_training,
            f"{share:.0%} of the dropout and batch-norm modules were in training mode in an "
            "evaluation: model.eval() was forgotten",
            kind="in training",
            onset=self._first_wrong,
            metric="eval_in_training",
            evidence={"share": share, "evaluations": float(self._wrong)},
        )

    def _training_step(self, step: int, share: float, row: int) -> Finding | None:
        """Say so where training has gone on in eval mode."""
        if row == 0:
            if self.open_kind != "in eval":
                return None
            return self.calm(
                step, self.config.calm_steps, "the model trains in training mode again"
            )
        if row < self.config.stay:
            return None
        after = self._training.after_evaluation
        why = ": model.train() was forgotten after an evaluation" if after else ""
        return self.hit(
            step,
            Severity.WARNING if after else Severity.INFO,
            row / self.config.stay,
            f"{share:.0%} of the dropout and batch-norm modules are in eval mode in training, "
            f"where {self._training.usual:.0%} is usual{why}",
            kind="in eval",
            onset=self._training.since,
            metric="train_in_eval",
            evidence={"share": share, "usual": self._training.usual},
        )

    def _validation(self, step: int, val_loss: float) -> Finding | None:
        """Take in a validation loss, for the gap of the first ones."""
        if self.open_kind == "gap":
            ratio = self._gap.now(val_loss)
            if 0.0 < ratio < 0.7 * self.config.gap:
                return self.end(step, f"the validation loss is {ratio:.3g} times the training loss")
            return None
        gap = self._gap.evaluate(step, val_loss)
        if gap is None or not math.isfinite(gap[0]):
            return None
        ratio, onset = gap
        return self.hit(
            step,
            Severity.INFO,
            ratio / self.config.gap,
            f"the validation loss is {ratio:.3g} times the training loss from the first "
            "evaluation on: are both computed alike, and the model in eval mode?",
            kind="gap",
            onset=onset,
            metric="val_loss",
            evidence={"ratio": ratio},
        )
