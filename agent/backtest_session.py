"""One call of ``lossguard backtest``: from what was named to what is printed."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from lossguard.agent.backtest_batch import Job, Outcome, Request, run_jobs
from lossguard.agent.backtest_pictures import pictures_for
from lossguard.agent.backtest_printing import printer
from lossguard.agent.logs import Place, find_places, is_metric
from lossguard.agent.logs.account import Account
from lossguard.errors import InputError, UsageError

_PAIRS = re.compile(r",(?=\s*[\w./-]+=)")


class Session:
    """Prints results on stdout, and on stderr how files were read and what went wrong."""

    def __init__(
        self, request: Request, *, as_json: bool, quiet: bool, processes: int | None
    ) -> None:
        self._request = request
        self._out = printer(as_json=as_json, explain=request.explain)
        self._quiet = quiet
        self._processes = processes
        self._failed = False
        self._use: dict[str, bool] = {}
        self._how: tuple[str, str] | None = None

    def run(self, arguments: Sequence[str], plot: str | None) -> bool:
        """Everything; True when something could not be read. Raises UsageError."""
        places = self._find(arguments)
        pictures = pictures_for(places, plot)
        found = [Job(place, picture) for place, picture in zip(places, pictures, strict=True)]
        with _bar(len(found), quiet=self._quiet) as bar:
            for outcome in run_jobs(found, self._request, self._processes, bar.to):
                with bar.away():
                    self._show(outcome)
        self._out.close()
        for folder, used in self._use.items():
            if not used:
                self._complain(f"{folder}: no log in this folder has metrics that are known")
        return self._failed

    def _find(self, arguments: Sequence[str]) -> list[Place]:
        places: list[Place] = []
        for argument in arguments:
            try:
                places.extend(find_places(argument))
            except InputError as error:
                self._complain(str(error))
        self._use = dict.fromkeys((place.folder for place in places if place.folder), False)
        return places

    def _show(self, outcome: Outcome) -> None:
        place = outcome.job.place
        for result in outcome.results:
            if not self._quiet:
                account = result.account
                for line in (*self._news(account), *account.remarks()):
                    _narrate(f"{result.file}: {line}")
            self._out.show(result)
        sys.stdout.flush()
        if outcome.results and place.folder:
            self._use[place.folder] = True
        if outcome.error and not outcome.is_no_log:
            self._complain(outcome.error)
        elif outcome.error and not self._quiet:
            _narrate(f"passed over {outcome.error}")
        if not self._quiet:
            for picture in outcome.pictures:
                _narrate(f"{place.name}: drawn in {picture}")

    def _news(self, account: Account) -> list[str]:
        """How a file was read, unless it is one of many, and read as the one before it."""
        how = (account.format, account.mapping())
        before, self._how = self._how, how
        return [] if how == before else [account.recognised()]

    def _complain(self, problem: str) -> None:
        self._failed = True
        _narrate(problem)


def said_columns(pairs: Sequence[str]) -> Mapping[str, str]:
    """``loss=a,grad_norm=b`` as a mapping. Raises UsageError for what is no metric."""
    said: dict[str, str] = {}
    for pair in (pair for text in pairs for pair in _PAIRS.split(text)):
        metric, equals, column = (part.strip() for part in pair.partition("="))
        if not equals or not column:
            raise UsageError(f"--columns {pair!r}: write METRIC=COLUMN, say loss=my_column")
        if not is_metric(metric):
            raise UsageError(
                f"--columns {pair!r}: {metric!r} is no metric; there are step, epoch, loss, "
                "val_loss, grad_norm, lr, loss_scale and those of docs/metrics.md"
            )
        said[metric] = column
    return said


def _narrate(text: str) -> None:
    sys.stderr.write(f"lossguard: {text}\n")
    sys.stderr.flush()


class _Bar:
    """Nothing, where nobody would see it."""

    def to(self, share: float) -> None:
        """So much of the work is done."""

    @contextmanager
    def away(self) -> Iterator[None]:
        """Out of the way of what is printed meanwhile."""
        yield


class _RichBar(_Bar):
    def __init__(self, progress: Progress, total: int) -> None:
        self._progress = progress
        what = "1 log" if total == 1 else f"{total:,} logs"
        self._task = progress.add_task(f"reading {what}", total=1.0)

    def to(self, share: float) -> None:
        self._progress.update(self._task, completed=share)

    @contextmanager
    def away(self) -> Iterator[None]:
        self._progress.stop()
        try:
            yield
        finally:
            self._progress.start()


@contextmanager
def _bar(total: int, *, quiet: bool) -> Iterator[_Bar]:
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield _Bar()
        return
    parts = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(),
             TimeRemainingColumn())  # fmt: skip
    with Progress(*parts, console=console, transient=True) as progress:
        yield _RichBar(progress, total)
