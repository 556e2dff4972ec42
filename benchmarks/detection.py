"""Score Lossguard's detectors and the rules of other systems, side by side.

    python -m benchmarks.detection --lossguard --misses  # seconds: Lossguard alone, what it missed
    python -m benchmarks.detection --only mlperf         # logs whose name contains the text
    python -m benchmarks.detection --quick               # every rule, on a part of everything
    python -m benchmarks.detection                       # everything, some minutes
    python -m benchmarks.detection --markdown            # and the tables into docs/detection.md
    python -m benchmarks.detection --scenarios DIR       # and the recorded trainings in DIR
    python -m benchmarks.detection --plots DIR           # and pictures of the failures

From the root of the repository. The labelled logs are looked for in ../shared/data (``--data DIR``
names another place); without them there is nothing to score but scenarios. How it is scored stands
in docs/detection.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.progress import track

from benchmarks import detection_table
from benchmarks.detection_failures import failures, plot
from benchmarks.detection_injection import inject, sites
from benchmarks.detection_logs import DATA, Source, labelled_sources
from benchmarks.detection_results import Results, as_json, draw
from benchmarks.detection_rules import replay
from benchmarks.detection_scenarios import judge, recordings
from benchmarks.detection_scoring import Outcome, score

Task = TypeVar("Task")
Answer = TypeVar("Answer")

PROCESSES = 2
SITES_PER_GROUP = 6
QUICK_SITES_PER_GROUP = 1
QUICK_EVERY = 4
"""``--quick`` reads every so many-th log."""
DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "detection.md"


def main() -> int:
    arguments = parse_arguments()
    sources = [s for s in labelled_sources(arguments.data) if arguments.only in s.label["id"]]
    sources = sources[:: QUICK_EVERY if arguments.quick else 1]
    if not sources:
        print(f"{arguments.data}: no labelled logs here; they are skipped", file=sys.stderr)
    results = measure(sources, arguments)
    sheets = list(draw(results))
    if arguments.json:
        json.dump(as_json(results), sys.stdout, indent=1)
    else:
        console = Console(width=None if sys.stdout.isatty() else 200)
        for sheet in sheets:
            console.print(sheet.drawn())
    said = list(failures(results.outcomes)) if results.outcomes else []
    if arguments.misses:
        for failure in said:
            print(failure.line)
    if arguments.markdown:
        detection_table.rewrite(DOCUMENT, sheets)
    if arguments.plots:
        plot([failure for failure in said if failure.grave], sources, arguments.plots)
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Score detection rules side by side.")
    parser.add_argument("--data", type=Path, default=DATA, help="folder with labels.csv and runs/")
    parser.add_argument("--only", default="", help="only labelled logs whose name contains this")
    parser.add_argument("--quick", action="store_true", help="a part of the logs, few faults")
    parser.add_argument("--lossguard", action="store_true", help="no rivals and no faults")
    parser.add_argument("--scenarios", type=Path, metavar="DIR", help="recorded trainings")
    parser.add_argument("--misses", action="store_true", help="list Lossguard's failures")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    parser.add_argument("--markdown", action="store_true", help=f"rewrite tables in {DOCUMENT}")
    parser.add_argument("--plots", type=Path, metavar="DIR", help="pictures of the failures")
    return parser.parse_args()


def measure(sources: Sequence[Source], arguments: argparse.Namespace) -> Results:
    """All the work, in two processes."""
    results = Results()
    rivals = not arguments.lossguard
    for outcomes, seconds, rows in work(partial(score_log, rivals=rivals), sources, "logs"):
        results.rows += rows
        for rule, outcome in outcomes.items():
            results.outcomes[rule].append(outcome)
            results.seconds[rule] += seconds[rule]
    if rivals:
        per_group = QUICK_SITES_PER_GROUP if arguments.quick else SITES_PER_GROUP
        for injected in work(inject, sites(sources, per_group), "faults"):
            for rule, delays in injected.items():
                results.injected[rule] += delays
    if arguments.scenarios:
        recorded = recordings(arguments.scenarios)
        if not recorded:
            print(f"{arguments.scenarios}: no recorded trainings here", file=sys.stderr)
        for judged in work(judge, recorded, "scenarios"):
            for rule, verdict in judged.items():
                results.judged[rule].append(verdict)
    return results


def work(of: Callable[[Task], Answer], tasks: Sequence[Task], name: str) -> Iterable[Answer]:
    """The answers in the order of the tasks, with a progress bar on stderr."""
    if not tasks:
        return
    with get_context("fork").Pool(PROCESSES) as pool:
        console = Console(stderr=True)
        yield from track(pool.imap(of, tasks), name, total=len(tasks), console=console)


def score_log(source: Source, rivals: bool) -> tuple[dict[str, Outcome], dict[str, float], int]:
    """One log: what each rule is worth on it, the seconds it took, and the rows."""
    log = source.read()
    replays = replay(log, rivals=rivals)
    outcomes = {rule: score(log, said.alarms) for rule, said in replays.items()}
    return outcomes, {rule: said.seconds for rule, said in replays.items()}, len(log.observations)


if __name__ == "__main__":
    sys.exit(main())
