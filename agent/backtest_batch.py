"""Many logs, in as many processes as there are cores, in the order in which they were named."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path

from lossguard.agent.backtest import Backtest, backtest
from lossguard.agent.logs import LogOptions, NoMetrics, Place
from lossguard.agent.policy_settings import Policy
from lossguard.detectors import Severity
from lossguard.errors import LossguardError

_WORTH_A_PROCESS = 1 << 19
"""Bytes of logs, in all, below which starting processes takes longer than the work."""
_AHEAD = 4
"""Files given to each process before the first of them is printed."""


@dataclass(frozen=True)
class Request:
    """What is wanted of every log."""

    policy: Policy
    options: LogOptions = field(default_factory=LogOptions)
    explain: bool = False
    min_severity: Severity = Severity.INFO


@dataclass(frozen=True)
class Job:
    """One thing to read."""

    place: Place
    picture: Path | None = None


@dataclass(frozen=True)
class Outcome:
    """What came of one job."""

    job: Job
    results: Sequence[Backtest] = ()
    error: str = ""
    """Why there are no results, or not all."""
    is_no_log: bool = False
    """It was met in a folder, and there are no metrics in it: nothing that went wrong."""
    pictures: Sequence[Path] = ()


def run_jobs(
    jobs: Sequence[Job],
    request: Request,
    processes: int | None = None,
    progress: Callable[[float], None] | None = None,
) -> Iterator[Outcome]:
    """The outcomes in the order of the jobs, each as soon as it and those before it are there.

    ``progress`` is told the share of the work that is done.
    """
    wanted = min(processes or _cores(), len(jobs))
    if processes is None and sum(job.place.size for job in jobs) < _WORTH_A_PROCESS:
        wanted = 1
    outcomes = _one_by_one(jobs, request, progress) if wanted <= 1 else _side_by_side(
        jobs, request, wanted
    )  # fmt: skip
    for done, outcome in enumerate(outcomes, start=1):
        if progress is not None:
            progress(done / len(jobs))
        yield outcome


def run_job(job: Job, request: Request, progress: Callable[[float], None] | None = None) -> Outcome:
    """One job; what cannot be read is said in the outcome."""
    results: list[Backtest] = []
    pictures: list[Path] = []
    error, is_no_log = "", False
    try:
        for source in job.place.open(request.options):
            result = backtest(source, request.policy, explain=request.explain, progress=progress)
            result = result.at_least(request.min_severity)
            if job.picture is not None:
                pictures.append(_numbered(job.picture, len(pictures)))
                _draw(result, pictures[-1])
            results.append(result.slim())
    except LossguardError as problem:
        error = str(problem)
        is_no_log = isinstance(problem, NoMetrics) and bool(job.place.folder)
    return Outcome(job, results, error, is_no_log, pictures)


def _draw(result: Backtest, picture: Path) -> None:
    from lossguard.agent.plotting import draw

    draw(result, picture)


def _numbered(picture: Path, number: int) -> Path:
    """For the second run in one file, and those after it, a name of its own."""
    if number == 0:
        return picture
    return picture.with_name(f"{picture.stem}-{number + 1}{picture.suffix}")


def _one_by_one(
    jobs: Sequence[Job], request: Request, progress: Callable[[float], None] | None
) -> Iterator[Outcome]:
    for i, job in enumerate(jobs):

        def within(share: float, i: int = i) -> None:
            if progress is not None:
                progress((i + share) / len(jobs))

        yield run_job(job, request, within)


def _side_by_side(jobs: Sequence[Job], request: Request, processes: int) -> Iterator[Outcome]:
    waiting = iter(jobs)
    pool = _pool(processes)
    under_way: deque[tuple[Job, Future[Outcome]]] = deque()
    all_done = False
    try:
        while True:
            for job in itertools.islice(waiting, _AHEAD * processes - len(under_way)):
                under_way.append((job, pool.submit(run_job, job, request)))
            if not under_way:
                all_done = True
                return
            job, future = under_way.popleft()
            try:
                yield future.result()
            except BrokenProcessPool:
                # One of them died, and took the others' work along.
                again = [job, *(other for other, _ in under_way)]
                under_way.clear()
                pool.shutdown(wait=False, cancel_futures=True)
                yield from (_alone(one, request) for one in again)
                pool = _pool(processes)
    finally:
        # Left to itself with nothing to do, the pool may trip over its own end at interpreter exit.
        pool.shutdown(wait=all_done, cancel_futures=True)


def _alone(job: Job, request: Request) -> Outcome:
    """A job in a process of its own, whose death is its own."""
    with _pool(1) as pool:
        try:
            return pool.submit(run_job, job, request).result()
        except BrokenProcessPool:
            return Outcome(job, error=f"{job.place.name}: the process that read it died")


def _pool(processes: int) -> ProcessPoolExecutor:
    # Not forked: the parent may have threads, of its progress bar for one.
    return ProcessPoolExecutor(
        processes, mp_context=multiprocessing.get_context("spawn"), initializer=_begin
    )


def _begin() -> None:
    """Ctrl-C ends a worker without a word, and so does the end of the process it works for."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
