"""Incidents as the agent would hand them over to be told, and a desk with a clock."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from lossguard.agent.alerts.case_file import CaseFile
from lossguard.agent.alerts.desk import Desk
from lossguard.agent.alerts.records import (
    IncidentNews,
    Measured,
    News,
    Reply,
    Root,
    RunNews,
    Saying,
)
from lossguard.agent.alerts.settings import AlertSettings
from lossguard.agent.feed import ActionLine, IncidentLine, RunState, Series
from lossguard.agent.history import MetricHistory

NOON = 1_750_000_000.0 - 1_750_000_000.0 % 86_400 + 43_200
"""A noon in UTC."""


def incident(number: int = 1, /, **changes: Any) -> IncidentNews:
    """A critical divergence of ``run-a``, open since noon; ``run``, ``name``, ``acts``, ``bundle``
    and ``series`` are of the news, all else of the line."""
    run = changes.pop("run", "run-a")
    names = [name for name in ("name", "acts", "bundle", "series") if name in changes]
    of_news: dict[str, Any] = {name: changes.pop(name) for name in names}
    line: dict[str, Any] = {
        "id": f"{run}.{number}",
        "run": run,
        "state": "open",
        "symptom": "divergence",
        "severity": "critical",
        "metric": "loss",
        "onset_step": 90,
        "detected_step": 94,
        "end_step": None,
        "score": 2.5,
        "message": "the loss has risen from 2.1 to 8.3 and stays there",
        "evidence": {"before": 2.1, "after": 8.3},
        "opened": NOON,
    }
    measured = Measured(value=8.3, low=2.0, high=2.4)
    news: dict[str, Any] = {"name": "gpt", "acts": True, "measured": measured, **of_news}
    return IncidentNews(line=IncidentLine(**(line | changes)), **news)


def resolved(news: IncidentNews) -> IncidentNews:
    """The same, over."""
    return changed(news, state="resolved", end_step=news.line.detected_step + 20)


def changed(news: IncidentNews, **changes: Any) -> IncidentNews:
    """The same, with another line."""
    return msgspec.structs.replace(news, line=msgspec.structs.replace(news.line, **changes))


def deed(action: str = "rollback", step: int = 95, result: str = "done: restored_step 80") -> Any:
    """Something that was done."""
    return ActionLine(action=action, step=step, result=result, time_s=NOON + step)


def a_run(state: RunState = "running", run: str = "run-a", started: float = NOON) -> RunNews:
    """How a run stands."""
    return RunNews(run=run, name="gpt", state=state, step=120, started=started)


def a_series(metric: str = "loss", broken: bool = False) -> Series:
    """100 healthy steps, the last of them not."""
    history = MetricHistory()
    for step in range(100):
        value = 2.0 + 0.1 * math.sin(step) if step < 90 else 8.3
        history.add(step, math.nan if broken and step > 95 else value)
    return history.series(metric)


class DeskAt:
    """A desk and its clock; ``said`` is all it has said."""

    def __init__(self, two_channels: bool = False, **settings: Any) -> None:
        self.settings = AlertSettings(**settings)
        self.two_channels = two_channels
        self.now = NOON
        self.said: list[Saying] = []
        self.said_at: list[float] = []
        self.desk = Desk(self.settings, CaseFile(since=NOON), two_channels=two_channels)

    def hear(self, *news: News) -> list[Saying]:
        """Take it, and what is said at once."""
        for item in news:
            self.desk.take(item, self.now)
        return self.wait(0.0)

    def wait(self, seconds: float) -> list[Saying]:
        """What is said after so long."""
        self.now += seconds
        said = self.desk.due(self.now)
        self.said += said
        self.said_at += [self.now] * len(said)
        return said

    def restart(self) -> None:
        """The next agent, with what this one wrote down."""
        raw = msgspec.msgpack.encode(self.desk.file)
        file = msgspec.msgpack.decode(raw, type=CaseFile)
        self.desk = Desk(self.settings, file, two_channels=self.two_channels)

    @property
    def roots(self) -> list[Root]:
        return [saying for saying in self.said if isinstance(saying, Root)]


def kinds(said: list[Saying]) -> list[str]:
    """In short: ``root``, ``update``, the topics of replies ..."""
    return [
        saying.topic if isinstance(saying, Reply) else type(saying).__name__.lower()
        for saying in said
    ]
