"""An agent in the test's own process: what it is told stays at hand, step by step."""

from __future__ import annotations

import asyncio
import time

import zmq

from lossguard.agent.daemon import sole_agent
from lossguard.agent.listening import refusal_to_probe
from lossguard.agent.outcome import Outcome
from lossguard.agent.peers import LocalDoor, Peer
from lossguard.agent.registry import Registry
from lossguard.agent.sockets import Router
from lossguard.agent.store import Store
from lossguard.detectors import Observation
from lossguard.home import Home
from lossguard.probes import wire
from tests.support.in_thread import InThread
from tests.support.waiting import eventually

_TICK_S = 0.05


class Witness(InThread):
    """The real intake, registry and detectors of the agent in a thread, with no viewers.

    ``with Witness(home) as witness:`` training processes that are started inside find it as they
    find any agent. ``runs`` holds the observations of each, by the name of the run.
    """

    def __init__(self, home: Home) -> None:
        super().__init__()
        self.runs: dict[str, list[Observation]] = {}
        self.said: dict[str, list[str]] = {}
        """The kind of every event a run told, by the name of the run."""
        self._home = home.create()
        self._over: set[str] = set()

    def await_end(self, *names: str) -> None:
        """Until each of these runs has said goodbye."""
        eventually(lambda: set(names) <= self._over)

    def _work(self) -> None:
        with sole_agent(self._home):
            asyncio.run(self._serve())

    async def _serve(self) -> None:
        store = Store(self._home.database_path)
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        registry = Registry(store, lambda identity, frame: router.send(identity, frame))
        heard: set[str] = set()

        def take(identity: bytes, frames: list[bytes], peer: Peer) -> None:
            registry.take(identity, frames, peer)
            for run in set(registry.runs) - heard:
                heard.add(run)
                self._listen(registry, run)
            message = wire.decode_from_probe(frames[0])
            if isinstance(message, (wire.Event, wire.Bye)):
                name = registry.runs[message.run].hello.name
                if isinstance(message, wire.Event):
                    self.said.setdefault(name, []).append(message.kind)
                else:
                    self._over.add(name)

        router = Router(
            context,
            self._home.probe_endpoint,
            take,
            door=LocalDoor(),
            refusal=refusal_to_probe,
            mark=b"p",
        )
        self._ready.set()
        while not self._stop.is_set():
            await asyncio.sleep(_TICK_S)
            router.drain()
            registry.tick(time.monotonic())
        router.close()
        context.term()
        store.close()

    def _listen(self, registry: Registry, run: str) -> None:
        live = registry.runs[run]
        seen = self.runs.setdefault(live.hello.name, [])
        judge = live.run.observe

        def observe(observation: Observation) -> Outcome:
            seen.append(observation)
            return judge(observation)

        live.run.observe = observe  # type: ignore[method-assign]
