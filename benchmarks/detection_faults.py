"""Faults to put into healthy runs, as changes of the values of their rows."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

ROWS_AFTER = 600
"""Rows of a run from where a fault is put in, at most."""
CONTROL = "nothing"

Values = dict[str, float]
Change = Callable[[Values, int, random.Random], None]
"""Changes the values of the t-th row with a loss since the site (from 0)."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One way to hurt a run."""

    make: Callable[[random.Random, bool], tuple[Change, int, int]]
    """From a generator, and whether the run logs gradient norms: the change, the row at which the
    loss moves, and the row at which the trouble is over (both counted from the site)."""
    needs: str = ""
    """A metric that every row gets, at a constant, where the log has none."""


def _steps(*factors: float) -> Callable[[random.Random, bool], tuple[Change, int, int]]:
    """The loss times each factor in turn."""

    def change(values: Values, t: int, rng: random.Random) -> None:
        if t < len(factors):
            values["loss"] *= factors[t]

    return lambda rng, has_norm: (change, 0, len(factors) - 1)


def _curve(
    factor: Callable[[int], float], last: int
) -> Callable[[random.Random, bool], tuple[Change, int, int]]:
    """The loss times a function of the rows since the site, to the end of the run."""

    def change(values: Values, t: int, rng: random.Random) -> None:
        values["loss"] *= factor(t)

    return lambda rng, has_norm: (change, 0, last)


_BLOOM_NORMS = (1.0, 4.0, 10.0, 67.0, 604.0, 4000.0)
"""The gradient norms .24 .95 2.4 16 145 960 of BLOOM's spike, over the first."""
_BLOOM_LEAD = 4
"""Rows by which the norm is ahead of the loss."""


def _bloom(rng: random.Random, has_norm: bool) -> tuple[Change, int, int]:
    """Two or three times the loss, decaying over 30 to 500 rows; the gradient norm leads."""
    peak = rng.uniform(2.0, 3.0)
    duration = rng.randint(30, 500)
    begin = _BLOOM_LEAD if has_norm else 0

    def change(values: Values, t: int, rng: random.Random) -> None:
        decay = math.exp(-3.0 * max(0, t - begin) / duration)
        if "grad_norm" in values:
            lead = _BLOOM_NORMS[t] if t < len(_BLOOM_NORMS) else _BLOOM_NORMS[-1]
            values["grad_norm"] *= max(1.0, lead * decay ** (8 if t >= len(_BLOOM_NORMS) else 0))
        if t >= begin:
            values["loss"] *= 1.0 + (peak - 1.0) * decay

    return change, begin, begin + duration


def _set(metric: str, value: float, rows: int) -> Fault:
    """A metric at one value for a while."""

    def change(values: Values, t: int, rng: random.Random) -> None:
        if t < rows:
            values[metric] = value

    return Fault(lambda rng, has_norm: (change, 0, rows - 1))


def _scale_collapse(rng: random.Random, has_norm: bool) -> tuple[Change, int, int]:
    """From 65,536 by half each row, down to 1, and there it stays."""

    def change(values: Values, t: int, rng: random.Random) -> None:
        values["loss_scale"] = max(1.0, 2.0 ** (15 - t))

    return change, 0, 40


def _lr_jump(rng: random.Random, has_norm: bool) -> tuple[Change, int, int]:
    """The learning rate times ten from one row to the next; the loss as it was."""

    def change(values: Values, t: int, rng: random.Random) -> None:
        values["lr"] *= 10.0

    return change, 0, 20


def _lr_aftermath(rng: random.Random, has_norm: bool) -> tuple[Change, int, int]:
    """As after a learning rate 100 times too large: 2.5 times the loss in 20 rows, and rough."""

    def change(values: Values, t: int, rng: random.Random) -> None:
        rough = rng.lognormvariate(0.0, 0.2) if t else 1.0
        values["loss"] *= (1.0 + 1.5 * min(1.0, (t + 1) / 20)) * rough
        if "grad_norm" in values:
            values["grad_norm"] *= 10.0 * rough

    return change, 0, 100


FAULTS: dict[str, Fault] = {
    "x1.3, one step": Fault(_steps(1.3)),
    "x2, one step": Fault(_steps(2.0)),
    "BLOOM spike": Fault(_bloom),
    "to x2 in 8 steps, stays": Fault(_curve(lambda t: 1.0 + min(t + 1, 8) / 8, 200)),
    "+0.05 % a step": Fault(_curve(lambda t: 1.0005**t, ROWS_AFTER)),
    "level +10 %": Fault(_curve(lambda t: 1.10, 300)),
    "level +25 %": Fault(_curve(lambda t: 1.25, 300)),
    "oscillation 25 %": Fault(_curve(lambda t: 1.0 + 0.25 * math.sin(t * math.tau / 20), 400)),
    "NaN": _set("loss", math.nan, 20),
    "Inf": _set("loss", math.inf, 1),
    "scale collapse": Fault(_scale_collapse, needs="loss_scale"),
    "lr x10": Fault(_lr_jump, needs="lr"),
    "lr x100, aftermath": Fault(_lr_aftermath),
    CONTROL: Fault(_curve(lambda t: 1.0, 200)),
}
CONSTANTS = {"loss_scale": 65536.0, "lr": 1e-3}
"""What a fault's metric is at in rows that have none."""
