"""The whole zoo of scenarios, seed by seed: what was found, when, and what was left alone.

    python -m benchmarks.record_scenarios --seeds 10 --out DIR
    python -m benchmarks.record_scenarios --seeds 10 --markdown    # and the tables into docs/
    python -m benchmarks.record_scenarios --seeds 3 --only shifted_labels rate_raised --verbose

Prints a table, and writes into DIR one CSV log a training (``<symptom>__<scenario>__<seed>.csv``,
``healthy__<scenario>__<seed>.csv``; one column a metric, one row a step), ``trials.csv`` with what
was said about each, and ``scenarios.md`` with the tables.
"""

from __future__ import annotations

import argparse
import csv
import multiprocessing
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from rich.console import Console
from rich.progress import track

from lossguard.detectors import Severity
from tests.scenarios.catalogue import NORMAL, SCENARIOS
from tests.scenarios.trial import Result, Trial, attempt

DOCUMENT = Path(__file__).parents[1] / "docs" / "scenarios.md"
_BEGIN, _END = "<!-- scenarios:begin -->", "<!-- scenarios:end -->"


def main() -> int:
    arguments = parse_arguments()
    out = arguments.out or Path(tempfile.mkdtemp(prefix="scenarios-"))
    out.mkdir(parents=True, exist_ok=True)
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    trials = list(wanted(arguments.only or [*SCENARIOS, *NORMAL], seeds))
    results = sorted(
        run_all(trials, out, arguments.jobs),
        key=lambda r: (r.trial.name, r.trial.healthy, r.trial.seed),
    )
    write_trials(results, out / "trials.csv")
    table = "\n".join([*scenario_table(results), "", *normal_table(results)])
    (out / "scenarios.md").write_text(table + "\n")
    print(table)
    if arguments.markdown:
        rewrite_document(table)
    for result in results:
        if arguments.verbose or not as_wanted(result):
            print(account(result), file=sys.stderr)
    print(f"logs: {out}", file=sys.stderr)
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="The whole zoo of scenarios, seed by seed.")
    parser.add_argument("--seeds", type=int, default=10, help="trainings of each kind")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="folder for logs and tables (default: a new one)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=[*SCENARIOS, *NORMAL])
    parser.add_argument("--markdown", action="store_true", help=f"rewrite tables in {DOCUMENT}")
    parser.add_argument("--verbose", action="store_true", help="tell of every training")
    return parser.parse_args()


def wanted(names: Sequence[str], seeds: range) -> Iterator[Trial]:
    """Every training that these names and seeds make."""
    for seed in seeds:
        for name in names:
            if name in NORMAL:
                yield Trial(name=name, seed=seed, healthy=True)
                continue
            for healthy in (False, True):
                yield Trial(name=name, seed=seed, healthy=healthy)


def run_all(trials: Sequence[Trial], out: Path, jobs: int) -> Iterator[Result]:
    """In processes of their own, each with one torch thread."""
    os.environ["OMP_NUM_THREADS"] = "1"
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        futures = [pool.submit(attempt, trial, out) for trial in trials]
        console = Console(stderr=True)
        for future in track(as_completed(futures), "training", total=len(futures), console=console):
            yield future.result()


def as_wanted(result: Result) -> bool:
    """Found or left alone, as it should; of normal life some warnings are fair."""
    if (life := NORMAL.get(result.trial.name)) is not None and life.may_warn:
        return not any(f.severity is Severity.CRITICAL for f in result.said)
    return result.as_it_should


def scenario_table(results: Sequence[Result]) -> Iterator[str]:
    """One row a scenario."""
    yield (
        "| symptom | scenario | cause | found in time | as the right symptom | "
        "median delay [steps] | said before | also said | healthy twin left alone |"
    )
    yield "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    for name, scenario in SCENARIOS.items():
        sick = [r.verdict for r in results if r.trial.name == name and r.verdict is not None]
        twins = [r for r in results if r.trial.name == name and r.verdict is None]
        if not sick:
            continue
        delays = [v.delay for v in sick if v.delay is not None]
        also = sorted({symptom for v in sick for symptom in v.also})
        cells = [
            str(scenario.symptom),
            name,
            scenario.cause,
            f"{sum(v.in_time for v in sick)}/{len(sick)}",
            f"{sum(v.as_right for v in sick)}/{len(sick)}",
            f"{statistics.median(delays):g} of {scenario.within}" if delays else "-",
            str(sum(bool(v.too_early) for v in sick)),
            ", ".join(also) or "-",
            f"{sum(r.as_it_should for r in twins)}/{len(twins)}",
        ]
        yield f"| {' | '.join(cells)} |"


def normal_table(results: Sequence[Result]) -> Iterator[str]:
    """One row a piece of normal life."""
    yield "| normal life | what is out of the ordinary | nothing critical | nothing at all | said |"
    yield "| --- | --- | --- | --- | --- |"
    for name, life in NORMAL.items():
        own = [r for r in results if r.trial.name == name]
        if not own:
            continue
        calm = sum(all(f.severity is not Severity.CRITICAL for f in r.said) for r in own)
        said = sorted({str(f.symptom) for r in own for f in r.said})
        cells = [
            name,
            life.why,
            f"{calm}/{len(own)}",
            f"{sum(not r.said for r in own)}/{len(own)}",
            ", ".join(said) or "-",
        ]
        yield f"| {' | '.join(cells)} |"


def account(result: Result) -> str:
    """What was said about one training, in a few lines."""
    trial = result.trial
    kind = "normal" if trial.name in NORMAL else "twin" if trial.healthy else "sick"
    verdict = "as it should" if as_wanted(result) else "WRONG"
    lines = [f"{trial.name} seed {trial.seed} {kind}: {verdict} (from {result.begins}, "
             f"{result.num_steps} steps)"]  # fmt: skip
    lines += [
        f"    step {f.detected_step} {f.severity} {f.symptom} onset {f.onset_step}: {f.message}"
        for f in result.said[:8]
    ]
    return "\n".join(lines)


def rewrite_document(table: str) -> None:
    """The tables in their place."""
    before, rest = DOCUMENT.read_text().split(_BEGIN)
    _, after = rest.split(_END)
    DOCUMENT.write_text(f"{before}{_BEGIN}\n{table}\n{_END}{after}")


def write_trials(results: Sequence[Result], path: Path) -> None:
    """One row a training."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["log", "scenario", "symptom", "seed", "healthy", "begins", "steps",
                         "as_it_should", "delay", "cpu_s", "said"])  # fmt: skip
        for result in results:
            trial, verdict = result.trial, result.verdict
            symptom = "" if verdict is None else str(SCENARIOS[trial.name].symptom)
            said = ";".join(f"{f.severity}:{f.symptom}@{f.detected_step}" for f in result.said)
            delay = "" if verdict is None or verdict.delay is None else verdict.delay
            writer.writerow([trial.log_name, trial.name, symptom, trial.seed, trial.healthy,
                             result.begins, result.num_steps, result.as_it_should, delay,
                             round(result.cpu_s, 2), said])  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
