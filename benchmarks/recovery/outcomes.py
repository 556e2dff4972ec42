"""What a training came to, and the tables of many."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.recovery.faults import FAULTS
from benchmarks.recovery.rules import RULES

GOAL = 0.01
"""A run counts as saved when its validation loss is within this of its clean twin's."""
_RESTORED = re.compile(r"restored_step (\d+)")


@dataclass(frozen=True, slots=True)
class Trial:
    """One training."""

    task: str
    fault: str
    rule: str
    seed: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """``lost``: updates skipped, undone, or never made. ``actions``: what the guard did."""

    trial: Trial
    val_loss: float
    lost: int
    seconds: float
    actions: tuple[str, ...]

    @classmethod
    def of(cls, trial: Trial, result: Mapping[str, Any], actions: Sequence[Any]) -> Outcome:
        """From what the training printed and the incidents of its run."""
        distinct = {(a["step"], a["action"], a["result"]) for a in actions}
        did = sorted(a for a in distinct if a[2].startswith("done"))
        lost = int(result["skipped"])
        skips = {step for step, action, _ in did if action == "skip"}
        undone: set[int] = set()
        for step, action, said in did:
            if action == "rollback" and (back := _RESTORED.search(said)):
                undone |= set(range(int(back[1]) + 1, step + 1))
        lost += len(skips | undone)
        words = tuple(f"{action}@{step}" for step, action, _ in did)
        return cls(trial, result["val_loss"], lost, result["seconds"], words)

    @classmethod
    def from_json(cls, known: Mapping[str, Any]) -> Outcome:
        """What ``as_json`` gave."""
        loss = math.nan if known["val_loss"] is None else known["val_loss"]
        trial, actions = Trial(**known["trial"]), tuple(known["actions"])
        return cls(trial, loss, known["lost"], known["seconds"], actions)

    def as_json(self) -> dict[str, Any]:
        """Plain data; null for a loss that is not finite."""
        finite = self.val_loss if math.isfinite(self.val_loss) else None
        return asdict(self) | {"val_loss": finite}


def table_of(outcomes: Iterable[Outcome]) -> str:
    """In Markdown: a row a fault and task, a column a rule, and the clean twins."""
    by_case: dict[tuple[str, str, str], list[Outcome]] = defaultdict(list)
    clean: dict[tuple[str, int], float] = {}
    for outcome in sorted(outcomes, key=lambda o: (o.trial.task, o.trial.seed)):
        trial = outcome.trial
        by_case[trial.fault, trial.task, trial.rule].append(outcome)
        if (trial.fault, trial.rule) == ("none", "bare"):
            clean[trial.task, trial.seed] = outcome.val_loss
    rules = [rule for rule in RULES if any(key[0] in FAULTS and key[2] == rule for key in by_case)]
    tasks = sorted({key[1] for key in by_case})
    lines = [
        _row(["fault", "training", *rules, "updates lost, guarded"]),
        _row(["---"] * (len(rules) + 3)),
    ]
    saved: dict[str, list[bool]] = defaultdict(list)
    for fault in FAULTS:
        for task in tasks:
            if not any(by_case[fault, task, rule] for rule in rules):
                continue
            cells = []
            for rule in rules:
                ratios = [_ratio(o, clean) for o in by_case[fault, task, rule]]
                saved[rule] += [ratio <= GOAL for ratio in ratios]
                cells.append(" ".join(map(_percent, ratios)))
            lost = " ".join(str(o.lost) for o in by_case[fault, task, "guarded"])
            lines.append(_row([fault, task, *cells, lost]))
    shares = [f"**{sum(saved[rule])}/{len(saved[rule])}**" for rule in rules]
    lines.append(_row([f"within {GOAL:.0%} of the clean twin", "", *shares, ""]))
    return "\n".join([*lines, "", *_clean_lines(by_case, clean, tasks)])


def _clean_lines(
    by_case: Mapping[tuple[str, str, str], list[Outcome]],
    clean: Mapping[tuple[str, int], float],
    tasks: Sequence[str],
) -> list[str]:
    lines = [
        _row(["clean training", "bare", "guarded, relative", "actions", "time, guarded / bare"]),
        _row(["---"] * 5),
    ]
    for task in tasks:
        bare, guarded = by_case["none", task, "bare"], by_case["none", task, "guarded"]
        losses = " ".join(f"{o.val_loss:.4g}" for o in bare)
        relative = " ".join(_percent(_ratio(o, clean)) for o in guarded)
        actions = ", ".join(a for o in guarded for a in o.actions) or "none"
        time = [g.seconds / b.seconds for g, b in zip(guarded, bare, strict=False)]
        lines.append(_row([task, losses, relative, actions, " ".join(f"{t:.2f}" for t in time)]))
    return lines


def _ratio(outcome: Outcome, clean: Mapping[tuple[str, int], float]) -> float:
    twin = clean[outcome.trial.task, outcome.trial.seed]
    loss = outcome.val_loss if math.isfinite(outcome.val_loss) else math.inf
    return loss / twin - 1.0


def _percent(ratio: float) -> str:
    if math.isinf(ratio):
        return "dead"
    return f"{ratio:+.1%}" if ratio < 10 else f"x{ratio + 1:.0f}"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
