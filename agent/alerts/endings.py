"""What the desk says when a run or an hour is over, and what it forgets."""

from __future__ import annotations

from collections.abc import Iterator

from lossguard.agent.alerts.case_file import Case, CaseFile
from lossguard.agent.alerts.quiet_hours import QuietHours
from lossguard.agent.alerts.records import (
    OVER,
    RESOLVED,
    Digest,
    HeldBack,
    RunNews,
    RunNotice,
    Saying,
)
from lossguard.agent.alerts.settings import AlertSettings
from lossguard.detectors import Symptom

_MOST_RUNS = 500
_MOST_CASES = 500


def note(case: Case, run_state: str, now: float) -> None:
    """Whether an incident is over: by itself, or because its run is."""
    outcome = ""
    if case.news.line.state == "resolved":
        outcome = RESOLVED
    elif run_state in OVER:
        outcome = f"the run {run_state}"
    if not outcome:
        case.ended = None
    elif case.ended is None:
        case.ended = now
    case.outcome = outcome


def of_runs(notices: list[RunNews], file: CaseFile, settings: AlertSettings) -> Iterator[Saying]:
    """Runs that have begun or ended, by choice; an end that has a thread needs no notice."""
    wanted = {
        "running": settings.run_started,
        "finished": settings.run_finished,
        "stopped": settings.run_finished,
        "failed": settings.run_died,
        "died": settings.run_died,
    }
    explained = {
        case.news.line.run
        for case in file.cases.values()
        if case.thread and case.news.line.symptom == Symptom.PROCESS_EXIT
    }
    for news in notices:
        if wanted.get(news.state) and news.run not in explained:
            yield RunNotice(news)


def of_hours(
    file: CaseFile, settings: AlertSettings, quiet: QuietHours | None, now: float
) -> Iterator[Saying]:
    """The digest, and how many messages were one too many."""
    if quiet is not None and quiet.end_of(now) > now:
        return
    every_s = settings.digest_every_s
    if every_s and file.counts and now - file.counting_since >= every_s:
        counts, file.counts = file.counts, {}
        yield Digest(counts, file.counting_since)
    for run, spent in file.spent.items():
        if count := spent.release(now, at_once=file.runs.get(run) in OVER):
            name = next((c.news.name for c in file.cases.values() if c.news.line.run == run), run)
            yield HeldBack(run, name, count)


def forget(file: CaseFile, now: float, after_s: float) -> None:
    """Drop what nothing can come of any more."""
    over = [name for name, case in file.cases.items() if _is_done(case, file, now, after_s)]
    over += list(file.cases)[: max(0, len(file.cases) - len(over) - _MOST_CASES)]
    for name in over:
        file.cases.pop(name, None)
    file.clicks = {k: click for k, click in file.clicks.items() if click.incident in file.cases}
    for name, thread in list(file.threads.items()):
        thread.cases = [case for case in thread.cases if case in file.cases]
        if not thread.cases:
            del file.threads[name]
    for run, spent in list(file.spent.items()):
        if spent.is_idle(now):
            del file.spent[run]
    for run in list(file.runs)[: max(0, len(file.runs) - _MOST_RUNS)]:
        del file.runs[run]


def _is_done(case: Case, file: CaseFile, now: float, after_s: float) -> bool:
    if case.ended is None or now - case.ended < after_s:
        return False
    thread = file.threads.get(case.thread)
    return thread is None or not thread.is_open
