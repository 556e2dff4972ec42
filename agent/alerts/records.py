"""What comes in from the agent's loop, and what is to be said: frozen records."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from lossguard.agent.feed import ActionLine, IncidentLine, RunState, Series

OVER = frozenset(("finished", "failed", "stopped", "died"))
"""States of a run that has ended."""


RESOLVED = "resolved"
"""The outcome of trouble that has gone; else it says what became of the run."""


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """A metric since the trouble began, against what it was before."""

    value: float
    """The farthest from usual; NaN where it was not finite."""
    low: float
    high: float


class IncidentNews(msgspec.Struct, frozen=True, kw_only=True):
    """An incident as it stands now."""

    line: IncidentLine
    name: str
    """Of its run."""
    acts: bool
    """Whether the policy of the run lets the agent do something about it."""
    bundle: str = ""
    """The folder with all that is known of it."""
    measured: Measured | None = None
    series: tuple[Series, ...] = ()
    """The metric it is about and the loss, where they have a history."""


class RunNews(msgspec.Struct, frozen=True, kw_only=True):
    """A run as it stands now."""

    run: str
    name: str
    state: RunState
    step: int
    started: float
    """Wall clock [s since the epoch]."""


class Click(msgspec.Struct, frozen=True, kw_only=True):
    """A button that was pressed and obeyed, and how far its command has come."""

    command: str
    run: str
    incident: str
    action: str
    round: int
    """How often the trouble had come back when the button was made."""
    user: str
    """Slack's id of who pressed it; empty where that is not known any more."""
    status: Literal["pending", "done", "failed"]
    step: int = 0
    result: str = ""


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """A button that was pressed and not obeyed; said to nobody but who pressed it."""

    user: str
    channel: str
    words: str
    incident: str = ""
    """Whose message shows buttons that are of no use any more; empty for none."""


News: TypeAlias = IncidentNews | RunNews | Click | Refusal


class Story(msgspec.Struct, frozen=True, kw_only=True):
    """What a thread is about. Times are wall clock [s since the epoch]."""

    news: IncidentNews
    """Of the incident that stands for all of them."""
    severity: str
    """The highest of any of them."""
    also: tuple[str, ...]
    """Other symptoms: of the same cause, or muted by it."""
    actions: tuple[ActionLine, ...]
    opened: float
    ended: float | None = None
    """None while it goes on."""
    outcome: str = ""
    returns: int = 0
    """How often it came back after it had been over."""
    clicks: tuple[Click, ...] = ()
    """What people have asked for with its buttons."""

    @property
    def is_resolved(self) -> bool:
        """And not only ended because its run has."""
        return self.outcome == RESOLVED


class Root(msgspec.Struct, frozen=True, tag="root"):
    """The message that a thread hangs on."""

    address: str
    is_critical: bool
    story: Story


class Update(msgspec.Struct, frozen=True, tag="update"):
    """The same message, as it should read now."""

    address: str
    is_critical: bool
    story: Story
    has_moved: bool = False
    """The thread goes on in the channel for what is critical."""


class Reply(msgspec.Struct, frozen=True, tag="reply"):
    """A message in a thread. A loud one is seen in the channel, too."""

    address: str
    is_critical: bool
    topic: str
    """``details``, ``actions``, ``also``, ``answer``, ``escalated``, ``returned`` or
    ``resolved``."""
    story: Story
    actions: tuple[ActionLine, ...] = ()
    is_loud: bool = False
    click: Click | None = None
    """What it answers."""


class Plot(msgspec.Struct, frozen=True, tag="plot"):
    """A picture of the metric, for the thread."""

    address: str
    is_critical: bool
    news: IncidentNews


class Digest(msgspec.Struct, frozen=True, tag="digest"):
    """How often what was found without a thread of its own: run -> symptom -> count."""

    counts: dict[str, dict[str, int]]
    since: float


class HeldBack(msgspec.Struct, frozen=True, tag="held_back"):
    """Messages about a run that were one too many."""

    run: str
    name: str
    count: int


class RunNotice(msgspec.Struct, frozen=True, tag="run"):
    """A run has begun or ended."""

    news: RunNews


class Aside(msgspec.Struct, frozen=True, tag="aside"):
    """Why nothing was done, for one person's eyes."""

    refusal: Refusal


Saying: TypeAlias = Root | Update | Reply | Plot | Digest | HeldBack | RunNotice | Aside
