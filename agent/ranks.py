"""The training processes of a run: who they are, when they were heard, what got lost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lossguard.agent.placement import Placement
from lossguard.detectors import Observation
from lossguard.probes import wire

_KEPT_LAYOUTS = 4


@dataclass
class Rank:
    """One training process of a run. Times are monotonic [s]."""

    identity: bytes
    hello: wire.Hello
    heard_s: float
    account: str = ""
    """Who said hello for it, and nobody else speaks for it; empty while nobody has to this
    agent."""
    placements: dict[int, Placement] = field(default_factory=dict)
    """By number of their layout: a run alternates between two, and new names make new ones."""
    is_known_from_start: bool = True
    """Whether what came before its first step that arrives is missing."""
    sequence: int = 0
    """Of the newest step that arrived."""
    lost: int = 0
    """Steps that were measured and never arrived: gaps in the sequence."""
    last: Mapping[str, float] = field(default_factory=dict)
    """What it measured at its newest step, not put together with the others."""
    step: int = 0
    """Of that step."""
    beat: wire.Heartbeat | None = None
    """The newest, and so where it is and which snapshots it holds."""
    said_dropped: int = 0
    """Steps its probe says it dropped."""

    def is_same_process(self, hello: wire.Hello) -> bool:
        mine = (self.hello.host, self.hello.pid, self.hello.started_s)
        return mine == (hello.host, hello.pid, hello.started_s)

    def greet_again(self, identity: bytes, now: float) -> None:
        """The same process, by a new connection or to a new agent."""
        self.identity, self.heard_s = identity, now

    def lay_out(self, layout: wire.Layout) -> None:
        """Take in the names of a layout; only the newest few are kept."""
        self.placements.pop(layout.layout, None)
        self.placements[layout.layout] = Placement(layout)
        for oldest in list(self.placements)[:-_KEPT_LAYOUTS]:
            del self.placements[oldest]

    def count(self, sequence: int) -> None:
        """Note that a step arrived."""
        known = self.sequence or self.is_known_from_start
        if known and sequence > self.sequence + 1:
            self.lost += sequence - self.sequence - 1
        self.sequence = max(self.sequence, sequence)

    def take(self, header: wire.Step, payload: bytes) -> tuple[Placement, Observation] | None:
        """A step arrived; None when its names are not known. Raises ValueError when the buffer has
        another length."""
        placement = self.placements.get(header.layout)
        if placement is None:
            return None
        observation = placement.place(header, payload)
        self.count(header.sequence)
        self.last, self.step = observation.values, observation.step
        return placement, observation

    def part(self, step: int) -> None:
        """It ended after ``step``: what is missing up to there was measured and never arrived."""
        if self.step or self.is_known_from_start:
            self.lost += max(0, step - self.step)

    @property
    def dropped(self) -> int:
        """A gap shows with the next step, what the probe dropped with the next heartbeat."""
        return max(self.lost, self.said_dropped)
