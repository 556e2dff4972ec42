"""What every rule made of everything, as tables and as JSON."""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks import detection_table
from benchmarks.detection_failures import failures
from benchmarks.detection_faults import FAULTS
from benchmarks.detection_injection import Injected
from benchmarks.detection_scenarios import Judged
from benchmarks.detection_scoring import Outcome
from benchmarks.detection_summary import Share, Summary, share_of_faults, summarise

HALVES = {"held out": True, "train": False}


@dataclass
class Results:
    """What every rule made of everything, by name of the rule."""

    outcomes: dict[str, list[Outcome]] = field(default_factory=lambda: defaultdict(list))
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    rows: int = 0
    injected: dict[str, list[Injected]] = field(default_factory=lambda: defaultdict(list))
    judged: dict[str, list[Judged]] = field(default_factory=lambda: defaultdict(list))

    def halves(self) -> dict[str, dict[str, Summary]]:
        """Summaries by rule, of the groups set apart and of the others."""
        return {
            half: {
                rule: summarise([o for o in outcomes if o.held_out is held_out])
                for rule, outcomes in self.outcomes.items()
            }
            for half, held_out in HALVES.items()
        }

    def costs(self) -> dict[str, float]:
        """Time per row, as multiples of the NaN check's (1 where it did not run)."""
        base = self.seconds.get("NaN check", 0.0)
        return {rule: spent / base if base else 1.0 for rule, spent in self.seconds.items()}


def draw(results: Results) -> Iterable[detection_table.Sheet]:
    """The tables."""
    if results.outcomes:
        halves = results.halves()
        costs = results.costs()
        yield detection_table.side_by_side("Groups set apart", halves["held out"], costs)
        yield detection_table.side_by_side("Other groups", halves["train"], costs)
        yield detection_table.by_type(halves)
        yield detection_table.of_failures(list(failures(results.outcomes)))
    if results.injected:
        yield detection_table.of_faults_by_level(results.injected)
        yield detection_table.of_faults(results.injected)
    if results.judged:
        yield detection_table.of_scenarios(results.judged)


def as_json(results: Results) -> dict[str, object]:
    """All figures; null where there is none."""
    return {
        "halves": _plain(results.halves()),
        "microseconds_per_row": {
            rule: 1e6 * spent / max(1, results.rows) for rule, spent in results.seconds.items()
        },
        "faults": {
            rule: {
                fault: {
                    half: dict(zip(("share", "delay"), map(_plain, figures), strict=True))
                    for half, figures in halves.items()
                }
                for fault, halves in of_faults(injected)
            }
            for rule, injected in results.injected.items()
        },
        "scenarios": _plain(results.judged),
    }


def of_faults(
    injected: Sequence[Injected],
) -> Iterable[tuple[str, dict[str, tuple[Share, float]]]]:
    """Each fault with its share of finds and median delay, in all groups and in each half."""
    for fault in FAULTS:
        own = [each for each in injected if each.fault == fault]
        parts = {"all": own} | {
            half: [each for each in own if each.held_out is held_out]
            for half, held_out in HALVES.items()
        }
        yield fault, {name: share_of_faults(part) for name, part in parts.items()}


def _plain(value: Any) -> Any:
    """Of what JSON has."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _plain(dataclasses.asdict(value))
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
