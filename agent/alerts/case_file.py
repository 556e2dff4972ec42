"""All that the desk remembers: what is going on, what was said about it."""

from __future__ import annotations

import msgspec

from lossguard.agent.alerts.budget import Spent
from lossguard.agent.alerts.causes import sameness
from lossguard.agent.alerts.records import Click, IncidentNews, Story
from lossguard.agent.feed import ActionLine
from lossguard.detectors import Severity

WEIGHTLESS = ("skip", "advise")
"""Actions that are told with the incident, and need no message of their own."""
_MOST_ACTIONS = 100


class Case(msgspec.Struct):
    """One incident. Times are wall clock [s]."""

    news: IncidentNews
    seen: float
    ended: float | None = None
    outcome: str = ""
    thread: str = ""
    """Empty until it is told."""
    muted_by: str = ""
    """The thread of its cause."""
    is_counted: bool = False
    """It stands in the digest."""
    is_held: bool = False
    """It would be told, but for the budget."""

    @property
    def rank(self) -> int:
        """Of its severity."""
        return Severity(self.news.line.severity).rank

    @property
    def is_critical(self) -> bool:
        return self.news.line.severity == Severity.CRITICAL

    @property
    def deeds(self) -> list[ActionLine]:
        """What was done about it that is worth a message."""
        return [action for action in self.news.line.actions if action.action not in WEIGHTLESS]


class Thread(msgspec.Struct):
    """One trouble of one run, as people were told of it."""

    id: str
    run: str
    kind: str
    address: str
    """Of its root message."""
    is_critical: bool
    severity: str
    cases: list[str]
    opened: float
    is_open: bool = True
    ended: float = 0.0
    returns: int = 0
    said_return: float = 0.0
    said_end: float = 0.0
    told_deeds: list[str] = []
    told_symptoms: list[str] = []
    told_clicks: dict[str, str] = {}
    """The status of each command of a button that people know of."""
    shown: str = ""
    """What the root message says."""
    shown_at: float = 0.0


class CaseFile(msgspec.Struct):
    """Plain data, kept across restarts."""

    since: float
    """When the desk was opened: what was over before is not told."""
    cases: dict[str, Case] = {}
    threads: dict[str, Thread] = {}
    runs: dict[str, str] = {}
    """The state of each run that people know of."""
    spent: dict[str, Spent] = {}
    counts: dict[str, dict[str, int]] = {}
    counting_since: float = 0.0
    clicks: dict[str, Click] = {}
    """By the id of the command."""

    def members(self, thread: Thread) -> list[Case]:
        """The incidents of a thread, oldest first."""
        return [self.cases[name] for name in thread.cases if name in self.cases]

    def clicks_of(self, thread: Thread) -> list[Click]:
        """The buttons of a thread that were pressed, oldest first."""
        return [click for click in self.clicks.values() if click.incident in thread.cases]

    def story(self, thread: Thread) -> Story:
        """What there is to tell of a thread now: of the most severe incident, that is the newest of
        those that go on, or the first of all when none does."""
        cases = self.members(thread)
        going_on = [case for case in cases if case.ended is None]
        lead = max(going_on[::-1] or cases, key=lambda case: case.rank)
        told = {symptom for case in cases for symptom in symptoms(case)}
        muted = {c.news.line.symptom for c in self.cases.values() if c.muted_by == thread.id}
        actions = [action for case in cases for action in case.news.line.actions]
        last = max(cases, key=lambda case: case.ended or 0.0)
        return Story(
            news=lead.news,
            severity=thread.severity,
            also=tuple(sorted((told | muted) - {lead.news.line.symptom})),
            actions=tuple(sorted(actions, key=lambda action: action.time_s)[-_MOST_ACTIONS:]),
            opened=thread.opened,
            ended=None if thread.is_open else thread.ended,
            outcome="" if thread.is_open else last.outcome,
            returns=thread.returns,
            clicks=tuple(self.clicks_of(thread)),
        )

    def thread_of(self, case: Case, now: float, cool_down_s: float) -> Thread | None:
        """Where the same trouble was told, if it goes on or has ended not long ago."""
        kind, run = sameness(case.news.line), case.news.line.run
        for thread in reversed(self.threads.values()):
            if (thread.run, thread.kind) == (run, kind):
                recent = thread.is_open or now - thread.ended < cool_down_s
                return thread if recent else None
        return None


def symptoms(case: Case) -> set[str]:
    """Of an incident: its own, and the others of its cause."""
    return {case.news.line.symptom, *case.news.line.also}


def deed_key(incident: str, action: ActionLine) -> str:
    """The same for the same deed, however often it is told of."""
    return f"{incident} {action.step} {action.action} {action.result[:24]}"
