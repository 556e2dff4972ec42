"""What a scenario is: a training that goes wrong by one cause, or does not."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from lossguard.detectors import Severity, Symptom


class Train(Protocol):
    """A plain training loop. The seed varies data, weights and where the trouble begins.

    Returns the step (as the guard counts them, from 1) at which the cause begins, or would begin
    in the healthy twin.
    """

    __name__: str

    def __call__(self, seed: int, *, healthy: bool) -> int: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Scenario:
    """One way to get into trouble."""

    symptom: Symptom
    cause: str
    """The true cause, in a few words."""
    within: int
    """In time: found at most so many steps after the cause began [steps]."""
    least: Severity
    """Found: said with this severity or worse. Info where the symptom is no worry by itself."""
    train: Train
    against_a_good_run: bool = False
    """Whether the detectors are given the loss of a healthy training of another seed."""

    @property
    def name(self) -> str:
        """Of the training function."""
        return self.train.__name__


SCENARIOS: dict[str, Scenario] = {}
"""All that have been declared, by name (``catalogue`` imports the modules that do)."""


def scenario(
    symptom: Symptom,
    cause: str,
    *,
    within: int,
    least: Severity = Severity.WARNING,
    against_a_good_run: bool = False,
) -> Callable[[Train], Train]:
    """Declare a training function a scenario."""

    def declare(train: Train) -> Train:
        if train.__name__ in SCENARIOS:
            raise ValueError(f"there are two scenarios {train.__name__}")
        SCENARIOS[train.__name__] = Scenario(
            symptom=symptom,
            cause=cause,
            within=within,
            least=least,
            train=train,
            against_a_good_run=against_a_good_run,
        )
        return train

    return declare


@dataclass(frozen=True, kw_only=True, slots=True)
class NormalLife:
    """A training that is out of the ordinary and healthy. Nothing critical may be said of it."""

    why: str
    """What may look like trouble and is none."""
    may_warn: bool
    """Whether a warning is fair: something did change that a person may want to know."""
    train: Callable[[int], int]


NORMAL: dict[str, NormalLife] = {}
"""All that have been declared, by name."""


def normal(
    why: str, *, may_warn: bool = False
) -> Callable[[Callable[[int], int]], Callable[[int], int]]:
    """Declare a training function a piece of normal life."""

    def declare(train: Callable[[int], int]) -> Callable[[int], int]:
        NORMAL[train.__name__] = NormalLife(why=why, may_warn=may_warn, train=train)
        return train

    return declare


def begins(seed: int, first: int, last: int) -> int:
    """The step at which the trouble of this seed begins, between the two."""
    return random.Random(seed).randint(first, last)
