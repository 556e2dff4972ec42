"""Real trainings with faults: what is left of them bare, by the rules of today, and guarded.

    python -m benchmarks.recovery                    # all: about an hour on two cores
    python -m benchmarks.recovery --tasks gru --faults bit_flip rate_bug --seeds 1
    python -m benchmarks.recovery --markdown         # and the tables into docs/recovery.md

Each training is a process of its own; the guarded ones talk to a real agent, started for the
purpose in a home of its own. The final validation loss is reported relative to the clean twin: the
same seed and the same data, bare and without the fault.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from rich.progress import track

from benchmarks.recovery.faults import FAULTS, PUT_RIGHT
from benchmarks.recovery.outcomes import Outcome, Trial, table_of
from benchmarks.recovery.rules import RULES
from benchmarks.recovery.tasks import TASKS

DOCUMENT = Path(__file__).parents[2] / "docs" / "recovery.md"
_BEGIN, _END = "<!-- recovery:begin -->", "<!-- recovery:end -->"
_TIMEOUT_S = 600.0


def main() -> int:
    args = parse_arguments()
    trials = list(wanted(args.tasks, args.faults, args.rules, args.seeds))
    known = read(args.json) if args.json is not None and args.json.exists() else {}
    missing = [trial for trial in trials if trial not in known]
    with tempfile.TemporaryDirectory(prefix="lossguard-recovery-") as home:
        environment = os.environ | {"LOSSGUARD_HOME": home, "OMP_NUM_THREADS": "1"}
        with ThreadPoolExecutor(args.jobs) as pool:
            jobs = [pool.submit(run, trial, environment) for trial in missing]
            for job in track(as_completed(jobs), "trainings", total=len(jobs)):
                known[job.result().trial] = job.result()
                if args.json is not None:
                    keep(args.json, known.values())
        _lossguard(environment, "agent", "--stop")
    table = table_of(known[trial] for trial in trials)
    print(table)
    if args.markdown:
        text = DOCUMENT.read_text()
        head, rest = text.split(_BEGIN)
        DOCUMENT.write_text(f"{head}{_BEGIN}\n{table}\n{_END}{rest.split(_END)[1]}")
    return 0


def read(file: Path) -> dict[Trial, Outcome]:
    """What ``keep`` has written."""
    outcomes = map(Outcome.from_json, json.loads(file.read_text()))
    return {outcome.trial: outcome for outcome in outcomes}


def keep(file: Path, outcomes: Iterable[Outcome]) -> None:
    """So that a later run need not train them again."""
    file.write_text(json.dumps([outcome.as_json() for outcome in outcomes], indent=1))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Faults in real trainings, and what is left.")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--faults", nargs="+", choices=FAULTS, default=list(FAULTS))
    parser.add_argument("--rules", nargs="+", choices=RULES, default=list(RULES))
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--json", type=Path, metavar="FILE",
                        help="every training is kept there, and not done again")  # fmt: skip
    parser.add_argument("--markdown", action="store_true", help=f"rewrite the table in {DOCUMENT}")
    return parser.parse_args()


def wanted(tasks: list[str], faults: list[str], rules: list[str], seeds: int) -> Iterator[Trial]:
    """Every fault under every rule, and the clean twins: bare, and guarded (to do nothing).

    Where an oracle loses nothing, it is the clean twin itself, and not trained again.
    """
    for task in tasks:
        for seed in range(seeds):
            yield Trial(task, "none", "bare", seed)
            if "guarded" in rules:
                yield Trial(task, "none", "guarded", seed)
            for fault in faults:
                for rule in rules:
                    if rule != "oracle" or fault not in PUT_RIGHT:
                        yield Trial(task, fault, rule, seed)


def run(trial: Trial, environment: dict[str, str]) -> Outcome:
    """One training, and what the guard did to it."""
    words = [trial.task, trial.fault, trial.rule, str(trial.seed)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.recovery.training", *words],
        env=environment, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S,
    )  # fmt: skip
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(words)} failed:\n{done.stderr[-4000:]}")
    result = json.loads(done.stdout.splitlines()[-1])
    actions: list[dict[str, str | int]] = []
    if trial.rule == "guarded":
        said = _lossguard(environment, "incidents", "-".join(words), "--json")
        actions = [a for line in said.splitlines() for a in json.loads(line)["actions"]]
    return Outcome.of(trial, result, actions)


def _lossguard(environment: dict[str, str], *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "lossguard", *words],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.stdout if done.returncode == 0 else ""


if __name__ == "__main__":
    sys.exit(main())
