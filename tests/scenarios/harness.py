"""Real probes and the real judging side in one process, with no sockets and no threads between.

A training that calls ``lossguard.attach`` is measured as ever. What its probe would send is encoded
frame by frame and goes through the agent's own ``Registry`` to ``agent.run.Run`` and the detectors.
"""

from __future__ import annotations

import ctypes
import gc
import math
import os
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from unittest.mock import patch

import torch

from lossguard.agent.incidents import Incident
from lossguard.agent.outcome import Outcome
from lossguard.agent.registry import Registry
from lossguard.agent.store import Store
from lossguard.detectors import Finding, Observation, Severity
from lossguard.home import Home, find_home
from lossguard.probes import wire
from lossguard.probes.outbox import Outbox
from tests.scenarios.clock import own_clock


@dataclass
class Record:
    """What became of one training: of all runs that were attached in it, in their order."""

    observations: list[Observation] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    """As the detectors gave them: the first of an episode, escalations, ends."""
    incidents: list[Incident] = field(default_factory=list)
    events: list[tuple[str, str]] = field(default_factory=list)
    """(kind, message) of what the probe or the run had to tell."""
    begins: int = 0
    """What the training returned: the step at which its cause begins."""

    def said(self, least: Severity = Severity.WARNING) -> list[Finding]:
        """The findings of this severity or worse, without the ends of episodes."""
        return [f for f in self.findings if f.end_step is None and f.severity.rank >= least.rank]

    def column(self, metric: str) -> list[float]:
        """A plain metric, step by step; NaN where it was not measured."""
        return [o.values.get(metric, math.nan) for o in self.observations]


class AgentSide:
    """The agent without its sockets and clock: frames in, judged as they come."""

    def __init__(self, home: Home) -> None:
        self.record = Record()
        self._registry = Registry(Store(home.state / "scenario.sqlite"), self._answer)
        self._links: dict[bytes, DirectLink] = {}

    def join(self, link: DirectLink, hello: wire.Hello) -> None:
        """A probe says hello."""
        identity = hello.run.encode()
        self._links[identity] = link
        self.take(identity, wire.encode(hello))
        run = self._registry.runs[hello.run].run
        judge = run.observe

        def observe(observation: Observation) -> Outcome:
            outcome = judge(observation)
            self.record.observations.append(observation)
            self.record.findings += outcome.findings
            return outcome

        run.observe = observe  # type: ignore[method-assign]

    def take(self, identity: bytes, *frames: bytes) -> None:
        """One message of a probe, as it would come out of the socket."""
        self._registry.take(identity, list(frames))

    def _answer(self, identity: bytes, frame: bytes) -> bool:
        return self._links[identity].hear(wire.decode_from_agent(frame))

    def close(self) -> Record:
        """All that is known in the end, of every run."""
        for live in self._registry.runs.values():
            self.record.incidents += live.run.incidents.all
            self.record.events += [(event.kind, event.message) for event in live.run.events]
        return self.record


class DirectLink:
    """Takes the place of ``probes.link.Link``: sends in the training thread, at each step."""

    def __init__(
        self,
        agent: AgentSide,
        home: Home,
        hello: wire.Hello,
        outbox: Outbox,
        *,
        start_agents: bool = False,
        often: Callable[[], None] = lambda: None,
        stands: Callable[[], object] = lambda: None,
        holds: Callable[[], object] = lambda: None,
        keep: Callable[..., object] = lambda *_: None,
    ) -> None:
        self.limits: wire.Limits | None = None
        self.orders: deque[wire.Command] = deque()
        self._agent = agent
        self._identity = hello.run.encode()
        self._outbox = outbox
        self._often = often
        self._layouts_sent: set[int] = set()
        self._step = 0
        agent.join(self, hello)

    @property
    def step(self) -> int:
        """Written by the loop when it reaches a step: by then the one before is measured."""
        return self._step

    @step.setter
    def step(self, step: int) -> None:
        self._step = step
        self._often()
        self._send(wait=False)

    def hear(self, message: wire.FromAgent) -> bool:
        """What the agent answers."""
        if isinstance(message, wire.Limits):
            self.limits = message
        elif isinstance(message, wire.Command):
            self.orders.append(message)
        elif isinstance(message, wire.Refused):
            raise RuntimeError(f"the agent refused the run: {message.why}")
        return True

    def close(self, timeout_s: float = 0.0) -> None:
        """Send what is left, say goodbye."""
        self._send(wait=True)
        if self._outbox.farewell is not None:
            self._agent.take(self._identity, wire.encode(self._outbox.farewell))

    def abandon(self) -> None:
        """There is no thread to end."""

    def _send(self, *, wait: bool) -> None:
        outbox = self._outbox
        outbox.collect(wait=wait)
        while outbox.words:
            self._agent.take(self._identity, wire.encode(outbox.words.popleft()))
        while outbox.parcels:
            parcel = outbox.parcels.popleft()
            if parcel.layout.layout not in self._layouts_sent:
                self._agent.take(self._identity, wire.encode(parcel.layout))
                self._layouts_sent.add(parcel.layout.layout)
            self._agent.take(self._identity, wire.encode(parcel.header), parcel.payload)


def watch(train: Callable[[], int], policy: str | None = None) -> Record:
    """Run a training that attaches by itself, and judge it as it goes, by ``policy`` (TOML).

    Raises RuntimeError where a probe or a detector failed, or where nothing was attached.
    """
    with own_surroundings() as home, own_clock():
        agent = AgentSide(home)
        if policy is not None:
            (home.state / "policy.toml").write_text(policy)
            os.environ["LOSSGUARD_POLICY"] = str(home.state / "policy.toml")
        with patch("lossguard.probes.watch.Link", partial(DirectLink, agent)):
            begins = train()
        record = agent.close()
    record.begins = begins
    failed = [text for kind, text in record.events if kind in ("probe_off", "detector_failed")]
    if failed or not record.observations:
        raise RuntimeError("; ".join(failed) or "the training was not watched to its end")
    return record


@contextmanager
def own_surroundings() -> Iterator[Home]:
    """One torch thread, a home and random numbers of its own."""
    threads = torch.get_num_threads()
    with (
        tempfile.TemporaryDirectory(prefix="lg-", dir="/tmp") as folder,
        patch.dict(os.environ, {"LOSSGUARD_HOME": folder}),
        torch.random.fork_rng(),
    ):
        for name in ("LOSSGUARD_POLICY", "LOSSGUARD_RUN", "RANK", "WORLD_SIZE"):
            os.environ.pop(name, None)
        torch.set_num_threads(1)
        try:
            yield find_home().create()
        finally:
            torch.set_num_threads(threads)


def give_memory_back() -> None:
    """What an earlier training has freed: a leak would fill that first, and not be seen to grow."""
    gc.collect()
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)
