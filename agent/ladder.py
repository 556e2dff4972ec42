"""What a policy does about a symptom: rungs of actions, the next where the last did not help."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from lossguard.detectors import Severity, Symptom
from lossguard.probes.wire import Action

_MOST_WORDS = 300
Deed = Action | Literal["advise"]
"""What a rung does: an action, or words for a person."""
Args = Mapping[str, "float | int | str"]


@dataclass(frozen=True, slots=True)
class Argument:
    """A number that an action takes; whole where ``default`` is an int."""

    default: float | int
    least: float
    most: float
    doc: str

    @property
    def is_switch(self) -> bool:
        return isinstance(self.default, int) and (self.least, self.most) == (0, 1)


_FACTOR = Argument(1.0, 1e-6, 1.0, "the learning rate of every group is multiplied by it")
_WARMUP = Argument(0, 0, 1_000_000, "updates over which the rate climbs to that from a tenth")

ACTIONS: dict[str, dict[str, Argument]] = {
    "rollback": {
        "deeper": Argument(0, 0, 12, "so many snapshots before the newest one that is proven good"),
        "lr": _FACTOR,
        "warmup_steps": _WARMUP,
        "replay": Argument(0, 0, 1, "1: loaders with a state in extra go back as well"),
        "random": Argument(0, 0, 1, "1: random generators go back as well"),
    },
    "lower_lr": {
        "factor": Argument(0.1, 1e-6, 1.0, _FACTOR.doc),
        "warmup_steps": _WARMUP,
    },
    "reset_moments": {},
    "set_clip": {
        "max_norm": Argument(1.0, 1e-12, 1e12, "gradients are clipped to this L2 norm from then on")
    },
    "set_loss_scale": {"scale": Argument(1024.0, 1e-6, 2.0**40, "the new loss scale")},
    "checkpoint": {},
    "stop": {"checkpoint": Argument(1, 0, 1, "1: a snapshot is written to disk first")},
    "advise": {},
}
"""What a rung may do, and with what. Meanings in docs/acting.md."""


@dataclass(frozen=True, slots=True)
class Order:
    """An action the policy wants. ``incident`` is what it answers, or another topic of the run."""

    action: Action
    incident: str
    args: dict[str, float | int | str]


@dataclass(frozen=True, slots=True)
class Rung:
    """One action with its arguments. Raises ValueError for one there is not."""

    do: Deed
    args: Args = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        known = ACTIONS.get(self.do)
        if known is None:
            raise ValueError(f"do must be one of {', '.join(ACTIONS)}, got {self.do!r:.60}")
        if self.do == "advise":
            _require_words(self.args)
            return
        for name, value in self.args.items():
            if name not in known:
                takes = ", ".join(known) or "nothing"
                raise ValueError(f"{name}: {self.do} takes {takes}")
            _require(name, value, known[name])


@dataclass(frozen=True, slots=True)
class Rule:
    """About incidents of these symptoms, of at least that severity: this ladder."""

    symptoms: frozenset[Symptom]
    ladder: tuple[Rung, ...]
    severity: Severity = Severity.CRITICAL

    def __post_init__(self) -> None:
        if not self.symptoms:
            raise ValueError("symptom must name at least one")
        if not self.ladder:
            raise ValueError("ladder must have at least one rung")


def rung_of(table: Mapping[str, Any]) -> Rung:
    """The rung that a TOML table describes. Raises ValueError."""
    # A switch may be written as true or false.
    known = ACTIONS.get(table.get("do", ""), {})
    args = {
        name: int(value) if isinstance(value, bool) and name in known and known[name].is_switch
        else value
        for name, value in table.items() if name != "do"
    }  # fmt: skip
    return Rung(table.get("do", ""), args)


def as_tables(ladder: Iterable[Rung]) -> list[dict[str, Any]]:
    """The other way round."""
    return [{"do": rung.do, **rung.args} for rung in ladder]


def _require(name: str, value: Any, argument: Argument) -> None:
    whole = isinstance(argument.default, int)
    fits = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
    if not fits or not math.isfinite(value) or not argument.least <= value <= argument.most:
        kind = "a whole number" if whole else "a number"
        raise ValueError(
            f"{name} must be {kind} from {argument.least:g} to {argument.most:g}, got {value!r:.60}"
        )


def _require_words(args: Args) -> None:
    words = args.get("say")
    if set(args) != {"say"} or not isinstance(words, str) or not 0 < len(words) <= _MOST_WORDS:
        raise ValueError(f'advise takes say = "...", at most {_MOST_WORDS} letters')


LADDER = (
    Rung("rollback"),
    Rung("rollback", {"deeper": 1, "lr": 0.5, "warmup_steps": 100}),
    Rung("rollback", {"deeper": 2, "lr": 0.1, "warmup_steps": 200}),
)
"""What a guarded run gets where its policy says nothing else."""
