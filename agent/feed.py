"""What viewers (the dashboard, the command line) and the agent say to each other.

The dashboard imports this file and ``agent.client``, and nothing else of the agent's. One
ZeroMQ frame a message, msgspec Structs in MessagePack, told apart by their tag.

A viewer that subscribed gets a whole ``Picture`` of its run a few times a second: it needs no
memory of its own, and after a lost message or a restarted agent the next picture is complete.
"""

from __future__ import annotations

import math
from typing import Any, Literal, TypeAlias

import msgspec

from lossguard.probes.wire import Action

FEED_PROTOCOL = 1


class FeedMessage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of all feed messages."""


# --- parts --------------------------------------------------------------------------------

RunState = Literal["running", "silent", "finished", "failed", "stopped", "died"]
"""``silent``: no word from it for longer than its heartbeat; ``died``: gone without a bye."""


class RunSummary(FeedMessage, frozen=True, kw_only=True):
    """One line of the run list; the fields of ``lossguard runs --json``."""

    run: str
    name: str
    state: RunState
    step: int
    applied: int
    world_size: int
    started: float
    """Wall clock [s since the epoch]."""
    metrics: list[str]
    last: dict[str, float]
    incidents: int
    actions: int
    dropped: int
    policy: str = "observe"
    open_incidents: int = 0
    worst: str = ""
    """Highest severity among the open incidents, or empty."""
    steps_per_s: float = 0.0


class Series(FeedMessage, frozen=True, kw_only=True):
    """One metric over the whole run, downsampled to buckets that keep the extremes.

    ``steps`` (int64), ``low``, ``high``, ``last`` (float32) are little-endian buffers of equal
    length: bucket i covers the steps from ``steps[i]`` to the next one's start. A bucket without a
    finite value has NaN in all three; ``nonfinite`` (uint8) is 1 where one was measured in it.
    """

    metric: str
    steps: bytes
    low: bytes
    high: bytes
    last: bytes
    nonfinite: bytes


class ActionLine(FeedMessage, frozen=True, kw_only=True):
    """Something that was done, or tried."""

    action: str
    step: int
    result: str
    time_s: float = 0.0


class IncidentLine(FeedMessage, frozen=True, kw_only=True):
    """One incident; the fields of ``lossguard incidents RUN --json``."""

    id: str
    run: str
    state: Literal["open", "resolved"]
    symptom: str
    severity: str
    metric: str
    onset_step: int
    detected_step: int
    end_step: int | None
    score: float
    message: str
    actions: list[ActionLine] = []
    also: list[str] = []
    """Other symptoms of the same cause."""
    where: str = ""
    evidence: dict[str, float] = {}
    opened: float = 0.0
    """Wall clock [s since the epoch]."""


class EventLine(FeedMessage, frozen=True, kw_only=True):
    """A line of a run's log."""

    step: int
    kind: str
    message: str
    time_s: float = 0.0


# --- to viewers ---------------------------------------------------------------------------


class Picture(FeedMessage, tag="picture", frozen=True, kw_only=True):
    """All runs, newest first, and everything about the one that was asked for."""

    runs: list[RunSummary]
    run: str = ""
    """The run the rest is about; empty when there is none."""
    series: list[Series] = []
    incidents: list[IncidentLine] = []
    events: list[EventLine] = []
    limits: dict[str, float] = {}
    rollbacks: list[tuple[int, int]] = []
    """(step at which it happened, step it went back to)."""
    agent_pid: int = 0
    time_s: float = 0.0


class RunList(FeedMessage, tag="runs", frozen=True, kw_only=True):
    runs: list[RunSummary]


class IncidentList(FeedMessage, tag="incidents", frozen=True, kw_only=True):
    run: str
    incidents: list[IncidentLine]


class CommandResult(FeedMessage, tag="result", frozen=True, kw_only=True):
    """``pending`` until the loop answers; then ``done`` or ``failed``."""

    command: str
    status: Literal["pending", "done", "failed"]
    step: int = 0
    result: str = ""


class Pong(FeedMessage, tag="pong", frozen=True, kw_only=True):
    agent_pid: int
    version: str
    protocol: int = FEED_PROTOCOL


class Trouble(FeedMessage, tag="trouble", frozen=True, kw_only=True):
    """The request could not be met; says why and what to do."""

    why: str


# --- from viewers -------------------------------------------------------------------------


class Ping(FeedMessage, tag="ping", frozen=True, kw_only=True):
    pass


class Subscribe(FeedMessage, tag="subscribe", frozen=True, kw_only=True):
    """Send pictures of this run (its id, a prefix, or a name; empty: the newest) from now on.

    To be repeated at least every ``SUBSCRIPTION_S``, or the pictures end.
    """

    run: str = ""


class ListRuns(FeedMessage, tag="list_runs", frozen=True, kw_only=True):
    pass


class ListIncidents(FeedMessage, tag="list_incidents", frozen=True, kw_only=True):
    run: str = ""


class SendCommand(FeedMessage, tag="send", frozen=True, kw_only=True):
    """Operate by hand. ``command`` makes it idempotent: a repeated id is answered, not repeated."""

    run: str
    command: str
    action: Action
    args: dict[str, float | int | str] = {}


class Shutdown(FeedMessage, tag="shutdown", frozen=True, kw_only=True):
    """End the agent. Training goes on."""


SUBSCRIPTION_S = 10.0

FromAgent: TypeAlias = Picture | RunList | IncidentList | CommandResult | Pong | Trouble
FromViewer: TypeAlias = Ping | Subscribe | ListRuns | ListIncidents | SendCommand | Shutdown

_encoder = msgspec.msgpack.Encoder()
_to_viewer: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(
    Picture | RunList | IncidentList | CommandResult | Pong | Trouble
)
_from_viewer: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(
    Ping | Subscribe | ListRuns | ListIncidents | SendCommand | Shutdown
)


def encode(message: FeedMessage) -> bytes:
    """One frame of MessagePack."""
    return _encoder.encode(message)


def decode_from_agent(frame: bytes | memoryview) -> FromAgent:
    """Raises ``msgspec.DecodeError`` on anything but a message for viewers."""
    message: FromAgent = _to_viewer.decode(frame)
    return message


def decode_from_viewer(frame: bytes | memoryview) -> FromViewer:
    """Raises ``msgspec.DecodeError`` on anything but a viewer's message."""
    message: FromViewer = _from_viewer.decode(frame)
    return message


def finite(value: float | None) -> float | None:
    """A number for JSON, which knows no NaN and no Inf: those become null."""
    return value if value is not None and math.isfinite(value) else None
