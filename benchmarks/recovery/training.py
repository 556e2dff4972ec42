"""One training of the benchmark: ``python -m benchmarks.recovery.training gpt bit_flip guarded 0``.

Prints one JSON object at its end. An ordinary loop; what is different under a rule is what the
rule says, and under ``guarded`` one line.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import random
import sys
import time
from collections.abc import Container, Iterator

import torch

import lossguard
from benchmarks.recovery.faults import FAULTS, Fault
from benchmarks.recovery.rules import RULES, decision_of
from benchmarks.recovery.tasks import TASKS, Task

STEPS = 500


def schedule(step: int) -> float:
    """Warm-up over 5 %, then a cosine down to a tenth."""
    if step < STEPS // 20:
        return (step + 1) / (STEPS // 20)
    progress = (step - STEPS // 20) / (STEPS - STEPS // 20)
    return 0.1 + 0.45 * (1 + math.cos(math.pi * progress))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("fault", choices=("none", *FAULTS))
    parser.add_argument("rule", choices=RULES)
    parser.add_argument("seed", type=int)
    parser.add_argument("--drop", type=int, nargs="+", default=[], metavar="STEP",
                        help="steps without an update")  # fmt: skip
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    task = TASKS[args.task]()
    fault = Fault("" if args.fault == "none" else args.fault, begins(args.seed), task)
    begun = time.perf_counter()
    done, skipped = train(task, fault, args.rule, args.seed, args.drop)
    seconds = time.perf_counter() - begun
    loss = task.validate()
    result = {"val_loss": loss, "steps": done, "skipped": skipped, "seconds": seconds}
    json.dump(result, sys.stdout, allow_nan=True)


def begins(seed: int) -> int:
    """The step at which the fault of this seed begins: about half way through."""
    return random.Random(seed).randint(int(0.45 * STEPS), int(0.6 * STEPS))


def train(
    task: Task, fault: Fault, rule: str, seed: int, drop: Container[int] = ()
) -> tuple[int, int]:
    """How many steps were made, and how many updates were skipped by the rule, or in ``drop``."""
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        task.optimizer, lambda step: schedule(step) * fault.rate_factor()
    )
    guard: contextlib.AbstractContextManager[object] = contextlib.nullcontext()
    if rule == "guarded":
        guard = lossguard.attach(
            task.model, task.optimizer, scheduler=scheduler, policy="guard",
            name="-".join(sys.argv[1:]),
        )  # fmt: skip
    data = torch.Generator().manual_seed(seed)
    decide, skipped, done = decision_of(rule), 0, 0
    with guard:
        for step in range(STEPS):
            fault.begin(step)
            x, y = task.batch(data)
            loss = task.each_loss(x, fault.spoil_labels(y)).mean() * fault.loss_weight()
            task.optimizer.zero_grad()
            loss.backward()
            is_lost = step in drop or (rule == "oracle" and fault.spoils_update)
            decision = "skip" if is_lost else "go"
            if rule in ("ten_times_mean", "six_sigma", "stop_on_spike"):
                norms = torch._foreach_norm(
                    [p.grad for p in task.model.parameters() if p.grad is not None]
                )
                decision = decide(loss.item(), torch.stack(norms).norm().item())
            if rule == "clip":
                torch.nn.utils.clip_grad_norm_(task.model.parameters(), 1.0)
            done += 1
            if decision == "stop":
                break
            if decision == "go":
                task.optimizer.step()
            else:
                skipped += 1
            with _quiet():
                scheduler.step()
    return done, skipped


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The schedule warns where the first step was skipped."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


if __name__ == "__main__":
    main()
