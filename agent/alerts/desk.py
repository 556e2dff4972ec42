"""Decides what is said, and when: the state machine between incidents and people.

Pure: time is handed in, what is to be said is handed out. It works on how things stand and not on
what changed, so that hearing the same again, after a restart too, says nothing again.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from lossguard.agent.alerts import endings
from lossguard.agent.alerts.budget import Budget
from lossguard.agent.alerts.case_file import Case, CaseFile, Thread, deed_key, symptoms
from lossguard.agent.alerts.causes import mutes, sameness
from lossguard.agent.alerts.following import Following
from lossguard.agent.alerts.quiet_hours import QuietHours
from lossguard.agent.alerts.records import (
    OVER,
    Aside,
    Click,
    IncidentNews,
    News,
    Plot,
    Reply,
    Root,
    RunNews,
    Saying,
)
from lossguard.agent.alerts.settings import AlertSettings
from lossguard.agent.feed import Series

STALE_S = 3600.0
"""What was over when it was first heard of, and began longer ago than this, is not told [s]."""
_MOST_SERIES = 32
"""Histories kept for pictures of what is not told yet; the newest."""
_OPENING = 3
"""Messages that a thread begins with: root, details, picture."""


class Desk:
    """``take`` what is new, then ask what is ``due``. Times are wall clock [s]."""

    def __init__(
        self, settings: AlertSettings, file: CaseFile, *, two_channels: bool = False
    ) -> None:
        """``two_channels``: what is critical has one of its own."""
        self._settings = settings
        self.file = file
        self._quiet = QuietHours.parse(settings.quiet_hours, settings.timezone)
        self._budget = Budget(file.spent, settings.max_per_run_hour)
        self._following = Following(settings, file, self._budget, two_channels=two_channels)
        self._notices: list[RunNews] = []
        self._asides: list[Aside] = []
        self._series: dict[str, tuple[Series, ...]] = {}

    def take(self, news: News, now: float) -> None:
        """Hear how an incident, a run or the command of a button stands."""
        if isinstance(news, IncidentNews):
            self._take_incident(news, now)
        elif isinstance(news, RunNews):
            self._take_run(news)
        elif isinstance(news, Click):
            self.file.clicks[news.command] = news
        else:
            self._asides.append(Aside(news))
            if (case := self.file.cases.get(news.incident)) is not None:
                self._draw_again(case.thread)

    def draw_again(self) -> None:
        """All root messages of what goes on: there are other buttons now, or none."""
        for thread in self.file.threads.values():
            self._draw_again(thread.id)

    def _draw_again(self, name: str) -> None:
        if (thread := self.file.threads.get(name)) is not None:
            thread.shown, thread.shown_at = "", 0.0

    def _take_incident(self, news: IncidentNews, now: float) -> None:
        name, series = news.line.id, news.series
        news = msgspec.structs.replace(news, series=())
        case = self.file.cases.get(name)
        if case is not None:
            case.news = news
        elif not self._is_old(news, now):
            case = self.file.cases[name] = Case(news, now)
        if series and case is not None and not case.thread:
            self._series.pop(name, None)
            self._series[name] = series
            if len(self._series) > _MOST_SERIES:
                del self._series[next(iter(self._series))]

    def _take_run(self, news: RunNews) -> None:
        before = self.file.runs.get(news.run)
        state = "running" if news.state == "silent" else news.state
        if state != before and (before is not None or news.started >= self.file.since):
            self._notices.append(news)
        self.file.runs[news.run] = state

    def _is_old(self, news: IncidentNews, now: float) -> bool:
        over = news.line.state == "resolved" or self.file.runs.get(news.line.run) in OVER
        opened = news.line.opened
        return over and (opened < self.file.since or now - opened > STALE_S)

    def due(self, now: float) -> list[Saying]:
        """What is to be said now, in this order; it counts as said."""
        for case in self.file.cases.values():
            endings.note(case, self.file.runs.get(case.news.line.run, ""), now)
        said: list[Saying] = []
        for case in list(self.file.cases.values()):
            if not case.thread:
                said += self._first_told(case, now)
        for thread in list(self.file.threads.values()):
            said += self._following.look(thread, now)
        said += endings.of_runs(self._notices, self.file, self._settings)
        self._notices.clear()
        said += self._asides
        self._asides = []
        said += endings.of_hours(self.file, self._settings, self._quiet, now)
        endings.forget(self.file, now, max(self._settings.cool_down_s, 2 * STALE_S))
        return said

    # --- what has no thread yet -----------------------------------------------------------

    def _first_told(self, case: Case, now: float) -> Iterator[Saying]:
        if case.news.line.severity not in self._settings.severities:
            self._count(case, now)
            return
        if case.is_counted and case.ended is not None:
            return
        case.muted_by = self._cause_of(case, now)
        if case.muted_by or case.news.line.muted:
            return
        thread = self.file.thread_of(case, now, self._settings.cool_down_s)
        if thread is not None and thread.is_open:
            self._join(thread, case)
        elif case.ended is not None and not (case.is_critical or case.deeds):
            self._count(case, now)  # it was over before it had lasted
        elif not self._is_ripe(case, now):
            return
        elif thread is not None:
            self._join(thread, case)
        elif self._budget.allows(case.news.line.run, now, _OPENING, is_critical=case.is_critical):
            yield from self._open(case, now)
        elif not case.is_held:
            case.is_held = True
            self._budget.hold(case.news.line.run, now)

    def _count(self, case: Case, now: float) -> None:
        if case.is_counted:
            return
        case.is_counted = True
        if not self.file.counts:
            self.file.counting_since = now
        of_run = self.file.counts.setdefault(case.news.name, {})
        of_run[case.news.line.symptom] = of_run.get(case.news.line.symptom, 0) + 1

    def _cause_of(self, case: Case, now: float) -> str:
        """The thread of what explains it, while that goes on; empty where there is none."""
        for thread in self.file.threads.values():
            over = not thread.is_open and now - thread.ended >= self._settings.keep_firing_s
            if thread.run != case.news.line.run or over:
                continue
            for cause in self.file.members(thread):
                earlier = cause.news.line.opened <= case.news.line.opened
                if earlier and mutes(cause.news.line, case.news.line):
                    return thread.id
        return ""

    def _is_ripe(self, case: Case, now: float) -> bool:
        if case.is_critical or case.deeds:
            return True
        lasted = now - case.seen >= self._settings.for_s
        return lasted and (self._quiet is None or self._quiet.end_of(now) == now)

    def _open(self, case: Case, now: float) -> Iterator[Saying]:
        line = case.news.line
        thread = Thread(
            id=line.id,
            run=line.run,
            kind=sameness(line),
            address=line.id,
            is_critical=case.is_critical,
            severity=line.severity,
            cases=[line.id],
            opened=line.opened or now,
            told_symptoms=sorted(symptoms(case)),
            told_deeds=[deed_key(line.id, deed) for deed in case.deeds],
        )
        self.file.threads[thread.id] = thread
        case.thread, case.is_held = thread.id, False
        story = self._following.show(thread, now)
        yield Root(thread.address, thread.is_critical, story)
        yield Reply(thread.address, thread.is_critical, "details", story)
        if series := self._series.pop(line.id, ()):
            news = msgspec.structs.replace(case.news, series=series)
            yield Plot(thread.address, thread.is_critical, news)

    def _join(self, thread: Thread, case: Case) -> None:
        case.thread = thread.id
        thread.cases.append(case.news.line.id)
