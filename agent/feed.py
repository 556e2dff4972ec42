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
    acts: bool = False
    """Whether its policy acts on its own: ``guard`` and policies based on it."""
    is_stuck: bool = False
    """It runs, and its loop stands still: a hang is open."""
    spark: bytes = b""
    """The loss over the whole run in little, for viewers that asked: float32, at most
    ``SPARK_CELLS`` pairs of lowest and highest; NaN where nothing finite was measured."""

    @property
    def condition(self) -> str:
        """The state as people see it: ``stuck`` is no state of its own, for a hang may pass."""
        return "stuck" if self.is_stuck and self.state == "running" else self.state


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
    acked: float = 0.0
    """When somebody acknowledged it [s since the epoch]; 0: nobody has."""
    muted: bool = False
    """Its symptom is muted in this run: it is listed, and calls nobody."""


class EventLine(FeedMessage, frozen=True, kw_only=True):
    """A line of a run's log."""

    step: int
    kind: str
    message: str
    time_s: float = 0.0


class SnapshotLine(FeedMessage, frozen=True, kw_only=True):
    """A state that the run can go back to."""

    step: int
    age_s: float
    bytes: int
    place: Literal["memory", "disk"]
    health: Literal["good", "unproven", "doubtful"]
    """``good``: enough healthy steps have followed; ``unproven``: not yet; ``doubtful``: it was
    taken after the onset of trouble that is still open."""


class LayerStrip(FeedMessage, frozen=True, kw_only=True):
    """One family of metrics, layers (or ranks) by time, in which the largest values are kept.

    ``values`` is float32, a row for each of ``steps`` (int64), in it a value for each of ``names``:
    NaN where nothing was measured, Inf where something was not finite.
    """

    family: str
    names: list[str]
    steps: bytes
    values: bytes


class RankLine(FeedMessage, frozen=True, kw_only=True):
    """One training process of a run, by what it said last."""

    rank: int
    host: str
    pid: int
    step: int
    heard_s: float
    """How long ago [s]."""
    phase: str = ""
    at: str = ""
    values: dict[str, float] = {}


class Beside(FeedMessage, frozen=True, kw_only=True):
    """Another run, to compare with."""

    run: str
    name: str
    series: list[Series] = []


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
    snapshots: list[SnapshotLine] = []
    """Newest first."""
    bounds: list[Series] = []
    """The limits as they were over time, by metric."""
    muted: list[str] = []
    """Symptoms that call nobody in this run."""
    strips: list[LayerStrip] = []
    """Those that were asked for."""
    families: list[str] = []
    """What there are layers of."""
    ranks: list[RankLine] = []
    beside: Beside | None = None
    alerts: list[str] = []
    """Whom people are not told by just now and why, in words; empty where nothing is wrong."""


class RunList(FeedMessage, tag="runs", frozen=True, kw_only=True):
    runs: list[RunSummary]
    troubles: list[str] = []
    """As in ``Pong``."""


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
    troubles: list[str] = []
    """What is wrong with the agent's own state, in words; empty where nothing is."""
    outlets: dict[str, str] = {}
    """What else it serves or sends (metrics, pings), and why that does not work; empty where it
    does."""
    alerts: dict[str, str] = {}
    """Whom it tells of trouble (Slack, a webhook ...), and why that does not get through; empty
    where it does."""


class Trouble(FeedMessage, tag="trouble", frozen=True, kw_only=True):
    """The request could not be met; says why and what to do."""

    why: str
    command: str = ""
    """The id of the command that was refused, where it was one."""


class IncidentStory(FeedMessage, tag="story", frozen=True, kw_only=True):
    """What is known of an incident beyond its line: what it means, and what was kept of it."""

    incident: str
    title: str = ""
    meaning: str = ""
    causes: list[str] = []
    fixes: list[str] = []
    folder: str = ""
    texts: dict[str, str] = {}
    """Stacks and tracebacks, by the name of their file; each at most 32,000 characters."""


# --- from viewers -------------------------------------------------------------------------


class Ping(FeedMessage, tag="ping", frozen=True, kw_only=True):
    pass


class Subscribe(FeedMessage, tag="subscribe", frozen=True, kw_only=True):
    """Send pictures of this run (its id, a prefix, or a name; empty: the newest) from now on.

    To be repeated at least every ``SUBSCRIPTION_S``, or the pictures end. What is not asked for is
    not sent.
    """

    run: str = ""
    metrics: tuple[str, ...] = ("loss", "val_loss", "grad_norm")
    """Those to send the series of; at most ``MOST_METRICS``."""
    window: tuple[int, int] | None = None
    """Look closer at these steps: at most ``CLOSEST_STEPS``, which come in full resolution."""
    beside: str = ""
    """A second run, for the same metrics."""
    strips: tuple[str, ...] = ()
    """Families of layers; ``rank_step_time`` and such among them."""
    ranks: bool = False
    sparks: bool = False
    events: int = 100


class ListRuns(FeedMessage, tag="list_runs", frozen=True, kw_only=True):
    pass


class ListIncidents(FeedMessage, tag="list_incidents", frozen=True, kw_only=True):
    run: str = ""


class TellIncident(FeedMessage, tag="tell", frozen=True, kw_only=True):
    """Answered with an ``IncidentStory``."""

    run: str
    incident: str


class SendCommand(FeedMessage, tag="send", frozen=True, kw_only=True):
    """Operate by hand. ``command`` makes it idempotent: a repeated id is answered, not repeated."""

    run: str
    command: str
    action: Action
    args: dict[str, float | int | str] = {}


class Shutdown(FeedMessage, tag="shutdown", frozen=True, kw_only=True):
    """End the agent. Training goes on."""


SUBSCRIPTION_S = 10.0
MOST_METRICS = 16
CLOSEST_STEPS = 8192
SPARK_CELLS = 60

FromAgent: TypeAlias = (
    Picture | RunList | IncidentList | CommandResult | Pong | Trouble | IncidentStory
)
FromViewer: TypeAlias = (
    Ping | Subscribe | ListRuns | ListIncidents | TellIncident | SendCommand | Shutdown
)

_encoder = msgspec.msgpack.Encoder()
_to_viewer: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(
    Picture | RunList | IncidentList | CommandResult | Pong | Trouble | IncidentStory
)
_from_viewer: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(
    Ping | Subscribe | ListRuns | ListIncidents | TellIncident | SendCommand | Shutdown
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
