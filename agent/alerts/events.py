"""What is to be said, as JSON for programs. Pure: frozen records in, plain data out.

Only what changes what somebody would do is an event; a root message brought up to date is none.
"""

from __future__ import annotations

import datetime
from typing import Any

import msgspec

from lossguard.agent.alerts.records import (
    Digest,
    HeldBack,
    Reply,
    Root,
    RunNotice,
    Saying,
    Story,
)
from lossguard.agent.alerts.secrecy import redacted
from lossguard.agent.feed import IncidentLine

_TYPES = {
    "actions": "incident.action",
    "also": "incident.symptom",
    "escalated": "incident.escalated",
    "returned": "incident.returned",
    "resolved": "incident.resolved",
}
_RUNS = {"running": "run.started"}
_OF_INCIDENT = ("symptom", "severity", "metric", "onset_step", "detected_step", "end_step", "score",
                "message", "where", "evidence", "acked", "muted")  # fmt: skip


def event_of(saying: Saying, now: float) -> str:
    """The body, as JSON; empty for what is no event. ``now``: wall clock [s since the epoch]."""
    about = _about(saying)
    if about is None:
        return ""
    kind, data = about
    return body_of(kind, data, now)


def body_of(kind: str, data: dict[str, Any], now: float) -> str:
    """In the shape that Standard Webhooks recommend. What is not finite becomes null."""
    moment = datetime.datetime.fromtimestamp(now, datetime.timezone.utc)
    event = {"type": kind, "timestamp": moment.isoformat(), "data": data}
    return redacted(msgspec.json.encode(event).decode())


def _about(saying: Saying) -> tuple[str, dict[str, Any]] | None:
    if isinstance(saying, Root):
        return "incident.opened", _of_story(saying.story)
    if isinstance(saying, Reply) and saying.topic in _TYPES:
        data = _of_story(saying.story)
        if saying.actions:
            data["new_actions"] = msgspec.to_builtins(saying.actions)
        has_only_ended = saying.topic == "resolved" and not saying.story.is_resolved
        return "incident.ended" if has_only_ended else _TYPES[saying.topic], data
    if isinstance(saying, RunNotice):
        news = saying.news
        return _RUNS.get(news.state, f"run.{news.state}"), msgspec.to_builtins(news)
    if isinstance(saying, Digest):
        return "digest", {"since": saying.since, "runs": saying.counts}
    if isinstance(saying, HeldBack):
        return "held_back", {"run": saying.run, "name": saying.name, "count": saying.count}
    return None


def _of_story(story: Story) -> dict[str, Any]:
    news = story.news
    return {
        "incident": news.line.id,
        "run": news.line.run,
        "name": news.name,
        "state": "resolved" if story.is_resolved else "open" if story.ended is None else "ended",
        "severity_at_most": story.severity,
        "also": list(story.also),
        "opened": story.opened,
        "ended": story.ended,
        "outcome": story.outcome,
        "returns": story.returns,
        "policy_acts": news.acts,
        "measured": msgspec.to_builtins(news.measured),
        "actions": msgspec.to_builtins(story.actions),
    } | {name: _plain(news.line, name) for name in _OF_INCIDENT}


def _plain(line: IncidentLine, name: str) -> Any:
    return msgspec.to_builtins(getattr(line, name))
