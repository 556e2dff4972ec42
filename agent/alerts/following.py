"""What is said about trouble that people know of: it gets worse, is acted on, ends, comes back."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import msgspec

from lossguard.agent.alerts.budget import Budget
from lossguard.agent.alerts.case_file import Case, CaseFile, Thread, deed_key, symptoms
from lossguard.agent.alerts.records import OVER, Reply, Root, Saying, Story, Update
from lossguard.agent.alerts.settings import AlertSettings
from lossguard.agent.feed import ActionLine
from lossguard.detectors import Severity

_SHOW_EVERY_S = 10.0
"""A root message is brought up to date at most so often for little things [s]."""


class Following:
    """Of all threads. Pure; times are wall clock [s]."""

    def __init__(
        self, settings: AlertSettings, file: CaseFile, budget: Budget, *, two_channels: bool
    ) -> None:
        self._settings = settings
        self._file = file
        self._budget = budget
        self._two_channels = two_channels

    def look(self, thread: Thread, now: float) -> Iterator[Saying]:
        """What there is to say about a thread now."""
        cases = self._file.members(thread)
        before = _state_of(thread)
        worst = max(cases, key=lambda case: case.rank)
        if worst.rank > Severity(thread.severity).rank:
            thread.severity = worst.news.line.severity
            yield from self._escalate(thread, now)
        joined = _with_new_symptoms(thread, cases)
        later = [case for case in cases if (case.ended or now) > thread.ended]
        if not thread.is_open and later:
            yield from self._come_back(thread, later[-1], now)
            joined = []
        calls_nobody = all(c.news.line.acked or c.news.line.muted for c in cases)
        deeds = _new_deeds(thread, cases)
        if deeds:
            yield from self._reply(thread, "actions", now, deeds=tuple(deeds))
        for case in joined:
            if not (deeds or calls_nobody):
                yield from self._reply(thread, "also", now, about=case)
        yield from self._answer(thread)
        if thread.is_open and all(case.ended is not None for case in cases):
            yield from self._end(thread, cases, now)
        if before != _state_of(thread) or (
            thread.is_open and now - thread.shown_at >= _SHOW_EVERY_S
        ):
            shown = thread.shown
            story = self.show(thread, now)
            if thread.shown != shown:
                yield Update(thread.address, thread.is_critical, story)

    def show(self, thread: Thread, now: float) -> Story:
        """What the root message says from now on."""
        story = self._file.story(thread)
        thread.shown = hashlib.sha256(msgspec.msgpack.encode(story)).hexdigest()
        thread.shown_at = now
        return story

    def _escalate(self, thread: Thread, now: float) -> Iterator[Saying]:
        moves = self._two_channels and thread.severity == Severity.CRITICAL
        if not moves or thread.is_critical:
            yield from self._reply(thread, "escalated", now, is_loud=True)
            return
        self._budget.allows(thread.run, now, 1, is_critical=True)
        story = self.show(thread, now)
        yield Update(thread.address, thread.is_critical, story, has_moved=True)
        thread.address, thread.is_critical = f"{thread.id} critical", True
        yield Root(thread.address, thread.is_critical, story)

    def _come_back(self, thread: Thread, case: Case, now: float) -> Iterator[Saying]:
        thread.is_open = True
        thread.returns += 1
        if now - thread.said_return >= self._settings.cool_down_s:
            thread.said_return = now
            is_loud = thread.severity == Severity.CRITICAL
            yield from self._reply(thread, "returned", now, is_loud=is_loud, about=case)

    def _end(self, thread: Thread, cases: list[Case], now: float) -> Iterator[Saying]:
        ended = max(case.ended or 0.0 for case in cases)
        run_is_over = self._file.runs.get(thread.run) in OVER
        if run_is_over or now - ended >= self._settings.keep_firing_s:
            thread.is_open, thread.ended = False, ended
            if not thread.said_end or thread.said_return >= thread.said_end:
                thread.said_end = now
                yield from self._reply(thread, "resolved", now)

    def _answer(self, thread: Thread) -> Iterator[Saying]:
        """Whoever pressed a button hears what came of it, whatever the limit of an hour."""
        for click in self._file.clicks_of(thread):
            if thread.told_clicks.get(click.command) == click.status:
                continue
            thread.told_clicks[click.command] = click.status
            if click.status != "pending":
                story = self._file.story(thread)
                yield Reply(thread.address, thread.is_critical, "answer", story, click=click)

    def _reply(
        self,
        thread: Thread,
        topic: str,
        now: float,
        *,
        deeds: tuple[ActionLine, ...] = (),
        is_loud: bool = False,
        about: Case | None = None,
    ) -> Iterator[Saying]:
        weighs = thread.severity == Severity.CRITICAL or topic == "resolved"
        if self._budget.allows(thread.run, now, 1, is_critical=weighs):
            story = self._file.story(thread)
            if about is not None:
                story = msgspec.structs.replace(story, news=about.news)
            yield Reply(thread.address, thread.is_critical, topic, story, deeds, is_loud)
        else:
            self._budget.hold(thread.run, now)


def _state_of(thread: Thread) -> tuple[object, ...]:
    """When it changes, the root message does at once."""
    clicks = tuple(thread.told_clicks.items())
    return len(thread.told_deeds), thread.is_open, thread.severity, clicks


def _new_deeds(thread: Thread, cases: list[Case]) -> list[ActionLine]:
    new = []
    for case in cases:
        for deed in case.deeds:
            key = deed_key(case.news.line.id, deed)
            if key not in thread.told_deeds:
                thread.told_deeds.append(key)
                new.append(deed)
    return new


def _with_new_symptoms(thread: Thread, cases: list[Case]) -> list[Case]:
    """Incidents that have joined, each with a symptom that the thread has not had."""
    new = []
    for case in cases:
        if case.news.line.symptom not in thread.told_symptoms:
            new.append(case)
        thread.told_symptoms = sorted(symptoms(case).union(thread.told_symptoms))
    return new
